"""The status of each member of a sweep, by its run folder and by its files beside that."""

import contextlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from vae import config
from vae.errors import InputError
from vae.files import write_text
from vae.run.contents import (
    CHECKPOINTS,
    CONFIG,
    LOCK,
    METRICS,
    SUMMARY,
    failure_file,
    failure_of,
    last_row,
    logs_of,
    read_summary,
    stopped_early,
)
from vae.run.needs import read_config
from vae.sweep.members import Member, Sweep

State = Literal["waiting", "running", "interrupted", "failed", "blocked", "done"]


@dataclass(frozen=True)
class Status:
    """A member's state.

    Attributes:
        state: waiting: not begun; running: now, on any machine; interrupted: begun, can be continued; failed: ended
            with an error, and not begun again since; blocked: its folder holds something else or cannot be read, so
            that training would be refused; done.
        epoch: the epoch of its latest record.
        epochs: the epochs of the whole run; those of train.max_steps are known from its records.
        test_loss: nats, of the latest evaluation on the test set; None: there is none.
        problem: of a failed member, its last lines of output; of a blocked one, the fault and the way out.
    """

    state: State
    epoch: float
    epochs: float
    test_loss: float | None = None
    problem: str = ""

    @property
    def share(self) -> float:
        """The share of the run that is made, from 0 to 1."""
        return min(1.0, self.epoch / self.epochs)


class MemberFiles:
    """The files of a member beside its run folder: its output, a note of its failure, and a lock for starting it.

    They are in `runs/<sweep>/logs/`, so that a member that could not even make its folder has them too.
    """

    def __init__(self, member: Member):
        folder = logs_of(member.folder)
        self.member = member
        self.log = folder / f"{member.name}.log"
        self._failure, self._lock = failure_file(member.folder), folder / f"{member.name}.lock"

    def claim(self) -> FileLock | None:
        """Return a lock on the member, to be released; None: another process holds or runs the member.

        Raises:
            InputError: the sweep's folder cannot be written.
        """
        lock = FileLock(self._lock, thread_local=False)
        try:
            self._lock.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            return None
        except OSError as error:
            raise InputError(f"{self._lock}: cannot be written: {error.strerror}; make room") from None
        if _is_locked(self.member.folder / LOCK):  # started by hand, by SLURM, or left behind by a sweep
            lock.release()
            return None
        return lock

    def is_held(self) -> bool:
        """Return whether a process holds or runs the member."""
        return _is_locked(self._lock) or _is_locked(self.member.folder / LOCK)

    def note_failure(self, code: int, problem: str) -> None:
        """Write a note of the member's exit code and last lines; a full disk is no reason to stop."""
        with contextlib.suppress(OSError):
            write_text(self._failure, json.dumps({"exit_code": code, "problem": problem}) + "\n")

    def forget_failure(self) -> None:
        """Remove the note of a failure, so that the member is started again."""
        self._failure.unlink(missing_ok=True)


def status(member: Member) -> Status:
    """Return the status of a member, `running` if a process holds it."""
    now = recorded(member)
    return replace(now, state="running", problem="") if MemberFiles(member).is_held() else now


def recorded(member: Member) -> Status:
    """Return the status of a member by its files alone, never `running`."""
    wanted = config.load(member.base, member.overrides)
    row, test = (last_row(member.folder / METRICS, split) for split in (None, "test"))
    loss = test["loss"] if test else None
    far = Status("waiting", row["epoch"] if row else 0.0, _epochs(wanted, row), loss)
    try:
        summary = _summary(member.folder, wanted)
    except InputError as error:
        return replace(far, state="blocked", problem=str(error))
    if summary and _goes_far_enough(summary, wanted):
        return replace(far, state="done", epoch=summary["epochs"], test_loss=summary["test"]["loss"])
    if failure := failure_of(member.folder):
        return replace(far, state="failed", problem=failure["problem"])
    return replace(far, state="interrupted" if (member.folder / CONFIG).exists() else "waiting")


def table(sweep: Sweep) -> Iterator[str]:
    """Yield a line for each member: index, name, state, epochs, test loss; and one with the counts of states."""
    width = max(len(member.name) for member in sweep.members)
    counts: dict[str, int] = {}
    for index, member in enumerate(sweep.members):
        now = status(member)
        counts[now.state] = counts.get(now.state, 0) + 1
        loss = "" if now.test_loss is None else f"test loss {now.test_loss:.2f}"
        problem = f"  {now.problem.splitlines()[-1]}" if now.problem else ""
        far = f"{now.epoch:.1f} of {round(now.epochs, 2):g} epochs"
        yield f"{index:4d}  {member.name:{width}}  {now.state:11}  {far:>22}  {loss}{problem}".rstrip()
    yield f"{len(sweep.members)} runs: " + ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))


def _epochs(wanted: config.Config, row: dict[str, Any] | None) -> float:
    """Return the epochs of a whole run; `row`, its newest record, tells how many train.max_steps are."""
    steps = wanted.train.max_steps
    return min(wanted.train.epochs, steps * row["epoch"] / row["step"] if steps and row else math.inf)


def _summary(folder: Path, wanted: config.Config) -> dict[str, Any] | None:
    """Return the summary of the run in a folder; None: there is no run, or it is not finished.

    Raises:
        InputError: training `wanted` there would be refused; the message has the way out.
    """
    if not (folder / CONFIG).exists():
        if any((folder / CHECKPOINTS).glob("step-*")):
            raise InputError(f"{folder}: holds checkpoints but no {CONFIG}; restore it or move the folder away")
        return None
    try:
        altering, _ = config.differences(read_config(folder), wanted)
    except InputError as error:
        problem = f"{folder}: its {CONFIG} cannot be used ({error})"
        raise InputError(f"{problem}; restore it or move the folder away") from None
    if altering:
        hint = "move the folder away, keep to its settings, or give the sweep file another name"
        raise InputError(f"{folder}: holds a run with other settings ({'; '.join(altering)}); {hint}")
    return read_summary(folder / SUMMARY)


def _goes_far_enough(summary: dict[str, Any], wanted: config.Config) -> bool:
    """Return whether a finished run has made all steps of the configuration `wanted`, or has ended early by it."""
    if stopped_early(summary, wanted.train.patience):
        return True
    if wanted.train.max_steps and summary["steps"] >= wanted.train.max_steps:
        return True
    return summary["epochs"] >= wanted.train.epochs


def _is_locked(path: Path) -> bool:
    if not path.exists():
        return False
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return True
    lock.release()
    return False
