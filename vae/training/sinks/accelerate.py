"""Trackers that Accelerate knows, such as W&B and MLflow, behind its classes: one sink, and what differs by tracker.

A tracker may be slow, ask a server or write to a disk that fills up, so a thread makes all its calls. The tracker's
own package is imported there, when a run names the tracker.
"""

import contextlib
import importlib.util
import io
import json
import logging
import re
import shutil
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from vae.canvas import picture_of
from vae.errors import InputError
from vae.files import write_text
from vae.run.contents import TRACKERS
from vae.training.sinks.base import Sink, Warn
from vae.training.sinks.worker import Worker

if TYPE_CHECKING:
    from PIL.Image import Image

SECONDS_TO_OPEN, SECONDS_TO_FLUSH, SECONDS_TO_CLOSE = 40.0, 5.0, 60.0
SECONDS_TO_ANSWER = 20.0  # of a tracker's server, at the start
# until a tracker has passed on what it was given to a process of its own, where kill -9 of this one does not reach it
SECONDS_TO_SETTLE = 0.05
LONGEST = 200  # of a library's message

Project = Annotated[
    str,
    Field(min_length=1, pattern=r"^[^'\"\x00-\x1f]*$", description="project (of MLflow: experiment) of the run"),
]


class Memory:
    """What a run remembers of its tracker: the run's identity there, and the last record that the tracker was given.

    Records count within their step. The file's one line is overwritten in place: a record costs one write.

    Args:
        file: in the run's folder.
        project: a run in another project is another run, of which nothing is remembered.
    """

    def __init__(self, file: Path, project: str):
        self.file, self._project = file, project
        self._at: tuple[int, int] = (-1, 0)
        self.identity = ""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # none yet, or torn by a loss of power
            known = json.loads(file.read_text())
            if known["project"] == project:
                self._at, self.identity = (int(known["step"]), int(known["record"])), str(known["identity"])

    def has(self, at: tuple[int, int]) -> bool:
        """Return whether a record, (step, number within the step), was given to the tracker before this start."""
        return at <= self._at

    def forget(self) -> None:
        """Forget a run that is gone."""
        self._at, self.identity = (-1, 0), ""

    def begin(self, identity: str) -> None:
        """Keep the run's identity; raises OSError."""
        self.identity = identity
        self.file.parent.mkdir(exist_ok=True)
        write_text(self.file, self._line())

    def note(self, at: tuple[int, int]) -> None:
        """Note the last record that was given; a note that finds no room costs a record that is given twice."""
        self._at = at
        with contextlib.suppress(OSError), self.file.open("r+b", buffering=0) as file:
            file.write(self._line().encode())

    def _line(self) -> str:
        known = {"step": self._at[0], "record": self._at[1], "project": self._project, "identity": self.identity}
        return f"{json.dumps(known):<200}\n"  # of one length, so that a shorter line leaves nothing of a longer one


