"""Schedules: progress in epochs -> a number. No counters: time is an argument."""

from abc import ABC, abstractmethod
from typing import Annotated

from pydantic import Field

from vae.components import PieceOf


class Schedule(ABC):
    """A number that depends on progress alone, so that it does not change with the number of processes."""

    @abstractmethod
    def __call__(self, progress: float) -> float:
        """Return the value at `progress`, in epochs (examples seen over examples in the training set)."""

    @property
    def ends_at(self) -> float:
        """Progress, in epochs, after which the value no longer changes."""
        return 0.0


class Constant(Schedule):
    """The same value throughout."""

    def __init__(self, *, value: Annotated[float, Field(ge=0, description="the value")] = 1.0):
        self.value = value

    def __call__(self, progress: float) -> float:
        """Return the value."""
        return self.value


class LinearWarmup(Schedule):
    """Rises linearly from `start` to `end` over the first `epochs` epochs, then stays.

    For beta this is the KL warm-up of Bowman et al. 2016 (section 3.1) and Sonderby et al. 2016 (section 2.3).
    """

    def __init__(
        self,
        *,
        epochs: Annotated[float, Field(gt=0, description="length of the rise, in epochs")] = 10.0,
        start: Annotated[float, Field(ge=0, description="value at the beginning")] = 0.0,
        end: Annotated[float, Field(ge=0, description="value after the rise")] = 1.0,
    ):
        self.epochs, self.start, self.end = epochs, start, end

    def __call__(self, progress: float) -> float:
        """Return the value at `progress` epochs."""
        return self.start + (self.end - self.start) * min(progress / self.epochs, 1.0)

    @property
    def ends_at(self) -> float:
        """Progress, in epochs, at which `end` is reached."""
        return self.epochs


SCHEDULES: dict[str, type[Schedule]] = {"Constant": Constant, "LinearWarmup": LinearWarmup}

# `objective.beta=4` is short for `objective.beta='{name: Constant, value: 4}'`
ScheduleSpec = PieceOf(SCHEDULES, shorthand=("Constant", "value"))
