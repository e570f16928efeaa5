"""Signals stop a run on all ranks at one step, everything saved; a rank that dies or hangs is named by the others."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import (
    ROOT,
    arguments,
    at_a_point,
    environment,
    launch,
    launcher,
    machine_seconds,
    rows,
    run,
    scalars,
)
from vae import checkpoint

SECONDS_TO_EXIT = 10
ENDLESS = ["model.hidden_dim=64", "train.epochs=1000", "train.log_every=10", "train.eval_every=0"]
SHORT = ["model.hidden_dim=32", "train.batch_size=64", "train.epochs=3", "train.log_every=5"]  # 16 steps an epoch
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "launch/accelerate/cpu.yaml"]
Start = Callable[..., "Started"]


class Started:
    """A job of `processes` processes in the background, from a launcher's command or, without one, each by itself."""

    def __init__(self, folder: Path, processes: int, command: list[str] | None = None, *settings: str):
        self.folder = folder
        own = command or [sys.executable, str(ROOT / "train_ddp.py")]
        line = [*own, *arguments(*ENDLESS, *settings, f"run.dir={folder}")]
        ranks = [{}] if command or processes == 1 else _ranks(processes)
        self.started = [
            subprocess.Popen(
                line, cwd=ROOT, env=environment() | {"OMP_NUM_THREADS": "1"} | variables, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
            for variables in ranks
        ]  # fmt: skip

    def wait_for_training(self) -> "Started":
        """Wait until metrics are written."""
        metrics, deadline = self.folder / "metrics.jsonl", machine_seconds() + 120
        while not (metrics.exists() and metrics.stat().st_size):
            assert machine_seconds() < deadline
            assert all(process.poll() is None for process in self.started), self.end()
            time.sleep(0.02)
        return self

    def workers(self) -> list[psutil.Process]:
        """Return the processes that train, by process id."""
        parent = psutil.Process(self.started[0].pid)
        children = [child for child in parent.children(recursive=True) if "train_ddp.py" in " ".join(child.cmdline())]
        return sorted(children, key=lambda process: process.pid)

    def end(self) -> list[tuple[int, str]]:
        """Wait for all; returns exit code and stderr of each."""
        ended = [(process, process.communicate(timeout=300)[1]) for process in self.started]
        return [(process.returncode, err) for process, err in ended]

    def left(self) -> list[str]:
        """Return the command lines of this job's processes that the process table still has."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            line = " ".join(process.info["cmdline"] or [])
            if str(self.folder) in line and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(line)
        return found

    def assert_nothing_is_left(self) -> None:
        deadline = machine_seconds() + SECONDS_TO_EXIT
        while self.left() and machine_seconds() < deadline:
            time.sleep(0.05)
        assert not self.left()


def _ranks(processes: int) -> list[dict[str, str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    counts = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    return [{"RANK": str(rank), "LOCAL_RANK": str(rank), **counts, **place} for rank in range(processes)]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a job; what is left of it at the end of the test is killed."""
    jobs: list[Started] = []

    def begin(processes: int, command: list[str] | None = None, *settings: str) -> Started:
        jobs.append(Started(tmp_path / "run", processes, command, *settings))
        return jobs[-1]

    yield begin
    for process in psutil.process_iter(["cmdline"]):
        if str(tmp_path / "run") in " ".join(process.info["cmdline"] or []):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    for job in jobs:
        for process in job.started:
            process.communicate()


def saved_step(folder: Path) -> int:
    """Return the step of the newest checkpoint, which is whole."""
    newest, problems = checkpoint.newest_valid(folder / "checkpoints")
    assert newest is not None
    assert not problems
    return int(newest.name.removeprefix("step-"))


# --- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("processes", "signum", "receiver", "code"),
    [
        (1, signal.SIGTERM, 0, 85),
        (1, signal.SIGINT, 0, 130),
        (2, signal.SIGTERM, 0, 85),
        (2, signal.SIGUSR1, 1, 85),
        (2, signal.SIGINT, 1, 130),
    ],
)
def test_a_signal_to_one_rank_stops_all_at_one_step_after_saving(
    start: Start, processes: int, signum: signal.Signals, receiver: int, code: int
) -> None:
    job = start(processes).wait_for_training()
    sent_at = machine_seconds()
    job.started[receiver].send_signal(signum)
    ended = job.end()
    assert machine_seconds() < sent_at + SECONDS_TO_EXIT
    assert [end[0] for end in ended] == [code] * processes, ended
    step = saved_step(job.folder)
    assert f"train_ddp.py: {signum.name}: stopped after step {step:,}, saved; the same command" in ended[0][1]
    assert rows(job.folder)[-1]["step"] <= step
    job.assert_nothing_is_left()


