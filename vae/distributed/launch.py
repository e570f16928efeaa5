"""One process among several: its accelerator, its threads, and one answer for all ranks."""

import gc
import importlib
import os
import re
import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    broadcast_object_list,
    gather_object,
)

from vae.compat import forget_accelerator
from vae.distributed import accelerate_settings
from vae.distributed.ending import SHARED
from vae.errors import CrowdedWarning, InputError, RankLostError

Result = TypeVar("Result")
MIN_SECONDS_TO_MEET = 30.0  # processes that start together may take that long to import torch
SECONDS_AFTER_WATCHDOG = 10.0  # it is to be first: it knows which rank is missing
# Accelerate makes a process group where LOCAL_RANK is set, or one of the others is more than 1
OF_MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
LAUNCHERS_VARIABLES = ("LOCAL_RANK", "WORLD_SIZE", *OF_MPI)
# Of what CUDA brings, nothing that a user could act upon: the beginning of a warning, its kind.
NOT_FOR_USERS = (
    ("TensorFloat32 tensor cores", UserWarning),  # torch 2.11's compiler advises TF32: train.tf32 decides
    ("CUDA libdevice not found", UserWarning),  # torch 2.14's compiler takes the copy that Triton brings
    ("`torch.distributed.all_gather_into_tensor` is deprecated", FutureWarning),  # a call of Accelerate's
)
_HOW_TO_LAUNCH = "start N processes with torchrun --nproc-per-node N (or accelerate launch), or unset"


class RendezvousError(RankLostError):
    """The processes of a job did not find each other; each of them says so."""


def make_accelerator(
    device: str,
    mixed_precision: str,
    environment: Mapping[str, str],
    timeout: float = 600.0,
    *,
    tf32: bool = False,
    backend: str | None = None,
) -> Accelerator:
    """Start the process group, if a launcher asked for one, and return the accelerator.

    From here on float32 products are float32 products on CUDA too, unless `tf32`: see `set_products`.

    Args:
        device: `auto`, `cpu` or `cuda`.
        mixed_precision: `no`, `bf16` or `fp16`.
        environment: `os.environ`: what the launcher said.
        timeout: seconds to wait for the other processes, here and in every collective.
        tf32: whether products of float32 numbers may be rounded to TF32.
        backend: of the collectives on CUDA; None: NCCL, which refuses two processes on one device. `gloo` takes them.

    Raises:
        InputError: the device is not there, fp16 has no device, or the launcher asks for what a job cannot do or
            started another number of processes.
        RendezvousError: the others did not come within the time.
    """
    accelerate_settings.refuse_unsupported(environment)
    announced, here = _check_launcher(environment), _processes_here(environment)
    if not _certainly_alone(environment):  # before there is a process group, which it would hold: see leave
        importlib.import_module("torch.distributed.nn.functional")
    use_cpu = _runs_on_cpu(device, mixed_precision, here, environment)
    set_products(tf32=tf32)
    for beginning, kind in NOT_FOR_USERS:
        warnings.filterwarnings("ignore", re.escape(beginning), kind)
    group = InitProcessGroupKwargs(
        timeout=timedelta(seconds=max(MIN_SECONDS_TO_MEET, timeout + SECONDS_AFTER_WATCHDOG)),
        **({} if backend is None else {"backend": backend}),
    )
    accelerator = _start(
        environment,
        cpu=use_cpu,
        mixed_precision=mixed_precision,
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True), group],
    )
    if accelerator.num_processes != announced:  # each process would believe to be alone and write the same files
        raise InputError(
            f"WORLD_SIZE = {announced}: but {accelerator.num_processes} came together; {_HOW_TO_LAUNCH} WORLD_SIZE"
        )
    return accelerator


def _runs_on_cpu(device: str, mixed_precision: str, here: int, environment: Mapping[str, str]) -> bool:
    """Return true where the CPU is the device; refuses a CUDA device that is not there, and fp16 without one."""
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise InputError("train.device = 'cuda': this machine has no CUDA device; use auto or cpu")
    launched_on_cpu = accelerate_settings.wants_cpu(environment)
    if device == "cuda" and launched_on_cpu:  # Accelerate would take the CPU, without a word
        problem = f"the launcher asks for the CPU ({accelerate_settings.CPU})"
        raise InputError(f"train.device = 'cuda': {problem}; launch without --cpu, or leave train.device alone")
    use_cpu = device == "cpu" or not has_cuda or launched_on_cpu
    if mixed_precision == "fp16" and use_cpu:
        source = accelerate_settings.naming_launcher(environment, "fp16")
        raise InputError(f"train.precision = 'fp16': needs a CUDA device; use bf16 or fp32 on a CPU{source}")
    if not use_cpu:
        _check_devices(device, torch.cuda.device_count(), here, environment)
    return use_cpu


