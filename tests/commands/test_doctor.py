"""`python -m vae doctor`: what it finds on this machine, alone and on two processes, and what it makes of the rest."""

import os
import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import DATA, ROOT
from tests.helpers.folders import write_run
from tests.helpers.starts import TORCHRUN, Outcome, Program, environment, ranks, run
from vae import __main__, config
from vae.doctor import examination, machine, scheduler, storage
from vae.doctor import ranks as doctor_ranks
from vae.doctor.findings import Context, Finding, Peer, failure, ok, warning

Doctor = Callable[..., Outcome]
SMALL = ["model.hidden_dim=32"]


DOCTOR = ["-m", "vae", "doctor", f"data.root={DATA}", *SMALL]


def levels(out: str) -> dict[str, str]:
    """Return the level of each finding that was printed, by name."""
    return {line[9:22].strip(): line.split()[0] for line in out.splitlines() if line[9:10].strip() and line[8] == " "}


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Doctor:
    """Run the doctor in this process, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    for name in set(os.environ) - set(environment()) | {name for name in os.environ if name.startswith("SLURM_")}:
        monkeypatch.delenv(name)

    def run(*args: object) -> Outcome:
        capsys.readouterr()
        code = __main__.main(["doctor", f"data.root={DATA}", *SMALL, *map(str, args)])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


# --- one process ------------------------------------------------------------------------------------------------------


def test_alone_all_is_well_and_nothing_is_left_behind(doctor: Doctor, tmp_path: Path) -> None:
    done = doctor("run.name=new")
    assert done.code == 0, done.out
    found = levels(done.out)
    assert found.keys() >= {*machine.CHECKS, *doctor_ranks.CHECKS, "run folder", "free space", "rendezvous", "slurm"}
    assert "failure" not in found.values()
    assert "60,000 training and 10,000 test images, 1x28x28, uint8, 10 classes; fingerprint " in done.out
    assert done.out.splitlines()[-1].endswith("training can start")
    assert list(tmp_path.iterdir()) == []


def test_a_run_with_other_settings_and_a_tracker_that_is_not_there_are_failures(doctor: Doctor, tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "old", Path("data.npz"))
    done = doctor("run.name=old", "run.trackers=comet_ml", "data.name=MNIST")
    assert done.code == 1
    run = r"^failure +run +runs/old holds a run with other settings \(.*data.name: data.npz -> MNIST"
    trackers = r"^failure +trackers +run.trackers = 'comet_ml': the package is not installed; pip install"
    assert re.search(run, done.out, re.MULTILINE)
    assert re.search(trackers, done.out, re.MULTILINE)
    again = doctor("run.name=old", "data.name=data.npz", "model.hidden_dim=32", "train.epochs=4")
    assert levels(again.out)["run"] == "ok"


def test_the_same_checks_without_a_name_for_the_run(doctor: Doctor) -> None:
    assert doctor().code == 0


def test_nothing_is_compiled_and_the_engine_of_a_run_is_named(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ranks of a run wait for each other's compilers; here they would not wait for so long."""
    monkeypatch.setattr("torch.compile", lambda *_, **__: pytest.fail("compiles"))
    done = doctor("train.engine=compile")
    assert done.code == 0, done.out
    assert re.search(
        r"^ok +gradients +norm .* after one eager step; a run takes engine compile \(as asked", done.out, re.M
    )


def test_an_engine_that_cannot_be_is_a_failure(doctor: Doctor) -> None:
    done = doctor("train.engine=graph", "train.device=cpu")
    assert done.code == 1
    assert re.search(r"^failure +gradients +train.engine = 'graph': .*; use eager or auto$", done.out, re.MULTILINE)


def test_a_folder_that_is_there_is_left_as_it_was(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "runs" / "old").mkdir(parents=True)
    (tmp_path / "runs" / "old" / "metrics.jsonl").write_text("{}\n")
    done = doctor("run.name=old")
    assert done.code == 0, done.out
    assert "not there yet" not in done.out
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["metrics.jsonl", "old", "runs"]


