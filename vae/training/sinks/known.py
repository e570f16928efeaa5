"""The trackers that Accelerate knows, such as W&B and MLflow: how each is opened, continued and given a picture."""

import contextlib
import logging
import re
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae.training.sinks.accelerate import SECONDS_TO_ANSWER, SECONDS_TO_CLOSE, Accelerated, is_installed

if TYPE_CHECKING:
    from PIL.Image import Image


class WandB(Accelerated):
    """Weights & Biases, or with WANDB_MODE=offline its files in the run's folder, which `wandb sync` uploads.

    Online, the server says at which step its run ended: it takes no lower one.
    """

    name, module = "wandb", "wandb"
    lag, keeps_last_step = 1.0, True
    hint = "set WANDB_MODE=offline"

    def _open(self) -> None:
        import wandb

        wandb.setup(wandb.Settings(silent=True))  # it asks nothing and prints nothing, also before its run begins
        super()._open()

    def _arguments(self) -> dict[str, Any]:
        import wandb

        settings = wandb.Settings(
            silent=True,
            console="off",  # else it takes the place of stdout and stderr
            init_timeout=SECONDS_TO_ANSWER,
            finish_timeout=SECONDS_TO_CLOSE,
        )
        if "x_transaction_log_flush_interval" in wandb.Settings.model_fields:  # 15 s, which kill -9 takes away
            settings.x_transaction_log_flush_interval = self.lag / 4
        identity = self.memory.identity or uuid.uuid4().hex[:12]
        where = {"dir": str(self.folder), "name": self.run_name, "id": identity, "resume": "allow"}
        return {"run_name": self.project, **where, "settings": settings}

    def _identity(self) -> str:
        return "" if self.tracker.run.disabled else self.tracker.run.id

    def _place(self) -> str:
        run = self.tracker.run
        return "" if run.disabled else run.url or f"wandb sync {Path(run.settings.sync_dir)} uploads it"

    def _last(self) -> tuple[int, int]:
        run = self.tracker.run
        return super()._last() if run.offline else (run.step - 1, sys.maxsize)

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

        if mlflow.get_tracking_uri().startswith(tuple(DATABASE_ENGINES)) and not is_installed("sqlalchemy"):
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
    lag = 2.0

    def _arguments(self) -> dict[str, Any]:
        resume = "allow" if self.memory.identity else "never"
        return {"run_name": self.project, "name": self.memory.identity or self.run_name, "resume": resume}

    def _identity(self) -> str:
        return self.tracker.tracker.name

    def _place(self) -> str:
        return f"trackio show --project {self.project}"

    def _log_image(self, tag: str, picture: "Image", step: int) -> None:
        import trackio  # pyright: ignore[reportMissingImports]

        self.tracker.log({tag: trackio.Image(picture)}, step=step)


class Comet(Accelerated):
    """Comet; COMET_START_ONLINE=0 needs no network: `comet upload` uploads later."""

    name, module = "comet_ml", "comet_ml"
    lag = 2.0
    hint = "log in by `comet login`, set COMET_START_ONLINE=0"

    def _arguments(self) -> dict[str, Any]:
        import comet_ml  # pyright: ignore[reportMissingImports]

        logging.getLogger("comet_ml").setLevel(logging.ERROR)
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
    lag = 2.0
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
        return self.run_name

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
    lag = 2.0
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
