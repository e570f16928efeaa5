"""The parser that all command lines share; imports no torch, so that a mistake in a command is reported at once."""

import argparse
from collections.abc import Callable, Mapping
from typing import NoReturn

from vae.errors import InputError


class Parser(argparse.ArgumentParser):
    """Arguments; what is wrong with them is said in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise `InputError` instead of printing the usage."""
        raise InputError(f"{message}; see {self.prog} --help")


def add_configuration(parser: argparse.ArgumentParser, keys: str) -> None:
    """Let a command take a configuration: `--config` and `key=value`; `keys` says where the keys are listed."""
    parser.add_argument("--config", metavar="FILE", help="YAML that holds what differs from the defaults")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=f"any key {keys}, the value in YAML")


def at_least(least: int) -> Callable[[str], int]:
    """Return what reads an option's whole number, and refuses a smaller one."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number from {least}")
        return int(text)

    return number


def speaks(environment: Mapping[str, str]) -> bool:
    """Whether this process reports what all processes on this machine find out alike."""
    first_task = environment.get("SLURM_LOCALID", "0") == "0"  # tasks with a GPU each are all LOCAL_RANK 0
    return first_task and environment.get("LOCAL_RANK", "0") in ("0", "-1")
