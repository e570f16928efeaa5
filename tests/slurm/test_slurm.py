"""The files in launch/slurm and vae/distributed/slurm.py on a real cluster: what torchrun gives, interruptions."""

import json
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.helpers import ROOT
from tests.helpers.slurm import NODE_LISTS
from tests.helpers.starts import launch
from tests.helpers.starts import run as run_here
from tests.slurm.conftest import LAUNCH, Cluster, Job, settings
from vae.distributed.slurm import expand_nodes
from vae.evaluation.results_file import read

Submit = Callable[..., Job]
TRAIN, SWEEP = LAUNCH / "train.sbatch", LAUNCH / "sweep.sbatch"
TWO_NODES = ["--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1", "--cpus-per-task=1"]
ALONE = ["--nodes=1", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1"]


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


@pytest.fixture(scope="session")
def undisturbed(cluster: Cluster, small: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights that two processes on one machine train."""
    folder = tmp_path_factory.mktemp("one_machine")
    config = ["--config", ROOT / "configs/mnist.yaml"]
    done = launch(2, *config, *settings(f"data.name={small}"), "run.dir=run", cwd=folder)
    assert done.code == 0, done.err
    return weights(folder / "run")


@pytest.fixture
def python(tmp_path: Path) -> Callable[[str], Path]:
    """Write a bash script that stands for Python: `$run` is the run's folder."""

    def write(text: str) -> Path:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/bash\nrun=runs/$SLURM_JOB_NAME\n{text}\n")
        path.chmod(0o755)
        return path

    return write


# --- the cluster ------------------------------------------------------------------------------------------------------


def test_the_nodes_are_apart_like_real_ones(cluster: Cluster) -> None:
    here = cluster("srun", "-N2", "bash", "-c", "echo $(hostname) $(readlink /proc/self/ns/net)").split()
    assert set(here[::2]) == set(cluster.nodes)
    assert len({*here[1::2], str(Path("/proc/self/ns/net").readlink())}) == 3


def test_a_signal_reaches_the_task_and_not_its_children(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    if cluster.signals_reach_children:
        pytest.xfail("no cgroup v1 freezer on this machine: the test cluster signals whole trees, more than real ones")
    child = "trap 'echo child' USR1; touch ready; while [ ! -e enough ]; do sleep 0.1; done"
    (tmp_path / "child.sh").write_text(child)
    (tmp_path / "task.sh").write_text("trap 'echo task; touch enough' USR1; bash child.sh & wait; wait")
    job = submit("--wrap", "srun bash task.sh")
    job.wait_until((tmp_path / "ready").exists, "started")
    cluster("scancel", "--signal=USR1", job.name)
    assert job.end()[0] == "COMPLETED"
    assert job.output().split() == ["task"]


# --- the environment --------------------------------------------------------------------------------------------------

SHOW = (
    "import os, vae.distributed.slurm as s;"
    " e = s.process_environment(os.environ); print(*[e.get(k, '-') for k in '%s'.split()])"
)
KEYS = "RANK LOCAL_RANK LOCAL_WORLD_SIZE WORLD_SIZE MASTER_ADDR"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["0 0 2 3 {0}", "1 1 2 3 {0}", "2 0 1 3 {0}"]),
        (["--gpus-per-node=2"], ["0 0 2 3 {0}", "1 1 2 3 {0}", "2 0 1 3 {0}"]),
        (["--gpus-per-task=1"], ["0 0 1 3 {0}", "1 0 1 3 {0}", "2 0 1 3 {0}"]),
        (["--gpus-per-node=1"], ["0 0 2 3 {0}", "1 1 2 3 {0}", "2 0 1 3 {0}"]),
    ],
    ids=["no GPUs", "all GPUs seen", "one GPU seen", "one GPU shared"],
)
def test_uneven_tasks(cluster: Cluster, options: list[str], expected: list[str]) -> None:
    program = SHOW % KEYS
    shown = cluster("srun", "-N2", "-n3", "--distribution=block", *options, sys.executable, "-c", program)
    assert sorted(shown.splitlines()) == [line.format(*cluster.nodes) for line in expected]


