"""Fill in missing pixels; reports the error on them, and that of the mean image."""

import argparse
from pathlib import Path

from vae.commands.parsing import (
    add_first_images,
    add_images,
    add_output,
    add_run,
    add_seed,
    at_least,
    data_of,
    output_of,
)
from vae.commands.printing import print_lines
from vae.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a run, images, their missing pixels, and how these are filled in."""
    add_run(parser)
    add_seed(parser)
    add_output(parser)
    add_images(parser)
    missing = parser.add_mutually_exclusive_group()
    block = "missing rectangle in pixels (default: the lower half)"
    missing.add_argument("--block", metavar="TOP,LEFT,HEIGHT,WIDTH", help=block)
    mask = "array (H, W) or (N, H, W), nonzero where missing"
    missing.add_argument("--mask", type=Path, metavar="FILE.npy", help=mask)
    parser.add_argument("--sweeps", type=at_least(1), default=100, metavar="N", help="encodings each (default: 100)")
    parser.add_argument("--mean", action="store_true", help="iterate z = E[z|x] instead of drawing z ~ q(z|x)")
    add_first_images(parser)


def run(args: argparse.Namespace) -> int:
    """Print the errors, and the file that is written."""
    block = None if args.block is None else _block(args.block)
    from vae.uses import impute  # imports torch

    done = impute(
        args.run,
        **data_of(args),
        block=block,
        mask=args.mask,
        sweeps=args.sweeps,
        draw=not args.mean,
        count=args.count,
        seed=args.seed,
        output=output_of(args),
    )
    kind = "E[z|x] iterated" if args.mean else "z ~ q(z|x), averaged over the second half"
    images = f"{len(done.original):,} images ({args.sweeps} sweeps, {kind})"
    return print_lines(
        [
            f"root mean squared error of the missing pixels of {images}:",
            f"  imputed {done.outcome.error:.4f}, mean image {done.outcome.baseline:.4f}",
            *done.files,
        ]
    )


def _block(text: str) -> tuple[int, int, int, int]:
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
        raise InputError(f"--block {text}: must be TOP,LEFT,HEIGHT,WIDTH in pixels, e.g. 14,0,14,28")
    top, left, height, width = map(int, parts)
    return top, left, height, width
