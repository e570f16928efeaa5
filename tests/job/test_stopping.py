"""Signals stop a run on all ranks at one step, everything saved; a rank that dies or hangs is named by the others."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.helpers import ROOT
from tests.helpers.runs import rows, scalars
from tests.helpers.starts import (
    ACCELERATE,
    JOB,
    TORCHRUN,
    Outcome,
    Program,
    arguments,
    at_a_point,
    launch,
    machine_seconds,
    ranks,
    run,
)
from vae.distributed import signals, watchdog
from vae.run import checkpoint

SECONDS_TO_EXIT = 10
ENDLESS = ["model.hidden_dim=64", "train.epochs=1000", "train.engine=eager", "train.log_every=10", "train.eval_every=0"]
SHORT = ["model.hidden_dim=32", "train.batch_size=64", "train.epochs=3", "train.log_every=5"]  # 16 steps an epoch
OFTEN = {"vae.distributed.stopping:SECONDS_BETWEEN_VOTES": 0.1}
OFTENER = {"vae.distributed.watchdog:SECONDS_BETWEEN_BEATS": 0.2}
Start = Callable[..., "Started"]


class Started:
    """A job in the background: under a real launcher (its words), or without one of `processes` processes.

    Votes and signs of life come more often than a user's, so that they are not what a test waits for.
    """

    def __init__(
        self,
        folder: Path,
        processes: int,
        launcher: Sequence[Any] = (),
        *settings: str,
        real: bool = False,
        patches: dict[str, float] = OFTEN,
    ):
        self.folder, real = folder, real or bool(launcher)
        words = [*launcher, JOB, *arguments(*ENDLESS, *settings, f"run.dir={folder}")]
        places = [{}] if launcher else ranks(processes)
        self.started = [Program(*words, real=real, env=env, patches={} if real else patches) for env in places]

    def wait_for_training(self) -> "Started":
        """Wait until metrics are written."""
        metrics = self.folder / "metrics.jsonl"
        self.started[0].wait_until(lambda: metrics.exists() and metrics.stat().st_size, "training")
        return self

    def workers(self) -> list[psutil.Process]:
        """Return the processes that train, by process id."""
        parent = psutil.Process(self.started[0].pid)
        children = [child for child in parent.children(recursive=True) if "train_ddp.py" in " ".join(child.cmdline())]
        return sorted(children, key=lambda process: process.pid)

    def end(self) -> list[Outcome]:
        """Wait for all."""
        return [program.wait(300) for program in self.started]

    def left(self) -> list[str]:
        """Return this job's processes that the process table still has, by command line or session."""
        sessions, found = {program.pid for program in self.started}, []
        for process in psutil.process_iter(["pid", "cmdline", "status"]):
            line = " ".join(process.info["cmdline"] or [])
            with contextlib.suppress(ProcessLookupError):
                mine = str(self.folder) in line or os.getsid(process.info["pid"]) in sessions
                if mine and process.info["status"] != psutil.STATUS_ZOMBIE:
                    found.append(line)
        return found

    def assert_nothing_is_left(self) -> None:
        deadline = machine_seconds() + SECONDS_TO_EXIT
        while self.left() and machine_seconds() < deadline:
            time.sleep(0.02)
        assert not self.left()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a job; what is left of it at the end of the test is killed."""
    yield partial(Started, tmp_path / "run")
    for process in psutil.process_iter(["cmdline"]):  # also of workers whose launcher is gone
        if str(tmp_path / "run") in " ".join(process.info["cmdline"] or []):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


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
    assert [end.code for end in ended] == [code] * processes, ended
    step = saved_step(job.folder)
    assert f"train_ddp.py: {signum.name}: stopped after step {step:,}, saved; the same command" in ended[0].err
    assert rows(job.folder)[-1]["step"] <= step
    job.assert_nothing_is_left()


def handles(pid: int, signum: signal.Signals) -> bool:
    """Return true if a process has a handler for a signal, from the process table."""
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    assert caught is not None
    return bool(int(caught[1], 16) >> (signum - 1) & 1)


def test_signals_are_handled_before_torch_is_imported_and_honoured_during_the_start(start: Start) -> None:
    job = start(2, real=True)
    for process in job.started:
        while not handles(process.pid, signal.SIGTERM):
            assert process.poll() is None
            time.sleep(0.001)
        assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
    sent_at = machine_seconds()
    job.started[1].send_signal(signal.SIGUSR1)
    ended = job.end()
    assert machine_seconds() < sent_at + 2 * SECONDS_TO_EXIT  # two processes import torch on what cores there are
    assert [end.code for end in ended] == [85, 85], ended
    assert "SIGUSR1: stopped before the first step" in ended[0].err
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
    assert stopped.codes == (85,) * processes, stopped.err
    assert not (folder / "summary.json").exists()
    done = launch(processes, *settings, f"run.dir={folder}")
    assert done.code == 0, done.err
    files = [path / "model" / "model.safetensors" for path in (folder, whole)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert rows(folder, timeless=True) == rows(whole, timeless=True)
    assert scalars(folder) == scalars(whole)


def test_a_second_interrupt_stops_at_once_even_inside_a_library() -> None:
    code = (
        "import hashlib, os; from vae.distributed.signals import StopRequest;"
        "stop = StopRequest(); stop.install({}); stop.watch();"
        "print('ready', flush=True); hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process, process.stdout:
        assert process.stdout.readline() == "ready\n"
        for _ in range(2):  # a keyboard and a launcher may deliver one Ctrl-C twice
            process.send_signal(signal.SIGINT)
        time.sleep(signals.DEBOUNCE_SECONDS + 0.1)
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
    job = start(2, [*TORCHRUN, 2] if launch_command == "torchrun" else ACCELERATE).wait_for_training()
    job.started[0].send_signal(signum)
    job.started[0].wait(300)
    job.assert_nothing_is_left()
    assert saved_step(job.folder) >= rows(job.folder)[-1]["step"]
    ended = job.started[0].wait()  # all that its workers have printed, also after its own end
    # seen once: torchrun, its traceback printed, aborts over a thread of its own store as it leaves
    aborted = ended.code == -signal.SIGABRT and code == 1 and "SignalException" in ended.err
    assert ended.code == code or aborted, ended.err
    passed_on = signal.SIGINT if signum == signal.SIGINT else signal.SIGTERM
    assert f"{passed_on.name}: stopped after step {saved_step(job.folder):,}, saved" in ended.err


# --- a rank that dies or hangs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", [0, 1])
def test_when_a_rank_dies_the_other_names_it_and_ends(start: Start, victim: int) -> None:
    job = start(2, (), "train.timeout=6").wait_for_training()
    killed = job.started[victim]
    killed.kill()
    died_at = machine_seconds()
    ended = job.end()[1 - victim]
    assert machine_seconds() < died_at + SECONDS_TO_EXIT
    assert ended.code == 1
    line = ended.err.strip().splitlines()[-1]
    assert f"rank {1 - victim}: cannot go on after step " in line, ended.err
    assert re.search(rf"rank {victim} \(.*pid {killed.pid}\) gives no sign of life, last heard of \d+ s ago", line), (
        line
    )
    job.assert_nothing_is_left()


WAITING = """
import sys, threading
import train_ddp
from vae.engine.eager import Eager
advance = Eager.advance
def waiting(engine, step, until):
    if step < 5:
        return advance(engine, step, until)
    print("waits", flush=True)
    return threading.Event().wait()  # as for a device whose peer is gone: nothing is raised
