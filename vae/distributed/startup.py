"""The first steps of a training program, before anything heavy is imported.

Standard library only: torch takes seconds to import, and a signal may come meanwhile.
"""

import gc
import os
from collections.abc import MutableMapping

from vae.distributed import slurm
from vae.distributed.signals import StopRequest


def begin(environment: MutableMapping[str, str], stop: StopRequest) -> None:
    """Take a task's place among others from SLURM, take over the signals, and let nobody else write what is made.

    Args:
        environment: `os.environ`; in a SLURM step of several tasks it gets a process group's variables.
        stop: notes signals from now on.

    Raises:
        InputError: a variable of SLURM's cannot be used.
    """
    environment.update(slurm.process_environment(environment))
    stop.install(environment)
    os.umask(os.umask(0) | 0o002)


def pause_collector() -> None:
    """Stop the garbage collector while modules are imported: it would look through all of them again and again.

    (A fifth of the processor time to the first step, for next to no garbage.)
    """
    gc.disable()


def resume_collector() -> None:
    """Start the garbage collector again; what has been imported is never looked through any more."""
    gc.freeze()
    gc.enable()
