"""`python -m vae evaluate RUN --samples=9 --batch=9`, killed on each rank as soon as it has written an image.

python tests/helpers/programs/crash_in_evaluation.py RUN
"""

import os
import signal
import sys

from vae.__main__ import main
from vae.evaluation.log_likelihood import unfinished
from vae.evaluation.log_likelihood.unfinished import UnfinishedEvaluation

write = UnfinishedEvaluation.write


def write_and_die(self: UnfinishedEvaluation) -> None:
    """Write, and end this process as a crash would."""
    write(self)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    unfinished.SECONDS = 0.0
    UnfinishedEvaluation.write = write_and_die
    sys.exit(main(["evaluate", sys.argv[1], "--samples=9", "--batch=9", "--device=cpu"]))