class Accelerated(Sink):
    """A tracker that Accelerate knows. A subclass says how it is opened, and what Accelerate's class leaves to do.

    A continued run continues the tracker's run. Records that the tracker was given by an earlier start, and that this
    one makes again from a checkpoint, are not given again.

    Args:
        folder: of the run.
        step: updates made.
        warn: called with a sentence when the tracker fails.
        project: the project or experiment of the tracker that the run belongs to.
    """

    may_refuse = True
    name: ClassVar[str]  # as Accelerate and the table have it
    module: ClassVar[str]  # that is imported
    hint: ClassVar[str] = "make room"  # where the tracker cannot be opened

    def __init__(self, folder: Path, step: int, warn: Warn, *, project: Project = "vae"):
        self.folder, self.project, self._warn = folder, project, warn
        self.run_name = folder.resolve().name
        self.files = folder / self.name  # for those that keep files
        self.complete = False  # whether final results came
        self._warned = False
        self._at = (-1, 0)
        self._must_exist()
        self.memory = Memory(folder / TRACKERS / f"{self.name}.json", project)
        self._worker = Worker(self.name)
        self._start()

    def configuration(self, settings: Mapping[str, bool | float | str]) -> None:
        """Record every setting of the run."""
        self._worker.submit(partial(self._try, lambda: self._configure(dict(settings))))

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Record one point of the curve `tag`."""
        self.scalars({tag: value}, step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Record what is known of one step, together."""
        row = {tag: float(value) for tag, value in values.items()}
        self._record(step, lambda: self._log(row, step))

    def image(self, tag: str, canvas: np.ndarray, step: int) -> None:
        """Record a picture (H, W, 1 or 3) in [0, 1]."""
        self._record(step, lambda: self._log_image(tag, picture_of(canvas), step))

    def results(self, values: Mapping[str, float], step: int) -> None:
        """Record the final results."""
        self.complete = True
        row = {tag: float(value) for tag, value in values.items()}
        self._worker.submit(partial(self._try, lambda: self._conclude(row, step)))

    def flush(self) -> None:
        """Wait until the tracker has everything, for a few seconds at most: no network holds up a checkpoint."""
        with contextlib.suppress(TimeoutError):
            self._worker.submit(lambda: None).result(SECONDS_TO_FLUSH)

    def close(self) -> None:
        """End the tracker's run, of which a later start may continue."""
        closed = self._worker.submit(partial(self._try, self._finish))
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                closed.result(SECONDS_TO_CLOSE)
        except TimeoutError:
            self._warn(f"{self.name}: not done in {SECONDS_TO_CLOSE:g} s; what it was not given is in metrics.jsonl")

    # --- what differs by tracker, in its thread ---

    def _arguments(self) -> dict[str, Any]:
        """Return the arguments of Accelerate's class; `self.memory.identity` is that of the run to continue, or ""."""
        raise NotImplementedError

    def _open(self) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        self.tracker = LOGGER_TYPE_TO_CLASS[self.name](**self._arguments())
        self.tracker.start()

    def _identity(self) -> str:
        """Return by which the opened run is found again."""
        raise NotImplementedError

    def _place(self) -> str:
        """Return where a user finds the opened run."""
        return ""

    def _configure(self, settings: dict[str, Any]) -> None:
        self.tracker.store_init_configuration(settings)

    def _log(self, row: dict[str, float], step: int) -> None:
        self.tracker.log(row, step=step)

    def _log_image(self, tag: str, picture: "Image", step: int) -> None:
        self.tracker.log_images({tag: [picture]}, step=step)

    def _conclude(self, row: dict[str, float], step: int) -> None:
        self.tracker.log(row, step=step)

    def _finish(self) -> None:
        self.tracker.finish()

    def _has(self, at: tuple[int, int]) -> bool:
        """Return whether the tracker has a record, (step, number within the step), from an earlier start."""
        return self.memory.has(at)

    # --- its thread ---

    def _must_exist(self) -> None:
        """Refuse a tracker that is not installed, or that this version of Accelerate lacks."""
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        problem = ""
        if self.name not in LOGGER_TYPE_TO_CLASS:
            problem = "this version of Accelerate does not know it; pip install --upgrade accelerate"
        elif not _is_installed(self.module):
            problem = f"the package is not installed; pip install {self.module}"
        if problem:
            raise InputError(f"run.trackers = {self.name!r}: {problem}, or leave it out")

    def _start(self) -> None:
        """Open the tracker's run; a refusal leaves none of its files."""
        before = set(self.files.glob("*"))
        opened = self._worker.submit(self._open_and_remember)
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # where some greet
                opened.result(SECONDS_TO_OPEN)
        except TimeoutError:
            problem = f"no answer in {SECONDS_TO_OPEN:g} seconds"
        except (Exception, SystemExit) as error:
            problem = _first_line(error)
        else:
            return
        for path in set(self.files.glob("*")) - before:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        raise InputError(f"run.trackers = {self.name!r}: cannot be opened: {problem}; {self.hint}, or leave it out")

    def _open_and_remember(self) -> None:
        self._open()
        self.memory.begin(self._identity())
        self.place = self._place()

    def _record(self, step: int, call: Callable[[], object]) -> None:
        """Have the thread give the tracker a record, unless the tracker has it."""
        number = self._at[1] + 1 if self._at[0] == step else 1
        self._at = at = (step, number)
        if not self._has(at):
            self._worker.submit(partial(self._give, at, call))

    def _give(self, at: tuple[int, int], call: Callable[[], object]) -> None:
        self._try(call)
        if self._worker.idle:
            time.sleep(SECONDS_TO_SETTLE)
            self.memory.note(at)

    def _try(self, call: Callable[[], object]) -> None:
        """Make a call of the tracker; the first failure is warned of, and the run goes on."""
        try:
            call()
        except (Exception, SystemExit) as error:
            if not self._warned:
                self._warn(f"{self.name}: {_first_line(error)}; what it does not take is in metrics.jsonl")
            self._warned = True


