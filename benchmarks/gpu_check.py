"""Everything that only a GPU can say, within ten minutes on one card: one JSON and one Markdown table with verdicts.

    python benchmarks/gpu_check.py                    # all parts; make gpu-check does the same
    python benchmarks/gpu_check.py steps nodes        # some
    python benchmarks/gpu_check.py --quick --output /tmp/quick.json

Each part is a process with a time limit. A part that fails does not stop the others; what `--budget` leaves no time for
is not run, and the table says so. The parts, in order of value:

    tests       the tests that need a GPU
    exactness   fp64, eager and captured, on the GPU against the CPU
    two         two ranks on the one card (gloo) against one rank: the path of several GPUs
    tf32        whether float32 products are float32
    job         the job of 50 epochs beside the conventional loop; shares of evaluation, checkpoints, logging
    scaling     with several cards: weak and strong scaling over NCCL
    steps       microseconds a step, by engine, precision and batch size
    nodes       kernels of a replayed step, and the price of what is between them

Beside each number stands what is promised and what was predicted before anything had run on a GPU, so that a wrong
prediction is seen. Exit codes: 0 all ran, 1 a part failed or results are not what they must be, 2 refused (no GPU).
"""

import argparse
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import harness
import torch
from gpu_lines import Line, lines
from gpu_report import NOT_RUN, read
from torch.cuda import nccl

from vae.errors import InputError

# seconds, at most, in order of value; cold compiling takes some ten of them for each shape and precision
LIMITS = {
    "tests": 150, "exactness": 90, "two": 150, "tf32": 30, "job": 150, "scaling": 200, "steps": 200, "nodes": 60,
}  # fmt: skip
BUDGET = 600.0  # seconds
LEAST = 10.0  # with less no part is started
SHOWN = 100  # letters of a reason in a line of the table; that of the parts has it all
SECONDS_TO_END = 10.0  # for a part that is told to
PART = harness.ROOT / "benchmarks" / "gpu_parts.py"


@dataclass
class Outcome:
    """The end of a part.

    Attributes:
        name: of the part.
        why: the reason for not being run, or not to its end; empty: it has done all.
        failed: whether that reason is a fault.
        seconds: that it took.
        said: the end of what it printed on stderr, if it failed.
        found: by the key of a line the values, and what else there is to know.
    """

    name: str
    why: str = ""
    failed: bool = False
    seconds: float = 0.0
    said: str = ""
    found: dict[str, dict[str, Any]] = field(default_factory=dict)

    def values(self, line: Line) -> list[float]:
        """Return the values of a line."""
        return self.found.get(line.key, {}).get("values", [])

    def reason(self, line: Line) -> str:
        """Return the reason why a line has no values."""
        why = self.found.get(line.key, {}).get("why") or self.why or "the part leaves it out"
        return f"{'failed' if self.failed else 'not run'}: {why}"


def parse() -> argparse.Namespace:
    """Return the arguments; raises `InputError`."""
    parser = harness.untimed_parser_of("gpu_check.py", __doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"(default: {' '.join(LIMITS)})")
    text = f"seconds for all parts together; what is left then is not run (default: {BUDGET:.0f})"
    parser.add_argument("--budget", type=harness.seconds, default=BUDGET, metavar="S", help=text)
    args = parser.parse_args()
    for name in args.parts:
        if name not in LIMITS:
            raise InputError(f"{name!r}: there is no such part; known: {', '.join(LIMITS)}")
    args.parts = [name for name in LIMITS if name in args.parts or not args.parts]
    harness.check_output(args.output)
    if not torch.cuda.is_available():
        raise InputError("this machine has no CUDA device, and without one there is nothing to check here")
    return args


# --- running ----------------------------------------------------------------------------------------------------------


def run_all(args: argparse.Namespace) -> list[Outcome]:
    """Run the parts one after the other, and say of each how it went."""
    deadline, outcomes = time.monotonic() + args.budget, []
    with harness.scratch(), tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/compiled"  # empty at first, then shared by all parts
        for name in args.parts:
            seconds = min(math.inf if args.quick else LIMITS[name], deadline - time.monotonic())
            if seconds < LEAST:
                outcomes.append(Outcome(name, "out of time"))
                continue
            print(f"{name} (at most {seconds:.0f} s) ...", flush=True)
            try:
                outcomes.append(run(name, Path(folder) / name, seconds, quick=args.quick))
            except KeyboardInterrupt:
                return outcomes + [Outcome(rest, "interrupted", failed=True) for rest in args.parts[len(outcomes) :]]
            print_lines(outcomes[-1], quick=args.quick)
    return outcomes


def run(name: str, file: Path, limit: float, *, quick: bool) -> Outcome:
    """Run a part as a process that may take so many seconds."""
    words = [sys.executable, str(PART), name, str(file), *(["--quick"] if quick else [])]
    began, said = time.monotonic(), file.with_suffix(".err")
    with said.open("w") as err:
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=err, start_new_session=True)
        try:
            code, why = process.wait(limit), ""
        except subprocess.TimeoutExpired:
            code, why = 1, f"stopped after {limit:.0f} s"
        finally:
            end(process)
    text, failed = said.read_text(errors="replace").strip(), code not in (0, NOT_RUN)
    if code and not why:
        why = text.splitlines()[-1].strip() if text else f"exit code {code}"
    return Outcome(name, why, failed, time.monotonic() - began, text[-4000:] if failed else "", read(file))


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it has started, if it still runs."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signum)
            with suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_END)


