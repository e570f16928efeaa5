"""The run folder: its name, its lock, and the checkpoint at which a run continues."""

import contextlib
import itertools
import json
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vae.config import Config, differences, load, to_yaml
from vae.engine import NonFiniteError
from vae.errors import InputError, Stopped
from vae.files import make_folder, remove_empty, write_text
from vae.run import checkpoint, needs
from vae.run.contents import (
    CHECKPOINTS,
    CONFIG,
    LOCK,
    RUNS,
    STARTS,
    SUMMARY,
    failure_file,
    named_folder,
    read_summary,
    stopped_early,
)
from vae.run.versions import versions

SECONDS_OF_A_LOOK = 1.0  # a process that looks for a lock holds the lock for a moment


@dataclass(frozen=True)
class Start:
    """Start of a run: at step 0 or at a checkpoint.

    Attributes:
        checkpoint: continue from this one; None: begin at step 0.
        summary: the summary of a run that is finished already, else None.
        notes: for the user, a line each.
        changed: settings that differ from those of the last start, `key: old -> new`; none of them changes the run.
    """

    checkpoint: Path | None = None
    summary: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    @property
    def step(self) -> int:
        """The updates made at the checkpoint, 0 without one."""
        return 0 if self.checkpoint is None else checkpoint.step_of(self.checkpoint)


def folder_of(config: Config, config_file: str | None) -> Path:
    """Return the run's folder: `run.dir`, or `runs/<run.name>`, or `runs/<config file>-<time>`."""
    if named := named_folder(config):
        return named
    folder = RUNS / f"{Path(config_file).stem if config_file else 'default'}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = itertools.chain([folder], (folder.with_name(f"{folder.name}-{place}") for place in itertools.count(2)))
    return next(name for name in names if not name.exists())  # else of a job that started in the same second


class RunFolder:
    """One run's folder, claimed by one job. Where the file system knows `flock`, the lock ends with the process."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = FileLock(folder / LOCK)
        self._made: list[Path] = []  # folders that are there for this job alone

    def claim(self, config: Config, resume: str, total_steps: int) -> Start:
        """Lock the folder and return the start of the run (main process only). A refusal writes nothing.

        Args:
            config: the run's configuration.
            resume: `auto`, `never` or `must`.
            total_steps: updates in the whole run.

        Raises:
            InputError: another job holds the folder, the folder cannot be written, or it holds a run with other
                settings or one that does not fit `resume`.
        """
        if resume == "must" and not self._holds_a_run():
            raise InputError(f"--resume must: {self.folder} holds no run; check run.name or run.dir")
        self._acquire()
        if not self._holds_a_run():
            if any((self.folder / CHECKPOINTS).glob("step-*")):
                raise InputError(
                    f"{self.folder}: holds checkpoints but no {CONFIG}; restore it or choose another run.name"
                )
            return Start()
        if resume == "never":
            raise InputError(f"--resume never: {self.folder} already holds a run; choose another run.name or delete it")
        return self._continue(config, resume, total_steps)

    def record(self, config: Config, start: Start, step: int, world_size: int) -> None:
        """Write config.yaml and a line of starts.jsonl (main process only): from here on the folder holds this run.

        Before these, what the run needs of plugins is written.
        """
        begun = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "host": platform.node(), "step": step}
        begun |= {"world_size": world_size, "changed": start.changed, "versions": versions()}
        try:
            needs.record(self.folder, config)
            write_text(self.folder / CONFIG, to_yaml(config))
            with (self.folder / STARTS).open("a", encoding="utf-8") as starts:
                starts.write(json.dumps(begun) + "\n")
            failure_file(self.folder).unlink(missing_ok=True)  # a sweep's note of an earlier start
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written: {error.strerror}; make room or set run.dir") from None

    @contextlib.contextmanager
    def leaving_nothing(self) -> Iterator[contextlib.ExitStack]:
        """Where the start fails, close what the yielded stack holds, and remove a folder that this job has made."""
        with contextlib.ExitStack() as opened:
            opened.callback(self._remove)
            yield opened
            opened.pop_all()

    def release(self) -> None:
        """Unlock the folder."""
        self._lock.release()

    def _holds_a_run(self) -> bool:
        return (self.folder / CONFIG).exists()

    def _acquire(self) -> None:
        try:
            self._made = make_folder(self.folder)
            self._lock.acquire(timeout=SECONDS_OF_A_LOOK)
        except Timeout:
            hint = f"choose another run.name (or, if no job runs, delete {self.folder / LOCK})"
            raise InputError(f"{self.folder}: another job is running in this folder; {hint}") from None
        except OSError as error:
            if self._made:
                (self.folder / LOCK).unlink(missing_ok=True)
                remove_empty(self._made)
            raise InputError(f"{self.folder}: cannot be written: {error.strerror}; set run.dir") from None

    def _remove(self) -> None:
        """Remove the folder, which this job holds, if the job has made it; its parents only where they are empty."""
        if self._made:
            self.release()
            shutil.rmtree(self.folder, ignore_errors=True)
            remove_empty(self._made[1:])

    def _continue(self, config: Config, resume: str, total_steps: int) -> Start:
        other_versions = needs.check(self.folder)
        altering, harmless = differences(load(self.folder / CONFIG), config)
        if altering:
            changes = "; ".join(altering)
            hint = "keep to its settings, or choose another run.name"
            raise InputError(f"{self.folder}: holds a run with other settings ({changes}); {hint}")
        newest, notes = checkpoint.newest_valid(self.folder / CHECKPOINTS)
        if newest is None and resume == "must":
            raise InputError(
                f"--resume must: {self.folder} holds no valid checkpoint; " + "; ".join(notes or ["none yet"])
            )
        summary = read_summary(self.folder / SUMMARY)
        if summary and summary.get("steps", 0) < total_steps and not stopped_early(summary, config.train.patience):
            summary = None
        return Start(newest, summary or None, [*other_versions, *notes], harmless)


@contextlib.contextmanager
def saying_how_to_go_on(folder: Path, config: Config) -> Iterator[None]:
    """Add the last good checkpoint to a `NonFiniteError`, and to a stop the way to continue."""
    has_name = config.run.name or config.run.dir  # else each start makes a folder of its own
    hint = "the same command" + ("" if has_name else f" with run.dir={folder}") + " continues"
    try:
        yield
    except NonFiniteError as error:
        newest, _ = checkpoint.newest_valid(folder / CHECKPOINTS)
        raise NonFiniteError(error.step, error.term, str(newest or "none yet")) from None
    except Stopped as stop:
        raise Stopped(stop.signum, f"{stop.where}; {hint}") from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; {hint} from the last checkpoint") from None
