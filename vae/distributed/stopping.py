"""One answer of all ranks to a signal that one of them got. What has reached one process: signals.py."""

import time

import torch
from accelerate import Accelerator
from torch import Tensor

from vae.distributed.signals import StopRequest

SECONDS_BETWEEN_VOTES = 1.0


class StopVote:
    """Vote of all ranks to stop, because a signal reached one of them: the same answer at the same step on all.

    With several processes they ask each other about once a second, at a step that follows from the last answer.

    Args:
        accelerator: the process group.
        request: what has reached this process.
    """

    def __init__(self, accelerator: Accelerator, request: StopRequest):
        self.accelerator, self.request = accelerator, request
        self._next = 0
        self._asked: tuple[int, float] | None = None  # the last vote's step and time

    def __call__(self, step: int) -> int:
        """Return the signal that stops the run before `step`, or 0 (all ranks, a collective where one is due)."""
        self.request.watch()
        if self.accelerator.num_processes == 1:
            return self.request.signum
        return 0 if step < self._next else self._ask(step)

    def _ask(self, step: int) -> int:
        now = time.perf_counter()
        steps, seconds = (
            (1, SECONDS_BETWEEN_VOTES) if self._asked is None else (step - self._asked[0], now - self._asked[1])
        )
        mine = torch.tensor([[float(self.request.signum), seconds / steps]], device=self.accelerator.device)
        rows = self.accelerator.gather(mine)
        assert isinstance(rows, Tensor)
        signum, slowest = rows.amax(0).tolist()
        # at most twice as far as the last time: a single step is no measure
        ahead = min(SECONDS_BETWEEN_VOTES / slowest, 2 * steps)
        self._next, self._asked = step + max(1, int(ahead)), (step, time.perf_counter())
        return int(signum)
