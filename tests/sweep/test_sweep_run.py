"""Running a sweep: real members side by side, and what happens when one of them, or the sweep itself, is stopped."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from filelock import FileLock

from tests.helpers.forking import Piped
from tests.helpers.starts import Program
from vae import config
from vae.__main__ import main
from vae.config import to_yaml
from vae.distributed.signals import SIGNALS, StopRequest
from vae.run.folder import RunFolder
from vae.sweep import Sweep, load
from vae.sweep.members import Member
from vae.sweep.runner import Runner
from vae.sweep.status import MemberFiles, recorded, status, table

SMALL = {
    "data.name": "small.npz", "model.hidden_dim": 16, "train.batch_size": 500, "train.epochs": 1, "train.log_every": 5,
    "train.eval_every": 0, "train.engine": "eager", "run.figures": "false",
}  # fmt: skip


def sweep_of(folder: Path, grid: str, **settings: object) -> Sweep:
    inside = ", ".join(f"{key}: {value}" for key, value in (SMALL | settings).items())
    (folder / "s.yaml").write_text(f"set: {{{inside}}}\ngrid: {grid}\n")
    return load(folder / "s.yaml")


QUICKLY = {"vae.sweep.runner:SECONDS_BETWEEN_LOOKS": 0.02, "vae.sweep.runner:SECONDS_BETWEEN_CLAIMS": 0.1}


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members are forked, and looked at often, where the runner is in this process."""
    monkeypatch.setattr("vae.sweep.runner.start_process", Piped)
    for name, seconds in QUICKLY.items():
        monkeypatch.setattr(name.replace(":", "."), seconds)


def run(sweep: Sweep, *, jobs: int = 2, retry: bool = False) -> int:
    return Runner(sweep, os.environ, jobs=jobs, retry=retry, stop=StopRequest()).run()


def states(sweep: Sweep) -> list[str]:
    return [status(member).state for member in sweep.members]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.npz").symlink_to(small)


def start(*words: str) -> Program:
    """Run a sweep in a process of its own, which starts its members as a user's does."""
    return Program("-m", "vae", "sweep", "s.yaml", *words, cwd=Path.cwd(), patches=QUICKLY)


def test_members_are_trained_one_that_diverges_fails_and_only_what_is_missing_runs_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vae.bars.SECONDS_BETWEEN_LINES", 0.0)
    sweep = sweep_of(tmp_path, "{optim.lr: [1e-3, 1e30]}", **{"train.max_steps": 10})
    assert states(sweep) == ["waiting", "waiting"]
    assert run(sweep) == 1
    said = capsys.readouterr()
    assert "\ns: 0.0 of 2 runs made, time left unknown\n" in said.out
    assert "\ns: 2.0 of 2 runs made, 00:00 left\n" in said.out
    assert said.out.endswith("\ns: 1 done, 1 failed\nthe same command with --retry starts the failed ones again\n")
    assert states(sweep) == ["done", "failed"]
    good, bad = sweep.members
    loss = json.loads((good.folder / "summary.json").read_text())["test"]["loss"]
    assert f"done: lr=0.001,seed=0: test loss {loss:.2f} (1 done" in said.out
    assert re.search(r"failed: lr=1e\+30,seed=0 \(runs/s/logs/.*\.log\)\n(    .*\n)*.* step \d+: not finite", said.err)
    assert "not finite" in recorded(bad).problem
    summary = (good.folder / "summary.json").stat()

    assert run(sweep) == 1  # nothing to do: what failed waits for --retry
    assert "1 done, 1 failed" in capsys.readouterr().out
    assert (good.folder / "summary.json").stat() == summary
    log = (tmp_path / "runs/s/logs/lr=1e+30,seed=0.log").read_text()
    assert run(sweep, retry=True) == 1
    assert (tmp_path / "runs/s/logs/lr=1e+30,seed=0.log").read_text() == 2 * log
    assert list(table(sweep))[-1] == "2 runs: 1 done, 1 failed"