def test_node_lists_are_read_as_slurm_reads_them(cluster: Cluster) -> None:
    names = ",".join(NODE_LISTS)
    assert expand_nodes(names) == cluster("scontrol", "show", "hostnames", names).split()


def test_a_batch_shell_is_one_process(submit: Submit) -> None:
    command = f"{sys.executable} {ROOT / 'train_ddp.py'} --dry-run {' '.join(settings())}"
    job = submit("--nodes=2", "--ntasks-per-node=1", "--wrap", command)
    assert job.end()[0] == "COMPLETED", job.report()
    assert " 1 process on cpu " in job.output()


# --- the files as they are --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", sorted(LAUNCH.glob("*.sbatch")), ids=lambda file: file.name)
def test_slurm_accepts_the_file(cluster: Cluster, file: Path) -> None:
    cluster("sbatch", "--test-only", file)


def test_a_job_name_is_never_interpreted(submit: Submit, tmp_path: Path) -> None:
    name = """it's "2 nodes": $(touch a) `touch b` #; {c: 1}"""
    job = submit(*ALONE, f"--job-name={name}", TRAIN, *settings("--dry-run"))
    assert job.end()[0] == "COMPLETED", job.report()
    assert f"would train in runs/{name}: " in job.output()
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("setting", ["run.name=other", "run.dir=/tmp/other"])
def test_the_run_has_no_other_name_than_the_job(submit: Submit, setting: str) -> None:
    job = submit(*ALONE, TRAIN, setting)
    assert job.end()[:2] == ("FAILED", "2:0")
    assert "sbatch --job-name=NAME" in job.output()


# --- training ---------------------------------------------------------------------------------------------------------


def test_two_nodes_train_to_the_weights_of_one_machine(
    submit: Submit, undisturbed: bytes, tmp_path: Path, small: Path
) -> None:
    job = submit(*TWO_NODES, "--job-name=plain", TRAIN, *settings(f"data.name={small}"))
    assert job.end() == ("COMPLETED", "0:0", 0), job.report()
    assert "2 processes on cpu" in job.output()
    assert weights(tmp_path / "runs/plain") == undisturbed


def test_an_evaluation_on_two_nodes_is_that_of_one_process(submit: Submit, small: Path, tmp_path: Path) -> None:
    done = launch(1, *settings("train.max_steps=40", f"data.name={small}", "run.dir=together"), cwd=tmp_path)
    assert done.code == 0, done.err
    shutil.copytree(tmp_path / "together", tmp_path / "alone")
    evaluate = ["-m", "vae", "evaluate", "--samples", "20", "--device", "cpu"]
    alone = run_here(*evaluate, "alone", cwd=tmp_path)
    assert alone.code == 0, alone.err
    job = submit(*TWO_NODES, "--wrap", f"srun {sys.executable} {' '.join(evaluate)} together")
    assert job.end()[:2] == ("COMPLETED", "0:0"), job.report()
    first, second = (read(tmp_path / name)[0] for name in ("alone", "together"))
    assert (first.made["world_size"], second.made["world_size"]) == (1, 2)
    assert first.protocol == second.protocol
    for name in ("log_likelihood", "elbo", "kl", "squared_error_mean_z", "log_likelihood_error"):
        assert second.results[name] == pytest.approx(first.results[name], rel=1e-6), name
    shown = [line for line in job.output().splitlines() if "log p(x)" in line and "%|" not in line]
    assert shown == [line for line in alone.out.splitlines() if "log p(x)" in line], job.output()


