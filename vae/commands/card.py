"""Write the model card of a run anew (`RUN/model/README.md`), with log p(x) where `evaluate` has estimated it."""

import argparse

from vae.commands.parsing import add_run
from vae.commands.printing import print_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a run."""
    add_run(parser)


def run(args: argparse.Namespace) -> int:
    """Print the files that are written."""
    from vae.sharing.card import write_card  # imports torch

    return print_lines(write_card(args.run))
