"""Programs forked from a process that has imported everything: a start costs milliseconds instead of seconds.

That process is the standard library's fork server (`multiprocessing`), one for each worker of the test run. It has
imported what the project imports, and runs no thread. test_starts.py shows that a forked program and a real start give
the same bits, files, output and exit codes.
"""

import atexit
import contextlib
import multiprocessing
import os
import resource
import runpy
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import forkserver
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

from tests.helpers import ROOT

# for the server: libraries that start threads as they are imported would leave a process that must not be forked
IMPORTING = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@dataclass(frozen=True)
class Start:
    """All that a program is started with.

    Args:
        words: a script's path, `-m` and a module or `-c` and code; then the arguments.
        environment: all variables.
        cwd: the working folder.
        largest_file: bytes that a file may grow to (RLIMIT_FSIZE).
        patches: `module:NAME` -> value; the product's intervals, at a size that suits a test.
    """

    words: Sequence[str]
    environment: dict[str, str]
    cwd: str
    largest_file: int = resource.RLIM_INFINITY
    patches: dict[str, float] = field(default_factory=dict)

    def run(self, stdin: Any, stdout: Any, stderr: Any) -> None:
        """Be that program, in a session of its own: what ends it is an exception, as for any program."""
        for target, stream in enumerate((stdin, stdout, stderr)):
            os.dup2(stream.detach(), target)
        os.setsid()
        os.chdir(self.cwd)
        os.environ.clear()
        os.environ.update(self.environment)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.largest_file, resource.RLIM_INFINITY))
        sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False, errors="backslashreplace")  # noqa: SIM115
        for name, value in self.patches.items():
            module, _, attribute = name.partition(":")
            assert hasattr(import_module(module), attribute), name
            setattr(import_module(module), attribute, value)
        option = self.words[0] if self.words[0] in ("-m", "-c") else ""
        program, *arguments = self.words[1:] if option else self.words
        sys.argv = [option if option == "-c" else program, *arguments]
        if option == "-m":
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        elif option == "-c":
            exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.path.insert(0, str(Path(program).parent))
            runpy.run_path(program, run_name="__main__")


class Forked:
    """A forked program, with the part of `subprocess.Popen`'s interface that is needed here.

    Args:
        start: what it is started with.
        stdout: file descriptor.
        stderr: file descriptor.
    """

    def __init__(self, start: Start, *, stdout: int, stderr: int):
        _ensure_server()
        context = multiprocessing.get_context("forkserver")
        with Path(os.devnull).open("rb") as nothing:
            streams = [_Stream(descriptor) for descriptor in (nothing.fileno(), stdout, stderr)]
            self._process = context.Process(target=start.run, args=streams)
            self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid
        _started.append(self)

    @property
    def returncode(self) -> int | None:
        """The exit code, negative if a signal ended the program; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return `returncode`."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code; raises `TimeoutError` if the program still runs after `timeout` seconds."""
        self._process.join(timeout)
        if self.returncode is None:
            raise TimeoutError(f"process {self.pid} still runs after {timeout} s")
        return self.returncode

    def send_signal(self, signum: int) -> None:
        """Send a signal, unless the program has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signum)


class Piped(Forked):
    """A forked program whose output, stderr's too, comes through a pipe, `stdout`.

    Args:
        words: see `Start`.
        variables: its environment.
    """

    def __init__(self, words: Sequence[str], variables: Mapping[str, str]):
        reading, writing = os.pipe()
        super().__init__(Start(words, dict(variables), str(Path.cwd())), stdout=writing, stderr=writing)
        os.close(writing)
        self.stdout = os.fdopen(reading, "rb")


class _Stream:
    """A file descriptor that reaches the forked process."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    def __reduce__(self) -> tuple[Callable[[Any], Any], tuple[Any]]:
        return _same, (DupFd(self.descriptor),)


def _same(stream: Any) -> Any:
    return stream


def _ensure_server() -> None:
    before = dict(os.environ)
    os.environ.update(IMPORTING)
    try:
        forkserver.set_forkserver_preload(["tests.helpers.preloaded"])
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


_started: list[Forked] = []


@atexit.register
def _kill_what_is_left() -> None:
    """Else the interpreter would wait for it."""
    for program in _started:
        program.send_signal(signal.SIGKILL)
