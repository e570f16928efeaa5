"""Encode a data set to an .npz: the mean and standard deviation of each image's code, and labels."""

import argparse

from vae.commands.parsing import add_images, add_output, add_run, add_seed, data_of, output_of
from vae.commands.printing import print_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a run and images."""
    add_run(parser)
    add_seed(parser)
    add_output(parser)
    add_images(parser)


def run(args: argparse.Namespace) -> int:
    """Print the files that are written."""
    from vae.uses import encode  # imports torch

    return print_lines(encode(args.run, **data_of(args), output=output_of(args)).files)
