"""Runs the members of a sweep side by side: starts, watches and stops a process of train_ddp.py for each."""

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from filelock import FileLock
from tqdm import tqdm

from vae.bars import Pace
from vae.distributed import launch
from vae.distributed.ending import DONE, FAILED, INTERRUPTED, REQUEUE_ME, exit_code_of_signal
from vae.distributed.signals import StopRequest
from vae.sweep.members import Member, Sweep
from vae.sweep.status import MemberFiles, State, Status, recorded

LAST_LINES = 5  # of its output that are shown of a member that failed
SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_BETWEEN_DISPLAYS = 1.0
SECONDS_BETWEEN_CLAIMS = 2.0  # of members that another process holds

ENDED: set[State] = {"done", "failed", "blocked"}
NAMES: dict[State, str] = {  # in what is printed, in this order
    "done": "done", "failed": "failed", "blocked": "blocked", "interrupted": "stopped", "running": "running",
    "waiting": "waiting",
}  # fmt: skip


@dataclass
class Job:
    """The process of train_ddp.py that trains a member.

    A thread copies its output from a pipe to the log: a process that wrote its log itself would end at a full disk.
    """

    member: Member
    lock: FileLock
    process: subprocess.Popen[bytes]
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))

    def __post_init__(self) -> None:
        self._copier = threading.Thread(target=self._copy, daemon=True)
        self._copier.start()

    def _copy(self) -> None:
        assert self.process.stdout is not None
        with contextlib.ExitStack() as stack:
            log = None
            with contextlib.suppress(OSError):
                log = stack.enter_context(MemberFiles(self.member).log.open("ab", buffering=0))
            for line in stack.enter_context(self.process.stdout):
                self.lines.append(line.decode(errors="replace").rstrip())
                with contextlib.suppress(OSError):
                    if log:
                        log.write(line)

    def end(self) -> int:
        """Wait for the process to end, release the member, and return the exit code."""
        code = self.process.wait()
        self._copier.join()
        self.lock.release()
        return code

    def problem(self, code: int) -> str:
        """Return the last lines of the output, and the signal if one ended the process."""
        ended = [f"ended by {signal.Signals(-code).name}"] if code < 0 else []
        return "\n".join([*self.lines, *ended])


