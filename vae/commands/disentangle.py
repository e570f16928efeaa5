"""Score how well latent dimensions stand for factors: MIG, DCI and SAP of runs on data with known factors."""

import argparse

from vae.commands.parsing import add_runs
from vae.commands.printing import print_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take runs."""
    add_runs(parser)
    parser.add_argument("--again", action="store_true", help="also what has been scored already")


def run(args: argparse.Namespace) -> int:
    """Print the scores."""
    from vae.evaluation.disentanglement.runs import score_runs  # imports torch

    return print_lines(score_runs(args.paths, again=args.again))
