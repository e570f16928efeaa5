"""Make new images: means of p(x|z) for z drawn from the prior."""

import argparse

from vae.commands.parsing import add_output, add_run, add_seed, at_least, output_of
from vae.commands.printing import print_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a run, the number of images, and their class."""
    add_run(parser)
    add_seed(parser)
    add_output(parser)
    parser.add_argument("--count", type=at_least(1), default=64, metavar="N", help="images (default: 64)")
    parser.add_argument("--label", metavar="Y", help="of a model that sees labels: all images of this class")


def run(args: argparse.Namespace) -> int:
    """Print the files that are written."""
    from vae.uses import sample  # imports torch

    done = sample(args.run, count=args.count, label=args.label, seed=args.seed, output=output_of(args))
    return print_lines(done.files)
