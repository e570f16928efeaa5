"""Write the encoder and decoder of a run as programs that run without this package: ONNX, torch.export."""

import argparse

from vae.commands.parsing import add_run, at_least
from vae.commands.printing import print_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a run, the formats, and a folder."""
    add_run(parser)
    parser.add_argument("--formats", metavar="A,B", help="onnx, pt2 (torch.export), or both (default: onnx,pt2)")
    compared = "the first test images, on which each file is compared with PyTorch (default: 1000)"
    parser.add_argument("--count", type=at_least(1), default=1000, metavar="N", help=compared)
    parser.add_argument("--output", metavar="FOLDER", help="where files go (default: RUN/export)")


def run(args: argparse.Namespace) -> int:
    """Print the files that are written, and their largest difference from PyTorch."""
    from pathlib import Path

    from vae.sharing.exporting import TOLERANCE, export  # imports torch

    chosen = {} if args.formats is None else {"formats": args.formats.split(",")}
    done = export(args.run, **chosen, count=args.count, output=Path(args.output) if args.output else None)
    *files, manifest = done.files
    return print_lines(
        [
            f"largest difference from PyTorch on {done.examples:,} test images (at most {TOLERANCE:g}):",
            *(f"  {path}  {done.differences[path.name]:.1e}" for path in files),
            manifest,
        ]
    )
