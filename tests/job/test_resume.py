"""Cut off anywhere and started again, a run ends as if it had never been disturbed."""

import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.runs import largest_difference, rows, scalars
from tests.helpers.starts import JOB, TORCHRUN, Program, arguments, at_a_point, launch
from vae.run import checkpoint

# 16 steps an epoch; logging, checkpoints and evaluations fall on different steps
SMALL = ["model.hidden_dim=32", "train.batch_size=64", "train.epochs=9"]
OFTEN = ["train.log_every=5", "train.checkpoint_every=7"]


def assert_same_run(a: Path, b: Path) -> None:
    """Weights, optimizer state and every logged number are bitwise the same, each line and step once."""
    for place in ("model", "checkpoints/step-00000144"):
        files = [path.relative_to(a) for path in (a / place).rglob("model.safetensors")]  # raw weights among them
        assert files
        for file in files:
            assert (a / file).read_bytes() == (b / file).read_bytes()
    states = [checkpoint.load_state(folder / "checkpoints" / "step-00000144") for folder in (a, b)]
    first, second = ([*state["engine"]["optimizer"].values()] for state in states)
    for one, other in zip(first, second, strict=True):
        assert all(one[key].equal(other[key]) for key in ("step", "exp_avg", "exp_avg_sq"))
    assert rows(a, timeless=True) == rows(b, timeless=True)
    assert scalars(a) == scalars(b)


def attempts(processes: int) -> Sequence[tuple[str, int, str]]:
    """Return where, after how many passes and on which rank each start is killed; random, and the same every time."""
    rng = random.Random(processes)
    last = str(processes - 1)
    return [
        ("step", rng.randint(8, 20), "0"),
        ("checkpoint", rng.randint(7, 13), "0"),  # in the second checkpoint of this start: six calls for each
        ("evaluation", rng.randint(1, 2), last),
        ("step", rng.randint(8, 30), last if processes > 1 else "all"),
        ("checkpoint", rng.randint(1, 6), "all"),
    ]


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_random_points_again_and_again_it_is_bitwise_the_undisturbed_run(
    processes: int, tmp_path: Path, small: Path
) -> None:
    settings = [f"data.name={small}", *SMALL, *OFTEN, "train.timeout=5"]
    settings += ["optim.ema=0.9"] if processes > 1 else []
    undisturbed = launch(processes, *settings, f"run.dir={tmp_path / 'whole'}")
    assert undisturbed.code == 0, undisturbed.err
    for point, count, rank in attempts(processes):
        killed = at_a_point("SIGKILL", point, count, rank, processes, *settings, f"run.dir={tmp_path / 'killed'}")
        assert killed.code != 0, (point, count, rank, killed.out)
        assert not (tmp_path / "killed" / "summary.json").exists(), "it had already finished"
    resumed = launch(processes, *settings, f"run.dir={tmp_path / 'killed'}")
    assert resumed.code == 0, resumed.err
    starts = [json.loads(line)["step"] for line in (tmp_path / "killed" / "starts.jsonl").read_text().splitlines()]
    assert starts == sorted(starts)
    assert starts[-1] > 0
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def kill_after_checkpoint(processes: int, folder: Path, step: int, settings: list[Any]) -> None:
    """Start the job and kill -9 all of it, launcher included, when it has saved `step` or a later one."""
    running = Program(*TORCHRUN, processes, JOB, *arguments(*settings, f"run.dir={folder}"), real=True)
    running.wait_until(lambda: any(path.name >= checkpoint.name_of(step) for path in folder.glob("checkpoints/step-*")))
    time.sleep(0.05)
    running.kill_all()
    assert not (folder / "summary.json").exists(), "it had already finished"


def test_killed_with_its_launcher_in_mid_epoch_it_is_bitwise_the_undisturbed_run(tmp_path: Path) -> None:
    processes = 2
    settings = ["train.max_steps=600", "train.log_every=30", "train.checkpoint_every=70", "model.hidden_dim=128"]
    undisturbed = launch(processes, *settings, f"run.dir={tmp_path / 'whole'}")
    assert undisturbed.code == 0, undisturbed.err
    kill_after_checkpoint(processes, tmp_path / "killed", 140, settings)
    resumed = launch(processes, *settings, f"run.dir={tmp_path / 'killed'}")
    assert resumed.code == 0, resumed.err
    assert "from step" in resumed.out

    files = [tmp_path / name / "model" / "model.safetensors" for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert rows(tmp_path / "whole", timeless=True) == rows(tmp_path / "killed", timeless=True)
    assert scalars(tmp_path / "whole") == scalars(tmp_path / "killed")


def test_resumed_on_another_number_of_processes_continues_the_same_run(tmp_path: Path) -> None:
    settings = ["train.log_every=40", "model.hidden_dim=64", "train.precision=fp64"]
    for processes, steps in ((2, 40), (1, 80), (3, 120)):
        done = launch(processes, *settings, f"train.max_steps={steps}", f"run.dir={tmp_path / 'moved'}")
        assert done.code == 0, done.err
    assert launch(1, *settings, "train.max_steps=120", f"run.dir={tmp_path / 'whole'}").code == 0
    assert largest_difference(tmp_path / "moved", tmp_path / "whole") < 1e-12
    logged = {row["step"]: row["loss"] for row in rows(tmp_path / "moved") if row["split"] == "train"}
    whole = {row["step"]: row["loss"] for row in rows(tmp_path / "whole") if row["split"] == "train"}
    assert logged[120] == pytest.approx(whole[120], rel=1e-10)
