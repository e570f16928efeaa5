"""Commands about factors of variation: `python -m vae shapes FILE.npz`, `python -m vae disentangle RUN`."""

import argparse
from pathlib import Path

from vae.errors import InputError


def add_shapes(parser: argparse.ArgumentParser) -> None:
    """Make a data set with known factors: shapes in every combination of kind, scale, orientation and place."""
    parser.add_argument("file", metavar="FILE.npz", type=Path, help="what to write, e.g. data/shapes.npz")
    for name, default, what in (
        ("size", 32, "height and width, pixels"),
        ("scales", 4, "how many, from half the largest to the largest"),
        ("orientations", 8, "how many of the full turn"),
        ("positions", 12, "how many along each axis, whole pixels apart"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{what} (default: {default})")
    parser.add_argument("--grey", action="store_true", help="pixels by how much of each is covered, not 0 or 1")
    parser.set_defaults(action=run_shapes)


def run_shapes(args: argparse.Namespace) -> int:
    """Write the file; returns the exit code."""
    from vae.data import factors, shapes

    if args.file.suffix != ".npz":
        raise InputError(f"{args.file}: must end in .npz, as in data/shapes.npz")
    grid = shapes.Grid(args.size, args.scales, args.orientations, args.positions, args.grey)
    print(f"drawing {grid.count:,} images of {args.size} x {args.size} pixels", flush=True)
    made = shapes.make(grid)
    factors.write(args.file, made)
    levels = ", ".join(f"{name} {count}" for name, count in zip(made.names, made.levels, strict=True))
    print(f"{args.file}: images, labels (the shape) and factors, values of each: {levels}")
    print(f"train on it: python train_ddp.py --config configs/shapes.yaml data.name={args.file}")
    return 0


def add_disentangle(parser: argparse.ArgumentParser) -> None:
    """Score how well latent dimensions stand for factors: MIG, DCI and SAP of runs on data with known factors."""
    parser.add_argument("paths", metavar="RUN", nargs="+", type=Path, help="finished runs, or folders of them")
    parser.add_argument("--again", action="store_true", help="also what has been scored already")
    parser.set_defaults(action=run_disentangle)


def run_disentangle(args: argparse.Namespace) -> int:
    """Print the scores; returns the exit code."""
    from vae.evaluation.disentanglement.runs import score_runs  # imports torch

    for line in score_runs(args.paths, again=args.again):
        print(line, flush=True)
    return 0


COMMANDS = {"disentangle": add_disentangle, "shapes": add_shapes}
