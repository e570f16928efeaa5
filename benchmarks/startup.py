"""Seconds from the command to the first completed step, on one process and two, and what is imported on the way.

    python benchmarks/startup.py [--repeats 7] [--processes 1 2] [--packages 15]

Prints medians, and the import time of each package. Each run is `train_ddp.py` on MNIST with the default model, in a
fresh process; its first line of metrics.jsonl, looked for from outside, says that the first step has been made.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
from quiet import Patience
from tqdm import tqdm

STANDARD = {"repeats": 7, "processes": [1, 2], "packages": 15, "patience": 300}
QUICK = {"repeats": 1, "processes": [1], "packages": 5, "patience": 0}
ONE_STEP = ["train.max_steps=1", "train.device=cpu", "run.figures=false"]
SECONDS_OF_A_LOOK = 0.005
IMPORT = re.compile(r"import time:\s+(\d+) \|\s+\d+ \| +(\S+)")  # microseconds of the module itself, its name

Run = dict[str, Any]  # seconds to the first step, of the whole command, and of processor time
Imports = dict[str, tuple[int, float]]  # by package: modules, milliseconds


def parse() -> argparse.Namespace:
    """Return the arguments, defaults filled in; raises `InputError`."""
    parser = harness.parser_of("startup.py", __doc__)
    number = harness.positive
    parser.add_argument("--repeats", type=number, help="starts with each number of processes (default: 7)")
    parser.add_argument("--processes", type=number, nargs="+", help="(default: 1 2)")
    parser.add_argument("--packages", type=number, help="lines of the table of imports (default: 15)")
    args = parser.parse_args()
    harness.check_output(args.output)
    harness.fill_in(args, STANDARD | (QUICK if args.quick else {}))
    return args


def start(processes: int) -> Run:
    """Run the job for one step, and look for the first line of its metrics."""
    with tempfile.TemporaryDirectory() as folder:
        command = harness.command(harness.job_words(folder, ONE_STEP), processes)
        metrics, said = Path(folder) / "run" / "metrics.jsonl", Path(folder) / "said.txt"
        began, before, first = time.perf_counter(), _seconds_of_children(), None
        with said.open("w") as stream:
            job = subprocess.Popen(command, stdout=stream, stderr=stream)
        while job.poll() is None:
            if first is None and metrics.exists() and metrics.stat().st_size:
                first = time.perf_counter() - began
            time.sleep(SECONDS_OF_A_LOOK)
        whole, used = time.perf_counter() - began, _seconds_of_children() - before
        if job.returncode or first is None:
            raise harness.JobError(f"{said.read_text().strip()[-200:]} (exit code {job.returncode})")
        return {"seconds": first, "whole_seconds": whole, "cpu_seconds": used}


def _seconds_of_children() -> float:
    return sum(os.times()[2:4])


def measure(args: argparse.Namespace) -> dict[int, list[Run]]:
    """Return what all starts took, by processes, made in turn; a first one, to fill the disk's cache, is left out."""
    if not args.quick:
        start(1)
    patience = Patience(args.patience)
    results: dict[int, list[Run]] = {processes: [] for processes in args.processes}
    for processes in tqdm([n for _ in range(args.repeats) for n in args.processes]):
        run, others, _ = patience.take(lambda n=processes: start(n))
        results[processes].append(run | {"others_percent": others})
    return results


def imports() -> Imports:
    """Return the modules that one process imports in the whole job, and their time, by package, the longest first.

    Of torch the packages inside it are told apart.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = harness.command(["-X", "importtime", *harness.job_words(folder, ONE_STEP)], 1)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    found: Imports = {}
    for microseconds, name in IMPORT.findall(done.stderr):
        package = ".".join(name.split(".")[: 2 if name.startswith("torch.") else 1])
        count, milliseconds = found.get(package, (0, 0.0))
        found[package] = (count + 1, milliseconds + int(microseconds) / 1000)
    return dict(sorted(found.items(), key=lambda item: -item[1][1]))


def lines_of(found: Imports, most: int) -> list[list[str]]:
    """Return a line for each of the longest packages, one for the others together, and their sum."""
    rows = list(found.items())
    parts = [*rows[:most], ("others", _sum(rows[most:])), ("all", _sum(rows))]
    return [[package, str(count), f"{milliseconds:.0f}"] for package, (count, milliseconds) in parts]


def _sum(rows: Sequence[tuple[str, tuple[int, float]]]) -> tuple[int, float]:
    return sum(count for _, (count, _) in rows), sum(milliseconds for _, (_, milliseconds) in rows)


def main() -> None:
    """Measure, print, write."""
    args = parse()
    origin = harness.origin_of_numbers("cpu", args.commit)
    with harness.scratch():
        results, found = measure(args), imports()
    keys = ["seconds", "whole_seconds", "cpu_seconds"]
    lines = [[str(n), *(harness.spread([run[key] for run in runs]) for key in keys)] for n, runs in results.items()]
    busy = harness.median([run["others_percent"] or 0.0 for runs in results.values() for run in runs], 0)
    print(f"\n{harness.headline(origin)}\n{args.repeats} starts: median (lowest..highest); others' CPU {busy} %\n")
    print(harness.table(["processes", "s to the first step", "s of the whole command", "CPU s"], lines))
    print(f"\n{harness.table(['package', 'modules', 'ms'], lines_of(found, args.packages))}")
    starts = [{"processes": n, "starts": runs} for n, runs in results.items()]
    print(f"\nwritten: {harness.write_results(args, 'startup', origin, starts=starts, imports=found)}")


if __name__ == "__main__":
    sys.exit(harness.exit_code_of(main))
