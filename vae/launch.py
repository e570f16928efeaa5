"""One process among several: its accelerator, its threads, and one answer for all ranks."""

import gc
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration, broadcast_object_list

from vae.components import InputError

Result = TypeVar("Result")
_HOW_TO_LAUNCH = "start N processes with torchrun --nproc-per-node N (or accelerate launch), or unset WORLD_SIZE"


def make_accelerator(device: str, mixed_precision: str, environment: Mapping[str, str]) -> Accelerator:
    """Start the process group, if a launcher asked for one, and return the accelerator.

    Args:
        device: `auto`, `cpu` or `cuda`.
        mixed_precision: `no`, `bf16` or `fp16`.
        environment: `os.environ`: what the launcher said.

    Raises:
        InputError: the device is not there, fp16 has no device, or the launcher started another number of processes.
    """
    announced, here = _check_launcher(environment), _processes_here(environment)
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise InputError("train.device = 'cuda': this machine has no CUDA device; use auto or cpu")
    use_cpu = device == "cpu" or not has_cuda
    if mixed_precision == "fp16" and use_cpu:
        raise InputError("train.precision = 'fp16': needs a CUDA device; use bf16 or fp32 on a CPU")
    if not use_cpu and here > torch.cuda.device_count():
        devices = f"this machine has {torch.cuda.device_count()} CUDA devices for {here} processes"
        raise InputError(f"train.device = {device!r}: {devices}; start fewer, or set train.device=cpu")
    accelerator = Accelerator(
        cpu=use_cpu,
        mixed_precision=mixed_precision,
        log_with="tensorboard",
        project_config=ProjectConfiguration(logging_dir="."),  # the tracker sets the run folder once it is known
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    if accelerator.num_processes != announced:  # each process would believe to be alone and write the same files
        raise InputError(f"WORLD_SIZE = {announced}: but {accelerator.num_processes} came together; {_HOW_TO_LAUNCH}")
    return accelerator


def _check_launcher(environment: Mapping[str, str]) -> int:
    """Return the processes that the launcher announced; refuses a WORLD_SIZE without the rest of its variables."""
    announced = environment.get("WORLD_SIZE", "1")
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if not announced.isdecimal() or (int(announced) > 1 and missing):
        hint = f"but {', '.join(missing)} not set" if missing else "not a number"
        raise InputError(f"WORLD_SIZE = {announced}: {hint}; {_HOW_TO_LAUNCH}")
    return int(announced)


def _processes_here(environment: Mapping[str, str]) -> int:
    """Return the processes of this job on this machine."""
    count = environment.get("LOCAL_WORLD_SIZE", "1")
    if not count.isdecimal() or int(count) < 1:
        raise InputError(f"LOCAL_WORLD_SIZE = {count}: not a number of processes; {_HOW_TO_LAUNCH}")
    return int(count)


def set_threads(threads: int, environment: Mapping[str, str]) -> int:
    """Set and return this process's CPU threads; 0: the cores we may use, divided by the processes on this machine.

    To be called after `make_accelerator`: Accelerate sets them too, by its own rule.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(threads or max(1, cores // _processes_here(environment)))
    return torch.get_num_threads()


def speaks(environment: Mapping[str, str]) -> bool:
    """Whether this process reports what all processes on this machine find out alike."""
    return environment.get("LOCAL_RANK", "0") in ("0", "-1")


def on_main(accelerator: Accelerator, action: Callable[[], Result]) -> Result:
    """Run `action` on the main process and give its result, or what it raised, to all of them (all ranks)."""
    outcome: list[Any] = [None, None]
    failure: Exception | None = None
    if accelerator.is_main_process:
        try:
            outcome = [action(), None]
        except Exception as error:  # the others wait for an answer, whatever it is
            failure = error
            known = isinstance(error, InputError)
            outcome = [None, error if known else RuntimeError(f"on the main process: {type(error).__name__}: {error}")]
    broadcast_object_list(outcome)
    if failure or outcome[1]:
        raise failure or outcome[1]
    return outcome[0]


def leave() -> None:
    """Leave the process group, if there is one, and forget Accelerate's state."""
    if PartialState._shared_state:
        # what an exception's frames still hold of the model would keep the process group's threads alive past its end,
        # which aborts the process as it exits
        gc.collect()
        PartialState().destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)
