"""A run ends early by its validation loss: when, what it leaves, and how it goes on."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.runs import rows
from tests.helpers.starts import Job, at_a_point, launch
from vae.run.state import RunState
from vae.sweep import load
from vae.sweep.status import recorded

# 15 steps an epoch; nothing is learnt, so that no validation loss is lower than the first
SMALL = ["model.hidden_dim=16", "train.batch_size=64", "train.epochs=9", "data.val_size=100"]
FROZEN = ["optim.lr=1e-30", "optim.weight_decay=0", "objective.beta=1"]


def summary(folder: str | Path) -> dict[str, Any]:
    return json.loads(Path(folder, "summary.json").read_text())


def evaluated(folder: str | Path) -> list[float]:
    return [row["epoch"] for row in rows(Path(folder)) if row["split"] == "val"]


def test_a_run_ends_when_its_patience_does_says_so_and_goes_on_with_more(job: Job, small: Path) -> None:
    settings = [f"data.name={small}", *SMALL, *FROZEN, "run.dir=r"]
    ended = job(*settings, "train.patience=2")
    assert ended.code == 0, ended.err
    assert (
        "the validation loss has not improved for 2 epochs (train.patience = 2): the run ends here, after step 45; its "
        "best checkpoint is checkpoints/step-00000015"
    ) in ended.out
    assert evaluated("r") == [1, 2, 3]
    left = summary("r")
    assert left["stopped_early"] == {"epoch": 3, "lowest_epoch": 1, "patience": 2}
    assert (left["steps"], left["epochs"], left["best"]["epoch"]) == (45, 3, 1)
    assert Path("r/model/model.safetensors").exists()

    for patience in (2, 1):
        again = job(*settings, f"train.patience={patience}")
        assert again.code == 0
        assert "r is finished (ended early after 3 epochs, 45 steps): test loss" in again.out
        assert summary("r") == left

    longer = job(*settings, "train.patience=4")
    assert longer.code == 0, longer.err
    assert "from step 45 (train.patience: 2 -> 4)" in longer.out
    assert evaluated("r") == [1, 2, 3, 4, 5]
    assert summary("r")["stopped_early"] == {"epoch": 5, "lowest_epoch": 1, "patience": 4}
    assert job(*settings, "train.patience=0").code == 0
    assert evaluated("r") == list(range(1, 10))
    assert (summary("r")["stopped_early"], summary("r")["steps"]) == (None, 135)


def test_it_counts_once_the_schedules_of_the_objective_have_ended(job: Job, small: Path) -> None:
    settings = [f"data.name={small}", *SMALL, *FROZEN, "objective.beta={name: LinearWarmup, epochs: 3}"]
    assert job(*settings, "train.patience=2", "run.dir=r").code == 0
    assert summary("r")["stopped_early"] == {"epoch": 5, "lowest_epoch": 3, "patience": 2}


def test_a_sweeps_member_that_ended_early_is_done(job: Job, small: Path) -> None:
    plain = {key: json.loads(value) for key, value in (one.split("=") for one in [*SMALL, *FROZEN])}
    Path("s.yaml").write_text(json.dumps({"set": plain | {"data.name": str(small), "train.patience": 1}}))
    (member,) = load("s.yaml").members
    assert job(*member.overrides, f"run.dir={member.folder}").code == 0
    shutil.rmtree(member.folder / "checkpoints")
    now = recorded(member)
    assert (now.state, now.epoch) == ("done", 2)
    (more,) = load("s.yaml", ["train.patience=3"]).members
    assert more.folder == member.folder
    assert recorded(more).state == "interrupted"


def test_stopped_and_continued_on_two_processes_it_ends_where_the_undisturbed_run_does(
    tmp_path: Path, small: Path
) -> None:
    """Real steps, too long ones, with averaged weights: the validation loss rises now and then."""
    settings = [f"data.name={small}", *SMALL, "optim.lr=0.1", "optim.ema=0.5", "objective.beta=1", "train.patience=1"]
    folders = [tmp_path / "whole", tmp_path / "cut"]
    assert launch(2, *settings, f"run.dir={folders[0]}").code == 0
    assert at_a_point("SIGTERM", "step", 20, "1", 2, *settings, f"run.dir={folders[1]}").code == 85
    assert launch(2, *settings, f"run.dir={folders[1]}").code == 0
    whole, cut = (summary(folder)["stopped_early"] for folder in folders)
    assert whole == cut
    assert whole["epoch"] == whole["lowest_epoch"] + 1 > 2
    assert rows(folders[0], timeless=True) == rows(folders[1], timeless=True)
    for name in ("model/model.safetensors", "model/raw/model.safetensors"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_waiting_is_counted_from_the_lowest_loss_and_judged_where_it_was_evaluated() -> None:
    state = RunState(step=10)
    nan = math.nan
    for epoch, (loss, waited) in enumerate([(nan, 0), (5.0, 0), (6.0, 1), (4.0, 0), (nan, 1), (4.0, 2)], start=1):
        state.note_test({})
        state.note_settled(loss, epoch)
        assert state.waited == waited
    assert state.lowest == {"val_loss": 4.0, "epoch": 4}
    assert [state.is_out_of_patience(patience) for patience in (0, 1, 2, 3)] == [False, True, True, False]
    state.step += 1
    assert not state.is_out_of_patience(1), "between two evaluations nothing is judged"


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            ["train.patience=3"],
            "train.patience = 3: ends a run by its validation loss, and data.val_size = 0 holds out nothing; set "
            "data.val_size=100, or patience=0",
        ),
        (
            ["train.patience=3", "data.val_size=100", "train.eval_every=0"],
            "train.patience = 3: ends a run by its evaluations, and train.eval_every = 0 makes one at the end alone; "
            "set train.eval_every=1, or patience=0",
        ),
        (["train.patience=-1"], "train.patience = -1: must be greater than or equal to 0"),
    ],
)
def test_without_a_validation_loss_it_is_refused(job: Job, small: Path, settings: list[str], line: str) -> None:
    for words in ([], ["--dry-run"]):
        refused = job(*words, f"data.name={small}", "run.dir=r", *settings)
        assert refused.code == 2
        assert refused.line == f"train_ddp.py: {line}"
        assert not list(Path().iterdir())
