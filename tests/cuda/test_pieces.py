"""Steps of every piece of every table on fake devices: nothing is read back, copied or allocated that should not be."""

import json
from pathlib import Path

import pytest

from tests.cuda.forks import Fake
from tests.helpers import ROOT

PROGRAM = ROOT / "tests/cuda/programs/pieces.py"


@pytest.mark.parametrize("processes", [1, 2])
def test_no_piece_waits_for_the_device_or_breaks_a_rule_in_a_step(fake: Fake, tmp_path: Path, processes: int) -> None:
    """Between two logging points, eager and captured; on two devices the ranks do the same."""
    done = fake.run(processes, PROGRAM, tmp_path)
    done.succeeded()
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(processes)]
    for rows in ranks:
        for row in rows:
            case = f"{row['name']} {row['asked']}"
            assert "problem" not in row, case
            assert row["engine"] == (row["wanted"] if row["asked"] == "auto" else "eager"), (case, row["why"])
            assert row["violations"] == [], case
            assert row["pageable"] == {}, case
            assert row["readbacks"] == {} or (processes > 1 and row["engine"] == "eager"), case
    assert {row["engine"] for row in ranks[0]} == {"eager", "graph"}
