"""Shared by the benchmarks: the real job as a subprocess, the machine they ran on, statistics, tables, JSON."""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this tree's `vae`, whichever is installed

from vae.commands.parsing import Parser
from vae.config import TrainConfig
from vae.distributed.launch import cores, cpu_has_bf16
from vae.errors import InputError
from vae.run.versions import versions

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CONFIG = ROOT / "configs" / "mnist.yaml"
JOB = Path(
    os.environ.get("BENCHMARK_JOB", ROOT / "train_ddp.py")
).resolve()  # under a fake CUDA runtime: tests/cuda/job.py


class JobError(RuntimeError):
    """A subprocess failed; the message is one line."""


# --- programs ---------------------------------------------------------------------------------------------------------


def untimed_parser_of(name: str, description: str | None) -> Parser:
    """Return a parser that has the options of every benchmark: `--quick`, `--commit` and `--output`."""
    parser = Parser(name, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the least that runs every part; its numbers mean nothing")
    parser.add_argument("--commit", metavar="NAME", help="to record, in a copy without git (default: git's)")
    where = f"the JSON to write (default: benchmarks/results/{Path(name).stem}-MACHINE-DATE.json)"
    parser.add_argument("--output", type=Path, metavar="FILE", help=where)
    return parser


def parser_of(name: str, description: str | None) -> Parser:
    """Return a parser that has the options of every benchmark of seconds: `--patience` beside those of all."""
    parser = untimed_parser_of(name, description)
    text = "seconds to spend, in all, on waiting for other programs and on repeating what they disturbed"
    parser.add_argument("--patience", type=seconds, metavar="S", help=f"{text} (default: 300; on cuda 0)")
    return parser


def positive(text: str) -> int:
    """Return a whole number from 1 on, given on the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def seconds(text: str) -> float:
    """Return a number of seconds from 0 on, given on the command line."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def fill_in(args: argparse.Namespace, defaults: Mapping[str, Any]) -> None:
    """Give the arguments that were left out their defaults."""
    for key, value in defaults.items():
        if getattr(args, key) is None:
            setattr(args, key, value)


def known_engines() -> list[str]:
    """Return the values of `train.engine`."""
    return [str(name) for name in get_args(TrainConfig.model_fields["engine"].annotation)]


def check_engines(names: Sequence[str]) -> None:
    """Raise `InputError` where an engine does not exist."""
    for name in names:
        if name not in known_engines():
            raise InputError(f"{name!r}: there is no such engine; known: {', '.join(known_engines())}")


def exit_code_of(main: Callable[[], int | None]) -> int:
    """Run a benchmark and return its exit code: its own or 0, 1 a job failed, 2 refused input, 130 interrupted."""
    try:
        return main() or 0
    except (InputError, JobError) as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        return 130


def check_device(device: str) -> None:
    """Raise `InputError` where this machine has no such device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: this machine has no CUDA device; use --device cpu")


# --- the real job -----------------------------------------------------------------------------------------------------


@contextmanager
def scratch() -> Iterator[None]:
    """Give what is started meanwhile one folder for temporary files, compiled code among them, and remove it."""
    before = os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["TMPDIR"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before


def command(words: Sequence[str], processes: int) -> list[str]:
    """Return the command that runs a Python program as so many processes of one job on this machine."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *(launcher if processes > 1 else []), *words]


def start(words: Sequence[str], processes: int) -> subprocess.CompletedProcess[str]:
    """Run a program, see `command`; returns its exit code and what it printed."""
    return subprocess.run(command(words, processes), capture_output=True, text=True, check=False)


def run(words: Sequence[str], *, processes: int = 1) -> str:
    """Run a program, see `start`; returns what it printed, raises `JobError` with the line that says why it failed."""
    done = start(words, processes)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        said = [line for line in lines if line.startswith("train_ddp.py: ")]
        why = (said or lines)[-1].strip()
        raise JobError(f"{why} (exit code {done.returncode} of: {' '.join(words)})")
    return done.stdout


def job_words(folder: str, settings: Sequence[str]) -> list[str]:
    """Return the words that start the job with configs/mnist.yaml, changed by settings, into `folder`/run."""
    place = [f"run.dir={folder}/run", f"data.root={ROOT / 'data'}"]
    return [str(JOB), "--config", str(CONFIG), *place, *settings]


def run_job(settings: Sequence[str], *, processes: int = 1) -> dict[str, Any]:
    """Run `train_ddp.py` with configs/mnist.yaml, changed by `key=value` settings; returns its summary.json."""
    with tempfile.TemporaryDirectory() as folder:
        run(job_words(folder, settings), processes=processes)
        return json.loads((Path(folder) / "run" / "summary.json").read_text())


# --- numbers ----------------------------------------------------------------------------------------------------------


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return `median (lowest..highest)`, or `-` without any value."""
    if not values:
        return "-"
    middle = f"{statistics.median(values):,.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):,.{digits}f}..{max(values):,.{digits}f})"


def median(values: Sequence[float], digits: int = 2) -> str:
    """Return the median, or `-` without any value."""
    return f"{statistics.median(values):,.{digits}f}" if values else "-"


def others(samples: Iterable[Any]) -> str:
    """Return the median of what others used of the CPU during samples, percent."""
    return median([sample.others_percent for sample in samples if sample.others_percent is not None], 0)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return aligned text: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [headers, *rows]) for i in range(len(headers))]

    def line(row: Sequence[str]) -> str:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return "  ".join([row[0].ljust(widths[0]), *cells]).rstrip()

    return "\n".join([line(headers), "  ".join("-" * width for width in widths), *map(line, rows)])


def markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


# --- where the numbers come from --------------------------------------------------------------------------------------


def origin_of_numbers(device: str, commit: str | None) -> dict[str, Any]:
    """Return machine, versions and commit: to be called before measuring, which others may commit during."""
    return {"machine": _describe_machine(device), "versions": versions(), "commit": commit or _commit()}


def headline(origin: Mapping[str, Any]) -> str:
    """Return one line: machine, torch, commit."""
    machine = origin["machine"]
    gpu = f"{machine['gpu']}, " if "gpu" in machine else ""
    return f"{gpu}{machine['cpu']}, {machine['cores']} cores; torch {torch.__version__}; commit {origin['commit']}"


def write_results(args: argparse.Namespace, name: str, origin: Mapping[str, Any], **parts: Any) -> Path:
    """Write a benchmark's JSON and return where.

    Args:
        args: the command line.
        name: of the benchmark.
        origin: as `origin_of_numbers` gives it.
        parts: what was measured: raw seconds and what was made of them.
    """
    given = {key: value for key, value in vars(args).items() if key != "output"}
    about = {"program": name, "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "args": given}
    path = args.output or RESULTS / f"{name}-{_slug(origin['machine'])}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**about, **origin, **parts}, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}; choose another --output") from None
    return path


def check_output(path: Path | None) -> None:
    """Raise `InputError` if `--output` cannot be written, before minutes are spent on measuring."""
    if path is None:
        return
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"--output {path}: cannot be written; choose another file")


def _describe_machine(device: str) -> dict[str, Any]:
    model = _cpuinfo().get("model name") or platform.processor() or platform.machine()
    machine = {"cpu": model, "cores": len(cores()), "bf16_instructions": cpu_has_bf16()}
    if device == "cuda":
        gpu = torch.cuda.get_device_properties(0)
        machine |= {"gpu": gpu.name, "gpus": torch.cuda.device_count(), "gpu_memory_gb": gpu.total_memory / 2**30}
    return machine


def _commit() -> str:
    """Return the commit of this tree, with `-dirty` where tracked files differ from it; `unknown` without git."""
    try:
        head, changes = _git("rev-parse", "--short", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("-dirty" if changes else "")


def _slug(machine: Mapping[str, Any]) -> str:
    words = machine.get("gpu") or f"{machine['cpu']} {machine['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", words.lower())).strip("-")


def _git(*arguments: str) -> str:
    return subprocess.check_output(["git", "-C", str(ROOT), *arguments], text=True, stderr=subprocess.DEVNULL).strip()


def _cpuinfo() -> dict[str, str]:
    """Return the first processor's facts, where the system tells them."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