class Runner:
    """Runs the members of a sweep that are not done.

    Args:
        sweep: the members to run.
        environment: `os.environ`, which the processes inherit.
        jobs: processes at once; 0: one for each CUDA device, or on a CPU one for each two cores.
        retry: whether to start members again that have failed before.
        stop: notes signals.

    Attributes:
        states: of each member, as this runner sees it: waiting: to be trained, begun or not, and not started here yet;
            running: here; interrupted: stopped here, by a signal.
    """

    def __init__(
        self,
        sweep: Sweep,
        environment: Mapping[str, str],
        *,
        stop: StopRequest,
        jobs: int = 0,
        retry: bool = False,
    ):
        self.sweep, self.environment, self.stop = sweep, environment, stop
        self.devices = _visible_devices(environment)
        self.jobs = jobs or len(self.devices) or max(1, len(launch.cores()) // 2)
        self.threads = max(1, len(launch.cores()) // self.jobs)
        self._left_alone = ENDED - {"failed"} if retry else ENDED
        self.states = {member: self._look_at(member) for member in sweep.members}
        self.running: dict[int, Job] = {}  # by slot
        self._mine, self._next_look = self._all("waiting"), 0.0
        self.bar = tqdm(
            total=len(self._mine), initial=self._made(), desc=sweep.name, unit="run", disable=None,
            dynamic_ncols=True, smoothing=0.05,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} runs [{elapsed}<{remaining}{postfix}]",
        )  # fmt: skip
        self._pace = Pace(len(self._mine))

    def run(self) -> int:
        """Run until nothing is left to start here, or a signal comes; returns the exit code.

        0: all members are done, or run elsewhere; 1: some have failed or are blocked; 85, 130: stopped by a signal, and
        all members have saved; 85 too where a signal stopped a member alone.
        """
        self._say(f"{self.sweep.name}: {self._count()}")
        if self._mine:
            logs = MemberFiles(self._mine[0]).log.parent
            self._say(f"running {self.jobs} at once, {self.threads} CPU threads each; their output is in {logs}")
        with self.bar:
            try:
                self._run_all()
            finally:
                self._stop_all()
                self._show(now=True)
        return self._conclude()

    def _run_all(self) -> None:
        next_claim = 0.0
        while (self._all("waiting") or self.running) and not self.stop.signum:
            self._collect()
            if len(self.running) < self.jobs and time.monotonic() >= next_claim:
                started = self._start_one()
                if not started and not self.running:
                    return  # all that is left runs elsewhere
                next_claim = 0.0 if started else time.monotonic() + SECONDS_BETWEEN_CLAIMS
            self._show()
            self._pause()

    def _start_one(self) -> bool:
        """Start the first waiting member that no process holds; returns whether there is one."""
        for member in self._all("waiting"):
            if lock := self._claim(member):
                slot = min(set(range(self.jobs)) - self.running.keys())
                self.running[slot] = Job(member, lock, self._process(member, slot))
                return True
        return False

    def _claim(self, member: Member) -> FileLock | None:
        """Return a lock on a waiting member; None: another process holds or has trained it."""
        lock = MemberFiles(member).claim()
        if lock is None:
            return None
        now = self._look_at(member)
        if now.state in self._left_alone:  # another process has trained it meanwhile
            self.states[member] = now
            lock.release()
            return None
        self.states[member] = replace(now, state="running")
        MemberFiles(member).forget_failure()
        return lock

    def _process(self, member: Member, slot: int) -> subprocess.Popen[bytes]:
        """Start a member's process; slots take turns at the GPUs, so that more slots than GPUs share them."""
        threads = [] if "train.threads" in member.settings else [f"train.threads={self.threads}"]
        variables = dict(self.environment)
        if self.devices:
            variables["CUDA_VISIBLE_DEVICES"] = self.devices[slot % len(self.devices)]
        return start_process([*member.command, *threads], variables)

    def _collect(self) -> None:
        """Collect the processes that have ended."""
        for slot, job in list(self.running.items()):
            if job.process.poll() is not None:
                del self.running[slot]
                code = job.end()
                self._note_end(job.member, code, job.problem(code))

    def _note_end(self, member: Member, code: int, problem: str) -> None:
        """Set the state of a member whose process has ended, and print a line about it."""
        now = recorded(member)
        if now.state == "done":
            self.states[member] = now
            self._say(f"done: {member.name}: test loss {_loss(now)} ({self._count()})")
        elif code in (REQUEUE_ME, INTERRUPTED):
            self.states[member] = replace(now, state="interrupted")
            self._say(f"stopped and saved: {member.name}")
        else:
            self.states[member] = replace(now, state="failed", problem=problem)
            MemberFiles(member).note_failure(code, problem)
            *_, last = problem.splitlines() or ["no output"]
            self._say(f"failed: {member.name}: {last}")

    def _stop_all(self) -> None:
        """Have the running members save and end, and wait for them."""
        if self.running:
            self._say(f"stopping {len(self.running)} runs; each saves first")
        for job in self.running.values():
            with contextlib.suppress(ProcessLookupError):
                job.process.send_signal(signal.SIGTERM)
        while self.running:
            self._collect()
            self._pause()

    def _show(self, *, now: bool = False) -> None:
        """Update the progress bar, at most once a second unless `now`; without a terminal print a line a minute."""
        if time.monotonic() < self._next_look and not now:
            return
        self._next_look = time.monotonic() + SECONDS_BETWEEN_DISPLAYS
        for member in self._all("running"):
            self.states[member] = replace(recorded(member), state="running")
        self.bar.n = made = self._made()
        self.bar.set_postfix_str(self._count())
        if self.bar.disable and self._pace.due(made):
            self._say(f"{self.sweep.name}: {made:.1f} of {self._pace.total} runs made, {self._pace.left(made)}")

    def _pause(self) -> None:
        self.stop.watch()
        time.sleep(SECONDS_BETWEEN_LOOKS)

    def _conclude(self) -> int:
        """Print the failures and the state of the sweep; returns the exit code."""
        failed, blocked = self._all("failed"), self._all("blocked")
        for member in failed:
            lines = "".join(f"\n    {line}" for line in self.states[member].problem.splitlines())
            tqdm.write(f"failed: {member.name} ({MemberFiles(member).log}){lines}", file=sys.stderr)
        for member in blocked:
            tqdm.write(f"blocked: {member.name}: {self.states[member].problem}", file=sys.stderr)
        self._say(f"{self.sweep.name}: {self._count()}")
        if failed:
            self._say("the same command with --retry starts the failed ones again")
        if self.stop.signum:
            self._say("the same command continues")
            return exit_code_of_signal(self.stop.signum)
        if elsewhere := self._all("waiting"):
            self._say(f"{len(elsewhere)} run elsewhere")
        if failed or blocked:
            return FAILED
        if self._all("interrupted"):
            self._say("the same command continues")
            return REQUEUE_ME
        return DONE

    def _look_at(self, member: Member) -> Status:
        """Return the status of a member by its files, `waiting` if it is to be trained."""
        now = recorded(member)
        return now if now.state in self._left_alone else replace(now, state="waiting", problem="")

    def _all(self, state: State) -> list[Member]:
        """Return the members in a state, in the order of the sweep."""
        return [member for member, now in self.states.items() if now.state == state]

    def _made(self) -> float:
        """Return the number of runs made, including parts of runs, of those that were to be made."""
        states = [self.states[member] for member in self._mine]
        return sum(1.0 if now.state in ENDED else now.share for now in states)

    def _count(self) -> str:
        counts = {state: len(self._all(state)) for state in NAMES}
        return ", ".join(f"{counts[state]} {name}" for state, name in NAMES.items() if counts[state] or state == "done")

    def _say(self, line: str) -> None:
        tqdm.write(line)


def start_process(words: Sequence[str], variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a program of this project, in a session of its own so that Ctrl-C does not reach it.

    Args:
        words: the program's path and its arguments.
        variables: its environment.
    """
    return subprocess.Popen(
        [sys.executable, *words],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=variables, start_new_session=True,
    )  # fmt: skip


def _visible_devices(environment: Mapping[str, str]) -> list[str]:
    """Return the CUDA devices that processes may use, as CUDA_VISIBLE_DEVICES names them."""
    if not torch.cuda.is_available():
        return []
    named = environment.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(index) for index in range(torch.cuda.device_count())]


def _loss(now: Status) -> str:
    return "unknown" if now.test_loss is None else f"{now.test_loss:.2f}"