Eager.advance = waiting
sys.exit(train_ddp.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("victim", "patches"), [(0, {}), (2, OFTENER)])
def test_when_a_rank_dies_and_no_collective_fails_the_others_name_it_and_end_long_before_the_time_set(
    small: Path, tmp_path: Path, victim: int, patches: dict[str, float]
) -> None:
    words = ["-c", WAITING, *arguments(f"data.name={small}", *SHORT, "train.timeout=600", f"run.dir={tmp_path / 'r'}")]
    started = [Program(*words, env=env, patches=patches) for env in ranks(3)]
    for program in started:
        program.wait_until(lambda program=program: "waits" in program.out, "waiting")
    killed = started.pop(victim)
    killed.kill()
    died_at = machine_seconds()
    ended = [program.wait(60) for program in started]
    assert machine_seconds() < died_at + SECONDS_TO_EXIT
    assert [end.code for end in ended] == [1, 1]
    named = rf"cannot go on after step 5: rank {victim} \(.*pid {killed.pid}\) gives no sign of life, last heard of"
    assert len(re.findall(named, "".join(end.err for end in ended))) == 1, ended


@pytest.mark.parametrize("victim", [0, 2])
def test_a_rank_that_is_frozen_for_a_while_ends_nothing(start: Start, victim: int) -> None:
    """It is silent for longer than a rank that is gone would be waited for, but not for `train.timeout`."""
    job = start(3, (), "train.timeout=60", patches=OFTEN | OFTENER).wait_for_training()
    frozen = job.started[victim]
    frozen.send_signal(signal.SIGSTOP)
    time.sleep(2 * watchdog.BEATS_TO_MISS * 0.2 + 2.0 + 2.0)
    frozen.send_signal(signal.SIGCONT)
    logged = len(rows(job.folder))
    job.started[0].wait_until(lambda: len(rows(job.folder)) > logged + 1, "going on")
    job.started[1].send_signal(signal.SIGTERM)
    ended = job.end()
    assert [end.code for end in ended] == [85] * 3, ended


A_COLLECTIVE_WAITS = 6.0
FINISHING = """
import os, sys, time
import train_ddp
write_results = train_ddp.write_results
def slow(*args):
    print("finishes", flush=True)
    time.sleep(float(os.environ["SECONDS"]))
    write_results(*args)
train_ddp.write_results = slow
sys.exit(train_ddp.main(sys.argv[1:]))
"""


