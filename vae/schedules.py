"""Schedules: progress in epochs -> a number. No counters: time is an argument."""

import math
from abc import ABC, abstractmethod
from typing import Annotated

from pydantic import Field

from vae.components import Piece, PieceOf


class Schedule(Piece, ABC):
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


class Cyclical(Schedule):
    """Rises from `start` to `end` again and again: in each of `cycles` equal cycles linearly over the first part,
    `ratio`, then stays until the next one; after `epochs` epochs, all cycles together, it stays at `end`.

    For beta this is the cyclical annealing of Fu et al. 2019 (figure 2 has 4 cycles and a ratio of 0.5); a run of their
    kind has `epochs` equal to its own.
    """

    def __init__(
        self,
        *,
        epochs: Annotated[float, Field(gt=0, description="length of all cycles together, in epochs")] = 40.0,
        cycles: Annotated[int, Field(ge=1, description="how many")] = 4,
        ratio: Annotated[float, Field(gt=0, le=1, description="part of a cycle in which the value rises")] = 0.5,
        start: Annotated[float, Field(ge=0, description="value at the beginning of each cycle")] = 0.0,
        end: Annotated[float, Field(ge=0, description="value after the rise")] = 1.0,
    ):
        self.epochs, self.cycles, self.ratio, self.start, self.end = epochs, cycles, ratio, start, end

    def __call__(self, progress: float) -> float:
        """Return the value at `progress` epochs."""
        if progress >= self.epochs:
            return self.end
        within = progress * self.cycles / self.epochs % 1  # the part of this cycle that is over
        return self.start + (self.end - self.start) * min(within / self.ratio, 1.0)

    @property
    def ends_at(self) -> float:
        """Progress, in epochs, at which the last cycle ends."""
        return self.epochs


class Cosine(Schedule):
    """Falls from `start` to `end` along half a cosine over the first `epochs` epochs, then stays.

    For the learning rate this is the annealing of Loshchilov & Hutter 2017 (eq. 5), without restarts.
    """

    def __init__(
        self,
        *,
        epochs: Annotated[float, Field(gt=0, description="length of the fall, in epochs")] = 50.0,
        start: Annotated[float, Field(ge=0, description="value at the beginning")] = 1.0,
        end: Annotated[float, Field(ge=0, description="value after the fall")] = 0.0,
    ):
        self.epochs, self.start, self.end = epochs, start, end

    def __call__(self, progress: float) -> float:
        """Return the value at `progress` epochs."""
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * min(progress / self.epochs, 1.0))) / 2

    @property
    def ends_at(self) -> float:
        """Progress, in epochs, at which `end` is reached."""
        return self.epochs


class MultiStep(Schedule):
    """1 at first; at each milestone multiplied by `gamma`, as by `torch.optim.lr_scheduler.MultiStepLR`.

    Burda et al. 2016 (section 5) have seven of them, after 3^0, 3^0 + 3^1, ... epochs, and gamma = 10^(-1/7).
    """

    def __init__(
        self,
        *,
        milestones: Annotated[
            list[Annotated[float, Field(gt=0)]], Field(min_length=1, description="when, in epochs")
        ] = [30.0, 40.0],  # noqa: B006 (read only)
        gamma: Annotated[float, Field(gt=0, description="factor at each of them")] = 0.1,
    ):
        self.milestones, self.gamma = milestones, gamma

    def __call__(self, progress: float) -> float:
        """Return the value at `progress` epochs."""
        return self.gamma ** sum(progress >= milestone for milestone in self.milestones)

    @property
    def ends_at(self) -> float:
        """Progress, in epochs, at which the last milestone is reached."""
        return max(self.milestones)


SCHEDULES: dict[str, type[Schedule]] = {
    "Constant": Constant,
    "LinearWarmup": LinearWarmup,
    "Cyclical": Cyclical,
    "Cosine": Cosine,
    "MultiStep": MultiStep,
}

# `objective.beta=4` is short for `objective.beta='{name: Constant, value: 4}'`
ScheduleSpec = PieceOf(SCHEDULES, shorthand=("Constant", "value"))
