"""Estimate log p(x) of finished runs, and what stands beside it; alone or under any launcher."""

import argparse
import os
from collections.abc import Mapping
from typing import Any

from vae.commands.parsing import add_device, add_runs, at_least, load_plugins
from vae.commands.printing import print_lines
from vae.distributed import startup
from vae.distributed.signals import StopRequest, stopped_by_sigterm


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take runs, and how log p(x) is estimated."""
    add_runs(parser)
    parser.add_argument("--samples", type=at_least(1), metavar="K", help="draws for each image (default: 1000)")
    parser.add_argument("--split", choices=["test", "val", "train"], help="of the data (default: test)")
    parser.add_argument("--seed", type=at_least(0), metavar="S", help="of the noise (default: 0)")
    drawn = "the seed of 0/1 pixels, for runs with data.binarize (default: each run's own)"
    parser.add_argument("--draw", type=at_least(0), metavar="S", help=drawn)
    add_device(parser)
    parser.add_argument("--again", action="store_true", help="also what has been evaluated already")
    parser.add_argument("--compare", action="store_true", help="evaluate nothing: a table of what has been evaluated")


def run(args: argparse.Namespace) -> int:
    """Print the estimates."""
    given = {name: getattr(args, name) for name in ("samples", "split", "seed", "draw")}
    wanted = {name: value for name, value in given.items() if value is not None}
    stop = StopRequest()
    if args.compare:
        with stopped_by_sigterm():
            return _compare(args, wanted)
    startup.begin(os.environ, stop)  # before torch is imported
    load_plugins(args)
    from vae.evaluation.log_likelihood import runs

    resources = runs.Resources(os.environ, stop, args.device, args.batch, args.again)
    return print_lines(runs.evaluate_runs(args.paths, runs.Request(**wanted), resources))


def _compare(args: argparse.Namespace, wanted: Mapping[str, Any]) -> int:
    load_plugins(args)
    from vae.evaluation.log_likelihood import runs

    return print_lines(runs.compare_runs(args.paths, wanted))