class WandB(Accelerated):
    """Weights & Biases, or with WANDB_MODE=offline its files in the run's folder, which `wandb sync` uploads.

    Online, the server says at which step its run ended: it takes no lower one.
    """

    name, module = "wandb", "wandb"
    hint = "set WANDB_MODE=offline"

    def _open(self) -> None:
        import wandb

        wandb.setup(wandb.Settings(silent=True))  # it asks nothing and prints nothing, also before its run begins
        super()._open()
        run = self.tracker.run
        self._next_step = None if run.offline else run.step

    def _arguments(self) -> dict[str, Any]:
        import wandb

        settings = wandb.Settings(
            silent=True,
            console="off",  # else it takes the place of stdout and stderr
            init_timeout=SECONDS_TO_ANSWER,
            finish_timeout=SECONDS_TO_CLOSE,
        )
        identity = self.memory.identity or uuid.uuid4().hex[:12]
        where = {"dir": str(self.folder), "name": self.run_name, "id": identity, "resume": "allow"}
        return {"run_name": self.project, **where, "settings": settings}

    def _identity(self) -> str:
        return self.tracker.run.id

    def _place(self) -> str:
        run = self.tracker.run
        return run.url or f"wandb sync {Path(run.settings.sync_dir)} uploads it"

    def _has(self, at: tuple[int, int]) -> bool:
        return super()._has(at) if self._next_step is None else at[0] < self._next_step

    def _conclude(self, row: dict[str, float], step: int) -> None:
        self.tracker.run.summary.update(row)

    def _finish(self) -> None:
        self.tracker.run.finish(exit_code=0 if self.complete else 1)


