"""Progress of an evaluation: a bar of the main process, a vote of all ranks to stop, a watch over lost ones."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from accelerate import Accelerator

from vae.bars import Bar
from vae.distributed.signals import StopRequest
from vae.distributed.stopping import StopVote
from vae.distributed.watchdog import Watchdog
from vae.errors import Stopped

NOTHING_KEPT, CONTINUES = "nothing of it is kept", "the same command continues it"  # said after a signal
SECONDS_A_STEP = 600.0  # at most, before the ranks are held to be stuck


def watching(accelerator: Accelerator, environment: Mapping[str, str]) -> Watchdog:
    """Return the watchdog of an evaluation (all ranks: gather)."""
    return Watchdog(accelerator, SECONDS_A_STEP, environment, "the longest step of an evaluation")


class Progress:
    """A bar with the time left, and a vote to stop at each step; all ranks make the same steps.

    Args:
        accelerator: the process group; the main process shows the bar.
        request: notes the signals that reach this process.
        watchdog: hears of each step; None: nobody watches.
        stopped: said after a signal: what is kept.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        request: StopRequest,
        watchdog: Watchdog | None = None,
        stopped: str = NOTHING_KEPT,
    ):
        self._shown, self._device, self._watchdog = accelerator.is_main_process, accelerator.device, watchdog
        self._vote, self._step, self._stopped = StopVote(accelerator, request), 0, stopped
        self._bar: Bar | None = None
        self._before: torch.cuda.Event | None = None

    @contextlib.contextmanager
    def stage(self, what: str, total: int, unit: str) -> Iterator[None]:
        """Show a bar named `what` meanwhile, for `total` units of this rank's work."""
        with Bar(what, total, unit, shown=self._shown, unit_scale=True) as self._bar:
            yield

    def advance(self, units: int) -> None:
        """Advance the bar by `units` (all ranks); raises `Stopped` on all ranks if a signal has reached one."""
        assert self._bar is not None
        self._step += 1
        if self._watchdog is not None:
            self._watchdog.beat(self._step)
        if self._device.type == "cuda":  # the bar is not to run ahead of the device
            if self._before is not None:
                self._before.synchronize()
            self._before = torch.cuda.Event()
            self._before.record()
        if signum := self._vote(self._step):
            raise Stopped(signum, f"stopped before the evaluation was complete; {self._stopped}")
        self._bar.advance(units)
