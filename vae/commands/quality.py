"""`python -m vae quality RUN`: its arguments (no torch until it runs)."""

import argparse
from pathlib import Path

from vae.commands.parsing import at_least

FED = ("means", "draws")


def add_quality(parser: argparse.ArgumentParser) -> None:
    """Measure the samples of finished runs with a classifier that is trained on the same data; no download."""
    parser.add_argument("paths", metavar="RUN", nargs="+", type=Path, help="finished runs, or folders of them")
    count = "samples, and test images they are held against (default: 10000, or as many as there are)"
    parser.add_argument("--count", type=at_least(1), metavar="N", help=count)
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="S", help="of the samples (default: 0)")
    fed = "what is looked at: means of p(x|z), or images drawn from it (default: means)"
    parser.add_argument("--feed", choices=FED, default="means", help=fed)
    parser.set_defaults(action=run_quality)


def run_quality(args: argparse.Namespace) -> int:
    """Print what is found; returns the exit code."""
    from vae.evaluation.quality.runs import quality_lines  # imports torch

    for line in quality_lines(args.paths, count=args.count, seed=args.seed, feed=args.feed):
        print(line, flush=True)
    return 0
