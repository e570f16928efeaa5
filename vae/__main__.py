"""`python -m vae COMMAND`: what can be done before and after training.

Exit codes: 0 done, 2 refused input, 130 interrupted from the keyboard, 1 anything else (a failure found by `doctor`).
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vae.commands.factors import COMMANDS as FACTORS
from vae.commands.parsing import Parser, add_configuration, at_least, speaks
from vae.commands.quality import add_quality
from vae.commands.uses import COMMANDS as USES
from vae.commands.uses import add_score_arguments
from vae.config import Config, describe_components, load
from vae.distributed import slurm, startup
from vae.distributed.signals import Stopped, StopRequest
from vae.errors import InputError
from vae.sweep import Sweep
from vae.sweep import load as load_sweep

SECONDS_FOR_RANK_0 = 5  # to finish its report, before a launcher ends it because another process has ended


def add_report(parser: argparse.ArgumentParser) -> None:
    """Write a page and a table about runs and sweeps; draw the pictures of single runs into RUN/figures/."""
    parser.add_argument(
        "paths", metavar="RUN_OR_SWEEP", nargs="+", type=Path, help="a run's folder, or one of runs, e.g. runs/mnist"
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        type=Path,
        help="where report.html and report.md go (default: the folder given, or of several runs/report)",
    )
    parser.set_defaults(action=run_report)


def run_report(args: argparse.Namespace) -> int:
    """Print each file written; returns the exit code."""
    return _report(args.paths, args.output)


def _report(paths: list[Path], output: Path | None = None) -> int:
    from vae.report.writing import write_report  # imports torch: seconds that `--help` need not wait for

    for path in write_report(paths, output):
        print(path)
    return 0


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """Check whether a run would work here: takes what train_ddp.py takes, alone or under any launcher."""
    add_configuration(parser, "of train_ddp.py --help")
    parser.set_defaults(action=run_doctor)


def run_doctor(args: argparse.Namespace) -> int:
    """Print each finding, on one of the processes; returns the exit code, the same on all: 1 if there is a failure."""
    try:
        os.environ.update(slurm.process_environment(os.environ))  # before torch is imported
    except ValueError as error:
        raise InputError(str(error)) from None
    try:
        return int(_report_findings(load(args.config, args.overrides), args.config))
    except InputError:  # on all ranks alike
        if speaks(os.environ):
            raise
        return 2


def _report_findings(config: Config, config_file: str | None) -> bool:
    """Return whether there is a failure among the findings; raises `InputError`."""
    from vae.distributed import launch  # imports torch
    from vae.doctor.examination import examine, summary
    from vae.doctor.findings import Context

    findings, context = [], Context(config, config_file, os.environ)
    for finding in examine(context):
        findings.append(finding)
        also_speaks = {"main": False, "machine": speaks(os.environ), "rank": True}
        if context.rank == 0 or also_speaks[finding.speaker]:
            print(finding, flush=True)
    if context.rank == 0:
        print(summary(findings), flush=True)
    if any(finding.parts_ranks for finding in findings):
        time.sleep(SECONDS_FOR_RANK_0 if context.rank else 0)
        launch.abandon(None)  # to leave the process group would be to wait for the others
    if context.accelerator:
        context.accelerator.wait_for_everyone()  # a launcher may end all processes when one has an exit code
    launch.leave()
    return any(finding.level == "failure" for finding in findings)


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Estimate log p(x) of finished runs, and what stands beside it; alone or under any launcher."""
    parser.add_argument("paths", metavar="RUN", nargs="+", type=Path, help="finished runs, or folders of them")
    parser.add_argument("--samples", type=at_least(1), metavar="K", help="draws for each image (default: 1000)")
    parser.add_argument("--split", choices=["test", "val", "train"], help="of the data (default: test)")
    parser.add_argument("--seed", type=at_least(0), metavar="S", help="of the noise (default: 0)")
    drawn = "the seed of 0/1 pixels, for runs with data.binarize (default: each run's own)"
    parser.add_argument("--draw", type=at_least(0), metavar="S", help=drawn)
    parser.add_argument("--batch", type=at_least(1), metavar="N", help="draws at once (default: as memory allows)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--again", action="store_true", help="also what has been evaluated already")
    parser.add_argument("--compare", action="store_true", help="evaluate nothing: a table of what has been evaluated")
    parser.set_defaults(action=run_evaluate)


def run_evaluate(args: argparse.Namespace) -> int:
    """Print what is found, on the main process; returns the exit code, the same on all."""
    given = {name: getattr(args, name) for name in ("samples", "split", "seed", "draw")}
    wanted = {name: value for name, value in given.items() if value is not None}
    stop = StopRequest() if args.compare else _begin()
    from vae.evaluation.log_likelihood import runs  # imports torch

    if args.compare:
        return _say(runs.compare_runs(args.paths, wanted))
    resources = runs.Resources(os.environ, stop, args.device, args.batch, args.again)
    return _say(runs.evaluate_runs(args.paths, runs.Request(**wanted), resources))


def add_score(parser: argparse.ArgumentParser) -> None:
    """Estimate log p(x) of each image of a file, and hold two data sets against each other; under any launcher."""
    add_score_arguments(parser)
    parser.set_defaults(action=run_score)


