"""Programs in other processes: the job on one rank or several, its commands, launchers."""

import contextlib
import math
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from tests.helpers import DATA, ROOT
from tests.helpers.forking import Forked, Start

JOB = ROOT / "train_ddp.py"
LAUNCHED = {
    "WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS",
}  # fmt: skip
PORTS = (10_000, 19_999)  # below those that an operating system gives to outgoing connections
TORCHRUN = ["-W", "default", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
ACCELERATE = ["-m", "accelerate.commands.launch", "--config_file", str(ROOT / "launch/accelerate/cpu.yaml")]
SMALL = [
    "model.hidden_dim=32",
    "train.batch_size=64",
    "train.epochs=2",
    "train.log_every=5",
]  # 16 steps of `small`
SECONDS_TO_FOLLOW = 30.0  # for the other ranks, when one has failed


class Process(Protocol):
    """A process that was started, as `subprocess.Popen` has it."""

    pid: int

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, signum: int, /) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """Output and exit code of a program; of several ranks all that was printed, and the first code but 0."""

    code: int
    out: str
    err: str
    ranks: tuple["Outcome", ...] = ()

    @property
    def codes(self) -> tuple[int, ...]:
        """The exit code of each rank."""
        return tuple(rank.code for rank in self.ranks)

    @property
    def line(self) -> str:
        """The only line on stderr."""
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        return lines[0]


Job = Callable[..., Outcome]  # the fixture `job`


def machine_seconds() -> float:
    """Return a clock that stands still while the host of a virtual machine gives its cores to others."""
    stat = Path("/proc/stat")
    stolen = int(stat.read_text().splitlines()[0].split()[8]) if stat.exists() else 0
    return time.monotonic() - stolen / os.sysconf("SC_CLK_TCK") / (os.cpu_count() or 1)


def environment() -> dict[str, str]:
    """Return this process's environment without what a launcher or CI may have set."""
    return {key: value for key, value in os.environ.items() if key not in LAUNCHED}


def arguments(*args: Any) -> list[str]:
    """Return the arguments of a job: the data set that the project ships, no pictures, one thread, and `args`.

    Pictures take longer than the rest of most jobs here, and threads of several jobs would wait for each other.
    """
    return [f"data.root={DATA}", "run.figures=false", "train.threads=1", *map(str, args)]


