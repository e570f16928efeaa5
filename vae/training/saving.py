"""Saving a run while it goes on: a snapshot, written by a thread. A disk that refuses it does not end the run."""

import copy
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from vae.distributed.launch import on_main
from vae.engine import Engine
from vae.errors import JobError
from vae.model import VAE
from vae.run import checkpoint
from vae.run.state import FORMAT, RunState
from vae.training.tracking import Stopwatch, Tracker


class SaveError(JobError):
    """The last checkpoint could not be saved; raised on all ranks together."""


class Saver:
    """Saves checkpoints (the main process writes them).

    Args:
        accelerator: its main process writes.
        folder: holds all checkpoints of the run.
        model: the unwrapped model.
        engine: its state is saved.
        tracker: its records are flushed before a checkpoint is written, so that none is ahead of them.
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
        fingerprint: str,
        *,
        step: int,
    ):
        self.accelerator, self.folder, self.model, self.engine = accelerator, folder, model, engine
        self.tracker, self.fingerprint = tracker, fingerprint
        self.step = step  # of the last save, whether or not it reached the disk; a new run has nothing to save
        self._saves, self._waited_seconds, self._cpu_seconds = 0, 0.0, 0.0
        if accelerator.is_main_process:
            self._snapshot = copy.deepcopy(model).cpu()
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
            self._writing: Future[None] | None = None
            self._problem: OSError | None = None

    def save(self, state: RunState, watch: Stopwatch) -> None:
        """Save the run as it is now, unless this step is saved (all ranks); returns before it is on the disk."""
        if state.step == self.step:
            return
        started = time.perf_counter()
        state.train_seconds, state.logged_seconds = watch.seconds, watch.lap_started
        parts = {"engine": self.engine.state_dict(), "run": asdict(state), "data": self.fingerprint}
        saved = {"format": FORMAT, **parts}
        self.step = state.step
        if self.accelerator.is_main_process:
            self._wait()  # one snapshot at a time
            self._snapshot.load_state_dict(self.model.state_dict())
            self._writing = self._thread.submit(self._write, state.step, copy.deepcopy(saved), state.keep)
        self._saves += 1
        self._waited_seconds += time.perf_counter() - started

    def costs(self) -> dict[str, float]:
        """Return the number of checkpoints, seconds that training waited for them, and CPU seconds of writing."""
        return {"saves": self._saves, "waited_seconds": self._waited_seconds, "cpu_seconds": self._cpu_seconds}

    def finish(self) -> None:
        """Wait until the last checkpoint is on the disk (all ranks).

        Raises:
            SaveError: it could not be written.
        """
        on_main(self.accelerator, self._wait_and_judge)

    def _wait_and_judge(self) -> None:
        self._wait()
        if self._problem is not None:
            newest, _ = checkpoint.newest_valid(self.folder)
            kept = f"the newest one is {newest}" if newest else "there is none"
            raise SaveError(
                f"{self.folder / checkpoint.name_of(self.step)}: not saved ({self._problem}); {kept}; "
                "make room, then run the same command again"
            )

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()

    def _write(self, step: int, saved: dict[str, Any], keep: list[str]) -> None:
        started = time.thread_time()
        try:
            self.tracker.flush()
            checkpoint.save(self.folder, step, self._snapshot, saved, keep=keep)
            self._problem = None
        except OSError as error:
            self._problem = error
            path = self.folder / checkpoint.name_of(step)
            self.tracker.warn(f"{path}: not saved ({error}); the older ones stay; trying again at the next interval")
        self._cpu_seconds += time.thread_time() - started
