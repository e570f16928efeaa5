"""`python -m vae COMMAND`: what can be done before and after training.

Exit codes: 0 done, 2 refused input, 130 interrupted from the keyboard, 1 anything else (a failure found by `doctor`).
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import cast

from vae.commands.parsing import Command, Parser
from vae.distributed import ending

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


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments, and as `action` the command that takes them; raises `InputError`."""
    parser = Parser("python -m vae", description="What can be done before and after training.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        command = cast(Command, import_module(f"vae.commands.{name}"))
        of_command = commands.add_parser(name, help=command.__doc__, description=command.__doc__)
        command.add_arguments(of_command)
        of_command.set_defaults(action=command.run)
    if argv and argv[0] in commands.choices:  # by itself, so that options may stand between `key=value`s
        return commands.choices[argv[0]].parse_intermixed_args(argv[1:])
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""

    def run() -> int:
        args = parse(sys.argv[1:] if argv is None else argv)
        return args.action(args)

    return ending.run("python -m vae", os.environ, run)


if __name__ == "__main__":
    sys.exit(main())
