"""A disk that is full, read-only or too small while a run goes on: warnings, nothing lost, and an honest exit code."""

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.disks import fill, mounted
from tests.helpers.runs import rows, scalars
from tests.helpers.starts import JOB, Program, arguments, launch, ranks, together
from vae.distributed.signals import StopRequest
from vae.errors import InputError
from vae.run import checkpoint
from vae.sweep import load as load_sweep
from vae.sweep.runner import Runner
from vae.sweep.status import status

# sixty epochs of 16 steps, a checkpoint each that the disk is fast enough for; 0.7 MB of weights and moments in each
SETTINGS = ["model.hidden_dim=32", "train.batch_size=64", "train.log_every=4", "train.epochs=60", "train.eval_every=9"]
SETTINGS += ["train.checkpoint_every=epoch"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    yield from mounted(tmp_path / "disk")


class Job:
    """A job in the background, on one rank or several."""

    def __init__(self, processes: int, *settings: str, limit: int = resource.RLIM_INFINITY):
        words = [JOB, *arguments(*SETTINGS, *settings)]
        self.ranks = [Program(*words, env=env, largest_file=limit) for env in ranks(processes)]

    @property
    def err(self) -> str:
        return "".join(rank.err for rank in self.ranks)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        self.ranks[0].wait_until(condition)

    def end(self) -> int:
        return together(self.ranks).code


@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk_makes_warnings_and_once_there_is_room_nothing_is_missing(
    disk: Path, small: Path, tmp_path: Path, processes: int
) -> None:
    whole = launch(processes, *SETTINGS, f"data.name={small}", f"run.dir={tmp_path / 'whole'}")
    assert whole.code == 0, whole.err
    job, folder = Job(processes, f"data.name={small}", f"run.dir={disk / 'run'}"), disk / "run"
    job.wait_until(lambda: len(list(folder.glob("checkpoints/step-*"))) == 2)
    filler = fill(disk)
    job.wait_until(lambda: "No space left on device" in job.err and job.err.count("not saved") >= 2)
    newest, _ = checkpoint.newest_valid(folder / "checkpoints")
    assert newest is not None, "the older checkpoints stay"
    filler.unlink()
    assert job.end() == 0, job.err
    assert "the older ones stay; trying again at the next interval" in job.err
    assert checkpoint.newest_valid(folder / "checkpoints") == (folder / "checkpoints" / "step-00000960", [])
    assert rows(folder, timeless=True) == rows(tmp_path / "whole", timeless=True)
    assert scalars(folder) == scalars(tmp_path / "whole")


def test_a_disk_that_stays_read_only_ends_the_run_with_an_error_and_the_old_checkpoint(disk: Path, small: Path) -> None:
    job, folder = Job(2, f"data.name={small}", f"run.dir={disk / 'run'}"), disk / "run"
    job.wait_until(lambda: len(list(folder.glob("checkpoints/step-*"))) == 2)
    # open files may still be written to after a lazy change: bind the folder read-only over itself
    subprocess.run(["mount", "--bind", str(folder / "checkpoints"), str(folder / "checkpoints")], check=True)
    read_only = ["mount", "-o", "remount,bind,ro", str(folder / "checkpoints")]
    # refused while a file there is open for writing
    job.wait_until(lambda: subprocess.run(read_only, stderr=subprocess.DEVNULL, check=False).returncode == 0)
    try:
        assert job.end() == 1
        newest, _ = checkpoint.newest_valid(folder / "checkpoints")
    finally:
        subprocess.run(["umount", str(folder / "checkpoints")], check=True)
    assert newest is not None
    assert "Read-only file system" in job.err
    assert "step-00000960: not saved ([Errno 30] Read-only file system: " in job.err
    assert f"the newest one is {newest}; make room, then run the same command again" in job.err
    assert job.err.count("make room") == 1, "both ranks stop, one speaks"
    assert not (folder / "summary.json").exists()
    again = Job(2, f"data.name={small}", f"run.dir={folder}")
    assert again.end() == 0, again.err


def test_files_that_may_not_grow_are_warned_of_and_the_exit_code_is_1(small: Path, tmp_path: Path) -> None:
    """RLIMIT_FSIZE, as a quota would: the model's file is larger than any may be."""
    folder = tmp_path / "run"
    job = Job(1, f"data.name={small}", f"run.dir={folder}", "train.epochs=20", limit=150_000)
    assert job.end() == 1
    assert job.err.count("not saved (") >= 2
    assert "File too large" in job.err
    assert "there is none; make room, then run the same command again" in job.err
    assert [path.name for path in (folder / "checkpoints").iterdir()] == []


def test_a_limit_that_is_lifted_in_time_costs_nothing(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    job = Job(1, f"data.name={small}", f"run.dir={folder}", limit=150_000)
    job.wait_until(lambda: "not saved" in job.err)
    resource.prlimit(job.ranks[0].pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert job.end() == 0, job.err
    assert checkpoint.newest_valid(folder / "checkpoints") == (folder / "checkpoints" / "step-00000960", [])


def test_a_start_on_a_full_disk_is_refused(disk: Path, small: Path) -> None:
    (disk / "run").mkdir()
    fill(disk)
    job = Job(1, f"data.name={small}", f"run.dir={disk / 'run'}")
    assert job.end() == 2
    assert "cannot be written: No space left on device; make room or set run.dir" in job.err


def test_a_full_disk_under_one_member_of_a_sweep_fails_that_one_alone(
    disk: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = f"data.name: {small}, model.hidden_dim: 16, train.epochs: 1"
    (tmp_path / "s.yaml").write_text(f"set: {{{settings}}}\ngrid: {{model.latent_dim: [2, 3]}}\n")
    sweep = load_sweep(tmp_path / "s.yaml")
    first, second = sweep.members
    first.folder.parent.mkdir(parents=True)
    first.folder.symlink_to(disk)
    filler = fill(disk)
    assert Runner(sweep, os.environ, stop=StopRequest(), jobs=2).run() == 1
    assert [status(member).state for member in sweep.members] == ["failed", "done"]
    assert "cannot be written: No space left on device" in status(first).problem
    filler.unlink()
    assert Runner(sweep, os.environ, stop=StopRequest(), retry=True).run() == 0
    assert len(rows(first.folder)) == len(rows(second.folder)) > 0


def test_a_sweep_that_cannot_write_says_so(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text("seeds: 1\n")
    (tmp_path / "runs").symlink_to(disk)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(InputError, match="cannot be written: Read-only file system"):
        Runner(load_sweep(tmp_path / "s.yaml"), os.environ, stop=StopRequest()).run()
