"""The share of the CPU that other programs use during a measurement, and a wait until they use little."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from vae.distributed.launch import cores

Result = TypeVar("Result")
STAT = Path("/proc/stat")
BUSY = (0, 1, 2, 5, 6, 7)  # columns of /proc/stat: user, nice, system, irq, softirq, steal (taken by the host)
LIMIT = 10.0  # percent of our cores; on two cores a step with a barrier in each product takes twice as long from here
WINDOW = 0.5  # seconds, to look whether the machine is quiet


class Meter:
    """Measures from its making on."""

    def __init__(self):
        self._start = time.perf_counter(), _busy_seconds(), _own_seconds()

    def others_percent(self) -> float | None:
        """Return the share of our cores that others have used; None where the system does not tell.

        Our own are this process and those of its children that have ended.
        """
        began, busy, own = self._start
        now = _busy_seconds()
        if busy is None or now is None:
            return None
        theirs = (now - busy) - (_own_seconds() - own)
        return max(0.0, 100 * theirs / ((time.perf_counter() - began) * len(cores())))


class Patience:
    """Takes turns while others are quiet, as long as its seconds last; after that, takes them as it can.

    Args:
        seconds: to spend on waiting and on turns that have to be repeated, all together.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds

    def take(self, turn: Callable[[], Result]) -> tuple[Result, float | None, list[Result]]:
        """Return what the least disturbed try of a turn gave, what others used then (percent), and the other tries."""
        tries: list[tuple[float, Result]] = []
        while True:
            self._wait_until_quiet()
            meter, began = Meter(), time.perf_counter()
            result = turn()
            others = meter.others_percent()
            if others is None:
                return result, None, []
            tries.append((others, result))
            if others < LIMIT or self.seconds <= 0:
                break
            self.seconds -= time.perf_counter() - began
        best = min(range(len(tries)), key=lambda i: tries[i][0])
        return tries[best][1], tries[best][0], [result for i, (_, result) in enumerate(tries) if i != best]

    def _wait_until_quiet(self) -> None:
        while self.seconds > 0:
            meter = Meter()
            time.sleep(WINDOW)
            others = meter.others_percent()
            if others is None or others < LIMIT:
                return
            self.seconds -= WINDOW


def _busy_seconds() -> float | None:
    """Return the seconds that our cores have been busy since the machine started."""
    try:
        lines = [line.split() for line in STAT.read_text().splitlines() if line.startswith("cpu")]
    except OSError:
        return None
    ours = {f"cpu{core}" for core in cores()}
    ticks = sum(int(columns[i]) for name, *columns in lines if name in ours for i in BUSY)
    return ticks / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    return sum(os.times()[:4])
