"""Write a page and a table about runs and sweeps; draw the pictures of single runs into RUN/figures/."""

import argparse
from pathlib import Path

from vae.commands.printing import print_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take runs or sweeps, and a folder for the page."""
    parser.add_argument(
        "paths", metavar="RUN_OR_SWEEP", nargs="+", type=Path, help="a run's folder, or one of runs, e.g. runs/mnist"
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        type=Path,
        help="where report.html and report.md go (default: the folder given, or of several runs/report)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the files that are written."""
    from vae.report.writing import write_report  # imports torch

    return print_lines(write_report(args.paths, args.output))
