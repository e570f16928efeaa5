"""Decode paths between pairs of images: straight, and along an arc about the origin."""

import argparse

from vae.commands.parsing import add_images, add_output, add_run, add_seed, at_least, data_of, output_of
from vae.commands.printing import print_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a run, images, and the number and length of paths."""
    add_run(parser)
    add_seed(parser)
    add_output(parser)
    add_images(parser)
    parser.add_argument("--pairs", type=at_least(1), default=4, metavar="N", help="pairs of images (default: 4)")
    parser.add_argument("--steps", type=at_least(1), default=10, metavar="N", help="images on a path (default: 10)")


def run(args: argparse.Namespace) -> int:
    """Print the file that is written."""
    from vae.uses import interpolate  # imports torch

    how = {"pairs": args.pairs, "steps": args.steps}
    return print_lines(interpolate(args.run, **data_of(args), **how, output=output_of(args)).files)
