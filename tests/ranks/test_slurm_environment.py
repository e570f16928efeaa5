"""SLURM's variables, as its manual and a real cluster write them -> a process group's."""

import subprocess
import sys

import pytest

from tests.helpers.slurm import NODE_LISTS, STEP
from vae.distributed import slurm
from vae.distributed.slurm import FIRST_PORT, PORTS, expand_counts, expand_nodes, process_environment

GROUP = {
    "RANK": "3",
    "WORLD_SIZE": "7",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "n01",
    "MASTER_PORT": "24711",
}
ONE_OF_ONE = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
BATCH_SHELL = {
    "SLURM_JOB_ID": "4711",
    "SLURM_NTASKS": "7",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_JOB_NODELIST": "n[01-03,07]",
    "SLURM_TASKS_PER_NODE": "2(x3),1",
}


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ({}, {}),
        ({"SLURM_PROCID": "6", "SLURM_NODEID": "3", "SLURM_LOCALID": "0"}, {"RANK": "6"} | ONE_OF_ONE),
        ({"MASTER_PORT": "29500"}, {"MASTER_PORT": "29500"}),
        ({"MASTER_ADDR": "10.0.0.1"}, {"MASTER_ADDR": "10.0.0.1"}),
        ({"SLURM_STEP_ID": "2"}, {"MASTER_PORT": "24913"}),
        ({"SLURM_JOB_ID": "34711"}, {"MASTER_PORT": "24711"}),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_ON_NODE": "2"}, {}),
        ({"CUDA_VISIBLE_DEVICES": ""}, {}),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, {}),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, {}),
        ({"CUDA_VISIBLE_DEVICES": "0"}, ONE_OF_ONE),
        ({"CUDA_VISIBLE_DEVICES": "1", "SLURM_GPUS_ON_NODE": "2"}, ONE_OF_ONE),
        ({"CUDA_VISIBLE_DEVICES": "MIG-3f1c", "SLURM_GPUS_ON_NODE": "2"}, ONE_OF_ONE),
        ({"CUDA_VISIBLE_DEVICES": "0", "SLURM_GPUS_ON_NODE": "1"}, {}),  # shared by two tasks: for Accelerate to refuse
    ],
)
def test_a_task_of_several(added: dict[str, str], expected: dict[str, str]) -> None:
    assert process_environment(STEP | added) == GROUP | expected


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"HOME": "/root", "CUDA_VISIBLE_DEVICES": "0"},
        BATCH_SHELL,
        BATCH_SHELL | {"CUDA_VISIBLE_DEVICES": "0"},
        STEP | {"SLURM_STEP_NUM_TASKS": "1"},
        STEP | {"RANK": "0"},
    ],
    ids=["nothing", "no SLURM", "batch shell", "batch shell with a GPU", "one task", "torchrun in a step"],
)
def test_elsewhere_nothing_is_touched(environment: dict[str, str]) -> None:
    assert process_environment(environment) == {}


@pytest.mark.parametrize("name", [name for name in STEP if name != "SLURM_STEP_NUM_TASKS"])
def test_a_missing_variable_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: not set .* srun$"):
        process_environment({key: value for key, value in STEP.items() if key != name})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SLURM_STEP_NUM_TASKS", "many", "not a number"),
        ("SLURM_PROCID", "-1", "not a number"),
        ("SLURM_NODEID", "4", r"SLURM_STEP_TASKS_PER_NODE = 2\(x3\),1: says nothing of node 4"),
        ("SLURM_STEP_TASKS_PER_NODE", "2(y3)", "not a list of counts"),
        ("SLURM_STEP_NODELIST", "", "not a list of nodes"),
        ("SLURM_STEP_NODELIST", "n[01-03", "not a list of nodes"),
        ("SLURM_STEP_NODELIST", "n[01-03]]", "not a list of nodes"),
        ("SLURM_STEP_NODELIST", "n[]", "not a list of nodes"),
        ("SLURM_STEP_NODELIST", "n1,,n2", "not a list of nodes"),
        ("SLURM_STEP_NODELIST", "n[a-c]", "'a-c' is not a number or range"),
        ("SLURM_STEP_NODELIST", "n[3-1]", "'3-1' is not a number or range"),
        ("SLURM_GPUS_ON_NODE", "all", "not a number"),
    ],
)
def test_what_slurm_does_not_write_is_refused(name: str, value: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        process_environment(STEP | {"CUDA_VISIBLE_DEVICES": "0", name: value})
    assert name in str(caught.value) or name == "SLURM_NODEID"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("names", "expected"), NODE_LISTS.items())
def test_node_lists(names: str, expected: list[str]) -> None:
    assert expand_nodes(names) == expected


@pytest.mark.parametrize(
    ("counts", "expected"), [("1", [1]), ("2(x3),1", [2, 2, 2, 1]), ("4,2(x2)", [4, 2, 2]), ("16(x1)", [16])]
)
def test_counts(counts: str, expected: list[int]) -> None:
    assert expand_counts(counts) == expected


def test_neighbouring_jobs_have_ports_of_their_own() -> None:
    jobs = [STEP | {"SLURM_JOB_ID": str(job)} for job in range(100)]
    ports = {int(process_environment(job)["MASTER_PORT"]) for job in jobs}
    assert len(ports) == 100
    assert min(ports) >= FIRST_PORT
    assert max(ports) < FIRST_PORT + PORTS


def test_it_needs_neither_torch_nor_numpy() -> None:
    program = "import sys, vae.distributed.slurm; assert not {'torch', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=slurm.__file__.rpartition("/vae/")[0], timeout=60)
