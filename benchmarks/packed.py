"""What a step of a member costs when K members train together, beside K runs one after the other, measured in turn.

    python benchmarks/packed.py                                # on the CPU: the eager engine, K = 1, 2, 4, 8
    python benchmarks/packed.py --device cuda                  # on a GPU: the engine that captures steps too
    python benchmarks/packed.py --members 1 4 --engines eager compile --rounds 5
    python benchmarks/packed.py --quick --output /tmp/quick.json

All have the net, batch size and data of configs/mnist.yaml; members differ in seed. Logging, evaluation and checkpoints
are left out: a pack does for each member what a run of its own does. Milliseconds are of one member's step; a ratio is
formed within a round; shown are medians and, in brackets, the lowest and highest.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import harness
import torch
from floor import DTYPES
from quiet import LIMIT, Patience
from rows import Row, Sample
from tqdm import tqdm

from vae import assemble, launch
from vae.config import Config, load
from vae.data.sources import DataSet
from vae.engine import Engine
from vae.engine.stepwise import Stepwise
from vae.model import VAE

PACKED = "packed"  # beside the names of engines
ENGINES = {"cpu": ["eager"], "cuda": ["eager", "graph"]}
STEPS = {"cpu": 30, "cuda": 200}
QUICK = {"members": [1, 2], "rounds": 1, "steps": 2, "patience": 0}
WARM_UP = 5  # steps before the first turn that do not count

Advance = Callable[[int, int], None]  # from so many updates of each member to so many
Turn = tuple[Row, Callable[[], Sample]]


def parse() -> argparse.Namespace:
    """Return the arguments, defaults filled in; raises `InputError`."""
    parser = harness.parser_of("packed.py", __doc__)
    number = harness.positive
    parser.add_argument("--device", choices=list(ENGINES), default="cpu", help="(default: cpu)")
    parser.add_argument("--members", type=number, nargs="+", metavar="K", help="in a pack (default: 1 2 4 8)")
    parser.add_argument("--engines", nargs="+", metavar="NAME", help="of runs apart (default: eager; cuda: graph too)")
    parser.add_argument("--precision", choices=list(DTYPES), default="fp32", help="(default: fp32)")
    parser.add_argument("--batch-size", type=number, default=128, help="(default: 128)")
    parser.add_argument("--threads", type=number, default=len(launch.cores()), help="(default: all cores)")
    parser.add_argument("--rounds", type=number, help="(default: 5)")
    parser.add_argument("--steps", type=number, help="of each member in a turn (default: 30; on cuda 200)")
    args = parser.parse_args()

    harness.check_output(args.output)
    harness.check_device(args.device)
    harness.check_engines(args.engines or [])
    standard = {"members": [1, 2, 4, 8], "rounds": 5, "engines": ENGINES[args.device], "steps": STEPS[args.device]}
    standard["patience"] = 300 if args.device == "cpu" else 0
    harness.fill_in(args, standard | (QUICK if args.quick else {}))
    return args


# --- measuring --------------------------------------------------------------------------------------------------------


def together(config: Config, engines: Sequence[Stepwise], models: Sequence[VAE]) -> Advance:
    """Return what brings all members from one step to another, as a pack."""
    pack = assemble.build_pack(config, engines, models)

    def advance(first: int, until: int) -> None:
        for step in range(first, until):
            pack.advance(step)

    return advance


def apart(engines: Sequence[Engine]) -> Advance:
    """Return what brings all members from one step to another, one member after the other."""

    def advance(first: int, until: int) -> None:
        for engine in engines:
            step = first
            while step < until:
                step += engine.advance(step, until)

    return advance


def contestant(args: argparse.Namespace, data: DataSet, engine: str, members: int) -> Advance:
    """Return what brings so many members, that differ in seed, from one step to another."""
    settings = [f"train.precision={args.precision}", f"train.batch_size={args.batch_size}"]
    settings += [f"train.device={args.device}", f"train.engine={'eager' if engine == PACKED else engine}"]
    configs = [load(harness.CONFIG, [*settings, f"run.seed={seed}"]) for seed in range(members)]
    accelerator = launch.make_accelerator(args.device, assemble.MIXED_PRECISION[args.precision], {})
    launch.set_threads(args.threads, {})
    models = [assemble.build_model(config, data.image_shape) for config in configs]
    parts = []
    for config, model in zip(configs, models, strict=True):
        objective = assemble.build_objective(config)
        batches = assemble.build_batches(config, data, model, objective, accelerator.device)
        parts.append((config, accelerator, model, objective, batches))
    if engine == PACKED:
        return together(configs[0], [assemble.build_member(*own) for own in parts], models)
    return apart([assemble.build_engine(*own) for own in parts])


def turn_of(args: argparse.Namespace, data: DataSet, engine: str, members: int) -> Turn:
    """Return a row and what measures it: each turn continues where the last one ended."""
    advance, step = contestant(args, data, engine, members), 0

    def measure(steps: int = args.steps) -> Sample:
        nonlocal step
        first, step = step, step + steps
        _synchronize(args.device)
        started = time.perf_counter()
        advance(first, step)
        _synchronize(args.device)
        seconds = time.perf_counter() - started
        return Sample(seconds, steps * members, steps * members * args.batch_size)

    measure(WARM_UP)
    return Row(engine, f"{members}", args.precision, args.batch_size), measure


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def measure(args: argparse.Namespace) -> list[Row]:
    """Return all rows, each with a sample a round."""
    data = assemble.build_data(load(harness.CONFIG, [f"data.root={harness.ROOT / 'data'}"]))
    contestants = [(engine, members) for members in args.members for engine in [*args.engines, PACKED]]
    turns = [turn_of(args, data, *each) for each in tqdm(contestants, desc="building", leave=False)]
    patience = Patience(args.patience)
    with tqdm(total=args.rounds * len(turns), unit="turn") as bar:
        for _ in range(args.rounds):
            for row, take in turns:
                bar.set_postfix_str(row.name)
                sample, others, discarded = patience.take(take)
                row.samples.append(replace(sample, others_percent=others))
                row.discarded += discarded
                bar.update()
    return [row for row, _ in turns]


# --- showing ----------------------------------------------------------------------------------------------------------


def comparison(args: argparse.Namespace, rows: Sequence[Row]) -> str:
    """Return a table: a line for each K, milliseconds of one member's step, and how many times as fast a pack is."""
    headers = ["members", *(f"{engine} ms" for engine in args.engines), "packed ms"]
    headers += [f"packed over {engine}" for engine in args.engines] + ["others' CPU %"]
    lines = []
    for members in args.members:
        found = {row.kind: row for row in rows if row.variant == str(members)}
        ms = [harness.spread(found[engine].step_ms) for engine in [*args.engines, PACKED]]
        ratios = [harness.spread(found[PACKED].times_as_fast_as(found[engine])) for engine in args.engines]
        samples = [sample for row in found.values() for sample in row.samples]
        lines.append([str(members), *ms, *ratios, harness.others(samples)])
    return harness.table(headers, lines)


def main() -> None:
    """Measure, print, write."""
    args = parse()
    origin = harness.origin_of_numbers(args.device, args.commit)
    with harness.scratch():
        rows = measure(args)
    print(f"\n{harness.headline(origin)}\n{args.device}, {args.threads} threads, {args.rounds} rounds")
    print(f"{args.precision}, batch {args.batch_size}; milliseconds of one member's step\n")
    print(comparison(args, rows))
    disturbed = sum((sample.others_percent or 0) >= LIMIT for row in rows for sample in row.samples)
    if disturbed:
        print(f"\ndisturbed turns, during which others used {LIMIT:.0f} % of the CPU or more: {disturbed}")
    print(f"\nwritten: {harness.write_results(args, 'packed', origin, rows=[asdict(row) for row in rows])}")


if __name__ == "__main__":
    sys.exit(harness.exit_code_of(main))
