"""Saving a run while it goes on: snapshots, written by a thread. A disk that refuses them does not end the run.

Training never waits for a checkpoint, neither for the device nor for the disk, except for the last one of a start.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from vae.distributed.launch import on_main
from vae.engine import Engine, NonFiniteError
from vae.errors import JobError
from vae.model import VAE
from vae.run import checkpoint
from vae.run.state import FORMAT, RunState
from vae.training.snapshot import Snapshot
from vae.training.tracking import Stopwatch, Tracker

SECONDS_BETWEEN_CHECKPOINTS = 30.0  # unless steps or epochs are asked for


class SaveError(JobError):
    """The last checkpoint could not be saved; raised on all ranks together."""


@dataclass(frozen=True)
class Shot:
    """A snapshot of the run after `step` updates, and the names of checkpoints that are kept beside it."""

    step: int
    keep: list[str]
    snapshot: Snapshot

    @property
    def is_best(self) -> bool:
        """Whether it is the best on the validation set so far."""
        return checkpoint.name_of(self.step) in self.keep


class Saver:
    """Saves checkpoints (the main process writes them).

    A thread writes one checkpoint after another. The best on the validation set waits in memory and is written before
    the next checkpoint, whose state names it: a run that is continued from there finds it.

    Args:
        accelerator: its main process writes.
        folder: holds all checkpoints of the run.
        model: the unwrapped model that is trained.
        engine: its state is saved, and its average of the model, if there is one.
        tracker: its records are flushed before a checkpoint is written, so that none is ahead of them.
        watch: of the run; training goes on meanwhile, so it is not stopped.
        fingerprint: of the data, saved to recognise them.
        step: updates made at the checkpoint that the run continues from, or 0.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        folder: Path,
        model: VAE,
        engine: Engine,
        tracker: Tracker,
        watch: Stopwatch,
        fingerprint: str,
        *,
        step: int,
    ):
        self.accelerator, self.folder, self.engine = accelerator, folder, engine
        self._models = [each for each in engine.models(model) if each is not None]
        self.tracker, self.watch, self.fingerprint = tracker, watch, fingerprint
        self._step = step  # that is on the disk, or on its way to it; a new run has nothing to save
        self._due_at = time.perf_counter() + SECONDS_BETWEEN_CHECKPOINTS
        self._best: Shot | None = None  # waits to be written
        self._given: Sequence[Shot] = []  # to the thread
        self._writing: Future[Sequence[Shot]] | None = None  # has those that it could not write
        self._problem: OSError | None = None
        self._free: list[Snapshot] = []
        self._saves, self._left_out, self._waited_seconds, self._cpu_seconds = 0, 0, 0.0, 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def wanted(self) -> bool:
        """Return whether it is time for a checkpoint, and the one before is written (main process)."""
        return time.perf_counter() >= self._due_at and not self._busy

    def save(self, state: RunState) -> None:
        """Save the run as it is now (all ranks); returns before it is on the disk.

        Where the checkpoint before is still being written, this one is left out: the next one takes its place.
        """
        with self._counting():
            now = self._now(state)
            if self.accelerator.is_main_process:
                if self._busy:
                    self._left_out += 1
                else:
                    self._start(state, now)

    def keep_best(self, state: RunState) -> None:
        """Keep the run as it is now, to be written before the next checkpoint (all ranks)."""
        with self._counting():
            now = self._now(state)
            if self.accelerator.is_main_process:
                if not self._busy:
                    self._collect()
                self._hold(self._shot(state, now))

    def finish(self, state: RunState) -> None:
        """Save the run as it is now, unless it is saved, and wait until it is on the disk (all ranks).

        Raises:
            NonFiniteError: an update was not finite.
            SaveError: the checkpoint could not be written.
        """
        self.engine.raise_faults()
        now = self._now(state)
        on_main(self.accelerator, lambda: self._finish(state, now))

    def costs(self) -> dict[str, float]:
        """Return numbers of checkpoints written and left out, seconds that training waited, CPU seconds of writing."""
        waited, written = self._waited_seconds, self._cpu_seconds
        return {"saves": self._saves, "left_out": self._left_out, "waited_seconds": waited, "cpu_seconds": written}

    @contextlib.contextmanager
    def _counting(self) -> Iterator[None]:
        started = time.perf_counter()
        with self.watch.counting("checkpoints"):
            yield
        self._waited_seconds += time.perf_counter() - started

    @property
    def _busy(self) -> bool:
        return self._writing is not None and not self._writing.done()

    def _now(self, state: RunState) -> dict[str, Any]:
        """Return what a checkpoint holds beside the weights, its tensors still on the device (all ranks)."""
        state.train_seconds, state.logged_seconds = self.watch.seconds, self.watch.lap_started
        parts = {"engine": self.engine.state_dict(), "run": asdict(state), "data": self.fingerprint}
        return {"format": FORMAT, **parts}

    def _shot(self, state: RunState, now: dict[str, Any]) -> Shot:
        snapshot = self._free.pop() if self._free else Snapshot(*self._models)
        snapshot.take(now)
        return Shot(state.step, state.keep, snapshot)

    def _start(self, state: RunState, now: dict[str, Any]) -> None:
        """Have the thread write the best checkpoint, where one waits, and one of this step, unless it is saved."""
        self._collect()
        shots = [] if self._best is None else [self._best]
        if state.step not in (self._step, *(shot.step for shot in shots)):
            shots.append(self._shot(state, now))
        if shots:
            self._best, self._step, self._given = None, shots[-1].step, shots
            self._writing = self._thread.submit(self._write, shots)
            self._due_at = time.perf_counter() + SECONDS_BETWEEN_CHECKPOINTS
            self._saves += len(shots)

    def _collect(self) -> None:
        """Wait for the thread, and take back what it had to write; a best checkpoint that it could not waits again."""
        if self._writing is None:
            return
        unwritten, self._writing = self._writing.result(), None
        for shot in self._given:
            if shot in unwritten and shot.is_best and self._best is None:
                self._best = shot
            else:
                self._free.append(shot.snapshot)
        if unwritten:
            self._step = -1

    def _hold(self, best: Shot) -> None:
        if self._best is not None:
            self._free.append(self._best.snapshot)
        self._best = best

    def _finish(self, state: RunState, now: dict[str, Any]) -> None:
        self._start(state, now)
        self._collect()
        if self._problem is not None:
            newest, _ = checkpoint.newest_valid(self.folder)
            kept = f"the newest one is {newest}" if newest else "there is none"
            raise SaveError(
                f"{self.folder / checkpoint.name_of(state.step)}: not saved ({self._problem}); {kept}; "
                "make room, then run the same command again"
            )

    def _write(self, shots: Sequence[Shot]) -> Sequence[Shot]:
        """Write checkpoints; returns those that find no room, after the first of which none is tried."""
        started = time.thread_time()
        self._problem = None
        unwritten = list(shots)
        try:
            while unwritten:
                self._write_one(unwritten[0])
                del unwritten[0]
        except OSError as error:
            self._problem = error
            path = self.folder / checkpoint.name_of(unwritten[0].step)
            self.tracker.warn(f"{path}: not saved ({error}); the older ones stay; trying again at the next interval")
        self._cpu_seconds += time.thread_time() - started
        return unwritten

    def _write_one(self, shot: Shot) -> None:
        shot.snapshot.wait()
        saved = shot.snapshot.state
        try:
            engine = self.engine.judged(saved["engine"])
        except NonFiniteError:  # its step was not made; all ranks find that at the next logging point, and end
            return
        self.tracker.flush()
        model, *raw = shot.snapshot.models
        state = saved | {"engine": engine}
        checkpoint.save(self.folder, shot.step, model, state, keep=shot.keep, raw=next(iter(raw), None))
