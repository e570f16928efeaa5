"""Make new images: means of p(x|z) for z drawn from the prior, or from a mixture fitted to the codes afterwards."""

import argparse

from vae.commands.parsing import add_output, add_prior, add_run, add_seed, at_least, output_of
from vae.commands.printing import print_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a run, the number of images, their class, and the density of z."""
    add_run(parser)
    add_seed(parser)
    add_output(parser)
    parser.add_argument("--count", type=at_least(1), default=64, metavar="N", help="images (default: 64)")
    parser.add_argument("--label", metavar="Y", help="of a model that sees labels: all images of this class")
    add_prior(parser, "in place of it,")


def run(args: argparse.Namespace) -> int:
    """Print the files that are written, and what is to be known of a mixture."""
    from vae.evaluation.mixture.text import in_words  # imports torch
    from vae.uses import sample

    how = {"count": args.count, "label": args.label, "seed": args.seed}
    done = sample(args.run, **how, prior=args.prior, components=args.components, output=output_of(args))
    print_lines(() if done.mixture is None else in_words(done.mixture))
    return print_lines(done.files)
