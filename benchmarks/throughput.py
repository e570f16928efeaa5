"""How fast the real job trains, beside two conventional loops and the floor, measured in turn, round after round.

    python benchmarks/throughput.py                        # on the CPU: fp32 and bf16, some minutes
    python benchmarks/throughput.py --device cuda          # on a GPU: bf16, larger batches too
    python benchmarks/throughput.py --engines eager --precisions fp32 --rounds 5
    python benchmarks/throughput.py --quick --output /tmp/quick.json

All have the same net, batch size, precision, optimiser and threads:

    conventional   (a) torchvision's MNIST, a PIL image and two transforms a sample, a DataLoader, an eager step
    in memory      (b) the same step, fed by a DataLoader over float tensors in memory
    job            (c) train_ddp.py with configs/mnist.yaml, in a process of its own; its summary.json has the seconds
    floor          the step's matrix products and nothing else

A ratio is formed within a round; shown are medians and, in brackets, the lowest and highest. benchmarks/README.md says
what each number means.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from statistics import median
from typing import Any

import harness
import torch
from floor import DTYPES, Floor, model_of_step
from loops import Loop, NegativeELBO, files_loader, memory_loader
from quiet import LIMIT, Patience
from rows import CONVENTIONAL, FLOOR, IN_MEMORY, JOB, Row, Sample, fastest, select
from targets import LOGGING, WAITED, WRITER, Target, epoch_ms, targets_of
from torch.utils.data import DataLoader
from tqdm import tqdm

from vae.assemble import build_data, build_model
from vae.config import Config, load
from vae.engine.choice import choose
from vae.launch import cores

ENGINES = {"cpu": ["eager", "compile"], "cuda": ["eager", "compile", "graph"]}
DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {"precisions": ["fp32", "bf16"], "epochs": 2, "more_batches": [], "patience": 300},
    "cuda": {"precisions": ["bf16"], "epochs": 50, "more_batches": [1024, 8192, 65536], "patience": 0},
}
QUICK = {"rounds": 1, "steps": 3, "workers": [0], "engines": ["eager"], "precisions": ["fp32"], "epochs": 1}
QUICK |= {"more_batches": [], "patience": 0}
QUICK_JOB = ["train.max_steps=10"]
WARM_UP = 10  # steps before each turn of a loop or the floor that do not count

Turn = tuple[Row, Callable[[], Sample]]


def parse() -> argparse.Namespace:
    """Return the arguments, defaults filled in; raises `InputError`."""
    parser = harness.parser_of("throughput.py", __doc__)
    number = harness.positive
    parser.add_argument("--device", choices=list(DEFAULTS), default="cpu", help="(default: cpu)")
    parser.add_argument("--engines", nargs="+", metavar="NAME", help="train.engine (default: all of the device)")
    parser.add_argument("--precisions", nargs="+", choices=list(DTYPES), help="(default: fp32 bf16; on cuda bf16)")
    parser.add_argument("--batch-size", type=number, default=128, help="of all that is compared (default: 128)")
    parser.add_argument(
        "--more-batches",
        type=number,
        nargs="+",
        metavar="N",
        help="run the fastest engine at these too (default: on cuda some)",
    )
    parser.add_argument(
        "--workers", type=int, choices=range(65), nargs="+", metavar="N", help="of (a)'s DataLoader (default: 0 2)"
    )
    parser.add_argument("--threads", type=number, default=len(cores()), help="of each process (default: all cores)")
    parser.add_argument("--rounds", type=number, help="(default: 3)")
    parser.add_argument("--steps", type=number, help="of a loop's or the floor's turn (default: 200)")
    parser.add_argument("--epochs", type=number, help="of a run of the job (default: 2; on cuda 50)")
    args = parser.parse_args()

    harness.check_output(args.output)
    harness.check_device(args.device)
    harness.check_engines(args.engines or [])
    engines = [name for name in ENGINES[args.device] if name in harness.known_engines()]
    standard = {"rounds": 3, "steps": 200, "workers": [0, 2], "engines": engines, **DEFAULTS[args.device]}
    harness.fill_in(args, standard | (QUICK if args.quick else {}))
    return args


# --- measuring --------------------------------------------------------------------------------------------------------


def turns_of(args: argparse.Namespace) -> list[Turn]:
    """Return what is done in a round, in order."""
    config = load(harness.CONFIG, [f"data.root={harness.ROOT / 'data'}"])
    data, device = build_data(config), torch.device(args.device)
    loaders = [(CONVENTIONAL, f"{n} workers", files_loader(config, args.batch_size, n, device)) for n in args.workers]
    loaders.append((IN_MEMORY, "", memory_loader(data.train.images, args.batch_size, device)))
    turns = []
    for precision in args.precisions:
        for kind, variant, loader in loaders:
            model = build_model(config, data.image_shape)
            turns.append(_loop_turn(args, Row(kind, variant, precision, args.batch_size), config, model, loader))
        floor = Floor(build_model(config, data.image_shape), args.batch_size, args.device, precision)
        turns.append(_floor_turn(args, Row(FLOOR, "", precision, args.batch_size), floor))
        turns += [_job_turn(args, Row(JOB, engine, precision, args.batch_size)) for engine in args.engines]
    return turns


def _loop_turn(args: argparse.Namespace, row: Row, config: Config, model: Any, loader: DataLoader) -> Turn:
    loop = Loop(NegativeELBO(model), loader, config, torch.device(args.device), row.precision)

    def measure() -> Sample:
        seconds, images = loop.measure(args.steps, WARM_UP)
        return Sample(seconds, args.steps, images)

    return row, measure


def _floor_turn(args: argparse.Namespace, row: Row, floor: Floor) -> Turn:
    return row, lambda: Sample(floor.measure(args.steps, WARM_UP), args.steps, args.steps * row.batch_size)


def _job_turn(args: argparse.Namespace, row: Row) -> Turn:
    settings = [f"train.engine={row.variant}", f"train.precision={row.precision}", f"train.batch_size={row.batch_size}"]
    settings += [f"train.device={args.device}", f"train.threads={args.threads}", f"train.epochs={args.epochs}"]

    def measure() -> Sample:
        summary = harness.run_job([*settings, *(QUICK_JOB if args.quick else [])])
        seconds = summary["train_seconds"]
        return Sample(seconds, summary["steps"], summary["images_per_second"] * seconds, summary)

    return row, measure


def take(turns: Sequence[Turn], patience: Patience, bar: tqdm) -> None:
    """Take each turn once."""
    for row, measure in turns:
        bar.set_postfix_str(f"{row.precision} {row.name}")
        sample, others, discarded = patience.take(measure)
        row.samples.append(replace(sample, others_percent=others))
        row.discarded += discarded
        bar.update()


def measure(args: argparse.Namespace) -> list[Row]:
    """Return all rows: the rounds, then the fastest engine once at each of the other batch sizes."""
    torch.set_num_threads(args.threads)
    turns, patience = turns_of(args), Patience(args.patience)
    with tqdm(total=args.rounds * len(turns) + len(args.more_batches), unit="turn") as bar:
        for _ in range(args.rounds):
            take(turns, patience, bar)
        rows = [row for row, _ in turns]
        best = fastest(select(rows, JOB, args.precisions[0], args.batch_size))
        assert best is not None
        larger = [_job_turn(args, Row(JOB, best.variant, best.precision, size)) for size in args.more_batches]
        take(larger, patience, bar)
    return rows + [row for row, _ in larger]


# --- showing ----------------------------------------------------------------------------------------------------------


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


def on_paper(rows: Sequence[Row], precision: str, batch_size: int) -> str:
    """Return what a step costs on paper, and how fast floor and job are by that."""
    config = load(harness.CONFIG)
    paper = model_of_step(build_model(config, (1, 28, 28)), batch_size, precision)
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


def show(args: argparse.Namespace, origin: dict[str, Any], rows: Sequence[Row], targets: Sequence[Target]) -> None:
    """Print everything."""
    print(f"\n{harness.headline(origin)}\n{args.device}, {args.threads} threads, {args.rounds} rounds")
    for precision in args.precisions:
        print(f"\n{precision}, batch {args.batch_size}\n\n{comparison(rows, precision, args.batch_size)}\n")
        print(on_paper(rows, precision, args.batch_size))
        if (args.device, precision, origin["machine"]["bf16_instructions"]) == ("cpu", "bf16", False):
            print("  this CPU has no bf16 instructions: its bf16 products take longer than those in fp32")
    print(f"\nthe job\n\n{costs(rows)}\n")
    print(harness.table(["target", "asked", "measured", "met"], [target.cells for target in targets]))
    disturbed = sum((s.others_percent or 0) >= LIMIT for row in rows for s in row.samples)
    if disturbed:
        print(f"\n{disturbed} turns were disturbed: others used over {LIMIT:.0f} % of the CPU meanwhile")


def main() -> None:
    """Measure, print, write."""
    args = parse()
    origin = harness.origin_of_numbers(args.device)
    with harness.compiled_code_kept():
        rows = measure(args)
    default, _ = choose(load(harness.CONFIG).train, args.device, world_size=1)
    targets = targets_of(args.device, rows, default)
    show(args, origin, rows, targets)
    verdicts = [asdict(target) | {"met": target.met} for target in targets]
    path = harness.write_results(args, "throughput", origin, rows=[asdict(row) for row in rows], targets=verdicts)
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    sys.exit(harness.exit_code_of(main))