def set_products(*, tf32: bool) -> None:
    """Set how CUDA multiplies float32 numbers: in float32 or in TF32, and convolutions by deterministic algorithms.

    Torch's own default is TF32 for convolutions, float32 for matrix products, and whichever algorithm of cuDNN is at
    hand, of which some add by atomics: then a resumed run has other bits. One interface for all of it: torch raises
    where it finds `allow_tf32` and `fp32_precision` mixed, and its compiler asks for both.

    Args:
        tf32: 10 bits of mantissa instead of 23, faster.
    """
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def _certainly_alone(environment: Mapping[str, str]) -> bool:
    """Return true if no launcher started this process, so that Accelerate makes no process group."""
    return not any(name in environment for name in LAUNCHERS_VARIABLES)


def _start(environment: Mapping[str, str], **settings: Any) -> Accelerator:
    try:
        return Accelerator(**settings)
    except torch.distributed.DistError as error:  # pyright: ignore[reportPrivateImportUsage]
        place = f"{environment.get('MASTER_ADDR')}:{environment.get('MASTER_PORT')}"
        problem = f"{environment.get('WORLD_SIZE')} processes did not come together at {place}"
        reason = str(error).splitlines()[0]
        raise RendezvousError(f"{problem} ({reason}); `python -m vae doctor`, started alike, says more") from None


def _check_launcher(environment: Mapping[str, str]) -> int:
    """Return the processes that the launcher announced; refuses some of its variables without the rest."""
    announced, local_rank = environment.get("WORLD_SIZE", "1"), environment.get("LOCAL_RANK", "-1")
    needed = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in needed if name not in environment]
    if not announced.isdecimal() or (int(announced) > 1 and missing):
        hint = f"but {', '.join(missing)} not set" if missing else "not a number"
        raise InputError(f"WORLD_SIZE = {announced}: {hint}; {_HOW_TO_LAUNCH} WORLD_SIZE")
    by_mpi = any(name in environment for name in OF_MPI)
    if local_rank != "-1" and missing and not by_mpi:  # Accelerate makes a process group by LOCAL_RANK alone
        raise InputError(f"LOCAL_RANK = {local_rank}: but {', '.join(missing)} not set; {_HOW_TO_LAUNCH} LOCAL_RANK")
    return int(announced)


def _check_devices(device: str, count: int, here: int, environment: Mapping[str, str]) -> None:
    """Refuse two processes for one device: Accelerate would count on from the first one, and NCCL fail."""
    local_rank = environment.get("LOCAL_RANK", "0")
    if here > count:
        problem = f"for {here} processes"
    elif local_rank.isdecimal() and int(local_rank) >= count:
        problem = f"and this is the process of LOCAL_RANK = {local_rank}"
    else:
        return
    devices = f"this machine has {count} CUDA device{'s' if count != 1 else ''} {problem}"
    raise InputError(f"train.device = {device!r}: {devices}; start fewer, or set train.device=cpu")


def _processes_here(environment: Mapping[str, str]) -> int:
    """Return the processes of this job on this machine."""
    count = environment.get("LOCAL_WORLD_SIZE", "1")
    if not count.isdecimal() or int(count) < 1:
        raise InputError(f"LOCAL_WORLD_SIZE = {count}: not a number of processes; {_HOW_TO_LAUNCH} WORLD_SIZE")
    return int(count)


