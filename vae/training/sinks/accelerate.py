"""A sink behind Accelerate's classes of trackers: what is the same for all of them. `known.py` has what differs.

A tracker may be slow, ask a server or write to a disk that fills up, so a thread makes all its calls. The tracker's
own package is imported there, when a run names the tracker.
"""

import contextlib
import importlib.util
import io
import json
import shutil
import textwrap
import time
from collections.abc import Callable, Mapping
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

SECONDS_TO_OPEN, SECONDS_TO_CLOSE = 90.0, 60.0
SECONDS_TO_ANSWER = 20.0  # of a tracker's server, at the start
LONGEST = 200  # of a library's message
ROOM = 40  # for the digits that are still to come
NOTHING: tuple[int, int] = (-1, 0)  # the record before the first one

Project = Annotated[
    str,
    Field(min_length=1, pattern=r"^[^'\"\x00-\x1f]*$", description="project (of MLflow: experiment) of the run"),
]


class Memory:
    """The memory of a run for its tracker: the run's identity there, and the last record that the tracker has.

    Records count within their step. The file's one line is overwritten in place: a record costs one write.

    Args:
        file: in the run's folder.
        project: a run in another project is another run, of which nothing is remembered.
    """

    def __init__(self, file: Path, project: str):
        self.file, self._project, self._width = file, project, 0
        self.forget()
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # none yet, or torn by a loss of power
            known = json.loads(file.read_text())
            if known["project"] == project and known["identity"]:
                self.last = (int(known["step"]), int(known["record"]))
                self.identity = str(known["identity"])

    def forget(self) -> None:
        """Forget a run that is gone."""
        self.last, self.identity = NOTHING, ""

    def begin(self, identity: str) -> None:
        """Keep the run's identity; raises OSError."""
        self.identity = identity
        self._width = len(self._line()) + ROOM  # of one length, so that a shorter line leaves nothing of a longer one
        self.file.parent.mkdir(exist_ok=True)
        write_text(self.file, self._line())

    def note(self, at: tuple[int, int]) -> None:
        """Note the last record that the tracker has; a note that finds no room costs a record that is given twice."""
        self.last = at
        with contextlib.suppress(OSError), self.file.open("r+b", buffering=0) as file:
            file.write(self._line().encode())

    def _line(self) -> str:
        known = {"step": self.last[0], "record": self.last[1], "project": self._project, "identity": self.identity}
        return json.dumps(known).ljust(self._width) + "\n"


class Accelerated(Sink):
    """A tracker that Accelerate knows. A subclass says how it is opened, and what Accelerate's class leaves to do.

    A continued run continues the tracker's run. Records that the tracker has from an earlier start, and that this one
    makes again from a checkpoint, are not given again; curves that it lacks are, see `lacks`.

    Args:
        folder: of the run.
        step: updates made.
        warn: called with a sentence when the tracker fails.
        project: the project or experiment of the tracker that the run belongs to.

    Attributes:
        name: as Accelerate and the table have it.
        module: that is imported.
        hint: what helps where the tracker cannot be opened.
        lag: seconds after which kill -9 takes away nothing of a record; 0: a call returns when it is kept.
        keeps_last_step: true for a tracker that keeps the records of a step back until one of another step comes.
    """

    may_refuse = True
    name: ClassVar[str]
    module: ClassVar[str]
    hint: ClassVar[str] = "make room"
    lag: ClassVar[float] = 0.0
    keeps_last_step: ClassVar[bool] = False

    def __init__(self, folder: Path, step: int, warn: Warn, *, project: Project = "vae"):
        self.folder, self.project, self._warn = folder, project, warn
        self.run_name = folder.resolve().name
        self.files = folder / self.name  # for those that keep files
        self.complete = False  # whether final results came
        self._warned = False
        self._at = NOTHING  # of the last record made
        self._earlier = self._given = self._complete = NOTHING  # before this start; the last; the last but that step
        self.must_exist()
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

    def lacks(self, step: int) -> bool:
        """Return whether the tracker was not given, or lost, what an earlier start recorded of a step."""
        return step > self._earlier[0]

    def flush(self) -> None:
        """Wait for nothing: what the tracker lacks when a run is continued is in metrics.jsonl, and given then."""

    def close(self) -> None:
        """End the tracker's run, of which a later start may continue."""
        closed = self._worker.submit(partial(self._try, self._end))
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

    def _last(self) -> tuple[int, int]:
        """Return the last record, (step, number within the step), that the opened run has."""
        return self.memory.last

    # --- its thread ---

    @classmethod
    def must_exist(cls) -> None:
        """Refuse a tracker that is not installed, or that this version of Accelerate lacks."""
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        problem = ""
        if cls.name not in LOGGER_TYPE_TO_CLASS:
            problem = "this version of Accelerate does not know it; pip install --upgrade accelerate"
        elif not is_installed(cls.module):
            problem = f"the package is not installed; pip install {cls.module}"
        if problem:
            raise InputError(f"run.trackers = {cls.name!r}: {problem}, or leave it out")

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
        self._earlier = self._given = self._complete = self._last()
        self.memory.begin(self._identity())
        with contextlib.suppress(Exception):  # offline, some have no address and say so by an error
            self.place = self._place()

    def _record(self, step: int, call: Callable[[], object]) -> None:
        """Have the thread give the tracker a record, unless the tracker has it."""
        number = self._at[1] + 1 if self._at[0] == step else 1
        self._at = at = (step, number)
        if at > self._earlier:
            self._worker.submit(partial(self._give, at, call))

    def _give(self, at: tuple[int, int], call: Callable[[], object]) -> None:
        self._try(call)
        if at[0] != self._given[0]:
            self._complete = self._given
        self._given = at
        if not self.lag or self._worker.idle:
            time.sleep(self.lag)  # meanwhile records wait, and are given together
            self.memory.note(self._complete if self.keeps_last_step else at)

    def _end(self) -> None:
        self._finish()
        self.memory.note(self._given)

    def _try(self, call: Callable[[], object]) -> None:
        """Make a call of the tracker; the first failure is warned of, and the run goes on."""
        try:
            call()
        except (Exception, SystemExit) as error:
            if not self._warned:
                self._warn(f"{self.name}: {_first_line(error)}; what it does not take is in metrics.jsonl")
            self._warned = True


def is_installed(module: str) -> bool:
    """Return true if a package is installed; a folder of the same name does not count."""
    found = importlib.util.find_spec(module)
    return found is not None and found.origin is not None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return textwrap.shorten(lines[0].rstrip(".;"), LONGEST, placeholder=" ...") if lines else type(error).__name__
