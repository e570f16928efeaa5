"""The job on ranks of which one gets little memory from its first step on: `short_of_memory.py RANK ARGUMENT...`."""

import os
import resource
import runpy
import sys
from pathlib import Path

from tests.helpers import ROOT
from vae.engine.eager import Eager

MORE = 2**26  # bytes


def advance_with_little(self: Eager, step: int, until: int) -> int:
    """Make an update, having set the limit."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MORE, resource.RLIM_INFINITY))
    return advance(self, step, until)


if __name__ == "__main__":
    rank, *arguments = sys.argv[1:]
    advance = Eager.advance
    if os.environ.get("RANK", "0") == rank:
        Eager.advance = advance_with_little
    sys.argv = [str(ROOT / "train_ddp.py"), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")
