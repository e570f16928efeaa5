"""The job, until a signal reaches this process at a given point: `at_a_point.py SIGNAL POINT COUNT RANK ARGUMENT...`.

Run by tests in place of train_ddp.py. The signal comes just before the COUNT-th pass through POINT, on RANK alone (or
on `all`). Everything else is the job as it is.
"""

import os
import runpy
import signal
import sys
from collections.abc import Callable
from typing import Any

import vae.evaluation.passes
import vae.figures
import vae.run.checkpoint
from tests.helpers import ROOT
from vae.engine.eager import Eager

POINTS: dict[str, tuple[Any, str]] = {
    "step": (Eager, "step"),
    "evaluation": (vae.evaluation.passes, "to_unit_interval"),  # once for each chunk
    "checkpoint": (
        vae.run.checkpoint,
        "sync",
    ),  # each file of a checkpoint, its folder, after the rename the folder above
    "figures": (vae.figures, "samples"),
}

REACHED = "at the point"  # starts.py looks for it


def interrupted(function: Callable[..., Any], signum: int, count: int) -> Callable[..., Any]:
    passes = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal passes
        passes += 1
        if passes == count:
            print(REACHED, file=sys.stderr, flush=True)
            os.kill(os.getpid(), signum)
        return function(*args, **kwargs)

    return wrapped


def main() -> None:
    """Run the job, interrupted as the command line says."""
    name, point, count, rank, *arguments = sys.argv[1:]
    if rank in ("all", os.environ.get("RANK", "0")):
        place, attribute = POINTS[point]
        setattr(place, attribute, interrupted(getattr(place, attribute), signal.Signals[name], int(count)))
    script = ROOT / "train_ddp.py"
    sys.argv = [str(script), *arguments]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
