"""Which worker of the test run begins with which tests, so that all of them have work until the end.

    python -m tests.helpers.balance JUNIT.xml       # after `pytest --junitxml=JUNIT.xml`: keep what each file took

pytest-xdist's `worksteal` deals the tests out in equal numbers, in order, and lets who has none left take from the end
of another's. So each worker gets whole files of slow tests first, as many seconds as the others, and quick tests last.
Files stay whole because their tests share fixtures that take long to make.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

KEPT = Path(__file__).with_name("durations.json")  # seconds of each file
SLOW = 0.3  # seconds of a file's average test
NEW = 1.0  # seconds of a file that the table does not know


def spread(items: Sequence[pytest.Item], workers: int) -> list[pytest.Item]:
    """Return the tests in the order in which `workers` workers share them best."""
    files: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        files[name_of(item.path)].append(item)
    seconds = _kept()
    slow = {name: seconds.get(name, NEW) for name in files if seconds.get(name, NEW) > SLOW * len(files[name])}
    quick = [item for name, tests in files.items() if name not in slow for item in tests]
    shares = [[item for name in names for item in files[name]] for names in deal(slow, workers)]
    ordered: list[pytest.Item] = []
    for place, share in enumerate(sorted(shares, key=len, reverse=True)):
        missing = (len(items) - len(ordered)) // (workers - place) - len(share)
        ordered += [*share, *quick[: max(0, missing)]]
        del quick[: max(0, missing)]
    return ordered + quick


def deal(seconds: Mapping[str, float], workers: int) -> list[list[str]]:
    """Return the files of each worker: the longest first, each to whoever has least so far."""
    shares: list[list[str]] = [[] for _ in range(workers)]
    for name in sorted(seconds, key=lambda name: -seconds[name]):
        min(shares, key=lambda share: sum(seconds[each] for each in share)).append(name)
    return shares


def name_of(path: Path) -> str:
    """Return a test file's name in the table."""
    return path.relative_to(KEPT.parent.parent).as_posix()


def _kept() -> dict[str, float]:
    return json.loads(KEPT.read_text())


def keep(junit: Path) -> None:
    """Write the table anew."""
    found: dict[str, float] = defaultdict(float)
    for case in ElementTree.parse(junit).iter("testcase"):
        parts = case.attrib["classname"].split(".")[1:]  # without `tests`
        found["/".join(parts) + ".py"] += float(case.attrib["time"])
    KEPT.write_text(json.dumps({name: round(found[name]) for name in sorted(found)}, indent=1) + "\n")


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