def free_port() -> str:
    """Return a TCP port that nobody listens on."""
    while True:
        port = random.SystemRandom().randint(*PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return str(port)


def ranks(processes: int) -> list[dict[str, str]]:
    """Return the variables that a launcher would set for each of so many processes; none for one."""
    if processes == 1:
        return [{}]
    size = str(processes)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    return [place | {"RANK": rank, "LOCAL_RANK": rank} for rank in map(str, range(processes))]


class Program:
    """A program in the background, in a session of its own.

    Args:
        words: a script's path, or options of the interpreter; then the arguments.
        real: a fresh interpreter, instead of a fork of one that has imported everything.
        env: variables, beside this process's own.
        cwd: the working folder.
        largest_file: bytes that a file may grow to.
        patches: `module:NAME` -> value, see `Start`; for forks alone.
        fork: what forks it.
    """

    def __init__(
        self,
        *words: Any,
        real: bool = False,
        env: dict[str, str] | None = None,
        cwd: Path = ROOT,
        largest_file: int = resource.RLIM_INFINITY,
        patches: dict[str, float] | None = None,
        fork: Callable[..., Process] = Forked,
    ):
        line = list(map(str, words))
        variables = environment() | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | (env or {})
        self._folder = Path(tempfile.mkdtemp(prefix="program-", dir=_outputs()))
        # files: nobody has to read them while the program runs; appended to, as by several processes
        with (self._folder / "out").open("ab") as out, (self._folder / "err").open("ab") as err:
            if real:
                assert not patches
                self.process: Process = subprocess.Popen(
                    [sys.executable, *line], cwd=cwd, env=variables, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                    start_new_session=True,
                    preexec_fn=lambda: resource.setrlimit(
                        resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY)
                    ),
                )  # fmt: skip
            else:
                start = Start(line, variables, str(cwd), largest_file, patches or {})
                self.process = fork(start, stdout=out.fileno(), stderr=err.fileno())
        self.pid = self.process.pid
        _running.append(self)

    @property
    def out(self) -> str:
        """Its output so far."""
        return (self._folder / "out").read_text()

    @property
    def err(self) -> str:
        """Its output on stderr so far."""
        return (self._folder / "err").read_text()

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self.process.poll()

    def send_signal(self, signum: int) -> None:
        """Send a signal."""
        self.process.send_signal(signum)

    def kill(self) -> None:
        """End it at once, as `kill -9`."""
        self.send_signal(signal.SIGKILL)

    def wait_until(self, condition: Callable[[], Any], what: str = "as expected", seconds: float = 120) -> None:
        """Wait for a condition while it runs."""
        deadline = machine_seconds() + seconds
        while not condition():
            assert self.poll() is None or condition(), f"ended, not {what}: {self.out}\n{self.err}"
            assert machine_seconds() < deadline, f"not {what} in time: {self.out}\n{self.err}"
            time.sleep(0.003)

    def wait(self, seconds: float = 600) -> Outcome:
        """Wait for its end."""
        return Outcome(self.process.wait(seconds), self.out, self.err)

    def kill_all(self) -> None:
        """End it at once, with all that it has started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.pid)
            for process in [parent, *parent.children(recursive=True)]:  # torchrun gives each worker its own session
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait()

    def discard(self) -> None:
        """End it if it still runs, and forget what it has printed."""
        if self.poll() is None:
            self.kill_all()
        shutil.rmtree(self._folder)


def together(programs: Sequence[Program], patience: float = SECONDS_TO_FOLLOW) -> Outcome:
    """Wait for the ranks of a job; what still runs `patience` seconds after one has failed is killed."""
    failed_at = math.inf
    while any(program.poll() is None for program in programs):
        if any(program.poll() for program in programs):
            failed_at = min(failed_at, machine_seconds())
        if machine_seconds() > failed_at + patience:
            for program in programs:
                program.kill()
        time.sleep(0.005)
    ended = tuple(program.wait() for program in programs)
    code = next(filter(None, (end.code for end in ended)), 0)
    return Outcome(code, "".join(end.out for end in ended), "".join(end.err for end in ended), ended)


def run(*words: Any, **how: Any) -> Outcome:
    """Run a program and wait for it; arguments as for `Program`."""
    return Program(*words, **how).wait()


def on_ranks(processes: int, *words: Any, patience: float = SECONDS_TO_FOLLOW, **how: Any) -> Outcome:
    """Run a program in so many processes that are told of each other, and wait for them; see `Program`, `together`."""
    variables = how.pop("env", None) or {}
    return together([Program(*words, env=rank | variables, **how) for rank in ranks(processes)], patience)


def launch(processes: int, *args: Any, **how: Any) -> Outcome:
    """Run the job in so many processes and wait for it; `args` as for `arguments`, `how` as for `Program`."""
    return on_ranks(processes, JOB, *arguments(*args), **how)


def torchrun(processes: int, *args: Any, **how: Any) -> Outcome:
    """Run the job under a real torchrun and wait for it."""
    return run(*TORCHRUN, processes, JOB, *arguments(*args), real=True, **how)


def at_a_point(sent: str, point: str, count: int, rank: str, processes: int, *args: Any) -> Outcome:
    """Run the job; a signal reaches `rank` (or `all`) at a given point of it, see programs/at_a_point.py."""
    script = ROOT / "tests/helpers/programs/at_a_point.py"
    patience = (
        0.5 if sent == "SIGKILL" else SECONDS_TO_FOLLOW
    )  # a lost rank's job is lost: its ranks have nothing to say
    outcome = on_ranks(processes, script, sent, point, count, rank, *arguments(*args), patience=patience)
    assert "at the point" in outcome.err, f"never at {point} for the {count}th time: {outcome.err}"
    return outcome


def discarding() -> Iterator[None]:
    """End what a block leaves running."""
    kept = len(_running)
    yield
    for program in _running[kept:]:
        program.discard()
    del _running[kept:]


def _outputs() -> str:
    global _folder
    _folder = _folder or tempfile.TemporaryDirectory(prefix="vae-tests-")
    return _folder.name


_running: list[Program] = []
_folder: tempfile.TemporaryDirectory[str] | None = None