class MLflow(Accelerated):
    """MLflow, on the server, in the database or in the files that MLFLOW_TRACKING_URI names.

    MLflow keeps a parameter's first value; one that a later start has changed becomes a tag.
    """

    name, module = "mlflow", "mlflow"
    hint = "check MLFLOW_TRACKING_URI"

    def _open(self) -> None:
        import mlflow
        from mlflow.exceptions import MlflowException
        from mlflow.store.db.db_types import DATABASE_ENGINES

        if mlflow.get_tracking_uri().startswith(tuple(DATABASE_ENGINES)) and not _is_installed("sqlalchemy"):
            raise RuntimeError("mlflow-skinny alone has no database; pip install mlflow")
        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        with _answering_soon():
            if self.memory.identity:
                try:
                    mlflow.get_run(self.memory.identity)
                except MlflowException as error:
                    if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                        raise
                    self.memory.forget()  # deleted there, or another server
            super()._open()

    def _arguments(self) -> dict[str, Any]:
        return {"experiment_name": self.project, "run_name": self.run_name, "run_id": self.memory.identity or None}

    def _identity(self) -> str:
        return self.tracker.tracker.info.run_id

    def _place(self) -> str:
        import mlflow

        uri = re.sub(r"//[^/@]*@", "//", mlflow.get_tracking_uri())  # without a password
        return f"experiment {self.tracker.experiment_name} in {uri}"

    def _configure(self, settings: dict[str, Any]) -> None:
        import mlflow
        from mlflow.utils import validation

        known = mlflow.get_run(self._identity()).data.params
        limit = validation.MAX_PARAM_VAL_LENGTH
        texts = {key: str(value)[:limit] for key, value in settings.items()}
        super()._configure({key: text for key, text in texts.items() if key not in known})  # a hundred at a time
        if changed := {key: text for key, text in texts.items() if known.get(key, text) != text}:
            mlflow.set_tags(changed)

    def _log(self, row: dict[str, float], step: int) -> None:
        super()._log(_grouped_once(row), step)

    def _log_image(self, tag: str, picture: "Image", step: int) -> None:
        import mlflow

        mlflow.log_image(picture, key=tag, step=step)

    def _conclude(self, row: dict[str, float], step: int) -> None:
        self._log(row, step)

    def _finish(self) -> None:
        import mlflow

        mlflow.end_run("FINISHED" if self.complete else "KILLED")


class Trackio(Accelerated):
    """Trackio, which keeps its database on this machine, or in a Space of Hugging Face's."""

    name, module = "trackio", "trackio"

    def _arguments(self) -> dict[str, Any]:
        resume = "allow" if self.memory.identity else "never"
        return {"run_name": self.project, "name": self.memory.identity or self.run_name, "resume": resume}

    def _identity(self) -> str:
        return self.tracker.tracker.name

    def _place(self) -> str:
        return f"trackio show --project {self.project}"

    def _log_image(self, tag: str, picture: "Image", step: int) -> None:
        import trackio

        self.tracker.log({tag: trackio.Image(picture)}, step=step)


class Comet(Accelerated):
    """Comet; COMET_START_ONLINE=0 needs no network: `comet upload` uploads later."""

    name, module = "comet_ml", "comet_ml"
    hint = "log in by `comet login`, set COMET_START_ONLINE=0"

    def _arguments(self) -> dict[str, Any]:
        import comet_ml

        config = comet_ml.ExperimentConfig(
            name=self.run_name,
            auto_output_logging=False,
            auto_param_logging=False,
            auto_metric_logging=False,
            parse_args=False,
            log_graph=False,
            display_summary_level=0,
            offline_directory=str(self.files),
        )
        identity = self.memory.identity or uuid.uuid4().hex
        return {
            "run_name": self.project, "experiment_key": identity, "mode": "get_or_create", "experiment_config": config,
        }  # fmt: skip

    def _identity(self) -> str:
        return self.tracker.tracker.get_key()

    def _place(self) -> str:
        return self.tracker.tracker.url or f"comet upload {self.files}/*.zip uploads it"

    def _log_image(self, tag: str, picture: "Image", step: int) -> None:
        self.tracker.tracker.log_image(picture, name=tag, step=step)


class Aim(Accelerated):
    """Aim, whose repository is the working folder's `.aim/`."""

    name, module = "aim", "aim"

    def _arguments(self) -> dict[str, Any]:
        return {
            "run_name": self.run_name, "logging_dir": ".", "experiment": self.project,
            "run_hash": self.memory.identity or None, "force_resume": bool(self.memory.identity),
            "capture_terminal_logs": False, "system_tracking_interval": None,
        }  # fmt: skip

    def _identity(self) -> str:
        return self.tracker.tracker.hash

    def _place(self) -> str:
        return f"aim up --repo {Path.cwd()}"

    def _log_image(self, tag: str, picture: "Image", step: int) -> None:
        self.tracker.log_images({tag: picture}, step=step)


