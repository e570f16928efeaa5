"""Programs under the fake runtime, forked from a server that has imported everything; and the laws that they keep."""

import contextlib
import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tests.cuda import build, counters
from tests.cuda.server import LONGEST
from tests.helpers import ROOT
from tests.helpers.forking import IMPORTING, Start
from tests.helpers.starts import SECONDS_TO_FOLLOW, Outcome, Program, arguments, environment, ranks, together

JOB = ROOT / "tests/cuda/job.py"
# what is compiled, is compiled by the process itself: each one of a pool would import torch
COMPILING = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
AT_A_POINT = ROOT / "tests/cuda/programs/at_a_point.py"


class Server:
    """The process that programs are forked from, see server.py."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            words = [sys.executable, "-m", "tests.cuda.server", str(theirs.fileno())]
            variables = environment() | IMPORTING | COMPILING | build.environment(devices=1)
            self._process = subprocess.Popen(words, cwd=ROOT, env=variables, pass_fds=[theirs.fileno()])

    def fork(self, start: Start, *, stdout: int, stderr: int) -> "Fork":
        """Start a program."""
        with Path(os.devnull).open("rb") as nothing:
            message = pickle.dumps(start)
            assert len(message) < LONGEST
            socket.send_fds(self._channel, [message], [nothing.fileno(), stdout, stderr])
            pid = self._answer()
        assert pid is not None
        return Fork(pid, partial(self._exit_code, pid))

    def close(self) -> None:
        """End the server."""
        self._channel.close()
        self._process.wait(30)

    def _exit_code(self, pid: int) -> int | None:
        self._channel.send(pickle.dumps(pid))
        return self._answer()

    def _answer(self) -> int | None:
        answer = self._channel.recv(LONGEST)
        assert answer, "the server under the fake runtime has ended"
        return pickle.loads(answer)


class Fork:
    """A forked program, with the part of `subprocess.Popen`'s interface that is needed here."""

    def __init__(self, pid: int, exit_code: Callable[[], int | None]):
        self.pid, self._exit_code = pid, exit_code
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, negative if a signal ended the program; None while it runs."""
        if self.returncode is None:
            self.returncode = self._exit_code()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code; raises `TimeoutError` if the program still runs after `timeout` seconds."""
        deadline = time.monotonic() + (timeout or float("inf"))
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {self.pid} still runs after {timeout} s")
            time.sleep(0.005)
        return code

    def send_signal(self, signum: int) -> None:
        """Send a signal, unless the program has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signum)


@dataclass(frozen=True)
class Ended:
    """A program that has ended, on one rank or several.

    Attributes:
        outcome: its output and exit codes.
        reports: of the runtime, one for each rank that has used a device.
    """

    outcome: Outcome
    reports: list[dict[str, Any]]

    @property
    def out(self) -> str:
        """Its output."""
        return self.outcome.out

    @property
    def err(self) -> str:
        """Its output on stderr."""
        return self.outcome.err

    @property
    def graphs(self) -> list[counters.Graph]:
        """The graphs of rank 0."""
        return counters.graphs_of(self.reports[0])

    def succeeded(self, code: int = 0) -> "Ended":
        """Assert that every rank has ended with an exit code and kept every law."""
        assert [rank.code for rank in self.outcome.ranks] == [code] * len(self.outcome.ranks), self.out + self.err
        faults = broken(self.reports)
        assert not faults, "\n".join([*faults, self.err])
        return self


def broken(reports: Sequence[dict[str, Any]]) -> list[str]:
    """Return each law of a program on one rank or several that its processes have broken."""
    found = [f"rank {one['rank']}: {line}" for one in reports for line in counters.violations_of(one)]
    for one in reports:
        own = int(one["rank"] or 0)
        if one["touched"] != [own]:
            found.append(f"rank {own}: devices {one['touched']} touched")
        if any(graph.collectives for graph in counters.graphs_of(one)):
            found.append(f"rank {own}: a collective inside a graph")
    shapes = [[(len(graph.nodes), graph.replays) for graph in counters.graphs_of(one)] for one in reports]
    if shapes and shapes != [shapes[0]] * len(shapes):
        found.append(f"the ranks have unlike graphs (nodes, replays): {shapes}")
    orders = [sorted(map(str, one["communicators"].values())) for one in reports]
    if orders and orders != [orders[0]] * len(orders):
        found.append(f"the ranks' collectives differ: {orders}")
    return found


class Fake:
    """Starts programs on fake devices, one for each rank.

    Args:
        server: what they are forked from.
        folder: of their reports.
    """

    def __init__(self, server: Server, folder: Path):
        self._server, self._folder = server, folder

    def start(self, processes: int, *words: Any, env: dict[str, str] | None = None, **how: Any) -> "Running":
        """Start a program on so many ranks; `how` as for `Program`."""
        report = Path(mkdtemp(dir=self._folder)) / "report"
        variables = (env or {}) | build.environment(processes, report)
        started = [Program(*words, env=variables | rank, fork=self._server.fork, **how) for rank in ranks(processes)]
        return Running(started, report)

    def run(self, processes: int, *words: Any, **how: Any) -> Ended:
        """Run a program on so many ranks to its end."""
        return self.start(processes, *words, **how).wait()

    def job(self, processes: int, *settings: Any, **how: Any) -> Ended:
        """Run the job on so many ranks to its end; `settings` as for `arguments`."""
        return self.run(processes, JOB, *arguments("train.device=cuda", *settings), **how)


@dataclass(frozen=True)
class Running:
    """A program that runs, on one rank or several; its reports will lie at `report`."""

    programs: list[Program]
    report: Path

    def wait(self, patience: float = SECONDS_TO_FOLLOW) -> Ended:
        """Wait for its end; what still runs `patience` seconds after one rank has failed is killed."""
        return Ended(together(self.programs, patience), counters.reports(self.report))
