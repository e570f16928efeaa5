"""`python -m vae COMMAND`: what can be done before and after training.

Exit codes: 0 done, 2 refused input, 85 stopped by SIGTERM (`evaluate` and `score` by SIGUSR1 too; the same command
continues them), 130 interrupted from the keyboard, 1 anything else (a failure found by `doctor`).
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import cast

from vae.commands.parsing import Command, Parser, add_plugins, load_plugins
from vae.commands.printing import printed_warnings
from vae.distributed import ending
from vae.distributed.signals import stopped_by_sigterm

# modules of vae/commands/, in the order of --help
COMMANDS = (
    "components",
    "doctor",
    "evaluate",
    "quality",
    "report",
    "score",
    "sweep",
    "encode",
    "sample",
    "interpolate",
    "impute",
    "denoise",
    "card",
    "export",
    "disentangle",
    "shapes",
)

# commands that see to signals and to a launcher, the latter before torch is imported, and load the plugins themselves
LOAD_THEMSELVES = ("doctor", "evaluate", "score", "sweep")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments, and as `action` the command that takes them; raises `InputError`."""
    parser = Parser("python -m vae", description="What can be done before and after training.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        command = cast(Command, import_module(f"vae.commands.{name}"))
        of_command = commands.add_parser(name, help=command.__doc__, description=command.__doc__)
        command.add_arguments(of_command)
        add_plugins(of_command)
        of_command.set_defaults(action=command.run, loads_itself=name in LOAD_THEMSELVES)
    argv = _command_first(argv)
    if argv and argv[0] in commands.choices:  # by itself, so that options may stand between `key=value`s
        return commands.choices[argv[0]].parse_intermixed_args(argv[1:])
    return parser.parse_args(argv)


def _command_first(argv: Sequence[str]) -> list[str]:
    """Return the arguments, the command in front of a `--plugin` that stands before it."""
    place = next((place for place, word in enumerate(argv) if word in COMMANDS), 0)
    before = argv[:place] if argv and argv[0].startswith("--plugin") else []
    return [*argv[len(before) : place + 1], *before, *argv[place + 1 :]] if before else [*argv]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""

    def run() -> int:
        args = parse(sys.argv[1:] if argv is None else argv)
        with printed_warnings(os.environ):
            if args.loads_itself:
                return args.action(args)
            with stopped_by_sigterm():
                load_plugins(args)
                return args.action(args)

    return ending.run("python -m vae", os.environ, run)


if __name__ == "__main__":
    sys.exit(main())
