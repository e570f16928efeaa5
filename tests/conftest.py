"""Shared fixtures: the job in this process, a small data set. What tests leave running is ended; CI skips nothing.

On a machine with a GPU the tests run on the CPU all the same, and so do the programs that they start: what they compare
is the CPU's. `pytest -m gpu` runs those that are marked gpu, and leaves the GPU to them.
"""

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import train_ddp
from tests.helpers import DATA
from tests.helpers.balance import spread
from tests.helpers.starts import Outcome, arguments, discarding
from vae.data import sources

WAYS_TO_RUN = {  # the first word of a reason to skip -> what a user can do
    "gpu": "need a CUDA device: on a machine that has one, `.venv/bin/python -m pytest -m gpu`",
    "SLURM": "need a cluster: as root, with the packages that .ci/run installs (slurmctld and others)",
    "chromium": "open reports in a browser: install the package chromium",
    "disk": "mount small file systems: run them as root",
    "fakecuda": "need the fake CUDA runtime: install g++, and torch with CUDA (on Linux: from PyPI)",
}


def _only_gpu(config: pytest.Config) -> bool:
    return config.option.markexpr == "gpu"


def pytest_configure(config: pytest.Config) -> None:
    """Hide the GPUs from all tests but those marked gpu, before torch is asked for one."""
    if not _only_gpu(config):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """GPU tests need a GPU, nothing else may be left out; several workers share the work until the end."""
    if worker := getattr(config, "workerinput", None):
        items[:] = spread(items, worker["workercount"])
    if not torch.cuda.is_available():
        reason = f"gpu: {'no CUDA device' if _only_gpu(config) else 'only with -m gpu'}"
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=reason))


gc.disable()  # while everything is imported: a fifth of the time goes into looking for garbage


def pytest_collection_finish() -> None:
    """Let the garbage collector work, but not on what has been imported."""
    gc.freeze()
    gc.enable()


def _skipped(reporter: Any) -> Counter[str]:
    """Return how many tests were skipped, by the first word of the reason."""
    reasons = (str(report.longrepr[2]).removeprefix("Skipped: ") for report in reporter.stats.get("skipped", []))
    return Counter(reason.partition(":")[0] for reason in reasons)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was not run, and how to get it."""
    for reason, count in _skipped(terminalreporter).items():
        terminalreporter.write_line(f"not run: {count} that {WAYS_TO_RUN.get(reason, reason)}", yellow=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test is a failure, unless it needs a GPU."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None:
        skipped = _skipped(reporter).total() - _skipped(reporter)["gpu"]
        if skipped and session.exitstatus == pytest.ExitCode.OK:
            reporter.write_line(f"CI: {skipped} test(s) skipped that CI is meant to run", red=True)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Initial weights do not depend on the tests before, nor warnings on what runs beside them.

    One thread, since small tensors gain nothing by a second.
    """
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Programs that a test has started end with it."""
    yield from discarding()


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