@pytest.mark.parametrize(
    ("jobs", "gpus", "given"),
    [(2, "3", [(0, "3"), (1, "3")]), (0, "3,5", [(0, "3"), (1, "5")]), (3, "3,5", [(0, "3"), (1, "5"), (2, "3")])],
)
def test_as_many_jobs_as_asked_for_run_at_once_and_share_the_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int, gpus: str, given: list[tuple[int, str]]
) -> None:
    """Which GPU a member sees, and how many run beside it; they train on the CPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    started: list[tuple[int, str]] = []

    def start(words: Sequence[str], variables: Mapping[str, str]) -> Piped:
        started.append((len(runner.running), variables["CUDA_VISIBLE_DEVICES"]))
        return Piped(words, variables)

    monkeypatch.setattr("vae.sweep.runner.start_process", start)
    sweep = sweep_of(tmp_path, "{model.latent_dim: [2, 3, 4]}", **{"train.max_steps": 5, "train.device": "cpu"})
    runner = Runner(sweep, os.environ | {"CUDA_VISIBLE_DEVICES": gpus}, jobs=jobs, stop=StopRequest())
    assert runner.run() == 0
    assert started[: len(given)] == given
    assert states(sweep) == ["done"] * 3


def test_a_deleted_folder_is_trained_again_and_one_with_other_settings_is_left_alone(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "{model.latent_dim: [2]}", **{"train.max_steps": 10})
    assert run(sweep) == 0
    (folder,) = (member.folder for member in sweep.members)
    weights = (folder / "model/model.safetensors").read_bytes()
    subprocess.run(["rm", "-r", folder], check=True)
    assert states(sweep) == ["waiting"]
    assert run(sweep) == 0
    assert (folder / "model/model.safetensors").read_bytes() == weights
    other = sweep_of(tmp_path, "{model.latent_dim: [2]}", **{"train.max_steps": 10, "optim.weight_decay": 0.5})
    assert "other settings (optim.weight_decay" in status(other.members[0]).problem
    assert run(other) == 1
    assert (folder / "model/model.safetensors").read_bytes() == weights


BLOCKED = {
    "other settings": ({"config.yaml": "model: {latent_dim: 3}"}, "model.latent_dim: 3 -> 2; "),
    "bad configuration": ({"config.yaml": "model: {latent_dmi: 2}"}, "latent_dmi: there is no such key"),
    "bad summary": ({"config.yaml": None, "summary.json": "{"}, "summary.json: not valid JSON; delete it"),
    "no configuration": (
        {"checkpoints/step-00000005/x": ""},
        "holds checkpoints but no config.yaml; restore it or move",
    ),
}


@pytest.mark.parametrize("what", BLOCKED)
def test_a_folder_that_is_of_no_use_blocks_its_member_also_from_a_retry_and_says_what_would_help(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    sweep = sweep_of(tmp_path, "{model.latent_dim: [2]}")
    (member,) = sweep.members
    files, words = BLOCKED[what]
    for name, text in files.items():
        (member.folder / name).parent.mkdir(parents=True, exist_ok=True)
        own = to_yaml(config.load(member.base, member.overrides))
        (member.folder / name).write_text(own if text is None else text)
    before = {path: path.read_bytes() for path in member.folder.rglob("*") if path.is_file()}
    MemberFiles(member).log.parent.mkdir()
    MemberFiles(member).note_failure(2, "refused")  # as a start by hand may have left it
    for retry in (False, True):
        assert run(sweep, retry=retry) == 1
        said = capsys.readouterr()
        assert "s: 0 done, 1 blocked\n" in said.out
        assert "--retry" not in said.out
        assert said.err.startswith("blocked: latent_dim=2,seed=0: runs/s/latent_dim=2,seed=0")
        assert words in said.err
        assert len(said.err.splitlines()) == 1
    line, total = table(sweep)
    assert " blocked " in line
    assert words in line
    assert total == "1 runs: 1 blocked"
    assert {path: path.read_bytes() for path in member.folder.rglob("*") if path.is_file()} == before
    assert not MemberFiles(member).log.exists()


def test_what_fails_in_another_sweep_meanwhile_waits_for_a_retry_here_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = sweep_of(tmp_path, "{model.latent_dim: [2]}")
    runner = Runner(sweep, os.environ, stop=StopRequest())
    MemberFiles(sweep.members[0]).log.parent.mkdir(parents=True)
    MemberFiles(sweep.members[0]).note_failure(1, "not finite")
    assert runner.run() == 1
    said = capsys.readouterr()
    assert "s: 0 done, 1 waiting\n" in said.out
    assert "s: 0 done, 1 failed\nthe same command with --retry" in said.out
    assert not MemberFiles(sweep.members[0]).log.exists()


@pytest.mark.parametrize(
    ("epochs", "max_steps", "share", "goal"), [(4, 0, 0.125, 4), (4, 15, 1 / 3, 1.5), (1, 15, 0.5, 1), (4, 5, 1, 0.5)]
)
def test_how_much_of_a_run_is_made_is_a_share_of_its_epochs_or_its_steps_whichever_end_first(
    tmp_path: Path, epochs: int, max_steps: int, share: float, goal: float
) -> None:
    sweep = sweep_of(tmp_path, "{model.latent_dim: [2]}", **{"train.epochs": epochs, "train.max_steps": max_steps})
    (member,) = sweep.members
    assert recorded(member).share == 0
    member.folder.mkdir(parents=True)
    (member.folder / "config.yaml").write_text(to_yaml(config.load(member.base, member.overrides)))
    (member.folder / "metrics.jsonl").write_text('{"split": "train", "step": 5, "epoch": 0.5}\n')
    now = recorded(member)
    assert (now.share, now.epochs) == pytest.approx((share, goal))
    bar = Runner(sweep, os.environ, stop=StopRequest()).bar
    assert (bar.n, bar.total) == (pytest.approx(share), 1)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 85)])
def test_a_signal_saves_all_and_the_same_command_continues(tmp_path: Path, signum: int, code: int) -> None:
    sweep = sweep_of(
        tmp_path, "{model.latent_dim: [2, 3, 4]}", **{"train.epochs": 20_000, "train.checkpoint_every": 50}
    )
    process = start("--run", "--jobs", "2")
    first, second, third = sweep.members
    process.wait_until(lambda: all(any(each.folder.glob("checkpoints/step-*")) for each in (first, second)), "training")
    assert [status(member).state for member in (first, second)] == ["running", "running"]
    os.kill(process.pid, signum)
    done = process.wait(120)
    assert (done.code, done.err) == (code, "")
    assert "0 done, 2 stopped, 1 waiting" in done.out
    assert states(sweep) == ["interrupted", "interrupted", "waiting"]
    assert not third.folder.exists()
    far = [recorded(member).epoch for member in (first, second)]
    # shorter, or it would take too long; how long a run is may change
    assert run(load(tmp_path / "s.yaml", [f"train.epochs={int(max(far)) + 50}"]), jobs=3) == 0
    for member in (first, second):
        starts = [json.loads(line)["step"] for line in (member.folder / "starts.jsonl").read_text().splitlines()]
        assert len(starts) == 2
        assert starts[1] > 0


def test_a_member_that_is_stopped_alone_is_to_be_continued_and_the_exit_code_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are trained; the member goes on with the same command."""
    sweep = sweep_of(tmp_path, "{model.latent_dim: [2, 3]}", **{"train.epochs": 2})
    with patch.object(Runner, "_process", stopping_itself(sweep.members[0])):
        assert run(sweep, jobs=1) == 85
    assert "1 done, 1 stopped\nthe same command continues\n" in capsys.readouterr().out
    assert states(sweep)[1] == "done"
    assert run(sweep) == 0


