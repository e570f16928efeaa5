"""The speeds this project promises, and whether a run of the benchmark met them."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness import spread
from rows import CONVENTIONAL, FLOOR, IN_MEMORY, JOB, Row, fastest, select

BATCH = 128  # of all targets but where another is named
EPOCHS = 50  # of the default configuration
LOGGING, WAITED, WRITER = ("logging_seconds",), ("checkpoints", "waited_seconds"), ("checkpoints", "cpu_seconds")


@dataclass(frozen=True)
class Target:
    """A promise: the median of `values` is at least, or at most, `bound`; unknown without values."""

    what: str
    at_least: bool
    bound: float
    values: Sequence[float]

    @property
    def met(self) -> bool | None:
        """Whether it is kept; None: not measured."""
        if not self.values:
            return None
        value = statistics.median(self.values)
        return value >= self.bound if self.at_least else value <= self.bound

    @property
    def cells(self) -> list[str]:
        """What, asked, measured, met: a line of the table."""
        digits = 2 if self.bound < 100 else 0
        asked = f"{'>=' if self.at_least else '<='} {self.bound:,.{0 if self.bound >= 100 else 1}f}"
        return [self.what, asked, spread(self.values, digits), {True: "yes", False: "NO", None: "-"}[self.met]]


def targets_of(device: str, rows: Sequence[Row]) -> list[Target]:
    """Return the targets for a device, judged by the fastest engine and the faster conventional loop."""
    return {"cpu": _cpu, "cuda": _cuda}[device](rows)


def _cpu(rows: Sequence[Row]) -> list[Target]:
    job, half = (fastest(select(rows, JOB, precision, BATCH)) for precision in ("fp32", "bf16"))
    loop = fastest(select(rows, CONVENTIONAL, "fp32", BATCH))
    memory, floor = (fastest(select(rows, kind, "fp32", BATCH)) for kind in (IN_MEMORY, FLOOR))
    jobs = select(rows, JOB, "fp32", BATCH)
    return [
        Target(f"times as fast as {_name(loop, CONVENTIONAL)}: fp32 {_name(job)}", True, 2.5, _ratio(job, loop)),
        Target(f"times as fast as {IN_MEMORY}: fp32 {_name(job)}", True, 1.3, _ratio(job, memory)),
        Target(f"times the floor's time: fp32 {_name(job)}", False, 1.8, _ratio(floor, job)),
        Target(f"times as fast as fp32 {_name(loop, CONVENTIONAL)}: bf16 {_name(half)}", True, 3.5, _ratio(half, loop)),
        *_costs(jobs),
        Target("peak memory of the process, MB, the most of the engines", False, 1500, _most(jobs, _memory)),
    ]


def _cuda(rows: Sequence[Row]) -> list[Target]:
    job = fastest(select(rows, JOB, "bf16", BATCH))
    large = fastest(select(rows, JOB, "bf16", 8192))
    loop = fastest(select(rows, CONVENTIONAL, "bf16", BATCH))
    return [
        Target(f"seconds for {EPOCHS} epochs with evaluations: bf16 {_name(job)}", False, 4.0, _whole_run(job)),
        Target(f"ms an epoch: bf16 {_name(job)}", False, 60.0, epoch_ms(job) if job else []),
        Target(f"images/s: bf16 {_name(job)}", True, 1e6, job.images_per_second if job else []),
        Target(f"images/s at batch 8,192: bf16 {_name(large)}", True, 1e7, large.images_per_second if large else []),
        Target(f"times as fast as {_name(loop, CONVENTIONAL)}: bf16 {_name(job)}", True, 50.0, _ratio(job, loop)),
        *_costs(select(rows, JOB, "bf16", BATCH)),
    ]


def epoch_ms(job: Row) -> list[float]:
    """Return the milliseconds of training an epoch."""
    return [1000 * s / n for s, n in zip(job.of_summaries("train_seconds"), job.of_summaries("epochs"), strict=True)]


def _whole_run(job: Row | None) -> list[float]:
    """Return the seconds of training and evaluations, for as many epochs as the default configuration has."""
    if job is None:
        return []
    columns = [job.of_summaries(key) for key in ("train_seconds", "evaluation_seconds", "epochs")]
    return [EPOCHS / epochs * (training + tests) for training, tests, epochs in zip(*columns, strict=False)]


def _costs(jobs: Sequence[Row]) -> list[Target]:
    """Return what logging and checkpoints may cost; the thread that writes may or may not be in training's way."""
    waiting = _most(jobs, lambda job: job.percent_of_training(LOGGING, WAITED))
    at_worst = _most(jobs, lambda job: job.percent_of_training(LOGGING, WAITED, WRITER))
    return [
        Target("logging and waiting for checkpoints, % of training, the most of the engines", False, 2.0, waiting),
        Target("the same, as if training stood still while the thread writes them", False, 2.0, at_worst),
    ]


def _most(jobs: Sequence[Row], cost: Callable[[Row], list[float]]) -> list[float]:
    return max(filter(None, map(cost, jobs)), key=statistics.median, default=[])


def _memory(job: Row) -> list[float]:
    return job.of_summaries("peak_memory_mb")


def _ratio(row: Row | None, other: Row | None) -> list[float]:
    return row.times_as_fast_as(other) if row else []


def _name(row: Row | None, otherwise: str = JOB) -> str:
    return row.name if row else otherwise
