"""Measure the samples of finished runs with a classifier that is trained on the same data; no download."""

import argparse

from vae.commands.parsing import add_prior, add_runs, at_least
from vae.commands.printing import print_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take runs, and the samples that are measured."""
    add_runs(parser)
    count = "samples, and test images they are held against (default: 10000, or as many as there are)"
    parser.add_argument("--count", type=at_least(1), metavar="N", help=count)
    parser.add_argument(
        "--seed", type=at_least(0), default=0, metavar="S", help="of the samples, and of a mixture (default: 0)"
    )
    fed = "what is looked at: means of p(x|z), or images drawn from it (default: means)"
    parser.add_argument("--feed", choices=("means", "draws"), default="means", help=fed)
    add_prior(parser, "beside its samples, images by")


def run(args: argparse.Namespace) -> int:
    """Print the measures."""
    from vae.evaluation.quality.runs import quality_lines  # imports torch

    z = {"prior": args.prior, "components": args.components}
    return print_lines(quality_lines(args.paths, count=args.count, seed=args.seed, feed=args.feed, **z))
