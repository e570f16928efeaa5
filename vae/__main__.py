"""`python -m vae COMMAND`: what can be done with finished runs.

Exit codes: 0 done, 2 refused input, 130 interrupted from the keyboard, 1 anything else.
"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from vae.cli import Parser
from vae.components import InputError


def add_report(parser: argparse.ArgumentParser) -> None:
    """Draw the pictures of finished runs into RUN/figures/."""
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="a run folder, e.g. runs/mnist")
    parser.set_defaults(action=run_report)


def run_report(args: argparse.Namespace) -> None:
    """Print each file written."""
    from vae.report import report  # imports torch: seconds that `--help` need not wait for

    for run in tqdm(args.runs, desc="report", unit="run", delay=1, leave=False, disable=None):
        for path in report(run):
            tqdm.write(str(path))


COMMANDS = {"report": add_report}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the arguments; raises `InputError`."""
    parser = Parser("python -m vae", description="What can be done with finished runs.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, add_arguments in COMMANDS.items():
        add_arguments(commands.add_parser(name, help=add_arguments.__doc__, description=add_arguments.__doc__))
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        args = parse(argv)
        args.action(args)
    except InputError as error:
        print(f"python -m vae: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
