"""The output of commands."""

import os
from collections.abc import Iterable

from vae.distributed.ending import DONE


def print_line(line: object) -> None:
    """Print a line, on the main process alone."""
    if os.environ.get("RANK", "0") == "0":
        print(line)


def print_lines(lines: Iterable[object]) -> int:
    """Print each line as soon as it is there, on the main process alone; returns the exit code of a command."""
    for line in lines:
        print_line(line)
    return DONE