def handles(pid: int, signum: signal.Signals) -> bool:
    """Whether a process has a handler for a signal, from the process table."""
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    assert caught is not None
    return bool(int(caught[1], 16) >> (signum - 1) & 1)


def test_signals_are_handled_before_torch_is_imported_and_honoured_during_the_start(start: Start) -> None:
    job = start(2)
    for process in job.started:
        while not handles(process.pid, signal.SIGTERM):
            assert process.poll() is None
            time.sleep(0.001)
        assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
    sent_at = machine_seconds()
    job.started[1].send_signal(signal.SIGUSR1)
    ended = job.end()
    assert machine_seconds() < sent_at + 2 * SECONDS_TO_EXIT  # two processes import torch on what cores there are
    assert [end[0] for end in ended] == [85, 85], ended
    assert "SIGUSR1: stopped before the first step" in ended[0][1]
    assert not (job.folder / "checkpoints").exists()


@pytest.fixture(scope="module")
def undisturbed(small: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A short run on one and on two processes."""
    base = tmp_path_factory.mktemp("undisturbed")
    for processes in (1, 2):
        done = launch(processes, f"data.name={small}", *SHORT, f"run.dir={base / str(processes)}")
        assert done.code == 0, done.err
    return {processes: base / str(processes) for processes in (1, 2)}


@pytest.mark.parametrize(
    ("processes", "point", "count", "rank"),
    [(1, "evaluation", 2, "0"), (1, "figures", 1, "0"), (2, "step", 23, "1"), (2, "evaluation", 1, "1")],
)
def test_stopped_anywhere_and_continued_it_is_bitwise_the_undisturbed_run(
    small: Path, tmp_path: Path, undisturbed: dict[int, Path], processes: int, point: str, count: int, rank: str
) -> None:
    settings = [f"data.name={small}", *SHORT, f"run.figures={str(point == 'figures').lower()}"]
    folder, whole = tmp_path / "stopped", undisturbed[processes]
    stopped = at_a_point("SIGTERM", point, count, rank, processes, *settings, f"run.dir={folder}")
    assert stopped.code == (85 if processes == 1 else 1), stopped.err  # torchrun's own
    assert "exitcode  : 85" in stopped.err or processes == 1
    assert not (folder / "summary.json").exists()
    done = launch(processes, *settings, f"run.dir={folder}")
    assert done.code == 0, done.err
    files = [path / "model" / "model.safetensors" for path in (folder, whole)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert rows(folder, timeless=True) == rows(whole, timeless=True)
    assert scalars(folder) == scalars(whole)


def test_a_second_interrupt_stops_at_once_even_inside_a_library() -> None:
    code = (
        "import hashlib, os; from vae.signals import StopRequest; stop = StopRequest(); stop.install({}); stop.watch();"
        "print('ready', flush=True); hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process, process.stdout:
        assert process.stdout.readline() == "ready\n"
        for _ in range(2):  # a keyboard and a launcher may deliver one Ctrl-C twice
            process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 130


@pytest.mark.parametrize(
    ("launch_command", "signum", "code"),
    [
        ("torchrun", signal.SIGTERM, 1),
        ("torchrun", signal.SIGINT, 1),
        ("torchrun", signal.SIGUSR1, -signal.SIGUSR1),  # which torchrun does not know: it dies of it
        ("torchrun", signal.SIGKILL, -signal.SIGKILL),
        ("accelerate", signal.SIGTERM, 1),
    ],
)
def test_what_a_launcher_does_with_a_signal_never_costs_a_step_or_leaves_a_process(
    start: Start, launch_command: str, signum: signal.Signals, code: int
) -> None:
    command = launcher(2) if launch_command == "torchrun" else [*ACCELERATE, str(ROOT / "train_ddp.py")]
    job = start(2, command).wait_for_training()
    job.started[0].send_signal(signum)
    ((ended, err),) = job.end()
    assert ended == code, err
    job.assert_nothing_is_left()
    assert saved_step(job.folder) >= rows(job.folder)[-1]["step"]
    passed_on = signal.SIGINT if signum == signal.SIGINT else signal.SIGTERM
    assert f"{passed_on.name}: stopped after step {saved_step(job.folder):,}, saved" in err


# --- a rank that dies or hangs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", [0, 1])
def test_when_a_rank_dies_the_other_names_it_and_ends(start: Start, victim: int) -> None:
    job = start(2, None, "train.timeout=20").wait_for_training()
    killed = job.started[victim]
    killed.kill()
    died_at = machine_seconds()
    code, err = job.end()[1 - victim]
    assert machine_seconds() < died_at + SECONDS_TO_EXIT
    assert code == 1
    line = err.strip().splitlines()[-1]
    assert f"rank {1 - victim}: cannot go on after step " in line, err
    assert re.search(rf"rank {victim} \(.*pid {killed.pid}\) gives no sign of life, last heard of \d+ s ago", line), (
        line
    )
    job.assert_nothing_is_left()


@pytest.mark.parametrize("victim", [0, 2])
def test_when_a_rank_hangs_the_others_name_it_and_end_after_the_time_set(start: Start, victim: int) -> None:
    job = start(3, None, "train.timeout=8").wait_for_training()
    stopped = job.started[victim]
    stopped.send_signal(signal.SIGSTOP)
    others = [process for process in job.started if process is not stopped]
    errors = [process.communicate(timeout=300)[1] for process in others]
    assert [process.returncode for process in others] == [1, 1]
    named = rf"no progress for train.timeout = 8 s at step [\d,]+: rank {victim} \(.*pid {stopped.pid}\) gives no sign"
    assert len(re.findall(named, "".join(errors))) == 1, errors
    stopped.kill()
    stopped.communicate()
    job.assert_nothing_is_left()


def test_a_rank_that_never_comes_is_one_line_after_the_time_set(tmp_path: Path) -> None:
    alone, _ = _ranks(2)
    done = run([*launcher(1), *arguments("train.timeout=2", f"run.dir={tmp_path / 'run'}")], env=alone)
    assert done.code == 1
    line = done.err.strip().splitlines()[-1]
    assert line.startswith(f"train_ddp.py: 2 processes did not come together at 127.0.0.1:{alone['MASTER_PORT']} ("), (
        line
    )
    assert not (tmp_path / "run").exists()


def test_under_torchrun_nothing_is_left_when_a_rank_dies_and_the_run_goes_on_from_its_checkpoint(start: Start) -> None:
    job = start(2, launcher(2), "train.checkpoint_every=20").wait_for_training()
    while not any((job.folder / "checkpoints").glob("step-*")):
        time.sleep(0.01)
    job.workers()[1].kill()
    ((code, err),) = job.end()
    assert code == 1
    assert "exitcode  : -9" in err
    job.assert_nothing_is_left()
    assert saved_step(job.folder) >= 20
    again = start(2, launcher(2), "train.checkpoint_every=20")
    deadline = machine_seconds() + 60
    while len((job.folder / "starts.jsonl").read_text().splitlines()) < 2:
        assert machine_seconds() < deadline
        time.sleep(0.05)
    again.started[0].send_signal(signal.SIGTERM)
    again.end()
    assert json.loads((job.folder / "starts.jsonl").read_text().splitlines()[1])["step"] >= 20