# --- showing ----------------------------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Return a number with three digits that count."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1e}" if abs(value) < 1e-3 else f"{value:.3g}"


def verdict(line: Line, outcome: Outcome, *, quick: bool) -> str:
    """Return met, missed, or the reason why there is no verdict."""
    values = outcome.values(line)
    if not values:
        return outcome.reason(line)[:SHOWN]
    if line.bound is None:
        return ""
    if quick:
        return "not judged: --quick"
    return "met" if line.met(values) else "MISSED"


def cells(line: Line, outcome: Outcome, *, quick: bool) -> list[str]:
    """Return a line of the table."""
    values = outcome.values(line)
    asked = "" if line.bound is None else f"{'>=' if line.at_least else '<='} {number(line.bound)}"
    measured, judged = number(median(values)) if values else "", verdict(line, outcome, quick=quick)
    return [line.what, measured, asked, judged, *prediction_cells(line, [] if quick else values)]


def prediction_cells(line: Line, values: Sequence[float]) -> list[str]:
    """Return three cells: the prediction, the verdict on it, and its origin."""
    if line.prediction is None:
        return ["", "", ""]
    low, high = number(line.prediction.low), number(line.prediction.high)
    right = {True: "yes", False: "NO", None: ""}[line.prediction.right(values)]
    return [low if low == high else f"{low} to {high}", right, line.prediction.origin]


HEADERS = ["", "measured", "promised", "verdict", "predicted", "so it is", "predicted from"]


def print_lines(outcome: Outcome, *, quick: bool) -> None:
    """Print the lines of a part, without those that have neither a value nor a promise."""
    rows = [(line, cells(line, outcome, quick=quick)) for line in lines() if line.part == outcome.name]
    shown = [row[:-1] for line, row in rows if line.bound is not None or outcome.values(line)]
    state = f"{'FAILED' if outcome.failed else 'not run'}: {outcome.why}" if outcome.why else "done"
    table = f"\n{harness.table(HEADERS[:-1], shown)}\n" if shown else ""
    print(f"{outcome.name}: {state} ({outcome.seconds:.0f} s)\n{table}", flush=True)


def markdown(args: argparse.Namespace, origin: dict[str, Any], outcomes: Sequence[Outcome]) -> str:
    """Return the file: where and when, the table of all lines, that of the parts."""
    cuda = ", ".join(f"{name} {version}" for name, version in libraries().items())
    text = [
        f"# {origin['machine']['gpu']}",
        "",
        f"{time.strftime('%Y-%m-%d')}: {harness.headline(origin)}; {cuda}.",
        "",
    ]
    if args.quick:
        text += ["**With `--quick`: each part as small as it can be; the numbers mean nothing.**", ""]
    by_name = {outcome.name: outcome for outcome in outcomes}
    rows = [cells(line, by_name[line.part], quick=args.quick) for line in lines() if line.part in by_name]
    parts = [[o.name, f"{o.seconds:.0f}", ("failed: " if o.failed else "") + (o.why or "done")] for o in outcomes]
    text += [harness.markdown(HEADERS, rows), "", harness.markdown(["part", "seconds", ""], parts), ""]
    return "\n".join(text)


def libraries() -> dict[str, str]:
    """Return the versions of CUDA's libraries, of those that torch has."""
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    found_nccl = ".".join(map(str, nccl.version())) if torch.distributed.is_nccl_available() else None
    found = {"CUDA": torch.version.cuda, "cuDNN": cudnn, "NCCL": found_nccl}
    return {name: str(version) for name, version in found.items() if version}


def main() -> int:
    """Run, print, write; returns the exit code."""
    args = parse()
    origin = harness.origin_of_numbers("cuda", args.commit)
    print(f"{harness.headline(origin)}\n", flush=True)
    outcomes = run_all(args)
    path = harness.write_results(
        args, "gpu-check", origin, libraries=libraries(), parts=[asdict(outcome) for outcome in outcomes]
    )
    table = path.with_suffix(".md")
    table.write_text(markdown(args, origin, outcomes))
    print(f"written: {path} and {table.name}")
    return exit_code(outcomes, quick=args.quick)


def exit_code(outcomes: Sequence[Outcome], *, quick: bool) -> int:
    """Return 1 if a part has failed or a law is broken, else 0."""
    by_name = {outcome.name: outcome for outcome in outcomes}
    laws = [line for line in lines() if line.law and line.part in by_name]
    broken = [line for line in laws if line.met(by_name[line.part].values(line)) is False]
    return int(any(outcome.failed for outcome in outcomes) or (bool(broken) and not quick))


if __name__ == "__main__":
    sys.exit(harness.exit_code_of(main))
