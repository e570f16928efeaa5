"""The laws that programs under the fake runtime are held to, each broken in a report; forks end as programs do."""

from typing import Any

import pytest

from tests.cuda.forks import Fake, broken


def report(rank: int | None, **changes: Any) -> dict[str, Any]:
    """Return the report of a rank that has kept the laws, with some changes."""
    graph = {"nodes": [0, 1], "collectives": 0, "replays": 3, "alive": False}
    entries = {
        "rank": rank,
        "touched": [rank or 0],
        "violations": [],
        "graphs": [graph],
        "names_of_nodes": ["kernel a", "product b"],
        "communicators": {"of this run": [["ncclAllReduce", 3]]},
    }
    return entries | changes


def test_reports_of_a_lawful_program_are_those_of_no_fault() -> None:
    assert broken([]) == broken([report(None)]) == broken([report(0), report(1), report(2)]) == []


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"violations": [{"what": "a wait in a step", "where": "x.py:3"}]}, "rank 1: a wait in a step at x.py:3"),
        ({"touched": [0, 1]}, "rank 1: devices [0, 1] touched"),
        (
            {"graphs": [{"nodes": [0, 1], "collectives": 1, "replays": 3, "alive": False}]},
            "rank 1: a collective inside a graph",
        ),
        ({"graphs": []}, "the ranks have unlike graphs (nodes, replays): [[(2, 3)], []]"),
        ({"communicators": {"x": [["ncclBroadcast", 3]]}}, "the ranks' collectives differ: "),
    ],
)
def test_each_law_that_a_rank_breaks_is_found(changes: dict[str, Any], found: str) -> None:
    faults = broken([report(0), report(1, **changes)])
    assert len(faults) == 1
    assert faults[0].startswith(found)


def test_a_fork_has_its_devices_words_and_exit_code(fake: Fake) -> None:
    """As many devices as ranks, though the server has asked for none; one that fails ends the wait for the others."""
    code = "import os, sys, torch; print(torch.cuda.device_count(), sys.argv[1:]); sys.exit(int(os.environ['RANK']))"
    done = fake.run(3, "-c", code, "a")
    assert done.outcome.codes == (0, 1, 2)
    assert done.out == "3 ['a']\n" * 3
    assert done.reports == []
