"""A program's work and its end: the exit code, the line that says why it ended, the process group left or abandoned.

Standard library only: a command line can be refused before torch is imported.
"""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn, TextIO

from vae.errors import ArgumentError, InputError, JobError, OutOfMemory, RankLostError, Stopped

# stopped by a signal after saving: "run me again"; the same from the keyboard; input that one line refuses; the rest
REQUEUE_ME, INTERRUPTED, REFUSED, FAILED, DONE = 85, 130, 2, 1, 0
SHARED = (InputError, JobError, Stopped, KeyboardInterrupt)  # all ranks end so together, and can leave each other


def exit_code(error: BaseException) -> int:
    """Return the exit code of a program that an error of `SHARED` ends."""
    if isinstance(error, Stopped):
        return exit_code_of_signal(error.signum)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return REFUSED if isinstance(error, InputError) else FAILED


def exit_code_of_signal(signum: int) -> int:
    """Return the exit code of a job that this signal stopped."""
    return INTERRUPTED if signum == signal.SIGINT else REQUEUE_ME


def run(program: str, environment: Mapping[str, str], action: Callable[[], int | None]) -> int:
    """Run a program's work, each line of its output written at once, and leave the process group.

    An error that is not of `SHARED` passes through, as a traceback. The process group is not left then: this rank alone
    would wait for the others.

    Args:
        program: its name, which begins the line that says what ended it.
        environment: `os.environ`, which says which process of a machine speaks.
        action: the work; returns the exit code, None for 0.

    Returns:
        The exit code.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # into a file, Python would keep the lines back, kilobytes at a time
        sys.stdout.reconfigure(line_buffering=True)
    try:
        code = action() or DONE
    except SHARED as error:
        code = _report(program, environment, error)
    except RankLostError as error:
        abandon(f"{program}: {error}" if error.speaks else None)
    except OutOfMemory as error:
        abandon(f"{program}: {error}")
    if launch := sys.modules.get("vae.distributed.launch"):  # not imported: there can be no process group
        launch.leave()
    try:
        sys.stdout.flush()
    except OSError:  # of a full disk; while it exits, Python would try again and end with code 120
        discard_output()
    return code


@contextmanager
def exiting(program: str, environment: Mapping[str, str]) -> Iterator[None]:
    """End the program where a block raises an error of `SHARED`: before there can be a process group."""
    try:
        yield
    except SHARED as error:
        sys.exit(_report(program, environment, error))


def abandon(message: str | None) -> NoReturn:
    """End this process at once with exit code 1, after a message if there is one: the group has lost a member."""
    sys.stdout.flush()
    if message:
        sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
    os._exit(FAILED)


def speaks(environment: Mapping[str, str]) -> bool:
    """Return true on the one process of a machine that reports what all processes there find out alike."""
    first_task = environment.get("SLURM_LOCALID", "0") == "0"  # tasks with a GPU each are all LOCAL_RANK 0
    return first_task and environment.get("LOCAL_RANK", "0") in ("0", "-1")


def say(text: object, *, end: str = "\n", file: TextIO | None = None) -> None:
    """Print a text; a console that takes no lines, such as a log on a full disk, costs nothing but these lines.

    Args:
        text: a line or more.
        end: put behind the text.
        file: None: standard output.
    """
    try:
        (file or sys.stdout).write(f"{text}{end}")
    except BrokenPipeError:
        discard_output()
    except OSError:
        pass


def discard_output() -> None:
    """Let what is printed from here on go nowhere: nobody reads it any more."""
    with contextlib.suppress(OSError):  # of a standard output that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(program: str, environment: Mapping[str, str], error: BaseException) -> int:
    """Say what ended a program, once on each machine; returns its exit code."""
    if speaks(environment):
        line = error.of_options if isinstance(error, ArgumentError) else str(error)
        sys.stderr.write(f"{program}: {line or 'interrupted'}\n")
    return exit_code(error)
