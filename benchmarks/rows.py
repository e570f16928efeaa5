"""Measurements: samples, one a round, and the statistics of them."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

CONVENTIONAL, IN_MEMORY, JOB, FLOOR = "conventional", "in memory", "job", "floor"


@dataclass(frozen=True)
class Sample:
    """One turn: how long so many steps took, and how many images they saw.

    Attributes:
        summary: of the job, its summary.json.
        others_percent: of our cores, what other programs used meanwhile; None: unknown.
    """

    seconds: float
    steps: int
    images: float
    summary: dict[str, Any] | None = None
    others_percent: float | None = None


def sample_of(summary: dict[str, Any]) -> Sample:
    """Return the sample that a run's summary.json describes."""
    seconds = summary["train_seconds"]
    return Sample(seconds, summary["steps"], summary["images_per_second"] * seconds, summary)


@dataclass
class Row:
    """One thing that is measured, with a sample for each round.

    Attributes:
        kind: one of `CONVENTIONAL`, `IN_MEMORY`, `JOB`, `FLOOR`.
        variant: which of its kind: an engine, a number of workers.
        precision, batch_size: of its steps.
        discarded: turns that others disturbed, and that were repeated.
    """

    kind: str
    variant: str
    precision: str
    batch_size: int
    samples: list[Sample] = field(default_factory=list)
    discarded: list[Sample] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Kind and variant."""
        return f"{self.kind}, {self.variant}" if self.variant else self.kind

    @property
    def step_ms(self) -> list[float]:
        """Milliseconds a step."""
        return [1000 * sample.seconds / sample.steps for sample in self.samples]

    @property
    def images_per_second(self) -> list[float]:
        """Images a second."""
        return [sample.images / sample.seconds for sample in self.samples]

    def times_as_fast_as(self, other: "Row | None") -> list[float]:
        """Return the ratio of images a second, round by round; nothing if there is no other."""
        theirs = other.images_per_second if other else []
        return [mine / its for mine, its in zip(self.images_per_second, theirs, strict=False)]

    def of_summaries(self, *keys: str) -> list[float]:
        """Return a number of each summary.json, by its path of keys; nothing where it is not there."""
        values: list[Any] = [sample.summary for sample in self.samples]
        for key in keys:
            values = [value.get(key) if isinstance(value, dict) else None for value in values]
        return [value for value in values if value is not None]

    def percent_of_training(self, *paths: tuple[str, ...]) -> list[float]:
        """Return the sum of some seconds of each summary.json in percent of its `train_seconds`."""
        columns = [self.of_summaries(*path) for path in [*paths, ("train_seconds",)]]
        return [100 * sum(seconds) / training for *seconds, training in zip(*columns, strict=False)]


def select(rows: Iterable[Row], kind: str, precision: str, batch_size: int) -> list[Row]:
    """Return the rows of a kind."""
    return [row for row in rows if (row.kind, row.precision, row.batch_size) == (kind, precision, batch_size)]


def fastest(rows: Iterable[Row]) -> Row | None:
    """Return the row with the highest median of images a second, if there are any."""
    return max(rows, key=lambda row: statistics.median(row.images_per_second), default=None)