def run_score(args: argparse.Namespace) -> int:
    """Print what is found, on the main process; returns the exit code, the same on all."""
    stop = _begin()
    from vae.evaluation.log_likelihood.runs import Resources  # imports torch
    from vae.uses.scoring import score_lines

    return _say(score_lines(args, Resources(os.environ, stop, args.device, args.batch)))


def _begin() -> StopRequest:
    """Take a process's place among others, before torch is imported; raises `InputError`."""
    stop = StopRequest()
    try:
        startup.begin(os.environ, stop)
    except ValueError as error:
        raise InputError(str(error)) from None
    return stop


def _say(lines: Iterator[str]) -> int:
    """Print the lines on the main process, and leave the others; returns the exit code, the same on all."""
    from vae.distributed import launch  # imports torch

    try:
        for line in lines:
            if os.environ.get("RANK", "0") == "0":
                print(line, flush=True)
        code = 0
    except (InputError, Stopped) as error:  # on all ranks alike
        _report_end(error)
        code = error.exit_code if isinstance(error, Stopped) else 2
    except launch.RendezvousError as error:
        launch.abandon(f"python -m vae: {error}")
    launch.leave()
    return code


def add_components(parser: argparse.ArgumentParser) -> None:
    """List the components that a configuration can name, with their settings."""
    parser.set_defaults(action=run_components)


def run_components(_: argparse.Namespace) -> int:
    """Print the list; returns the exit code."""
    print(describe_components())
    return 0


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """List, train or report the runs that a sweep file describes."""
    parser.add_argument("file", metavar="FILE", type=Path, help="a sweep file, e.g. configs/sweeps/quick.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="any key of train_ddp.py, for all runs")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", action="store_true", help="print each run's index, name and settings")
    what.add_argument("--run", action="store_true", help="train all that are not done, side by side, then report")
    what.add_argument("--status", action="store_true", help="print how far each run is")
    what.add_argument("--report", action="store_true", help="write runs/NAME/report.html from what there is")
    what.add_argument("--index", type=int, metavar="N", help="train (or continue) this one, here and now")
    what.add_argument("--folder", type=int, metavar="N", help="print the folder of this one")
    at_once = "with --run: so many processes at once, more than there are GPUs share them (default: one a GPU, or on a "
    at_once += "CPU one for each two cores)"
    parser.add_argument("--jobs", type=int, metavar="N", help=at_once)
    parser.add_argument("--retry", action="store_true", help="with --run: start those again that have failed")
    parser.set_defaults(action=run_sweep)


def run_sweep(args: argparse.Namespace) -> int:
    """Do what is asked with the members, or become one's training; returns the exit code."""
    for option, value in (("--jobs", args.jobs), ("--retry", args.retry or None)):
        if value is not None and not args.run:
            raise InputError(f"{option}: goes with --run")
        if value is not None and value < 1:
            raise InputError(f"{option} {value}: must be at least 1")
    sweep = load_sweep(args.file, args.overrides)
    if args.folder is not None:
        print(sweep.member(args.folder).folder)
        return 0
    if args.index is not None:
        os.execv(sys.executable, [sys.executable, *sweep.member(args.index).command])
    if args.run:
        return _run_members(sweep, jobs=args.jobs or 0, retry=args.retry)
    if args.report:
        return _report([sweep.folder])
    if args.status:
        from vae.sweep.status import table

        print(*table(sweep), sep="\n")
        return 0
    sweep.check()
    for index, member in enumerate(sweep.members):
        print(f"{index:4d}  {member.name}  {shlex.join(member.arguments)}")
    words = [f"--array=0-{len(sweep.members) - 1}", "launch/slurm/sweep.sbatch", str(args.file), *args.overrides]
    print(f"as a SLURM job array: sbatch {shlex.join(words)}")
    return 0


def _run_members(sweep: Sweep, **how: Any) -> int:
    """Train what is not done, then report; returns the exit code."""
    stop = StopRequest()
    stop.install({})  # not as one of several processes
    sweep.check()
    from vae.sweep.runner import Runner  # imports torch

    code = Runner(sweep, os.environ, stop=stop, **how).run()
    if not stop.signum:
        try:
            _report([sweep.folder])
        except InputError as error:
            print(f"no report: {error}", file=sys.stderr)
    return code


COMMANDS = {
    "components": add_components,
    "doctor": add_doctor,
    "evaluate": add_evaluate,
    "quality": add_quality,
    "report": add_report,
    "score": add_score,
    "sweep": add_sweep,
    **USES,
    **FACTORS,
}


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the arguments; raises `InputError`."""
    parser = Parser("python -m vae", description="What can be done before and after training.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, add_arguments in COMMANDS.items():
        add_arguments(commands.add_parser(name, help=add_arguments.__doc__, description=add_arguments.__doc__))
    if argv and argv[0] in commands.choices:  # by itself, so that options may stand between `key=value`s
        return commands.choices[argv[0]].parse_intermixed_args(argv[1:])
    return parser.parse_args(argv)


def _report_end(error: Exception) -> None:
    """Say what ended a command, once on each machine."""
    if speaks(os.environ):
        print(f"python -m vae: {error}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        args = parse(sys.argv[1:] if argv is None else argv)
        return args.action(args)
    except InputError as error:
        _report_end(error)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
