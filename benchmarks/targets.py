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
    """A promise: the median of `values` is at least, or at most, `bound`; unknown without values.

    Attributes:
        key: a name for programs; where targets of several engines are judged, each has it.
    """

    what: str
    at_least: bool
    bound: float
    values: Sequence[float]
    key: str = ""

    @property
    def met(self) -> bool | None:
        """True if the target is met; None: not measured."""
        if not self.values:
            return None
        value = statistics.median(self.values)
        return value >= self.bound if self.at_least else value <= self.bound

    @property
    def cells(self) -> list[str]:
        """A line of the table: the target, the number asked, the number measured, met or not."""
        digits = 2 if self.bound < 100 else 0
        asked = f"{'>=' if self.at_least else '<='} {self.bound:,.{0 if self.bound >= 100 else 1}f}"
        return [self.what, asked, spread(self.values, digits), {True: "yes", False: "NO", None: "-"}[self.met]]


def targets_of(device: str, rows: Sequence[Row], default: str) -> list[Target]:
    """Return the targets for a device.

    Args:
        device: `cpu` or `cuda`.
        rows: what was measured.
        default: the engine that the job takes unless told otherwise. It is judged, and the fastest one if that is
            another; the yardstick is the faster of the conventional loops.
    """
    return {"cpu": _cpu, "cuda": _cuda}[device](rows, default)


def _cpu(rows: Sequence[Row], default: str) -> list[Target]:
    loop = fastest(select(rows, CONVENTIONAL, "fp32", BATCH))
    memory, floor = (fastest(select(rows, kind, "fp32", BATCH)) for kind in (IN_MEMORY, FLOOR))
    jobs, against = select(rows, JOB, "fp32", BATCH), _name(loop, CONVENTIONAL)
    targets = []
    for job, note in _judged(jobs, default):
        name = f"fp32 {_name(job)}{note}"
        targets += [
            Target(f"{name}: times as fast as {against}", True, 2.5, _ratio(job, loop)),
            Target(f"{name}: times as fast as {IN_MEMORY}", True, 1.3, _ratio(job, memory)),
            Target(f"{name}: times the floor's time", False, 1.8, _ratio(floor, job)),
        ]
    for job, note in _judged(select(rows, JOB, "bf16", BATCH), default):
        name = f"bf16 {_name(job)}{note}"
        targets.append(Target(f"{name}: times as fast as {against} in fp32", True, 3.5, _ratio(job, loop)))
    targets += _costs(jobs)
    return [*targets, Target("peak memory of the process, MB (the most of the engines)", False, 1500, _memory(jobs))]


def _cuda(rows: Sequence[Row], default: str) -> list[Target]:
    loop = fastest(select(rows, CONVENTIONAL, "bf16", BATCH))
    jobs, targets = select(rows, JOB, "bf16", BATCH), []
    for job, note in _judged(jobs, default):
        name, speed = f"bf16 {_name(job)}{note}", job.images_per_second if job else []
        targets += [
            Target(f"{name}: seconds for {EPOCHS} epochs with evaluations", False, 4.0, _whole_run(job), "run"),
            Target(f"{name}: ms an epoch", False, 60.0, epoch_ms(job) if job else [], "epoch"),
            Target(f"{name}: images/s", True, 1e6, speed, "images"),
            Target(f"{name}: times as fast as {_name(loop, CONVENTIONAL)}", True, 50.0, _ratio(job, loop), "loop"),
        ]
    large = fastest(select(rows, JOB, "bf16", 8192))
    speed = large.images_per_second if large else []
    targets.append(Target(f"bf16 {_name(large)}: images/s at batch 8,192", True, 1e7, speed, "images 8192"))
    return [*targets, *_costs(jobs)]


def _judged(jobs: Sequence[Row], default: str) -> list[tuple[Row | None, str]]:
    """Return the default engine's row and the fastest one's, each with a note; (None, "") where there is no row."""
    best = fastest(jobs)
    rows = [job for job in jobs if job.variant == default or job is best]
    notes = {True: " (default)", False: " (fastest)"}
    return [(job, notes[job.variant == default]) for job in rows] or [(None, "")]


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
    what = "logging and waiting for checkpoints, % of training (the most of the engines)"
    return [
        Target(what, False, 2.0, waiting, "waiting"),
        Target("the same, if training stood still while a thread writes them", False, 2.0, at_worst, "at worst"),
    ]


def _most(jobs: Sequence[Row], cost: Callable[[Row], list[float]]) -> list[float]:
    return max(filter(None, map(cost, jobs)), key=statistics.median, default=[])


def _memory(jobs: Sequence[Row]) -> list[float]:
    return _most(jobs, lambda job: job.of_summaries("peak_memory_mb"))


def _ratio(row: Row | None, other: Row | None) -> list[float]:
    return row.times_as_fast_as(other) if row else []


def _name(row: Row | None, otherwise: str = JOB) -> str:
    return row.name if row else otherwise
