"""Check whether a run would work here: takes what train_ddp.py takes, alone or under any launcher."""

import argparse
import os
import time

from vae.commands.parsing import add_configuration, configuration_of
from vae.commands.printing import write_line
from vae.config import Config
from vae.distributed import ending, slurm
from vae.distributed.signals import stopped_by_sigterm

SECONDS_FOR_RANK_0 = 5  # to finish its report, before a launcher ends it because another process has ended


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a configuration."""
    add_configuration(parser, "of train_ddp.py --help")


def run(args: argparse.Namespace) -> int:
    """Print each finding, on one of the processes; the exit code is the same on all: 1 if there is a failure."""
    os.environ.update(slurm.process_environment(os.environ))  # before torch is imported
    config = configuration_of(args, os.environ)
    with stopped_by_sigterm():
        return _examine(args, config)


def _examine(args: argparse.Namespace, config: Config) -> int:
    from vae.doctor.examination import examine, summary  # imports torch
    from vae.doctor.findings import Context

    findings, context = [], Context(config, args.config, os.environ)
    for finding in examine(context):
        findings.append(finding)
        also_speaks = {"main": False, "machine": ending.speaks(os.environ), "rank": True}
        if context.rank == 0 or also_speaks[finding.speaker]:
            write_line(finding)
    if context.rank == 0:
        write_line(summary(findings))
    if any(finding.parts_ranks for finding in findings):
        time.sleep(SECONDS_FOR_RANK_0 if context.rank else 0)
        ending.abandon(None)  # to leave the process group would be to wait for the others
    if context.accelerator:
        context.accelerator.wait_for_everyone()  # a launcher may end all processes when one has an exit code
    return ending.FAILED if any(finding.level == "failure" for finding in findings) else ending.DONE
