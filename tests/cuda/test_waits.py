"""The waits of training for what goes on beside it: none for a checkpoint, one for a log line or an evaluation."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cuda.forks import Fake
from tests.helpers import ROOT
from tests.helpers.starts import arguments

JOB, EVALUATIONS = (ROOT / "tests/cuda/programs" / name for name in ("waits.py", "evaluations.py"))
LAUNCHES_OF_AN_EVALUATION = 120


@pytest.mark.parametrize("processes", [1, 2])
def test_training_waits_for_no_checkpoint_and_twice_for_an_evaluation(
    fake: Fake, tmp_path: Path, processes: int
) -> None:
    """Two epochs of MNIST in bf16, captured, each with 10,000 images evaluated twice and a checkpoint."""
    settings = ["train.device=cuda", "train.epochs=2", "train.precision=bf16", "data.val_size=10000"]
    settings += ["train.checkpoint_every=epoch", f"run.dir={tmp_path / 'run'}"]
    fake.run(processes, JOB, tmp_path / "seen", *arguments(*settings)).succeeded()
    assert len(list((tmp_path / "run/checkpoints").iterdir())) == 2
    for rank in range(processes):
        calls: dict[str, list[dict[str, Any]]] = json.loads((tmp_path / f"seen.{rank}.json").read_text())
        assert len(calls["save"]) == len(calls["report_evaluation"]) == 2
        assert len(calls["evaluate"]) == 4
        for call in [*calls["save"], *calls["keep_best"]]:
            assert (call["readbacks"], call["pageable"], call["violations"]) == (0, {}, [])
        if rank == 0:
            assert any(call["copies"].get("device to pinned", 0) > 36 for call in calls["save"]), "weights and moments"
        # the first call brings the images to the device
        for call in calls["evaluate"][2:]:
            assert call["launched"] <= LAUNCHES_OF_AN_EVALUATION
            assert call["readbacks"] == 1
            assert call["pageable"].keys() <= {"device to pageable"}
        for call in calls["report_evaluation"][1:]:
            assert call["readbacks"] == 3, "for faults, and for the numbers of the test and of the validation set"
        for call in calls["report_training"]:
            assert call["readbacks"] == 1


def test_an_evaluation_of_any_piece_reads_the_device_once_and_its_pictures_never(fake: Fake, tmp_path: Path) -> None:
    fake.run(1, EVALUATIONS, tmp_path / "seen.json").succeeded()
    found: dict[str, dict[str, Any]] = json.loads((tmp_path / "seen.json").read_text())
    assert len(found) > 40
    expected = {"evaluation": 1, "waits": 1, "pictures": {}, "pageable": [], "violations": []}
    assert {name: row for name, row in found.items() if row != expected} == {}