def cores() -> frozenset[int]:
    """Return the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def cpu_has_bf16() -> bool:
    """Return true if this CPU multiplies bfloat16 numbers (x86: AVX512-BF16 or AMX; Arm: BF16)."""
    return any(has for name, has in torch.cpu.get_capabilities().items() if "bf16" in name)


def precision_warnings(mixed_precision: str, device: str, *, tf32: bool = False) -> list[str]:
    """Return a line where a precision is possible on a device but of no use, else nothing.

    Args:
        mixed_precision: `no`, `bf16` or `fp16`.
        device: `cpu` or `cuda`.
        tf32: whether TF32 was asked for.
    """
    if tf32 and device == "cpu":
        return ["train.tf32: changes nothing on a CPU, which has no TF32"]
    if (mixed_precision, device) == ("bf16", "cpu") and not cpu_has_bf16():
        return ["train.precision: bf16 is slower than fp32 on this CPU, which has no instructions for it"]
    return []


def set_threads(threads: int, environment: Mapping[str, str]) -> int:
    """Set and return this process's CPU threads.

    To be called after `make_accelerator`: Accelerate sets them too, by its own rule.

    Args:
        threads: 0: those of OMP_NUM_THREADS where one process is alone on this machine, else the cores we may use,
            divided by the processes on this machine. (Among several, OMP_NUM_THREADS is 1 from torchrun.)
        environment: the launcher's variables.
    """
    here, wished = _processes_here(environment), environment.get("OMP_NUM_THREADS", "")
    if here == 1 and wished.isdecimal():
        threads = threads or int(wished)
    torch.set_num_threads(threads or max(1, len(cores()) // here))
    return torch.get_num_threads()


def crowding(device: str, environment: Mapping[str, str], remedy: str) -> list[str]:
    """Return a line where this machine has fewer cores than this job and other programs keep busy, else nothing.

    Threads that share the work of an operation wait for the slowest of them, and spin meanwhile.

    Args:
        device: `cpu` or `cuda`.
        environment: the launcher's variables.
        remedy: the setting by which a process has one thread.
    """
    threads, all_cores = torch.get_num_threads(), os.cpu_count() or 1
    others = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0  # of the last minute
    if device != "cpu" or threads == 1 or others + threads * _processes_here(environment) < all_cores + 1:
        return []
    return [
        f"other programs keep {others:.1f} of {all_cores} cores busy, and each operation waits for the slowest of "
        f"{threads} threads: {remedy} may be many times faster"
    ]


def warn_if_crowded(accelerator: Accelerator, environment: Mapping[str, str], remedy: str) -> None:
    """Give the line of `crowding`, if there is one, as a `CrowdedWarning` of the main process."""
    for line in crowding(accelerator.device.type, environment, remedy) if accelerator.is_main_process else ():
        warnings.warn(line, CrowdedWarning, stacklevel=3)


def on_main(
    accelerator: Accelerator, action: Callable[[], Result], wait_for_main: Callable[[], None] | None = None
) -> Result:
    """Run `action` on the main process and give its result, or what it raised, to all of them (all ranks).

    An error that one line says (`vae.errors`) is raised on all ranks as it is; on the other ranks any other error
    becomes a `RuntimeError`.

    Args:
        accelerator: the process group.
        action: what the main process is to do.
        wait_for_main: of a watchdog, for an action that may take longer than a collective waits.
    """
    outcome: list[Any] = [None, None]
    failure: Exception | None = None
    if accelerator.is_main_process:
        try:
            outcome = [action(), None]
        except Exception as error:  # the others wait for an answer, whatever it is
            failure = error
            unknown = RuntimeError(f"on the main process: {type(error).__name__}: {error}")
            outcome = [None, error if isinstance(error, SHARED) else unknown]
    if wait_for_main:
        wait_for_main()
    broadcast_object_list(outcome)
    if failure or outcome[1]:
        raise failure or outcome[1]
    return outcome[0]


def must_agree(accelerator: Accelerator, inputs: Callable[[], Mapping[str, str]]) -> None:
    """Refuse inputs that are not the same on all ranks (all ranks).

    Args:
        accelerator: the process group.
        inputs: returns the input, as a command line names it -> a checksum, on this process; one alone needs none.
    """
    if accelerator.num_processes == 1:
        return
    found = inputs()
    everyones: list[dict[str, str]] = gather_object([dict(found)])
    for name in dict.fromkeys(name for each in everyones for name in each):
        for rank, other in enumerate(everyones):
            if other.get(name) != found.get(name):
                ours, theirs = (each.get(name, "none") for each in (found, other))
                here = f"{ours} on rank {accelerator.process_index}, {theirs} on rank {rank}"
                raise InputError(f"{name}: is not the same on all ranks ({here}); give all nodes the same file")


def leave() -> None:
    """Leave the process group, if there is one, and forget Accelerate's state.

    Whoever still holds the group keeps its threads alive; one of them that lets go of its last tensor while the
    interpreter exits aborts the process. Holders are what an exception's frames keep of the model (collected here) and
    `torch.distributed.nn.functional`, imported (by DDP, through dynamo) while there is a group: its default arguments.
    """
    if torch.distributed.is_initialized():
        gc.collect()
    forget_accelerator()
