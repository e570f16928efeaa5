"""Steps as Inductor compiles them for CUDA: as few launches as the budget allows, on one device and on two."""

import json
from pathlib import Path

from tests.cuda.forks import Fake
from tests.helpers import ROOT

PROGRAM = ROOT / "tests/cuda/programs/budget.py"
# nodes of a step of the default net at batch 128; each costs 1.5 to 2 us on the device, and 1 M images/s are 128 us
BUDGET = {"bf16": 55, "fp32": 60, "fp32, conditional": 60}
# one process compiles: a pool of them would import torch in each
COMPILING = {"FAKE_CUDA_COMPILE": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}


def test_a_compiled_step_has_no_more_nodes_than_its_budget(fake: Fake, tmp_path: Path) -> None:
    fake.run(1, PROGRAM, tmp_path / "seen.json", env=COMPILING).succeeded()
    found = json.loads((tmp_path / "seen.json").read_text())
    assert {name: (row["engine"], row["why"]) for name, row in found.items()} == dict.fromkeys(
        BUDGET, ("graph", "as asked for")
    )
    nodes = {name: len(row["nodes"]) for name, row in found.items()}
    assert all(nodes[name] <= BUDGET[name] for name in BUDGET), nodes
    assert all(any("triton" in node for node in row["nodes"]) for row in found.values()), "what Inductor compiles"


def test_on_two_devices_a_step_is_two_graphs_and_a_collective(fake: Fake, tmp_path: Path) -> None:
    """Each device has 128 images, so that what one process has compiled serves here."""
    steps = 40
    settings = ["train.engine=graph", "train.precision=bf16", "train.batch_size=256", f"train.max_steps={steps}"]
    done = fake.job(2, *settings, f"run.dir={tmp_path / 'run'}", env=COMPILING).succeeded()
    assert "engine graph (as asked for)" in done.out
    for report in done.reports:
        assert [graph["replays"] for graph in report["graphs"]] == [steps, steps]
        assert sum(len(graph["nodes"]) for graph in report["graphs"]) <= BUDGET["bf16"]
        assert report["launches"]["graphs"] == 2 * steps
