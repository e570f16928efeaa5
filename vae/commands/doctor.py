"""Check whether a run would work here: takes what train_ddp.py takes, alone or under any launcher."""

import argparse
import os
import time

from vae.commands.parsing import add_configuration, configuration_of
from vae.distributed import ending, slurm

SECONDS_FOR_RANK_0 = 5  # to finish its report, before a launcher ends it because another process has ended


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a configuration."""
    add_configuration(parser, "of train_ddp.py --help")


def run(args: argparse.Namespace) -> int:
    """Print each finding, on one of the processes; the exit code is the same on all: 1 if there is a failure."""
    os.environ.update(slurm.process_environment(os.environ))  # before torch is imported
    config = configuration_of(args, os.environ)
    from vae.doctor.examination import examine, summary  # imports torch
    from vae.doctor.findings import Context

    findings, context = [], Context(config, args.config, os.environ)
    for finding in examine(context):
        findings.append(finding)
        also_speaks = {"main": False, "machine": ending.speaks(os.environ), "rank": True}
        if context.rank == 0 or also_speaks[finding.speaker]:
            print(finding)
    if context.rank == 0:
        print(summary(findings))
    if any(finding.parts_ranks for finding in findings):
        time.sleep(SECONDS_FOR_RANK_0 if context.rank else 0)
        ending.abandon(None)  # to leave the process group would be to wait for the others
    if context.accelerator:
        context.accelerator.wait_for_everyone()  # a launcher may end all processes when one has an exit code
    return ending.FAILED if any(finding.level == "failure" for finding in findings) else ending.DONE
