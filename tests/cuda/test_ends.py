"""Ends of a job on fake devices other than its own: a signal in a replay, a dead rank, a full disk; a real torchrun."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cuda import build, counters
from tests.cuda.forks import AT_A_POINT, JOB, Fake, Running, broken
from tests.helpers.disks import fill, mounted
from tests.helpers.starts import TORCHRUN, arguments, machine_seconds, run
from vae.distributed.ending import REQUEUE_ME
from vae.run import checkpoint

SECONDS_TO_NOTICE = 30.0  # that a rank is dead; train.timeout is 600
SMALL = ["model.hidden_dim=32", "train.batch_size=32", "train.log_every=32", "train.checkpoint_every=epoch"]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_job_that_is_stopped_in_a_replay_saves_and_goes_on(
    fake: Fake, tmp_path: Path, small: Path, processes: int
) -> None:
    """SIGTERM reaches the last rank alone; with several, all stop at the same step.

    Steps that are left take milliseconds: there are many of them, so that the thread that notes signals gets its turn.
    """
    folder = tmp_path / "run"
    settings = [f"data.name={small}", *SMALL, "train.engine=graph", f"run.dir={folder}"]
    words = ["SIGTERM", "replay", 9, processes - 1, *arguments("train.device=cuda", *settings, "train.epochs=1000")]
    stopped = fake.run(processes, AT_A_POINT, *words).succeeded(REQUEUE_ME)
    assert "at the point" in stopped.err
    newest, _ = checkpoint.newest_valid(folder / "checkpoints")
    assert newest is not None
    step = int(newest.name.removeprefix("step-"))
    assert step > 0
    done = fake.job(processes, *settings, "train.epochs=1000", f"train.max_steps={step + 60}").succeeded()
    assert f"from step {step:,}" in done.out
    assert json.loads((folder / "summary.json").read_text())["steps"] == step + 60


def test_the_others_end_soon_after_a_rank_has_died(fake: Fake, tmp_path: Path, small: Path) -> None:
    """Rank 1 of three is killed in a replay; the others wait for it in NCCL, which raises nothing."""
    settings = [f"data.name={small}", *SMALL, "train.engine=graph", "train.epochs=9", f"run.dir={tmp_path / 'run'}"]
    words = ["SIGKILL", "replay", 60, 1, *arguments("train.device=cuda", *settings)]
    job = fake.start(3, AT_A_POINT, *words)
    job.programs[1].process.wait(600)
    died_at = machine_seconds()
    done = job.wait(patience=SECONDS_TO_NOTICE)
    assert machine_seconds() < died_at + SECONDS_TO_NOTICE
    assert done.outcome.codes == (1, -signal.SIGKILL, 1), done.err
    named = [line for line in done.err.splitlines() if line.startswith("train_ddp.py: ")]
    assert len(named) == 1, done.err
    assert "rank 1 (" in named[0]
    assert all(counters.violations_of(report) == [] for report in done.reports)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    yield from mounted(tmp_path / "disk")


def test_a_disk_that_fills_while_two_devices_train_costs_checkpoints_and_no_step(
    fake: Fake, disk: Path, small: Path
) -> None:
    folder = disk / "run"
    settings = [f"data.name={small}", *SMALL, "train.engine=graph", "train.epochs=40", f"run.dir={folder}"]
    job = fake.start(2, JOB, *arguments("train.device=cuda", *settings))
    job.programs[0].wait_until(lambda: list(folder.glob("checkpoints/step-*")))
    filler = fill(disk)
    job.programs[0].wait_until(lambda: errors(job).count("not saved") >= 1)
    filler.unlink()
    done = job.wait().succeeded()
    assert "No space left on device" in done.err
    assert checkpoint.newest_valid(folder / "checkpoints") == (folder / "checkpoints" / "step-00001280", [])


def errors(job: Running) -> str:
    return "".join(program.err for program in job.programs)


def test_a_real_torchrun_starts_a_rank_on_each_device(tmp_path: Path, small: Path) -> None:
    """Nothing is forked, and the engine is the one that `auto` takes."""
    if reason := build.why_not():
        pytest.skip(reason)
    settings = [f"data.name={small}", *SMALL, "train.max_steps=40", f"run.dir={tmp_path / 'run'}"]
    report = tmp_path / "report"
    variables = build.environment(2, report)
    done = run(*TORCHRUN, 2, JOB, *arguments(*settings), real=True, env=variables)
    reports = counters.reports(report)
    assert done.code == 0, done.err
    assert [one["touched"] for one in reports] == [[0], [1]]
    assert broken(reports) == []
    assert "2 processes on cuda" in done.out
    assert "engine graph (auto: " in done.out
