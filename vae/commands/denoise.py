"""Add noise to images and take it away again; reports the error before and after."""

import argparse

from vae.commands.parsing import add_first_images, add_images, add_output, add_run, add_seed, data_of, output_of
from vae.commands.printing import print_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a run, images, and the noise."""
    add_run(parser)
    add_seed(parser)
    add_output(parser)
    add_images(parser)
    parser.add_argument("--noise", choices=["gaussian", "salt"], default="gaussian", help="added, or pixels 0 or 1")
    level = "standard deviation, or share of the pixels that are hit (default: 0.3)"
    parser.add_argument("--level", type=float, default=0.3, metavar="X", help=level)
    add_first_images(parser)


def run(args: argparse.Namespace) -> int:
    """Print the errors, and the file that is written."""
    from vae.uses import denoise  # imports torch

    noise = {"noise": args.noise, "level": args.level, "seed": args.seed}
    done = denoise(args.run, **data_of(args), **noise, count=args.count, output=output_of(args))
    images = f"{len(done.original):,} images ({args.noise} noise, level {args.level:g})"
    return print_lines(
        [
            f"root mean squared error of the pixels of {images}:",
            f"  denoised {done.outcome.error:.4f}, noisy {done.outcome.baseline:.4f}",
            *done.files,
        ]
    )
