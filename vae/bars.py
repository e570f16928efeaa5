"""Progress of what takes long: a bar where stderr is a terminal, else a line a minute, for a log that is followed."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 60.0

T = TypeVar("T")


class Pace:
    """Says when the next line about progress is due, and how much time is left at the pace so far.

    The pace is that since the first call of `due`: what came before, such as compiling, is not done again.

    Args:
        total: units of the whole work.
        clock: seconds.
    """

    def __init__(self, total: float, *, clock: Callable[[], float] = time.monotonic):
        self.total, self._clock = total, clock
        self._said = clock()
        self._start: tuple[float, float] | None = None  # seconds, and units that were made then

    def due(self, done: float) -> bool:
        """Return true, with so many units made, if the last line or the beginning is a minute ago.

        The next line is due a minute later.
        """
        now = self._clock()
        self._start = self._start or (now, done)
        if now - self._said < SECONDS_BETWEEN_LINES:
            return False
        self._said = now
        return True

    def left(self, done: float) -> str:
        """Return the time left, in words, with so many units made."""
        began, first = self._start or (self._clock(), done)
        if done <= first:
            return "time left unknown"
        seconds = (self.total - done) / (done - first) * (self._clock() - began)
        return f"{tqdm.format_interval(seconds)} left"


class Bar:
    """Progress on stderr, to be used as a context manager.

    Args:
        name: of the work.
        total: its units.
        unit: one of them, in the singular.
        shown: false on a process that says nothing.
        look: further arguments of `tqdm`.
    """

    def __init__(self, name: str, total: int, unit: str, *, shown: bool = True, **look: Any):
        self.name, self.unit, self._done = name, unit, 0
        on_terminal = None if shown else True  # None: the bar is disabled where stderr is no terminal
        self._bar = tqdm(
            desc=name, total=total, unit=f" {unit}", dynamic_ncols=True, leave=False, disable=on_terminal, **look
        )
        self._pace = Pace(total) if shown and self._bar.disable else None
        if self._pace:
            self._pace.due(0)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, units: int = 1) -> None:
        """Note that so many units are done."""
        self._done += units
        self._bar.update(units)
        if self._pace and self._pace.due(self._done):
            done = f"{self._done:,} of {self._pace.total:,} {self.unit}s"
            sys.stderr.write(f"{self.name}: {done}, {self._pace.left(self._done)}\n")


def following(parts: Sequence[T], name: str, unit: str, **look: Any) -> Iterator[T]:
    """Yield each part of some work, with a `Bar` meanwhile."""
    with Bar(name, len(parts), unit, **look) as bar:
        for part in parts:
            yield part
            bar.advance()
