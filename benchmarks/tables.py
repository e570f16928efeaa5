"""Tables of `throughput.py`: the contestants side by side, what the job spends beside its steps, a step on paper."""

from collections.abc import Sequence
from statistics import median

import harness
from floor import model_of_step
from rows import CONVENTIONAL, FLOOR, IN_MEMORY, JOB, Row, fastest, select
from targets import LOGGING, WAITED, WRITER, epoch_ms
from torch import nn


def comparison(rows: Sequence[Row], precision: str, batch_size: int) -> str:
    """Return the table of one precision."""
    kinds = {kind: select(rows, kind, precision, batch_size) for kind in (CONVENTIONAL, IN_MEMORY, FLOOR, JOB)}
    loop, memory, floor = (fastest(kinds[kind]) for kind in (CONVENTIONAL, IN_MEMORY, FLOOR))
    lines = []
    for row in (row for same in kinds.values() for row in same):
        ratios = [harness.spread(row.times_as_fast_as(other)) for other in (loop, memory)]
        over_floor = harness.spread(floor.times_as_fast_as(row) if floor else [])
        speed = [harness.spread(row.step_ms), harness.median(row.images_per_second, 0)]
        lines.append(
            [row.name + (" (a)" if row is loop else ""), *speed, *ratios, over_floor, harness.others(row.samples)]
        )
    headers = ["", "ms a step", "images/s", "times (a)", "times in memory", "floor's time times", "others' CPU %"]
    return harness.table(headers, lines)


def costs(rows: Sequence[Row]) -> str:
    """Return the table of what a run of the job spends beside its steps."""
    headers = ["", "batch", "images/s", "ms an epoch", "evaluation ms an epoch", "start-up s", "logging %"]
    headers += ["waiting for checkpoints %", "their thread's CPU %", "peak MB", "device MB"]
    lines = []
    for row in (row for row in rows if row.kind == JOB):
        epochs = row.of_summaries("epochs")
        evaluations = [1000 * s / n for s, n in zip(row.of_summaries("evaluation_seconds"), epochs, strict=False)]
        speed = [harness.median(values, 0) for values in (row.images_per_second, epoch_ms(row), evaluations)]
        spent = [harness.median(row.percent_of_training(path)) for path in (LOGGING, WAITED, WRITER)]
        memory = [harness.median(row.of_summaries(key), 0) for key in ("peak_memory_mb", "device_memory_mb")]
        started = harness.median(row.of_summaries("startup_seconds"), 1)
        lines.append([f"{row.precision} {row.name}", f"{row.batch_size:,}", *speed, started, *spent, *memory])
    return harness.table(headers, lines)


def on_paper(model: nn.Module, rows: Sequence[Row], precision: str, batch_size: int) -> str:
    """Return what a step of a model costs on paper, and how fast floor and job are by that."""
    paper = model_of_step(model, batch_size, precision)
    parts = {"products": paper.product_bytes, "casts": paper.cast_bytes, "clipping": paper.clip_bytes}
    parts["AdamW"] = paper.optimizer_bytes
    shares = ", ".join(f"{name} {amount / 1e6:.1f}" for name, amount in parts.items() if amount)
    text = f"on paper, a step: {paper.flop / 1e6:,.0f} MFLOP in products; {paper.bytes / 1e6:.1f} MB ({shares})"
    for row in (fastest(select(rows, kind, precision, batch_size)) for kind in (FLOOR, JOB)):
        if row is not None:
            seconds = median(row.step_ms) / 1000
            text += f"\n  {row.name}: {paper.flop / seconds / 1e9:,.0f} GFLOP/s"
            text += f", {paper.bytes / seconds / 1e9:,.1f} GB/s" if row.kind == JOB else ""
    return text
