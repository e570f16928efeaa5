"""Programs under the fake runtime, forked from a server that has imported everything; see server.py."""

import contextlib
import os
import pickle
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.helpers import ROOT
from tests.helpers.forking import IMPORTING, Start
from tests.cuda.server import LONGEST


class Server:
    """The process that programs are forked from.

    Args:
        command: what it is started with, so that it runs under the fake runtime.
        environment: all variables.
    """

    def __init__(self, command: list[str], environment: dict[str, str]):
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            words = [*command, sys.executable, "-m", "tests.cuda.server", str(theirs.fileno())]
            self._process = subprocess.Popen(words, cwd=ROOT, env=environment | IMPORTING, pass_fds=[theirs.fileno()])

    def fork(self, start: Start, *, stdout: int, stderr: int) -> "Fork":
        """Start a program."""
        with Path(os.devnull).open("rb") as nothing:
            message, streams = pickle.dumps(start), [nothing.fileno(), stdout, stderr]
            assert len(message) < LONGEST
            socket.send_fds(self._channel, [message], streams)
            pid = self._answer()
        assert pid is not None
        return Fork(self, pid)

    def exit_code(self, pid: int) -> int | None:
        """Return a forked program's exit code, None while it runs."""
        self._channel.send(pickle.dumps(pid))
        return self._answer()

    def close(self) -> None:
        """End the server."""
        self._channel.close()
        self._process.wait(30)

    def _answer(self) -> int | None:
        answer = self._channel.recv(LONGEST)
        assert answer, "the server has ended"
        return pickle.loads(answer)


class Fork:
    """A forked program, with the part of `subprocess.Popen`'s interface that tests/helpers/starts.py needs."""

    def __init__(self, server: Server, pid: int):
        self._server, self.pid, self.returncode = server, pid, None

    def poll(self) -> int | None:
        """Return the exit code, negative if a signal ended the program; None while it runs."""
        if self.returncode is None:
            self.returncode = self._server.exit_code(self.pid)
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
