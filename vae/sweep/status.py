"""How far each member of a sweep is, as its folder says."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from vae import config
from vae.components import InputError
from vae.files import (
    CONFIG,
    LOCK,
    METRICS,
    SUMMARY,
    failure_file,
    failure_of,
    last_row,
    logs_of,
    read_summary,
    write_text,
)
from vae.sweep.members import Member, Sweep

State = Literal["waiting", "running", "interrupted", "failed", "done"]


@dataclass(frozen=True)
class Status:
    """A member's state.

    Attributes:
        state: waiting: not begun; running: now, wherever that is; interrupted: begun, can be continued; failed: ended
            with an error, and not begun again since; done.
        epoch: how far its records go.
        epochs: how far it is to go.
        test_loss: nats, of the latest evaluation on the test set, if there is one.
        problem: of a failed one, the last lines it wrote.
    """

    state: State
    epoch: float
    epochs: float
    test_loss: float | None = None
    problem: str = ""


class Desk:
    """What a sweep keeps of a member beside its run folder: output, failure, and a lock for who starts it.

    They lie in `runs/<sweep>/logs/`, so that a member that could not even make its folder has them too.
    """

    def __init__(self, member: Member):
        folder = logs_of(member.folder)
        self.member = member
        self.log = folder / f"{member.name}.log"
        self._failure, self._lock = failure_file(member.folder), folder / f"{member.name}.lock"

    def claim(self) -> FileLock | None:
        """Return a lock on the member, to be released, or None: another process holds it or runs it.

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
        """Whether a process holds the member, or runs it."""
        return _is_locked(self._lock) or _is_locked(self.member.folder / LOCK)

    def note_failure(self, code: int, problem: str) -> None:
        """Note that the member ended with this exit code after these lines; a full disk is no reason to stop."""
        with contextlib.suppress(OSError):
            write_text(self._failure, json.dumps({"exit_code": code, "problem": problem}) + "\n")

    def forget_failure(self) -> None:
        """Let the member be started again."""
        self._failure.unlink(missing_ok=True)


def status(member: Member) -> Status:
    """Return how far a member is, `running` if a process holds it."""
    now = recorded(member)
    return replace(now, state="running", problem="") if Desk(member).is_held() else now


def recorded(member: Member) -> Status:
    """Return how far a member is by its files alone, never `running`."""
    wanted = config.load(member.base, member.overrides)
    row, test = (last_row(member.folder / METRICS, split) for split in (None, "test"))
    epoch, epochs = row["epoch"] if row else 0.0, float(wanted.train.epochs)
    loss = test["loss"] if test else None
    problem, summary = "", None
    if (member.folder / CONFIG).exists():
        try:
            altering, _ = config.differences(config.load(member.folder / CONFIG), wanted)
            problem = f"{member.folder}: holds a run with other settings ({'; '.join(altering)})" if altering else ""
            summary = read_summary(member.folder / SUMMARY)
        except InputError as error:
            problem = str(error)
    if problem:
        return Status("failed", epoch, epochs, loss, problem)
    if summary and _goes_far_enough(summary, wanted):
        return Status("done", summary["epochs"], epochs, summary["test"]["loss"])
    if failure := failure_of(member.folder):
        return Status("failed", epoch, epochs, loss, failure["problem"])
    return Status("interrupted" if (member.folder / CONFIG).exists() else "waiting", epoch, epochs, loss)


def table(sweep: Sweep) -> Iterator[str]:
    """Yield a line for each member: index, name, state, how far it is, its test loss; and one for all."""
    width = max(len(member.name) for member in sweep.members)
    counts: dict[str, int] = {}
    for index, member in enumerate(sweep.members):
        now = status(member)
        counts[now.state] = counts.get(now.state, 0) + 1
        loss = "" if now.test_loss is None else f"test loss {now.test_loss:.2f}"
        problem = f"  {now.problem.splitlines()[-1]}" if now.problem else ""
        far = f"{now.epoch:.1f} of {now.epochs:g} epochs"
        yield f"{index:4d}  {member.name:{width}}  {now.state:11}  {far:>22}  {loss}{problem}".rstrip()
    yield f"{len(sweep.members)} runs: " + ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))


def _goes_far_enough(summary: dict[str, Any], wanted: config.Config) -> bool:
    """Whether a finished run has made all the steps that are asked for."""
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
