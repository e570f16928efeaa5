"""The workers of a test run share its tests: each exactly once, slow files whole and first, nobody much longer."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.helpers import balance
from tests.helpers.balance import deal, spread

TESTS = Path(balance.__file__).parent.parent
SECONDS = {"a.py": 90.0, "b.py": 70.0, "c.py": 60.0, "d.py": 40.0, "e.py": 5.0, "f.py": 1.0}
COUNTS = {"a.py": 3, "b.py": 20, "c.py": 10, "d.py": 7, "e.py": 100, "f.py": 50}


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_every_test_is_dealt_once_and_slow_files_come_whole_and_first(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(balance, "_kept", lambda: SECONDS)
    items: list[Any] = [
        SimpleNamespace(path=TESTS / name, number=number) for name, count in COUNTS.items() for number in range(count)
    ]
    ordered = spread(items, workers)
    assert sorted(map(id, ordered)) == sorted(map(id, items))
    share = len(items) // workers
    for place in range(workers):  # as xdist cuts them
        names = [item.path.name for item in ordered[place * share : (place + 1) * share]]
        quick = [name in ("e.py", "f.py") for name in names]
        assert quick == sorted(quick), "quick ones are last, to be taken by whoever is idle"
        for name in set(names) - {"e.py", "f.py"}:
            assert names.count(name) == COUNTS[name]


def test_the_longest_files_are_dealt_first_to_who_has_least() -> None:
    assert deal(SECONDS, 2) == [["a.py", "d.py", "e.py"], ["b.py", "c.py", "f.py"]]
    assert deal(SECONDS, 1) == [list(SECONDS)]


def test_the_table_knows_the_files_that_there_are() -> None:
    there = {balance.name_of(path) for path in TESTS.rglob("test_*.py")}
    assert balance._kept().keys() <= there
    assert len(there - balance._kept().keys()) < 5, "python -m tests.helpers.balance makes the table anew"
