"""What reliability costs: exact gradients and checkpoints, measured on the real job, the variants in turn.

    python benchmarks/reliability.py [--repeats 3] [--steps 469] [--processes 1 2] [--variants default exact=4 ...]

Prints medians and ratios. Each run is `train_ddp.py` on MNIST with the default model, and its own summary.json says how
long the training took.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from tqdm import tqdm

ROOT = Path(__file__).parent.parent
VARIANTS = {
    "default": [],
    "one thread a process": ["train.threads=1"],
    "exact=2": ["train.exact=2"],
    "exact=4": ["train.exact=4"],
    "exact=8": ["train.exact=8"],
    "bf16": ["train.precision=bf16"],
    "bf16 exact=4": ["train.precision=bf16", "train.exact=4"],
}


def run(processes: int, settings: list[str], steps: int) -> dict[str, float]:
    """Return a run's summary."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = [f"run.dir={folder}/run", f"data.root={ROOT / 'data'}", f"train.max_steps={steps}", *settings]
        command += [str(ROOT / "train_ddp.py"), *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}  # train.threads decides
        subprocess.run(command, check=True, capture_output=True, env=environment)
        return json.loads((Path(folder) / "run" / "summary.json").read_text())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each variant (default: 3)")
    parser.add_argument("--steps", type=int, default=469, help="of each run (default: 469, an epoch)")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="(default: 1 2)")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="(default: all)")
    args = parser.parse_args()
    plan = [(n, name) for _ in range(args.repeats) for n in args.processes for name in args.variants]
    results: dict[tuple[int, str], list[dict]] = {}
    for processes, name in tqdm(plan, unit="run"):
        results.setdefault((processes, name), []).append(run(processes, VARIANTS[name], args.steps))

    print(f"torch {torch.__version__}, {os.cpu_count()} cores, {args.steps} steps, median of {args.repeats}\n")
    print(f"{'processes':>9}  {'variant':<22}{'ms a step':>10}{'ratio':>8}{'checkpoint: waited %':>22}{'CPU %':>8}")
    for (processes, name), summaries in results.items():
        step = statistics.median(1000 * s["train_seconds"] / s["steps"] for s in summaries)
        base = statistics.median(1000 * s["train_seconds"] / s["steps"] for s in results[processes, "default"])
        waited = statistics.median(100 * s["checkpoints"]["waited_seconds"] / s["train_seconds"] for s in summaries)
        cpu = statistics.median(100 * s["checkpoints"]["cpu_seconds"] / s["train_seconds"] for s in summaries)
        print(f"{processes:>9}  {name:<22}{step:>10.2f}{step / base:>8.2f}{waited:>22.2f}{cpu:>8.2f}")


if __name__ == "__main__":
    main()
