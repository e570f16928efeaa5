"""The output of commands."""

import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from vae.distributed.ending import DONE, discard_output, speaks
from vae.errors import InputError, OneLineWarning


def print_line(line: object) -> None:
    """Print a line, on the main process alone; what is printed into a pipe that nobody reads any more is lost.

    Raises:
        InputError: the line cannot be written.
    """
    if os.environ.get("RANK", "0") == "0":
        write_line(line)


def write_line(line: object) -> None:
    """Print a line, on any process; raises as `print_line`."""
    try:
        print(line)
    except BrokenPipeError:
        discard_output()
    except OSError as error:
        raise InputError(f"standard output: cannot be written: {error.strerror}") from None


def print_lines(lines: Iterable[object]) -> int:
    """Print each line as soon as it is there, on the main process alone; returns the exit code of a command."""
    for line in lines:
        print_line(line)
    return DONE


@contextmanager
def printed_warnings(environment: Mapping[str, str]) -> Iterator[None]:
    """Print each warning that is one line as such, on one process of a machine; other warnings as Python does.

    Args:
        environment: `os.environ`, which says which process of a machine speaks.
    """
    otherwise = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
        if not issubclass(category, OneLineWarning):
            otherwise(message, category, *place)
        elif speaks(environment):
            print(f"warning: {message}", file=sys.stderr)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = otherwise
