"""List, train or report the runs that a sweep file describes."""

import argparse
import os
import shlex
import sys
from pathlib import Path

from vae.commands.parsing import load_plugins
from vae.commands.printing import print_line, print_lines
from vae.distributed import accelerate_settings
from vae.distributed.signals import StopRequest, stopped_by_sigterm
from vae.errors import InputError
from vae.run import needs
from vae.sweep import Sweep, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a sweep file, settings for all its runs, and one thing to do with them."""
    parser.add_argument("file", metavar="FILE", type=Path, help="a sweep file, e.g. configs/sweeps/quick.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="any key of train_ddp.py, for all runs")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--list", action="store_true", help="print each run's index, name and settings")
    action.add_argument("--run", action="store_true", help="train all that are not done, side by side, then report")
    action.add_argument("--status", action="store_true", help="print how far each run is")
    action.add_argument("--report", action="store_true", help="write runs/NAME/report.html from what there is")
    action.add_argument("--index", type=int, metavar="N", help="train (or continue) this one, here and now")
    action.add_argument("--folder", type=int, metavar="N", help="print the folder of this one")
    at_once = "with --run: so many processes at once, more than there are GPUs share them (default: one a GPU, or on a "
    at_once += "CPU one for each two cores)"
    parser.add_argument("--jobs", type=int, metavar="N", help=at_once)
    parser.add_argument("--retry", action="store_true", help="with --run: start those again that have failed")


def run(args: argparse.Namespace) -> int:
    """Do what is asked with the members, or become one's training."""
    for option, value in (("--jobs", args.jobs), ("--retry", args.retry or None)):
        if value is not None and not args.run:
            raise InputError(f"{option}: goes with --run")
        if value is not None and value < 1:
            raise InputError(f"{option} {value}: must be at least 1")
    sweep = load(args.file, args.overrides, args.plugins)
    if args.folder is not None:
        return print_lines([sweep.member(args.folder).folder])
    if args.index is not None:
        os.execve(sys.executable, [sys.executable, *sweep.member(args.index).command], _environment())
    if args.run:
        return _train(sweep, args)
    with stopped_by_sigterm():
        _load_plugins(sweep, args)
        if args.report:
            return _report(sweep)
        if args.status:
            from vae.sweep.status import table

            return print_lines(table(sweep))
        return _list(sweep, args)


def _load_plugins(sweep: Sweep, args: argparse.Namespace) -> None:
    """Run the plugins of the command line; refuses a sweep whose runs need another one."""
    load_plugins(args)
    for member in sweep.members:
        needs.check(member.folder)


def _list(sweep: Sweep, args: argparse.Namespace) -> int:
    """Print the members, and the command that trains them as a SLURM job array."""
    sweep.check()
    for index, member in enumerate(sweep.members):
        print_line(f"{index:4d}  {member.name}  {shlex.join(member.arguments)}")
    words = [f"--array=0-{len(sweep.members) - 1}", "launch/slurm/sweep.sbatch", str(args.file), *args.overrides]
    words += [word for path in args.plugins for word in ("--plugin", str(path))]
    return print_lines([f"as a SLURM job array: sbatch {shlex.join(words)}"])


def _environment() -> dict[str, str]:
    """Return the environment of members, whose settings are the sweep's alone, so that each start finds them again."""
    if asked := accelerate_settings.precision(os.environ):
        ignored = f"the launcher's {asked} ({accelerate_settings.PRECISION}) is not for the runs of a sweep"
        print(f"warning: {ignored}; train.precision={asked} sets it for all of them", file=sys.stderr)
    return accelerate_settings.without_precision(os.environ)


def _train(sweep: Sweep, args: argparse.Namespace) -> int:
    """Train the members that are not done, then report."""
    stop = StopRequest()
    stop.install({})  # not as one of several processes
    _load_plugins(sweep, args)
    sweep.check()
    from vae.sweep.runner import Runner  # imports torch

    code = Runner(sweep, _environment(), stop=stop, jobs=args.jobs or 0, retry=args.retry).run()
    if not stop.signum:
        with stop.handed_back():
            try:
                _report(sweep)
            except InputError as error:
                print(f"no report: {error}", file=sys.stderr)
    return code


def _report(sweep: Sweep) -> int:
    """Print the files of the sweep's report."""
    from vae.report.writing import write_report  # imports torch

    return print_lines(write_report([sweep.folder]))
