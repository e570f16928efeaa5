"""Signals that come at a known place of a program's work, in the test's own process."""

import signal

from vae.distributed.signals import StopRequest


class StopAfter(StopRequest):
    """A signal that comes after a number of looks for one."""

    def __init__(self, looks: int):
        super().__init__()
        self.looks = looks

    def watch(self) -> None:
        """Count a look."""
        self.looks -= 1
        if self.looks == 0:
            self.note(signal.SIGINT)
