"""Shared fixtures: the job in this process, a fresh one or several; a small data set; CI's rule on skips."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train_ddp
from vae.data import sources

ROOT = Path(train_ddp.__file__).parent
DATA = ROOT / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """GPU tests need a GPU; nothing else may be left out."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="gpu: no CUDA device"))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test is a failure, unless it needs a GPU."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None:
        skipped = [report for report in reporter.stats.get("skipped", []) if "gpu: no CUDA" not in str(report.longrepr)]
        if skipped and session.exitstatus == pytest.ExitCode.OK:
            reporter.write_line(f"CI: {len(skipped)} test(s) skipped that CI is meant to run", red=True)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


@dataclass(frozen=True)
class Outcome:
    """What a job printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The only line on stderr."""
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        return lines[0]


def machine_seconds() -> float:
    """Return a clock that stands still while the host of a virtual machine gives its cores to others."""
    stat = Path("/proc/stat")
    stolen = int(stat.read_text().splitlines()[0].split()[8]) if stat.exists() else 0
    return time.monotonic() - stolen / os.sysconf("SC_CLK_TCK") / (os.cpu_count() or 1)


def environment() -> dict[str, str]:
    """Return this process's environment without what a launcher or CI may have set."""
    launcher = {"WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS"}
    return {key: value for key, value in os.environ.items() if key not in launcher}


def arguments(*args: Any) -> list[str]:
    """Return the arguments of a job as strings, with the data set that the project ships, and without pictures.

    They take longer than the rest of most jobs here; `run.figures=true` among the arguments has them drawn.
    """
    return [f"data.root={DATA}", "run.figures=false", *map(str, args)]


def launcher(processes: int, script: Path = ROOT / "train_ddp.py") -> list[str]:
    """Return the command that starts the job on so many processes."""
    if processes == 1:
        return [sys.executable, str(script)]
    torchrun = [sys.executable, "-W", "default", "-m", "torch.distributed.run", "--standalone"]
    return [*torchrun, "--nproc-per-node", str(processes), str(script)]


def run(command: list[str], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> Outcome:
    """Run a command and wait for it."""
    variables = environment() | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | (env or {})
    done = subprocess.run(
        command, cwd=cwd or ROOT, env=variables, capture_output=True, text=True, timeout=900, check=False
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def launch(processes: int, *args: Any, cwd: Path | None = None, env: dict[str, str] | None = None) -> Outcome:
    """Run the job in fresh processes under torchrun (or plain Python for one) and wait for it."""
    return run(launcher(processes) + arguments(*args), cwd=cwd, env=env)


def at_a_point(signal: str, point: str, count: int, rank: str, processes: int, *args: Any) -> Outcome:
    """Run the job in fresh processes; a signal reaches `rank` (or `all`) at a given point, see at_a_point.py."""
    script = launcher(processes, ROOT / "tests" / "at_a_point.py")
    outcome = run([*script, signal, point, str(count), rank, *arguments(*args)])
    assert "at the point" in outcome.err, f"never at {point} for the {count}th time: {outcome.err}"
    return outcome


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small tensors gain nothing by a second thread: the laws take several times as long. Jobs set their own."""
    torch.set_num_threads(1)


@pytest.fixture
def job(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Outcome]:
    """Run the job in this process, in an empty working directory: `job("train.epochs=1")`."""
    monkeypatch.chdir(tmp_path)
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def run(*args: Any) -> Outcome:
        capsys.readouterr()
        code = train_ddp.main(arguments(*args))
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def mnist() -> sources.DataSet:
    """The real MNIST."""
    return sources.load("MNIST", DATA)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, mnist: sources.DataSet) -> Path:
    """A thousand real digits for training and 130 for testing, as an .npz."""
    path = tmp_path_factory.mktemp("data") / "small.npz"
    arrays = {
        "images": mnist.train.images[:1000, 0],
        "labels": mnist.train.labels[:1000] if mnist.train.labels is not None else None,
        "test_images": mnist.test.images[:130, 0],
        "test_labels": mnist.test.labels[:130] if mnist.test.labels is not None else None,
    }
    np.savez(path, **{key: value.numpy() for key, value in arrays.items() if value is not None})
    return path


def rows(folder: Path, *, timeless: bool = False) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics.jsonl.

    `timeless` is for comparisons: without what depends on the clock, each number of a list under a key of its own.
    """
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    if not timeless:
        return lines
    return [_flat({key: value for key, value in row.items() if key != "images_per_second"}) for row in lines]


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    lists = {key: value for key, value in row.items() if isinstance(value, list)}
    each = {f"{key}.{place}": number for key, values in lists.items() for place, number in enumerate(values)}
    return {key: value for key, value in row.items() if key not in lists} | each


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def largest_difference(a: Path, b: Path) -> float:
    return max((weights(a)[name] - tensor).abs().max().item() for name, tensor in weights(b).items())


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    return accumulator.Reload()


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    log = events(folder)
    return {
        tag: [(event.step, event.value) for event in log.Scalars(tag)]
        for tag in log.Tags()["scalars"]
        if tag != "ImagesPerSecond"
    }
