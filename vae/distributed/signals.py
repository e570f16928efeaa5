"""Signals that ask a job to stop: noted the moment they come, obeyed where nothing is lost.

Standard library only: it is used before torch is imported, which takes seconds.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

from vae.distributed.ending import INTERRUPTED, exit_code_of_signal
from vae.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# A start that has come no further so long after the signal is given up: it has nothing to save. With several processes
# it is better to come as far as telling the others.
STARTUP_SECONDS, STARTUP_SECONDS_TOGETHER = 8.0, 25.0
DEBOUNCE_SECONDS = 0.5  # a keyboard and a launcher may both deliver the same Ctrl-C
POLL_SECONDS = 1.0


class StopRequest:
    """A request to stop, made by a signal to this process; `signum` is the first such signal, 0 before there is one.

    A thread reads the signals from a pipe that the interpreter's own handler writes, so that they are noted also while
    the main thread waits for another rank. A second SIGINT ends the process at once.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._noted_at = 0.0
        self._patience = STARTUP_SECONDS
        self._watched = False  # whether the main thread looks at `signum` by now

    def install(self, environment: Mapping[str, str]) -> None:
        """Take over SIGTERM, SIGUSR1 and SIGINT (main thread only); also stop when torchrun's agent is gone.

        Args:
            environment: `os.environ`, which tells whether a launcher started this process, and with how many others.
        """
        if environment.get("WORLD_SIZE", "1") != "1":
            self._patience = STARTUP_SECONDS_TOGETHER
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for signum in SIGNALS:
            signal.signal(signum, lambda *_: None)  # the thread does the work
        launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in environment else 0
        threading.Thread(target=self._watch, args=(reading, launcher), name="signals", daemon=True).start()

    def note(self, signum: int) -> None:
        """Act on a signal, as if it had just come."""
        now = time.monotonic()
        if not self.signum:
            self.signum, self._noted_at = signum, now
        elif signum == signal.SIGINT and now > self._noted_at + DEBOUNCE_SECONDS:
            os._exit(INTERRUPTED)

    def watch(self) -> None:
        """Say that from now on somebody looks at `signum` regularly: the start-up is over."""
        self._watched = True

    @contextmanager
    def handed_back(self) -> Iterator[None]:
        """Let signals raise `Stopped` or `KeyboardInterrupt` wherever the block is (main thread only)."""
        self.watch()
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with stopped_by_sigterm():
                yield
        finally:
            signal.signal(signal.SIGINT, before)

    def obey(self) -> None:
        """Raise `Stopped` if a signal has come (this process alone: not where other ranks go on)."""
        if self.signum:
            raise Stopped(self.signum, "stopped at the end of the run")

    def _watch(self, pipe: int, launcher: int) -> None:
        while True:
            ready, _, _ = select.select([pipe], [], [], POLL_SECONDS)
            for signum in os.read(pipe, 64) if ready else b"":
                if signum in SIGNALS:
                    self.note(signum)
            if launcher and os.getppid() != launcher:  # killed, or ended by a signal that it does not know
                launcher = 0
                self.note(signal.SIGTERM)
            if self.signum and not self._watched and time.monotonic() > self._noted_at + self._patience:
                os._exit(exit_code_of_signal(self.signum))


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Let SIGTERM raise `Stopped` wherever the block is, so that it leaves no half-written file (main thread only)."""

    def stop(signum: int, _: object) -> NoReturn:
        raise Stopped(signum, "stopped")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
