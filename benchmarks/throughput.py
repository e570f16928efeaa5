"""The speed of the real job, beside two conventional loops and the floor, measured in turn, round after round.

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
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import harness
import torch
from floor import DTYPES, Floor
from loops import Loop, NegativeELBO, files_loader, memory_loader
from quiet import LIMIT, Patience
from rows import CONVENTIONAL, FLOOR, IN_MEMORY, JOB, Row, Sample, fastest, sample_of, select
from tables import comparison, costs, on_paper
from targets import Target, targets_of
from torch.utils.data import DataLoader
from tqdm import tqdm

from vae.assemble import build_data, build_model
from vae.config import Config, load
from vae.distributed.launch import cores
from vae.engine.choice import choose

ENGINES = {"cpu": ["eager", "compile"], "cuda": ["auto", "eager", "compile", "graph"]}
DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {"precisions": ["fp32", "bf16"], "steps": 200, "epochs": 2, "patience": 300, "more_batches": []},
    "cuda": {"precisions": ["bf16"], "steps": 500, "epochs": 50, "patience": 0, "more_batches": [1024, 8192, 65536]},
}
QUICK = {"rounds": 1, "steps": 3, "workers": [0], "engines": ["eager"], "precisions": ["fp32"], "epochs": 1}
QUICK |= {"more_batches": [], "patience": 0}
QUICK_JOB = ["train.max_steps=10", "run.figures=false"]
IMAGE_SHAPE, TRAINING_IMAGES = (1, 28, 28), 60_000  # of MNIST
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
    parser.add_argument("--steps", type=number, help="of a loop's or the floor's turn (default: 200; on cuda 500)")
    parser.add_argument("--epochs", type=number, help="of a run of the job (default: 2; on cuda 50)")
    args = parser.parse_args()

    harness.check_output(args.output)
    harness.check_device(args.device)
    harness.check_engines(args.engines or [])
    engines = [name for name in ENGINES[args.device] if name in harness.known_engines()]
    standard = {"rounds": 3, "workers": [0, 2], "engines": engines, **DEFAULTS[args.device]}
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
    device = torch.device(args.device)
    loop = Loop(NegativeELBO(model).to(device), loader, config, device, row.precision)

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
        return sample_of(harness.run_job([*settings, *(QUICK_JOB if args.quick else [])]))

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


def show(args: argparse.Namespace, origin: dict[str, Any], rows: Sequence[Row], targets: Sequence[Target]) -> None:
    """Print everything."""
    print(f"\n{harness.headline(origin)}\n{args.device}, {args.threads} threads, {args.rounds} rounds")
    model = build_model(load(harness.CONFIG), IMAGE_SHAPE)
    for precision in args.precisions:
        print(f"\n{precision}, batch {args.batch_size}\n\n{comparison(rows, precision, args.batch_size)}\n")
        print(on_paper(model, rows, precision, args.batch_size))
        if (args.device, precision, origin["machine"]["bf16_instructions"]) == ("cpu", "bf16", False):
            print("  this CPU has no bf16 instructions: its bf16 products take longer than those in fp32")
    print(f"\nthe job\n\n{costs(rows)}\n")
    print(harness.table(["target", "asked", "measured", "met"], [target.cells for target in targets]))
    disturbed = sum((s.others_percent or 0) >= LIMIT for row in rows for s in row.samples)
    if disturbed:
        print(f"\ndisturbed turns, during which others used {LIMIT:.0f} % of the CPU or more: {disturbed}")


def main() -> None:
    """Measure, print, write."""
    args = parse()
    origin = harness.origin_of_numbers(args.device, args.commit)
    with harness.scratch():
        rows = measure(args)
    train = load(harness.CONFIG).train
    steps = train.epochs * math.ceil(TRAINING_IMAGES / train.batch_size)
    default = "auto" if "auto" in args.engines else choose(train, args.device, 1, total_steps=steps).name
    targets = targets_of(args.device, rows, default)
    show(args, origin, rows, targets)
    verdicts = [asdict(target) | {"met": target.met} for target in targets]
    path = harness.write_results(args, "throughput", origin, rows=[asdict(row) for row in rows], targets=verdicts)
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    sys.exit(harness.exit_code_of(main))