def test_a_preempted_job_saves_and_continues(submit: Submit, undisturbed: bytes, tmp_path: Path, small: Path) -> None:
    job = submit(*TWO_NODES, "--exclusive", "--job-name=preempted", TRAIN, *settings(f"data.name={small}"))
    job.wait_until(lambda: any(tmp_path.glob("runs/preempted/checkpoints/step-*")), "at a checkpoint")
    other = submit("--partition=high", "--exclusive", "--nodes=2", "--wrap", "true")
    assert other.end()[0] == "COMPLETED", other.report()
    assert job.end() == ("COMPLETED", "0:0", 1), job.report()
    assert "USR1: stopped after step" in job.output()
    assert "goes back to the queue" in job.output()
    assert ", from step " in job.output()
    assert weights(tmp_path / "runs/preempted") == undisturbed


def test_a_job_survives_the_loss_of_a_node(
    cluster: Cluster, submit: Submit, undisturbed: bytes, tmp_path: Path, small: Path
) -> None:
    job = submit(*TWO_NODES, "--job-name=lost", TRAIN, *settings(f"data.name={small}"))
    job.wait_until(lambda: any(tmp_path.glob("runs/lost/checkpoints/step-*")), "at a checkpoint")
    cluster("scontrol", "update", f"NodeName={cluster.nodes[1]}", "State=DOWN", "Reason=test")
    assert job.end() == ("COMPLETED", "0:0", 1), job.report()
    assert ", from step " in job.output()
    assert weights(tmp_path / "runs/lost") == undisturbed


def test_a_dead_rank_ends_the_job(submit: Submit, tmp_path: Path, small: Path) -> None:
    job = submit(*TWO_NODES, "--job-name=dead", TRAIN, *settings(f"data.name={small}", "train.max_steps=100000"))
    job.wait_until(lambda: any(tmp_path.glob("runs/dead/checkpoints/step-*")), "at a checkpoint")
    ranks = [process for process in psutil.process_iter() if is_rank(process, job, "1")]
    assert len(ranks) == 1
    ranks[0].send_signal(signal.SIGKILL)
    state, code, restarts = job.end()
    assert (state, restarts) == ("FAILED", 0), job.report()
    assert code not in ("0:0", "85:0")


def is_rank(process: psutil.Process, job: Job, rank: str) -> bool:
    """Return true for the process of this rank in a job."""
    try:
        variables = process.environ()
    except psutil.Error:
        return False
    mine = variables.get("SLURM_JOB_ID"), variables.get("SLURM_SUBMIT_DIR"), variables.get("RANK")
    here = variables.get("SLURM_PROCID") if "train_ddp.py" in " ".join(process.cmdline()) else None
    return mine[:2] == (job.name, str(job.cwd)) and here == rank


def test_an_array_trains_the_runs_of_a_sweep_and_each_is_preemptible(
    submit: Submit, tmp_path: Path, small: Path
) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(f"base: {ROOT}/configs/mnist.yaml\nseeds: [3, 4]\n")
    job = submit(*ALONE, "--array=0-1", SWEEP, file, *settings(f"data.name={small}", "train.max_steps=1000"))
    elements = [Job(job.cluster, f"{job.name}_{index}", tmp_path) for index in (0, 1)]
    runs = [tmp_path / f"runs/two/seed={seed}" for seed in (3, 4)]
    for element, run in zip(elements, runs, strict=True):
        element.wait_until(lambda run=run: any(run.glob("checkpoints/step-*")), "at a checkpoint")
    other = submit("--partition=high", "--exclusive", "--nodes=2", "--wrap", "true")
    assert other.end()[0] == "COMPLETED", other.report()
    for element, run, seed in zip(elements, runs, (3, 4), strict=True):
        assert element.end() == ("COMPLETED", "0:0", 1), element.report()
        assert f"seed: {seed}" in (run / "config.yaml").read_text()
        starts = (run / "starts.jsonl").read_text().splitlines()
        assert [json.loads(start)["step"] > 0 for start in starts] == [False, True]
    assert weights(runs[0]) != weights(runs[1])