def stopping_itself(member: Member) -> Callable[[Runner, Member, int], Any]:
    """Return `Runner._process`, but for a member a program that ends as one that a signal has stopped."""
    otherwise = Runner._process

    def process(runner: Runner, started: Member, slot: int) -> Any:
        if started is not member:
            return otherwise(runner, started, slot)
        return subprocess.Popen(["sh", "-c", "exit 85"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    return process


def test_a_start_by_whatever_way_ends_the_note_of_a_failure(tmp_path: Path) -> None:
    """By hand or in a job array; else the member would stay `failed` where the start is cut off."""
    (member,) = sweep_of(tmp_path, "{model.latent_dim: [2]}").members
    MemberFiles(member).log.parent.mkdir(parents=True)
    MemberFiles(member).note_failure(1, "out of memory")
    assert recorded(member).state == "failed"
    start = RunFolder(member.folder)
    settings = config.load(member.base, member.overrides)
    start.record(settings, start.claim(settings, "auto", 5), 0, 1)
    start.release()
    assert recorded(member).state == "interrupted"


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 85)])
def test_a_signal_ends_the_report_of_a_sweep_too(
    signum: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_of(tmp_path, "{model.latent_dim: [2]}")
    monkeypatch.setattr(Runner, "run", lambda _: 0)
    handlers = [signal.getsignal(each) for each in SIGNALS]

    def report(folders: Sequence[Path]) -> list[Path]:
        os.kill(os.getpid(), signum)
        time.sleep(30)
        raise AssertionError("the signal ends the report")

    monkeypatch.setattr("vae.report.writing.write_report", report)
    try:
        assert main(["sweep", "s.yaml", "--run"]) == code
    finally:
        signal.set_wakeup_fd(-1)
        for each, handler in zip(SIGNALS, handlers, strict=True):
            signal.signal(each, handler)


def test_two_sweeps_at_once_share_the_members(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "{model.latent_dim: [2, 3, 4, 5]}", **{"train.epochs": 2})
    both = [start("--run", "--jobs", "1") for _ in range(2)]
    ended = [process.wait(300) for process in both]
    assert [end.code for end in ended] == [0, 0], ended
    assert states(sweep) == ["done"] * 4
    for member in sweep.members:  # by one of them alone
        assert len((member.folder / "starts.jsonl").read_text().splitlines()) == 1
        assert sum(f"done: {member.name}:" in end.out for end in ended) == 1
    assert all("done: " in end.out for end in ended)


def test_a_member_that_runs_elsewhere_is_left_to_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = sweep_of(tmp_path, "{model.latent_dim: [2, 3]}", **{"train.max_steps": 5})
    sweep.members[0].folder.mkdir(parents=True)
    with FileLock(sweep.members[0].folder / ".lock"):  # as a job of SLURM would
        assert run(sweep) == 0
        assert states(sweep) == ["running", "done"]
    assert "1 run elsewhere" in capsys.readouterr().out
    assert states(sweep) == ["waiting", "done"]


def test_a_member_that_is_killed_is_reported_and_retried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = sweep_of(tmp_path, "{model.latent_dim: [2]}", **{"train.epochs": 20_000, "train.checkpoint_every": 50})
    process = start("--run")
    (member,) = sweep.members
    process.wait_until(lambda: any(member.folder.glob("checkpoints/step-*")), "training")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    done = process.wait(120)
    assert done.code == 1
    assert "ended by SIGKILL" in done.err
    assert states(sweep) == ["failed"]
    shorter = load(tmp_path / "s.yaml", [f"train.epochs={int(recorded(member).epoch) + 50}"])
    assert run(shorter) == 1
    assert run(shorter, retry=True) == 0
    assert "1 done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--list", "--jobs", "2"], "--jobs: goes with --run"),
        (["--status", "--retry"], "--retry: goes with --run"),
        (["--run", "--jobs", "0"], "--jobs 0: must be at least 1"),
        (["--run", "model.latent_dims=2"], "latent_dims"),
        (["--run", "--list"], "not allowed with"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(tmp_path: Path, words: list[str], said: str) -> None:
    sweep_of(tmp_path, "{model.latent_dim: [2]}")
    done = start(*words).wait()
    assert done.code == 2
    assert said in done.line
    assert not (tmp_path / "runs").exists()
