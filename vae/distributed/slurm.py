"""SLURM's variables -> a process group's: what a launcher would set, for the tasks of one `srun` step.

Standard library only: it is used before torch is imported.
"""

import re
from collections.abc import Mapping

from vae.errors import InputError

FIRST_PORT, PORTS = 20_000, 10_000  # below the ports that operating systems hand out by themselves (32768 and up)


def process_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT of a task.

    Empty outside a step of several tasks (a batch script's shell, a login node, one task) and where a launcher has set
    RANK already: there the environment is right as it is.

    Args:
        environment: `os.environ`.

    Raises:
        InputError: a variable of SLURM's is missing or is not what SLURM writes; the message is one line.
    """
    if "RANK" in environment or "SLURM_STEP_NUM_TASKS" not in environment:
        return {}
    tasks = _number(environment, "SLURM_STEP_NUM_TASKS")
    if tasks < 2:
        return {}
    node, counts = _number(environment, "SLURM_NODEID"), _text(environment, "SLURM_STEP_TASKS_PER_NODE")
    tasks_by_node = expand_counts(counts)
    if node >= len(tasks_by_node):
        raise InputError(f"SLURM_STEP_TASKS_PER_NODE = {counts}: says nothing of node {node}")
    local_rank, tasks_here = _number(environment, "SLURM_LOCALID"), tasks_by_node[node]
    if _sees_its_own_gpu_only(environment, tasks_here):
        local_rank, tasks_here = 0, 1  # to such a task its GPU is number 0 of 1
    first_node = expand_nodes(_text(environment, "SLURM_STEP_NODELIST"))[0]
    return {
        "RANK": str(_number(environment, "SLURM_PROCID")),
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_WORLD_SIZE": str(tasks_here),
        "MASTER_ADDR": environment.get("MASTER_ADDR") or first_node,
        "MASTER_PORT": environment.get("MASTER_PORT") or str(_port(environment)),
    }


def expand_nodes(names: str) -> list[str]:
    """Return the host names in SLURM's short form, e.g. `n[01-03,07],login` -> n01, n02, n03, n07, login.

    Raises:
        InputError: it is not such a list.
    """
    groups = re.split(r",(?![^\[]*\])", names)  # at the commas outside brackets
    return [name for group in groups for name in _expand_group(group, names)]


def expand_counts(counts: str) -> list[int]:
    """Return one number for each node from SLURM's short form, e.g. `2(x3),1` -> 2, 2, 2, 1.

    Raises:
        InputError: it is not such a list.
    """
    expanded: list[int] = []
    for group in counts.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", group)
        if match is None:
            raise InputError(f"SLURM_STEP_TASKS_PER_NODE = {counts}: not a list of counts")
        expanded += [int(match[1])] * int(match[2] or 1)
    return expanded


def _text(environment: Mapping[str, str], name: str) -> str:
    if name not in environment:
        raise InputError(f"{name}: not set in a SLURM step of several tasks; start the job with srun")
    return environment[name]


def _number(environment: Mapping[str, str], name: str) -> int:
    text = _text(environment, name)
    if not text.isdecimal():
        raise InputError(f"{name} = {text}: not a number")
    return int(text)


def _sees_its_own_gpu_only(environment: Mapping[str, str], tasks_here: int) -> bool:
    """Return true if SLURM shows this task one GPU and the others on this node other ones (`--gpus-per-task=1`)."""
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    if visible in ("", "-1", "NoDevFiles") or "," in visible:
        return False
    return "SLURM_GPUS_ON_NODE" not in environment or _number(environment, "SLURM_GPUS_ON_NODE") >= tasks_here


def _port(environment: Mapping[str, str]) -> int:
    """Return a port that the tasks of one step agree on and that steps and jobs on one node seldom share."""
    job, step = _number(environment, "SLURM_JOB_ID"), _number(environment, "SLURM_STEP_ID")
    return FIRST_PORT + (job + 101 * step) % PORTS


def _expand_group(group: str, names: str) -> list[str]:
    """Return the names in one group: text, then perhaps numbers in brackets and more of the same."""
    match = re.fullmatch(r"([^\[\]]*)(?:\[([^\[\]]+)\](.*))?", group)
    if match is None or not group:
        raise InputError(f"SLURM_STEP_NODELIST = {names}: not a list of nodes")
    before, numbers, after = match.groups()
    if numbers is None:
        return [before]
    rest = _expand_group(after, names) if after else [""]
    return [before + number + end for number in _expand_numbers(numbers, names) for end in rest]


def _expand_numbers(numbers: str, names: str) -> list[str]:
    """Return the numbers in a pair of brackets, as wide as they are written: `08-11,7` -> 08, 09, 10, 11, 7."""
    expanded: list[str] = []
    for part in numbers.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        first, last = (match[1], match[2] or match[1]) if match else ("1", "0")
        if int(first) > int(last):
            raise InputError(f"SLURM_STEP_NODELIST = {names}: {part!r} is not a number or range")
        expanded += [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return expanded