@pytest.mark.parametrize(
    ("index", "arguments", "said"),
    [
        (0, [], "name a sweep file"),
        (4, [ROOT / "configs/sweeps/quick.yaml"], "4: quick has the members 0 to 3"),
        (0, [ROOT / "configs/sweeps/quick.yaml", "run.name=x"], "run.name: is the sweep's own"),
    ],
)
def test_an_element_that_no_sweep_has_is_refused(submit: Submit, index: int, arguments: list[Any], said: str) -> None:
    job = submit(*ALONE, f"--array={index}", SWEEP, *arguments)
    element = Job(job.cluster, f"{job.name}_{index}", job.cwd)
    assert element.end() == ("FAILED", "2:0", 0), element.report()
    assert said in element.output()


# --- requeueing, with a script in the place of Python -----------------------------------------------------------------


def test_requeueing_goes_on_as_long_as_starts_make_progress(submit: Submit, python: Callable[[str], Path]) -> None:
    """Element 0 saves in its first start only; element 1 in its second, and is done in its third."""
    script = """
    run=runs/stub/$SLURM_ARRAY_TASK_ID
    case $* in *--folder*) echo $run; exit ;; esac
    mkdir -p $run/checkpoints; echo start
    case $SLURM_ARRAY_TASK_ID-${SLURM_RESTART_COUNT:-0} in
    0-0) mkdir $run/checkpoints/step-00000100 ;;
    1-1) mkdir $run/checkpoints/step-00000200 ;;
    1-2) exit 0 ;;
    esac
    exit 85"""
    job = submit(*ALONE, "--array=0-1", SWEEP, "stub.yaml", PYTHON=python(script))
    stuck, moving = (Job(job.cluster, f"{job.name}_{element}", job.cwd) for element in (0, 1))
    assert moving.end() == ("COMPLETED", "0:0", 2), moving.report()
    assert stuck.end() == ("FAILED", "85:0", 2), stuck.report()
    assert "two starts in a row saved nothing new" in stuck.output()
    for element in (moving, stuck):
        assert element.output().count("start\n") == 3
        assert element.output().count("goes back to the queue") == 2
        assert "does not requeue" not in element.output()


def test_a_refused_requeue_is_said(submit: Submit, python: Callable[[str], Path]) -> None:
    job = submit(*ALONE, "--no-requeue", TRAIN, PYTHON=python("mkdir -p $run/checkpoints/step-00000100; exit 85"))
    assert job.end() == ("FAILED", "85:0", 0), job.report()
    assert "submit it again to continue" in job.output()


def test_other_exit_codes_are_the_jobs(submit: Submit, python: Callable[[str], Path]) -> None:
    job = submit(*ALONE, TRAIN, PYTHON=python("exit 130"))
    assert job.end() == ("FAILED", "130:0", 0), job.report()


def test_a_rank_may_end_later_than_the_first(submit: Submit, python: Callable[[str], Path]) -> None:
    script = python("[ $SLURM_PROCID = 1 ] || sleep 2; mkdir -p $run/checkpoints/step-00000100; exit 85")
    job = submit(*TWO_NODES, "--no-requeue", TRAIN, PYTHON=script)
    assert job.end() == ("FAILED", "85:0", 0), job.report()


def test_a_cancelled_job_stays_cancelled(
    cluster: Cluster, submit: Submit, python: Callable[[str], Path], tmp_path: Path
) -> None:
    script = "trap 'mkdir -p $run/checkpoints/step-00000100; exit 85' TERM; touch ready; while :; do sleep 0.1; done"
    job = submit(*ALONE, TRAIN, PYTHON=python(script))
    job.wait_until((tmp_path / "ready").exists, "started")
    cluster("scancel", job.name)
    job.wait_until(lambda: not cluster("squeue", "-h", "-j", job.name), "gone")
    assert job.show("JobState") == "CANCELLED", job.report()
    assert int(job.show("Restarts")) == 0