class ClearML(Accelerated):
    """ClearML; CLEARML_OFFLINE_MODE=1 needs no network."""

    name, module = "clearml", "clearml"
    hint = "run `clearml-init`, set CLEARML_OFFLINE_MODE=1"

    def _arguments(self) -> dict[str, Any]:
        return {
            "run_name": self.project, "project_name": self.project, "task_name": self.run_name,
            "reuse_last_task_id": False, "continue_last_task": self.memory.identity or False,
            "auto_connect_arg_parser": False, "auto_connect_frameworks": False, "auto_connect_streams": False,
        }  # fmt: skip

    def _open(self) -> None:
        super()._open()
        self.tracker.tracker.set_initial_iteration(0)  # a continued task would count on from its last step

    def _identity(self) -> str:
        return self.tracker.tracker.id

    def _place(self) -> str:
        return self.tracker.tracker.get_output_log_web_page()

    def _log_image(self, tag: str, picture: "Image", step: int) -> None:
        self.tracker.log_images({tag: picture}, step=step)

    def _conclude(self, row: dict[str, float], step: int) -> None:
        self.tracker.log(row)  # without a step: single values


class DVCLive(Accelerated):
    """DVCLive's files, in the run's folder."""

    name, module = "dvclive", "dvclive"

    def _arguments(self) -> dict[str, Any]:
        return {
            "dir": str(self.files), "resume": bool(self.memory.identity), "save_dvc_exp": False,
            "dvcyaml": str(self.files / "dvc.yaml"),
        }  # fmt: skip

    def _identity(self) -> str:
        return str(self.files)

    def _place(self) -> str:
        return str(self.files)

    def _log(self, row: dict[str, float], step: int) -> None:
        super()._log(_grouped_once(row), step)

    def _log_image(self, tag: str, picture: "Image", step: int) -> None:
        self.tracker.tracker.log_image(f"{tag}/{step}.png", picture)

    def _conclude(self, row: dict[str, float], step: int) -> None:
        self._log(row, step)


class SwanLab(Accelerated):
    """SwanLab; SWANLAB_MODE=offline needs no network."""

    name, module = "swanlab", "swanlab"
    hint = "log in by `swanlab login`, set SWANLAB_MODE=offline"

    def _arguments(self) -> dict[str, Any]:
        identity = self.memory.identity or uuid.uuid4().hex
        return {
            "run_name": self.project, "name": self.run_name, "id": identity, "resume": "allow",
            "log_dir": str(self.files),
        }  # fmt: skip

    def _identity(self) -> str:
        return self.tracker.tracker.id

    def _place(self) -> str:
        return self.tracker.tracker.url or str(self.files)


def _is_installed(module: str) -> bool:
    """Return whether a package is there; a folder that happens to have its name is none."""
    found = importlib.util.find_spec(module)
    return found is not None and found.origin is not None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return textwrap.shorten(lines[0].rstrip(".;"), LONGEST, placeholder=" ...") if lines else type(error).__name__


def _grouped_once(row: Mapping[str, float]) -> dict[str, float]:
    """Return a row for trackers that keep a curve in a file of its name: none is a folder too, as Loss/Train is."""
    grouped = {tag: tag.split("/", 1) for tag in row}
    return {"/".join([*parts[:-1], parts[-1].replace("/", ".")]): row[tag] for tag, parts in grouped.items()}


@contextlib.contextmanager
def _answering_soon() -> Iterator[None]:
    """Have MLflow give up a server that does not answer within seconds; it would try again for minutes."""
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT

    hasty = {MLFLOW_HTTP_REQUEST_MAX_RETRIES: 1, MLFLOW_HTTP_REQUEST_TIMEOUT: int(SECONDS_TO_ANSWER)}
    changed = [variable for variable in hasty if not variable.is_set()]
    for variable in changed:
        variable.set(hasty[variable])
    try:
        yield
    finally:
        for variable in changed:
            variable.unset()
