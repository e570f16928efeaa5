"""Estimate log p(x) of each image of a file, and hold two data sets against each other; under any launcher."""

import argparse
import os

from vae.commands.parsing import add_device, add_images, add_output, add_run, add_seed, at_least, data_of, output_of
from vae.commands.printing import print_line, print_lines
from vae.distributed import startup
from vae.distributed.signals import StopRequest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a run, images, others to hold against them, and how log p(x) is estimated."""
    add_run(parser)
    add_seed(parser)
    add_output(parser)
    add_images(parser)
    against = "also score these, and draw how well log p(x) tells them from the first, e.g. FashionMNIST"
    parser.add_argument("--against", metavar="NAME", help=against)
    parser.add_argument("--samples", type=at_least(1), default=100, metavar="K", help="draws an image (default: 100)")
    parser.add_argument("--count", type=at_least(1), metavar="N", help="the first images of each (default: all)")
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Print means of the scores, and the files that are written."""
    stop = StopRequest()
    startup.begin(os.environ, stop)  # before torch is imported
    from vae.evaluation.log_likelihood.runs import Resources
    from vae.uses import score

    found = score(
        args.run,
        **data_of(args),
        against=args.against,
        samples=args.samples,
        count=args.count,
        seed=args.seed,
        output=output_of(args),
        resources=Resources(os.environ, stop, args.device, args.batch),
        say=print_line,
    )
    return print_lines(found.files)
