"""The base class of a tracker."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import Tensor

from vae.components import Piece

Warn = Callable[[str], None]  # prints a sentence as a warning


class Sink(Piece):
    """A tracker: the place where the curves, pictures and results of one run are kept.

    Sinks are opened on the main process only. A subclass implements `scalar`, `flush` and `close`, and of the others
    those that its tracker has a place for. No method but the constructor and `flush` raises for want of room or of a
    network: what cannot be written now is warned of once.

    Args:
        folder: of the run.
        step: updates made before this start; records of later steps, left by a start that was cut off, are removed.
        warn: called with a sentence when records begin to wait.

    Attributes:
        place: where a user finds the records, said at the start; empty: nothing is said.
        may_refuse: true for a tracker that wants more than a folder, such as a package or a login. Those are opened
            first, before anything is written.

    Raises:
        OSError: the constructor cannot write.
        InputError: the constructor misses something that a user can give.
    """

    place = ""
    may_refuse: ClassVar[bool] = False

    def __init__(self, folder: Path, step: int, warn: Warn):
        raise NotImplementedError

    @classmethod
    def must_exist(cls) -> None:
        """Raise `InputError` if what the tracker needs is not installed."""

    def configuration(self, settings: Mapping[str, bool | float | str]) -> None:
        """Record every setting of the run by dotted key, at each start."""

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Record one point of the curve `tag`."""
        raise NotImplementedError

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Record what is known of one step: a point of each curve, by tag."""
        for tag, value in values.items():
            self.scalar(tag, value, step)

    def results(self, values: Mapping[str, float], step: int) -> None:
        """Record the final results of the run by tag, once, at the end."""
        self.scalars(values, step)

    def image(self, tag: str, canvas: np.ndarray, step: int) -> None:
        """Record a picture (H, W, 1 or 3) in [0, 1]."""

    def histogram(self, tag: str, values: np.ndarray, step: int) -> None:
        """Record the distribution of values (N,)."""

    def text(self, tag: str, sentence: str, step: int) -> None:
        """Record a sentence that deserves notice."""

    def hyperparameters(self, settings: Mapping[str, bool | float | str], step: int) -> None:
        """Record the settings by which runs differ, by dotted key, once, at the end."""

    def embedding(self, points: Tensor, images: Tensor, names: list[str] | None, step: int) -> None:
        """Record codes (N, D) with their images (N, 1 or 3, H, W) in [0, 1] and the names of their classes."""

    def lacks(self, step: int) -> bool:
        """Return whether the points that an earlier start recorded at a step are to be given again."""
        return False

    def flush(self) -> None:
        """Write everything out, so that no checkpoint is ahead of it; raises OSError."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the tracker; what still waits is lost with the process."""
        raise NotImplementedError
