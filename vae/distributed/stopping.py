"""One answer of all ranks to a signal that one of them got. What has reached one process: signals.py."""

import time
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor

from vae.distributed.signals import StopRequest

SECONDS_BETWEEN_VOTES = 1.0


class StopVote:
    """Vote of all ranks to stop, because a signal reached one of them: the same answer at the same step on all.

    With several processes they ask each other about once a second, at a step that follows from the last answer. The
    same exchange tells all of them a wish of the main process, whose clock alone counts.

    Args:
        accelerator: the process group.
        request: what has reached this process.
        wish: whether the main process wants what `granted` says to all; None: it never wants anything.
    """

    def __init__(self, accelerator: Accelerator, request: StopRequest, wish: Callable[[], bool] | None = None):
        self.accelerator, self.request = accelerator, request
        self._wish = wish or (lambda: False)
        self._granted = False
        self._next = 0
        self._asked: tuple[int, float] | None = None  # the last vote's step and time

    def __call__(self, step: int) -> int:
        """Return the signal that stops the run before `step`, or 0 (all ranks, a collective where one is due)."""
        self.request.watch()
        if self.accelerator.num_processes == 1:
            return self.request.signum
        return 0 if step < self._next else self._ask(step)

    def granted(self) -> bool:
        """Return whether the main process wished it at the last vote, once; one process is asked now (all ranks)."""
        if self.accelerator.num_processes == 1:
            return self._wish()
        granted, self._granted = self._granted, False
        return granted

    def _ask(self, step: int) -> int:
        now = time.perf_counter()
        steps, seconds = (
            (1, SECONDS_BETWEEN_VOTES) if self._asked is None else (step - self._asked[0], now - self._asked[1])
        )
        wished = float(self.accelerator.is_main_process and self._wish())
        mine = torch.tensor([[float(self.request.signum), seconds / steps, wished]], device=self.accelerator.device)
        rows = self.accelerator.gather(mine)
        assert isinstance(rows, Tensor)
        signum, slowest, wished = rows.amax(0).tolist()
        self._granted = bool(wished)
        # at most twice as far as the last time: a single step is no measure
        ahead = min(SECONDS_BETWEEN_VOTES / slowest, 2 * steps)
        self._next, self._asked = step + max(1, int(ahead)), (step, time.perf_counter())
        return int(signum)
