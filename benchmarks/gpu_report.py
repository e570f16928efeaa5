"""Between `gpu_check.py` and the process of a part: numbers as lines of JSON, and the reason for not measuring any."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOT_RUN = 3  # a part's exit code: it cannot be run here; the last line on stderr says why


class NotRun(Exception):  # noqa: N818
    """A part, or the rest of it, cannot be run here; the message is the reason, in a few words."""


@dataclass(frozen=True)
class Report:
    """A file for the numbers of a part, each as soon as it is known: a part that is stopped leaves those it has.

    Attributes:
        file: gets a line for each.
        quick: whether the part is to be as small as it can be; its numbers mean nothing then.
    """

    file: Path
    quick: bool

    def __call__(self, key: str, *values: float, **details: Any) -> None:
        """Note the values of a line, by its key, and what else is to be in the JSON."""
        with self.file.open("a") as file:
            file.write(json.dumps({"key": key, "values": values, **details}) + "\n")


def read(file: Path) -> dict[str, dict[str, Any]]:
    """Return the numbers that a part has reported, by the key of a line."""
    if not file.exists():
        return {}
    return {one.pop("key"): one for one in map(json.loads, file.read_text().splitlines())}
