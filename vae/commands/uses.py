"""Commands that use a finished run: `python -m vae encode|sample|interpolate|impute|denoise RUN`."""

import argparse
from pathlib import Path

from vae.commands.parsing import at_least
from vae.run.contents import USES

SPLITS = ("test", "train", "val")


def add_encode(parser: argparse.ArgumentParser) -> None:
    """Encode a data set to an .npz: the mean and standard deviation of each image's code, and labels."""
    _add_run(parser)
    _add_images(parser)
    _does(parser, "encode")


def add_sample(parser: argparse.ArgumentParser) -> None:
    """Make new images: means of p(x|z) for z drawn from the prior."""
    _add_run(parser)
    parser.add_argument("--count", type=at_least(1), default=64, metavar="N", help="images (default: 64)")
    parser.add_argument("--label", type=int, metavar="Y", help="of a model that sees labels: all images of this class")
    _does(parser, "sample")


def add_interpolate(parser: argparse.ArgumentParser) -> None:
    """Decode paths between pairs of images: straight, and along an arc about the origin."""
    _add_run(parser)
    _add_images(parser)
    parser.add_argument("--pairs", type=at_least(1), default=4, metavar="N", help="pairs of images (default: 4)")
    parser.add_argument("--steps", type=at_least(1), default=10, metavar="N", help="images on a path (default: 10)")
    _does(parser, "interpolate")


def add_impute(parser: argparse.ArgumentParser) -> None:
    """Fill in missing pixels; reports the error on them, and that of the mean image."""
    _add_run(parser)
    _add_images(parser)
    what = parser.add_mutually_exclusive_group()
    block = "missing rectangle in pixels (default: the lower half)"
    what.add_argument("--block", metavar="TOP,LEFT,HEIGHT,WIDTH", help=block)
    what.add_argument("--mask", type=Path, metavar="FILE.npy", help="array (H, W) or (N, H, W), nonzero where missing")
    parser.add_argument("--sweeps", type=at_least(1), default=100, metavar="N", help="encodings each (default: 100)")
    parser.add_argument("--mean", action="store_true", help="iterate z = E[z|x] instead of drawing z ~ q(z|x)")
    parser.add_argument("--count", type=at_least(1), default=1000, metavar="N", help="the first images (default: 1000)")
    _does(parser, "impute")


def add_denoise(parser: argparse.ArgumentParser) -> None:
    """Add noise to images and take it away again; reports the error before and after."""
    _add_run(parser)
    _add_images(parser)
    parser.add_argument("--noise", choices=["gaussian", "salt"], default="gaussian", help="added, or pixels 0 or 1")
    level = "standard deviation, or share of the pixels that are hit (default: 0.3)"
    parser.add_argument("--level", type=float, default=0.3, metavar="X", help=level)
    parser.add_argument("--count", type=at_least(1), default=1000, metavar="N", help="the first images (default: 1000)")
    _does(parser, "denoise")


def add_score_arguments(parser: argparse.ArgumentParser) -> None:
    """Let `score` take a run, images, others to hold against them, and how log p(x) is to be estimated."""
    _add_run(parser)
    _add_images(parser)
    against = "also score these, and draw how well log p(x) tells them from the first, e.g. FashionMNIST"
    parser.add_argument("--against", metavar="NAME_OR_NPZ", help=against)
    parser.add_argument("--samples", type=at_least(1), default=100, metavar="K", help="draws an image (default: 100)")
    parser.add_argument("--count", type=at_least(1), metavar="N", help="the first images of each (default: all)")
    parser.add_argument("--batch", type=at_least(1), metavar="N", help="draws at once (default: as memory allows)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")


COMMANDS = {
    "encode": add_encode,
    "sample": add_sample,
    "interpolate": add_interpolate,
    "impute": add_impute,
    "denoise": add_denoise,
}


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="a finished run's folder, e.g. runs/mnist")
    parser.add_argument(
        "--seed", type=at_least(0), default=0, metavar="S", help="of everything that is drawn (default: 0)"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help=f"where files go (default: RUN/{USES})")


def _add_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="NAME_OR_NPZ", help="other data than the run's, as in data.name")
    root = "folder that holds (or receives) what --data (or --against) names (default: the run's data.root)"
    parser.add_argument("--data-root", metavar="FOLDER", help=root)
    parser.add_argument("--split", choices=SPLITS, default="test", help="part of the data (default: test)")


def _does(parser: argparse.ArgumentParser, command: str) -> None:
    """Let a command be done by what `vae.uses.actions` has for it."""

    def run(args: argparse.Namespace) -> int:
        """Print what is to be said, and each file written; returns the exit code."""
        from vae.uses.actions import ACTIONS  # imports torch: seconds that `--help` need not wait for

        for line in ACTIONS[command](args):
            print(line)
        return 0

    parser.set_defaults(action=run)
