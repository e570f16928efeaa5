"""The job under the fake runtime, counted where training could wait: `waits.py FILE ARGUMENT...` leaves FILE.RANK.json.

For each call of the functions in `COUNTED` the file has the launches, read-backs, pageable copies and violations
meanwhile: of the main thread, while the one that writes checkpoints goes on.
"""

import atexit
import json
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cuda import counters, job
from vae.evaluation import HeldOut
from vae.training.recording import Recorder
from vae.training.saving import Saver

COUNTED: list[tuple[Any, str]] = [
    (Saver, "save"),
    (Saver, "keep_best"),
    (HeldOut, "evaluate"),
    (Recorder, "report_evaluation"),
    (Recorder, "report_training"),
]
seen: dict[str, list[dict[str, Any]]] = {}


def counted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose calls are counted."""
    calls = seen.setdefault(function.__name__, [])

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with counters.between() as between:
            answer = function(*args, **kwargs)
        calls.append(
            {
                "launched": between.launched,
                "readbacks": sum(between.readbacks.values()),
                "pageable": between.pageable,
                "copies": between.copies,
                "violations": between.violations,
            }
        )
        return answer

    return wrapped


if __name__ == "__main__":
    file, *arguments = sys.argv[1:]
    job.silence()
    for place, name in COUNTED:
        setattr(place, name, counted(getattr(place, name)))
    atexit.register(lambda: Path(f"{file}.{os.environ.get('RANK', 0)}.json").write_text(json.dumps(seen)))
    sys.argv = [str(job.ROOT / "train_ddp.py"), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")
