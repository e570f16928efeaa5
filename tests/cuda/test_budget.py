"""Steps as Inductor compiles them for CUDA: as few launches as the budget allows."""

import json
from pathlib import Path

from tests.cuda.forks import Fake
from tests.helpers import ROOT

PROGRAM = ROOT / "tests/cuda/programs/budget.py"
# nodes of a step of the default net at batch 128; each costs 1.5 to 2 us on the device, and 1 M images/s are 128 us
BUDGET = {"bf16": 50, "fp32, conditional, averaged": 51}  # 46 and 45 + 3 with torch 2.11 and 2.14


def test_a_compiled_step_has_no_more_nodes_than_its_budget(fake: Fake, tmp_path: Path) -> None:
    fake.run(1, PROGRAM, tmp_path / "seen.json", env={"FAKE_CUDA_COMPILE": "1"}).succeeded()
    found = json.loads((tmp_path / "seen.json").read_text())
    assert {name: (row["engine"], row["why"]) for name, row in found.items()} == dict.fromkeys(
        BUDGET, ("graph", "as asked for")
    )
    nodes = {name: len(row["nodes"]) for name, row in found.items()}
    assert all(nodes[name] <= BUDGET[name] for name in BUDGET), nodes
    assert all(any("triton" in node for node in row["nodes"]) for row in found.values()), "what Inductor compiles"
