"""Make a data set with known factors: shapes in every combination of kind, scale, orientation and place."""

import argparse
from pathlib import Path

from vae.commands.printing import print_line, print_lines
from vae.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a file, and the grid of shapes."""
    parser.add_argument("file", metavar="FILE.npz", type=Path, help="what to write, e.g. data/shapes.npz")
    for name, default, meaning in (
        ("size", 32, "height and width, pixels"),
        ("scales", 4, "how many, from half the largest to the largest"),
        ("orientations", 8, "how many of the full turn"),
        ("positions", 12, "how many along each axis, whole pixels apart"),
    ):
        words = f"{meaning} (default: {default})"
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=words)
    parser.add_argument("--grey", action="store_true", help="pixels by how much of each is covered, not 0 or 1")


def run(args: argparse.Namespace) -> int:
    """Write the file; print what it holds and how to train on it."""
    from vae.data import factors, shapes  # imports torch

    if args.file.suffix != ".npz":
        raise InputError(f"{args.file}: must end in .npz, as in data/shapes.npz")
    grid = shapes.Grid(args.size, args.scales, args.orientations, args.positions, args.grey)
    print_line(f"drawing {grid.count:,} images of {args.size} x {args.size} pixels")
    made = shapes.make(grid)
    factors.write(args.file, made)
    levels = ", ".join(f"{name} {count}" for name, count in zip(made.names, made.levels, strict=True))
    return print_lines(
        [
            f"{args.file}: images, labels (the shape) and factors, values of each: {levels}",
            f"train on it: python train_ddp.py --config configs/shapes.yaml data.name={args.file}",
        ]
    )
