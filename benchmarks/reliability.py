"""The cost of reliability: exact gradients and checkpoints, measured on the real job, the variants in turn.

    python benchmarks/reliability.py [--repeats 3] [--steps 469] [--processes 1 2] [--variants default exact=4 ...]

Prints medians and ratios. Each run is `train_ddp.py` on MNIST with the default model, and its own summary.json says how
long the training took.
"""

import argparse
import statistics
import sys
from typing import Any

import harness
from quiet import Patience
from tqdm import tqdm

VARIANTS = {
    "default": [],
    "one thread a process": ["train.threads=1"],
    "exact=2": ["train.exact=2"],
    "exact=4": ["train.exact=4"],
    "exact=8": ["train.exact=8"],
    "bf16": ["train.precision=bf16"],
    "bf16 exact=4": ["train.precision=bf16", "train.exact=4"],
}
STANDARD = {"repeats": 3, "steps": 469, "processes": [1, 2], "variants": list(VARIANTS), "patience": 300}
QUICK = {"repeats": 1, "steps": 10, "processes": [1], "variants": ["default"], "patience": 0}

Results = dict[tuple[int, str], list[dict[str, Any]]]  # by processes and variant: what each run's summary says


def parse() -> argparse.Namespace:
    """Return the arguments, defaults filled in; raises `InputError`."""
    parser = harness.parser_of("reliability.py", __doc__)
    number = harness.positive
    parser.add_argument("--repeats", type=number, help="runs of each variant (default: 3)")
    parser.add_argument("--steps", type=number, help="of each run (default: 469, an epoch)")
    parser.add_argument("--processes", type=number, nargs="+", help="(default: 1 2)")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), help="(default: all)")
    args = parser.parse_args()
    harness.check_output(args.output)
    harness.fill_in(args, STANDARD | (QUICK if args.quick else {}))
    if "default" not in args.variants:  # the ratios are to it
        args.variants = ["default", *args.variants]
    return args


def measure(args: argparse.Namespace) -> Results:
    """Return the summaries of all runs, made in turn."""
    results: Results = {}
    patience = Patience(args.patience)
    for processes, name in tqdm([(n, v) for _ in range(args.repeats) for n in args.processes for v in args.variants]):
        settings = ["train.device=cpu", f"train.max_steps={args.steps}", *VARIANTS[name]]
        summary, others, _ = patience.take(lambda n=processes, s=settings: harness.run_job(s, processes=n))
        results.setdefault((processes, name), []).append(summary | {"others_percent": others})
    return results


def line_of(summaries: list[dict[str, Any]], default: list[dict[str, Any]]) -> list[str]:
    """Return the numbers of a line: milliseconds a step, their ratio to the default, what checkpoints cost."""
    step, base = (
        statistics.median(1000 * s["train_seconds"] / s["steps"] for s in runs) for runs in (summaries, default)
    )
    shares = [
        statistics.median(100 * s["checkpoints"][key] / s["train_seconds"] for s in summaries)
        for key in ("waited_seconds", "cpu_seconds")
    ]
    return [f"{number:.2f}" for number in (step, step / base, *shares)]


def main() -> None:
    """Measure, print, write."""
    args = parse()
    origin = harness.origin_of_numbers("cpu", args.commit)
    with harness.scratch():
        results = measure(args)
    headers = ["variant", "processes", "ms a step", "ratio", "checkpoint: waited %", "CPU %"]
    lines = [
        [name, str(processes), *line_of(summaries, results[processes, "default"])]
        for (processes, name), summaries in results.items()
    ]
    print(f"\n{harness.headline(origin)}\n{args.steps} steps, median of {args.repeats}\n")
    print(harness.table(headers, lines))
    runs = [{"processes": n, "variant": name, "summaries": found} for (n, name), found in results.items()]
    print(f"\nwritten: {harness.write_results(args, 'reliability', origin, runs=runs)}")


if __name__ == "__main__":
    sys.exit(harness.exit_code_of(main))