def test_missing_data_are_a_failure_that_names_the_key(doctor: Doctor, tmp_path: Path) -> None:
    done = doctor("data.root=nowhere")
    assert done.code == 1
    assert levels(done.out)["data"] == "failure"
    assert "data.root = 'nowhere'" in done.out
    assert levels(done.out)["gradients"] == "ok"  # on random images
    assert list(tmp_path.iterdir()) == []  # nothing was downloaded


def test_damaged_data_are_a_failure(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    done = doctor("data.name=bad.npz")
    assert done.code == 1
    assert re.search(r"^failure +data +bad.npz: not a readable .npz", done.out, re.MULTILINE)


@pytest.mark.parametrize("in_the_way", ["file", "/proc"])
def test_a_folder_that_cannot_be_written_is_a_failure(doctor: Doctor, tmp_path: Path, in_the_way: str) -> None:
    (tmp_path / "file").touch()
    done = doctor(f"run.dir={in_the_way}/run")
    assert done.code == 1
    assert levels(done.out)["run folder"] == "failure"
    assert "set run.dir" in done.out


@pytest.mark.parametrize(("setting", "name"), [("train.precision=fp16", "precision"), ("train.device=cuda", "devices")])
def test_settings_that_need_a_gpu_are_failures_and_the_rest_is_still_looked_at(
    doctor: Doctor, setting: str, name: str
) -> None:
    done = doctor(setting)
    assert done.code == 1
    assert [found for found, level in levels(done.out).items() if level == "failure"] == [name]
    assert levels(done.out)["gradients"] == "ok"


def test_the_launchers_precision_is_named_where_the_run_does_not_follow_it_or_cannot() -> None:
    launched = {"ACCELERATE_MIXED_PRECISION": "fp16"}

    def finding(precision: str) -> Finding:
        wanted = config.load(overrides=[f"train.precision={precision}", "train.device=cpu"])
        return machine.check_precision(Context(wanted, None, launched))

    ignored, impossible = finding("fp32"), finding("fp16")
    assert (ignored.level, impossible.level) == ("warning", "failure")
    assert "'fp32' was given and is used, not the launcher's fp16" in ignored.advice
    assert "fp16 needs a CUDA device (the launcher asks for fp16" in impossible.found


def test_a_wrong_key_is_refused_in_one_line(doctor: Doctor) -> None:
    done = doctor("train.epoch=3")
    assert (done.code, done.out) == (2, "")
    assert "train.epoch: there is no such key" in done.line


def test_a_check_that_breaks_is_a_failure_and_not_a_traceback(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(examination.ALONE, "devices", lambda _: 1 / 0)
    done = doctor()
    assert done.code == 1
    assert re.search(r"^failure +devices +ZeroDivisionError", done.out, re.MULTILINE)
    assert levels(done.out)["gradients"] == "ok"


# --- two processes ----------------------------------------------------------------------------------------------------


def test_two_ranks_meet_add_up_and_have_equal_gradient_norms(tmp_path: Path) -> None:
    done = run(*TORCHRUN, 2, *DOCTOR, "run.name=new", real=True, cwd=tmp_path)
    assert done.code == 0, done.out + done.err
    found = levels(done.out)
    assert {found[name] for name in ("launcher", "rendezvous", "ranks", *doctor_ranks.CHECKS)} <= {"ok", "warning"}
    assert "torchrun: 2 processes" in done.out
    assert "(ranks 0, 1)" in done.out
    assert len(re.findall("^ok +all-reduce +right", done.out, re.MULTILINE)) == 1  # one process reports
    assert re.search("^ok +gradients .*the same on all ranks", done.out, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_on_another_rank_is_reported_by_rank_0(tmp_path: Path) -> None:
    """Rank 1 starts in another folder, where it finds no data (not of the size of MNIST) and no token."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    np.savez(here / "data.npz", images=np.zeros((20, 8, 8), np.uint8))
    places = zip(ranks(2), (here, there), strict=True)
    started = [Program(*DOCTOR, "data.name=data.npz", env=env, cwd=folder) for env, folder in places]
    one, other = (program.wait() for program in started)
    assert (one.code, other.code) == (1, 1), one.err + other.err
    assert other.out == ""
    assert re.search(r"^failure +data .*\(rank 1\)$", one.out, re.MULTILINE)
    assert re.search(r"^failure +shared folder .*\(rank 1\)$", one.out, re.MULTILINE)
    assert re.search("^ok +gradients", one.out, re.MULTILINE)
    assert [path.name for path in here.iterdir()] == ["data.npz"]
    assert list(there.iterdir()) == []


BROKEN = """
import os, sys
from torch.nn.parallel import DistributedDataParallel
from vae import __main__
from vae.doctor import examination, ranks
def broken(context):
    if context.rank == 1:
        {trouble}
    return ranks.check_all_reduce(context)
if {unsynchronised}:
    DistributedDataParallel.forward = lambda self, *args: self.module(*args)
else:
    examination.TOGETHER["all-reduce"] = broken
sys.exit(__main__.main(["doctor", "data.root={data}", "model.hidden_dim=32"]))
"""


def broken(tmp_path: Path, trouble: str = "pass", unsynchronised: bool = False) -> list[Outcome]:
    code = BROKEN.format(trouble=trouble, unsynchronised=unsynchronised, data=DATA)
    started = [Program("-c", code, env=env, cwd=tmp_path) for env in ranks(2)]
    return [program.wait() for program in started]


def test_a_rank_in_trouble_says_so_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    one, other = broken(tmp_path, trouble="raise OSError('no such network')")
    assert (one.code, other.code) == (1, 1)
    assert re.search("^failure +ranks +rank 0 on .* cannot go on", one.out, re.MULTILINE)
    assert re.search("^failure +ranks +rank 1 on .* OSError: no such network", other.out, re.MULTILINE)
    assert "Traceback" not in one.err + other.err


def test_a_rank_that_dies_is_noticed(tmp_path: Path) -> None:
    one, other = broken(tmp_path, trouble="os._exit(9)")
    assert (one.code, other.code) == (1, 9)
    assert re.search("^failure +ranks +rank 0 on .* cannot go on", one.out, re.MULTILINE)


def test_gradients_that_are_not_synchronised_are_a_failure(tmp_path: Path) -> None:
    one, other = broken(tmp_path, unsynchronised=True)
    assert (one.code, other.code) == (1, 1), one.err + other.err
    assert re.search("^failure +gradients .*not synchronised", one.out, re.MULTILINE)
    assert levels(one.out)["shared folder"] == "ok"


def test_a_rendezvous_that_fails_is_a_failure_on_each_machine(tmp_path: Path) -> None:
    unreachable = {"MASTER_ADDR": "no-such-host.invalid", "MASTER_PORT": "1", "LOCAL_RANK": "0"}
    done = run(*DOCTOR, env=ranks(2)[1] | unreachable, cwd=tmp_path)
    assert done.code == 1
    assert re.search("^failure +launcher .*no-such-host.invalid:1: not to be resolved", done.out, re.MULTILINE)
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("size", "name", "says"), [("2", "launcher", "MASTER_ADDR is not set"), ("two", "rendezvous", "WORLD_SIZE = two")]
)
def test_a_world_size_that_cannot_be_is_a_failure(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, size: str, name: str, says: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.setattr("vae.distributed.ending.abandon", lambda _: None)  # would end this process
    done = doctor()
    assert done.code == 1
    assert levels(done.out)[name] == "failure"
    assert says in done.out


# --- judgements, as pure functions ------------------------------------------------------------------------------------

PEER = Peer(0, "node1", {"torch": "2.15.0", "numpy": "2.4"}, frozenset({0, 1}), 1, 1000.0, "abc", ())


def test_ranks_that_are_alike() -> None:
    found = doctor_ranks.judge_peers([PEER, replace(PEER, rank=1), replace(PEER, rank=2, host="node2", clock=1001.0)])
    assert found == ok("node1 (ranks 0, 1), node2 (rank 2); same software, data and time")


@pytest.mark.parametrize(
    ("change", "level", "says"),
    [
        (
            {"versions": {"torch": "2.11.0", "numpy": "2.4"}},
            "failure",
            "torch differs: 2.15.0 (rank 0), 2.11.0 (rank 1)",
        ),
        ({"versions": {"torch": "2.15.0", "numpy": "2.3"}}, "warning", "numpy differs"),
        ({"fingerprint": "def"}, "failure", "the data differ"),
        ({"fingerprint": None}, "ok", "node1"),  # said where it was found
        ({"clock": 1060.0}, "warning", "60 s apart"),
    ],
)
def test_ranks_that_differ(change: dict[str, object], level: str, says: str) -> None:
    found = doctor_ranks.judge_peers([PEER, replace(PEER, rank=1, **change)])  # pyright: ignore[reportArgumentType]
    assert found.level == level
    assert says in found.found


@pytest.mark.parametrize(
    ("threads", "cores", "level"),
    [((1, 1), ({0, 1}, {0, 1}), "ok"), ((2, 2), ({0, 1}, {0, 1}), "warning"), ((2, 2), ({0, 1}, {2, 3}), "ok"),
     ((1, 1), ({0, 1}, {2, 3}), "warning")],
)  # fmt: skip
def test_threads_are_compared_with_the_cores_of_all_processes_on_a_machine(
    threads: tuple[int, int], cores: tuple[set[int], set[int]], level: str
) -> None:
    peers = [replace(PEER, rank=rank, threads=threads[rank], cores=frozenset(cores[rank])) for rank in range(2)]
    assert doctor_ranks.judge_threads(peers, chosen=False, on_cuda=False).level == level


def test_idle_cores_are_no_warning_on_a_gpu_or_where_the_user_chose_so() -> None:
    peers = [replace(PEER, cores=frozenset(range(16)))]
    assert doctor_ranks.judge_threads(peers, chosen=False, on_cuda=False).advice.endswith("train.threads=16")
    assert doctor_ranks.judge_threads(peers, chosen=False, on_cuda=True).level == "ok"
    assert doctor_ranks.judge_threads(peers, chosen=True, on_cuda=False).level == "ok"


def test_findings_of_many_ranks_become_one_line_for_each_problem() -> None:
    bad = failure("no data", "copy them")
    assert examination.merge([ok("a"), ok("b"), None]) == [ok("a")]
    assert examination.merge([bad, bad]) == [bad]
    assert examination.merge([ok("a"), bad, bad]) == [replace(bad, found="no data (ranks 1, 2)")]
    assert examination.merge([None, warning("w", "x"), bad]) == [
        replace(warning("w", "x"), found="w (rank 1)"), replace(bad, found="no data (rank 2)")
    ]  # fmt: skip
    assert examination.merge([None, None]) == []


def test_summary_counts_the_levels() -> None:
    findings = [ok(""), ok(""), warning("", ""), failure(""), failure("")]
    assert examination.summary(findings) == "2 ok, 1 warning, 2 failures: training would not work as configured"
    assert examination.summary(findings[:2]) == "2 ok: training can start"


def test_a_finding_shows_its_advice_below_what_was_found() -> None:
    line, way_out = str(Finding("warning", "found", "advice", name="name")).splitlines()
    assert line == "warning  name          found"
    assert way_out.index("->") == line.index("found")
    assert way_out.strip() == "-> advice"


@pytest.mark.parametrize(("free", "level"), [(99, "failure"), (100, "warning"), (199, "warning"), (200, "ok")])
def test_a_disk_that_is_nearly_full(free: int, level: str) -> None:
    assert storage.judge_space(free * 2**20, 100 * 2**20).level == level


def test_the_space_a_run_takes_is_that_of_three_checkpoints_with_both_moments_and_the_model() -> None:
    assert storage.needed(1000, keeps_best=False, averages=False) - storage.LOGS == 3 * 3 * 1000 + 1000
    assert storage.needed(1000, keeps_best=True, averages=False) - storage.LOGS == 4 * 3 * 1000 + 1000
    assert storage.needed(1000, keeps_best=True, averages=True) - storage.LOGS == 4 * 4 * 1000 + 2 * 1000


def test_minimum_versions_are_those_of_the_package() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    for name, minimum in machine.MINIMUM.items():
        assert f"{name}>={'.'.join(map(str, minimum))}" in dependencies
    found = {"torch": "2.10.1+cu126", "accelerate": "1.10.0"}
    assert machine.too_old(found) == ["'torch>=2.11'"]
    assert machine.too_old({"torch": "3.0", "accelerate": "1.9"}) == ["'accelerate>=1.10'"]


@pytest.mark.parametrize(
    ("address", "means_itself"),
    [("localhost", True), ("127.0.0.1", True), ("::1", True), ("node1", False), ("10.0.0.1", False)],
)
def test_addresses_that_mean_the_machine_itself(address: str, means_itself: bool) -> None:
    assert machine.is_loopback(address) is means_itself


def test_several_nodes_are_noticed_from_what_launchers_say() -> None:
    assert not machine.on_several_nodes({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"})
    assert machine.on_several_nodes({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"})
    one_gpu_each = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "SLURM_STEP_NUM_NODES": "1"}
    assert not machine.on_several_nodes(one_gpu_each)
    assert machine.on_several_nodes(one_gpu_each | {"SLURM_STEP_NUM_NODES": "2"})


@pytest.mark.parametrize(
    ("capabilities", "level"),
    [
        ({"cpu_name": "x", "avx512_bf16": True, "amx_bf16": False}, "ok"),
        ({"amx_bf16": True, "avx512_bf16": False}, "ok"),
        ({"avx512_bf16": False, "amx_bf16": False, "avx512_vnni": True}, "warning"),
        ({"avx2": True}, "warning"),
    ],
)
def test_a_cpu_without_bf16_is_named_where_bf16_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, object], level: str
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities)
    wanted = Context(config.load(None, ["train.precision=bf16", "train.device=cpu"]), None, {})
    assert machine.check_precision(wanted).level == level


# --- SLURM ------------------------------------------------------------------------------------------------------------

# recorded: SLURM 22.05.8, `scontrol show job -o`
JOB = """\
JobId=6 JobName=d.sbatch UserId=root(0) GroupId=root(0) MCS_label=N/A Priority=4294901754 Nice=0 Account=(null) \
QOS=(null) JobState=RUNNING Reason=None Dependency=(null) Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0 \
RunTime=00:00:19 TimeLimit=00:30:00 TimeMin=N/A SubmitTime=2026-11-21T06:26:08 EligibleTime=2026-11-21T06:26:08 \
AccrueTime=2026-11-21T06:26:08 StartTime=2026-11-21T06:26:08 EndTime=2026-11-21T06:56:08 Deadline=N/A \
PreemptEligibleTime=2026-11-21T06:26:08 PreemptTime=None SuspendTime=None SecsPreSuspend=0 \
LastSchedEval=2026-11-21T06:26:08 Scheduler=Main Partition=main AllocNode:Sid=localhost:20315 ReqNodeList=(null) \
ExcNodeList=(null) NodeList=node[1-2] BatchHost=node1 NumNodes=2 NumCPUs=4 NumTasks=4 CPUs/Task=1 \
ReqB:S:C:T=0:0:*:* TRES=cpu=4,node=2,billing=4 Socks/Node=* NtasksPerN:B:S:C=2:0:*:* CoreSpec=* MinCPUsNode=2 \
MinMemoryNode=0 MinTmpDiskNode=0 Features=(null) DelayBoot=00:00:00 OverSubscribe=OK Contiguous=0 Licenses=(null) \
Network=(null) Command=/home/me/my job.sbatch WorkDir=/home/me StdErr=/home/me/d-6.out StdIn=/dev/null \
StdOut=/home/me/d-6.out Power= \
"""


def test_what_slurm_says_of_a_job() -> None:
    job = scheduler.parse(JOB)
    assert job["TRES"] == "cpu=4,node=2,billing=4"
    assert job["Command"] == "/home/me/my job.sbatch"
    assert (job["ReqB:S:C:T"], job["Power"]) == ("0:0:*:*", "")
    found = scheduler.judge_job(job)
    assert found == ok("job 6 on node[1-2]: 0:29:41 left of 0:30:00, may be requeued")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("Requeue=1", "Requeue=0", "#SBATCH --requeue"),
        ("BatchFlag=1", "BatchFlag=0", "sbatch launch/slurm/train.sbatch"),
    ],
)
def test_a_job_that_does_not_go_on_by_itself(old: str, new: str, says: str) -> None:
    found = scheduler.judge_job(scheduler.parse(JOB.replace(old, new)))
    assert found.level == "warning"
    assert says in found.advice


@pytest.mark.parametrize(
    ("text", "seconds"), [("00:05:00", 300), ("2-01:00:01", 176401), ("UNLIMITED", None), ("", None)]
)
def test_durations(text: str, seconds: int | None) -> None:
    assert scheduler.seconds(text) == seconds


def test_options_in_a_batch_script() -> None:
    script = "#!/bin/bash\n\n# words\n##SBATCH --signal=A@1\n#SBATCH --nodes=2 --signal=USR1@120 # why\ncd x\n"
    assert scheduler.batch_option(script, "signal") == "USR1@120"
    assert scheduler.batch_option(script, "requeue") is None
    assert scheduler.batch_option("#!/bin/bash\n#SBATCH --signal 'TERM@90'\n", "signal") == "TERM@90"
    assert scheduler.batch_option("#!/bin/bash\ncd x\n#SBATCH --signal=USR1\n", "signal") is None  # sbatch stops, too
    assert scheduler.batch_option((ROOT / "launch/slurm/train.sbatch").read_text(), "signal") == "USR1@120"


@pytest.mark.parametrize(
    ("setting", "limit", "level", "says"),
    [
        ("USR1@120", 3600, "ok", "USR1 about 120 s before"),
        ("SIGTERM", 3600, "ok", "TERM about 60 s before"),
        ("10@90", 3600, "ok", "10 about 90 s"),
        ("B:USR1@120", 3600, "warning", "batch shell only"),
        ("USR2@120", 3600, "warning", "does not obey"),
        ("USR1@5", 3600, "warning", "about 5 s"),
        ("USR1@120", 180, "warning", "at once"),
        ("USR1@soon", 3600, "warning", "not understood"),
        (None, 3600, "warning", "no --signal seen"),
        (None, None, "ok", "no time limit"),
    ],
)
def test_the_signal_before_the_time_limit(setting: str | None, limit: int | None, level: str, says: str) -> None:
    script = f"#!/bin/bash\n#SBATCH --signal={setting}\n" if setting else "#!/bin/bash\n"
    found = scheduler.judge_signal(script, None, limit)
    assert found.level == level
    assert says in found.found
    assert level == "ok" or scheduler.SIGNAL_LINE in found.advice or "--time" in found.advice


def test_a_signal_that_was_exported_wins_and_a_script_that_cannot_be_read_is_said() -> None:
    assert scheduler.judge_signal("", "USR1@100", 3600).level == "ok"
    assert "cannot be read" in scheduler.judge_signal(None, None, 3600).found


def test_in_an_allocation_without_scontrol_there_is_a_warning(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("PATH", "")
    done = doctor()
    assert done.code == 0, done.out
    assert levels(done.out)["slurm"] == "warning"
