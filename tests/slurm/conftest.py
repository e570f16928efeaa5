"""A real SLURM cluster of two nodes on this machine, for the tests in this folder."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import DATA, ROOT
from tests.helpers.starts import environment

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "unshare", "nsenter", "ip")
LAUNCH = ROOT / "launch" / "slurm"
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "OUT_OF_MEMORY"}


def problem() -> str | None:
    """Return why this machine cannot have a cluster, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "SLURM: needs root on Linux"
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"SLURM: {', '.join(missing)} not installed"
    namespaces = ["unshare", "--pid", "--fork", "--mount-proc", "--mount", "--uts", "--net", "true"]
    if subprocess.run(namespaces, capture_output=True, check=False).returncode != 0:
        return "SLURM: no namespaces to be had (in a container? it needs --privileged)"
    return None


class Cluster:
    """A running cluster, as seen from its controller."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.nodes = self("scontrol", "show", "hostnames", self("sinfo", "-h", "-p", "main", "-o", "%N")).split()
        config = (folder / "slurm.conf").read_text()
        self.signals_reach_children = "proctrack/cgroup" not in config

    def run(self, *command: Any, cwd: Path = ROOT, **variables: Any) -> subprocess.CompletedProcess[str]:
        """Run a command on the controller, with `variables` added to its environment."""
        clean = {key: value for key, value in environment().items() if not re.match("SLURM|SBATCH|SRUN|SQUEUE", key)}
        ours = {"PROJECT": ROOT, "PYTHON": sys.executable, "OMP_NUM_THREADS": 1} | variables
        clean |= {key: str(value) for key, value in ours.items()}
        full = [self.folder / "enter", *map(str, command)]
        return subprocess.run(full, cwd=cwd, env=clean, capture_output=True, text=True, timeout=120, check=False)

    def __call__(self, *command: Any, cwd: Path = ROOT, **variables: Any) -> str:
        """Run a command that must not fail; returns what it printed."""
        done = self.run(*command, cwd=cwd, **variables)
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def submit(self, *command: Any, cwd: Path, **variables: Any) -> "Job":
        """Submit a batch job: options of sbatch, its file, the file's arguments."""
        return Job(self, self("sbatch", "--parsable", *command, cwd=cwd, **variables), cwd)


class Job:
    """A submitted job (or one element of an array, `12_3`)."""

    def __init__(self, cluster: Cluster, name: str, cwd: Path):
        self.cluster, self.name, self.cwd = cluster, name, cwd

    def show(self, field: str) -> str:
        """Return what SLURM says of it, e.g. JobState, ExitCode, Restarts."""
        found = re.search(rf"\b{field}=(\S+)", self.cluster("scontrol", "show", "job", "-o", self.name))
        assert found is not None, field
        return found[1]

    def output(self) -> str:
        """Return what it has printed so far."""
        path = re.search(r"StdOut=(.*)", self.cluster("scontrol", "show", "job", self.name))
        return Path(path[1]).read_text() if path and Path(path[1]).exists() else ""

    def wait_until(self, condition: Callable[[], Any], what: str, seconds: float = 600) -> None:
        """Wait for a condition; fails with all there is to know if the job ends before, or it takes too long."""
        deadline = time.monotonic() + seconds
        while not condition():
            ended = self.show("JobState") in ENDED
            assert condition() or not (ended or time.monotonic() > deadline), f"not {what}:\n{self.report()}"
            time.sleep(0.1)

    def end(self, seconds: float = 600) -> tuple[str, str, int]:
        """Wait for its end, through all restarts; returns its state, exit code (`85:0`) and the restarts."""
        self.wait_until(lambda: self.show("JobState") in ENDED, "ended", seconds)
        return self.show("JobState"), self.show("ExitCode"), int(self.show("Restarts"))

    def report(self) -> str:
        """Return all there is to know of it."""
        logs = [
            (path.name, path.read_text().splitlines()[-15:]) for path in (self.cluster.folder / "log").glob("*.log")
        ]
        texts = [self.cluster("scontrol", "show", "job", self.name), self.output()]
        return "\n".join([*texts, *(f"--- {name}\n" + "\n".join(lines) for name, lines in logs)])


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster; it ends when its input does, whatever becomes of this process."""
    if reason := problem():
        pytest.skip(reason)
    outside = Path(tempfile.mkdtemp(prefix="slurm-"))
    outside.chmod(0o755)  # what SLURM's daemons want of every folder above their own
    folder = outside / "cluster"
    script = Path(__file__).with_name("cluster.sh")
    with (outside / "log").open("w") as log:
        process = subprocess.Popen([script, folder], stdin=subprocess.PIPE, stdout=log, stderr=log)
    assert process.stdin is not None
    try:
        deadline = time.monotonic() + 60
        while not (folder / "enter").exists():
            said = (outside / "log").read_text()
            logs = "".join(path.read_text()[-2000:] for path in folder.glob("log/*"))
            assert process.poll() is None, f"no cluster: {said}\n{logs}"
            assert time.monotonic() < deadline, f"no cluster in time: {said}\n{logs}"
            time.sleep(0.1)
        yield Cluster(folder)
    finally:
        process.stdin.close()
        process.wait(60)
        shutil.rmtree(outside)


@pytest.fixture
def submit(cluster: Cluster, tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Submit a batch job from an empty folder, as `Cluster.submit` does; none outlives its test."""
    yield partial(cluster.submit, cwd=tmp_path)
    cluster("scancel", "--user=root")
    deadline = time.monotonic() + 60
    while cluster("squeue", "-h"):
        assert time.monotonic() < deadline, cluster("squeue")
        time.sleep(0.1)


def settings(*extra: Any) -> list[str]:
    """Return the settings of a run of some ten seconds, on the CPU: its arguments for torchrun and for the .sbatch."""
    small = ["model.hidden_dim=32", "train.batch_size=64", "train.precision=fp32", "train.device=cpu"]
    short = ["train.max_steps=2000", "train.checkpoint_every=50", "train.eval_every=0", "train.threads=1"]
    return [f"data.root={DATA}", "run.figures=false", *small, *short, *map(str, extra)]