def finishing(small: Path, folder: Path, seconds: float) -> list[Program]:
    """Start a job whose collectives wait for `A_COLLECTIVE_WAITS` seconds, and whose last action takes so many."""
    words = ["-c", FINISHING, *arguments(f"data.name={small}", *SHORT, "train.timeout=600", f"run.dir={folder}")]
    waits = {"MIN_SECONDS_TO_MEET": A_COLLECTIVE_WAITS, "SECONDS_AFTER_WATCHDOG": A_COLLECTIVE_WAITS - 600}
    waits = {f"vae.distributed.launch:{name}": seconds for name, seconds in waits.items()} | OFTENER
    return [Program(*words, env=env | {"SECONDS": str(seconds)}, patches=waits) for env in ranks(2)]


def test_the_main_process_may_finish_for_longer_than_a_collective_waits(small: Path, tmp_path: Path) -> None:
    ended = [program.wait(60) for program in finishing(small, tmp_path / "r", seconds=A_COLLECTIVE_WAITS + 3)]
    assert [end.code for end in ended] == [0, 0], ended
    assert (tmp_path / "r" / "summary.json").exists()


def test_a_main_process_that_dies_while_it_finishes_is_named(small: Path, tmp_path: Path) -> None:
    main, other = finishing(small, tmp_path / "r", seconds=60)
    main.wait_until(lambda: "finishes" in main.out)
    main.kill()
    ended = other.wait(60)
    assert ended.code == 1
    assert re.search(rf"rank 1: .*: rank 0 \(.*pid {main.pid}\) gives no sign of life", ended.err), ended.err


@pytest.mark.parametrize("victim", [0, 2])
def test_when_a_rank_hangs_the_others_name_it_and_end_after_the_time_set(start: Start, victim: int) -> None:
    job = start(3, (), "train.timeout=4").wait_for_training()
    stopped = job.started[victim]
    stopped.send_signal(signal.SIGSTOP)
    others = [program.wait(300) for program in job.started if program is not stopped]
    errors = [ended.err for ended in others]
    assert [ended.code for ended in others] == [1, 1]
    named = rf"no progress for train.timeout = 4 s at step [\d,]+: rank {victim} \(.*pid {stopped.pid}\) gives no sign"
    assert len(re.findall(named, "".join(errors))) == 1, errors
    stopped.kill()
    stopped.wait()
    job.assert_nothing_is_left()


FROZEN_RANK_0 = """
import os, signal, time
from accelerate import Accelerator
from vae.distributed import ending
from vae.distributed.watchdog import Watchdog
from vae.errors import RankLostError

accelerator = Accelerator(cpu=True)
try:
    with Watchdog(accelerator, 60, os.environ).guarding():
        if accelerator.process_index == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(2)  # until a sign of life waits for an answer
        raise RuntimeError("a collective's: connection closed by peer")
except RankLostError as error:
    ending.abandon(str(error))
"""


def test_a_rank_whose_collective_fails_ends_although_the_store_of_a_frozen_rank_0_never_answers() -> None:
    frozen, failing = (Program("-c", FROZEN_RANK_0, env=env) for env in ranks(2))
    ended = failing.wait(60)
    assert ended.code == 1
    named = rf"rank 1: cannot go on after step 0: rank 0 \(.*pid {frozen.pid}\) gives no sign of life"
    assert re.search(named, ended.err), ended.err
    frozen.kill()
    frozen.wait()


def test_a_rank_that_never_comes_is_one_line_after_the_time_set(tmp_path: Path) -> None:
    alone, _ = ranks(2)
    patience = {"vae.distributed.launch:MIN_SECONDS_TO_MEET": 2.0, "vae.distributed.launch:SECONDS_AFTER_WATCHDOG": 0.0}
    done = run(JOB, *arguments("train.timeout=2", f"run.dir={tmp_path / 'run'}"), env=alone, patches=patience)
    assert done.code == 1
    line = done.err.strip().splitlines()[-1]
    assert line.startswith(f"train_ddp.py: 2 processes did not come together at 127.0.0.1:{alone['MASTER_PORT']} ("), (
        line
    )
    assert not (tmp_path / "run").exists()


def test_under_torchrun_nothing_is_left_when_a_rank_dies_and_the_run_goes_on_from_its_checkpoint(start: Start) -> None:
    torchrun = [*TORCHRUN, 2]
    job = start(2, torchrun, "train.checkpoint_every=20").wait_for_training()
    job.started[0].wait_until(lambda: any((job.folder / "checkpoints").glob("step-*")), "saved")
    job.workers()[1].kill()
    (ended,) = job.end()
    assert ended.code == 1
    assert "exitcode  : -9" in ended.err
    job.assert_nothing_is_left()
    assert saved_step(job.folder) >= 20
    again = start(2, torchrun, "train.checkpoint_every=20")
    starts = job.folder / "starts.jsonl"
    again.started[0].wait_until(lambda: len(starts.read_text().splitlines()) == 2, "started")
    again.started[0].send_signal(signal.SIGTERM)
    again.end()
    assert json.loads((job.folder / "starts.jsonl").read_text().splitlines()[1])["step"] >= 20
