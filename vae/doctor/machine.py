"""Checks of each process by itself: software, hardware, launcher, data, model."""

import re
import socket
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import torch
from torch import distributed

from vae import assemble
from vae.data.sources import FETCHED
from vae.distributed.accelerate_settings import contradiction, naming_launcher
from vae.distributed.launch import cores, cpu_has_bf16
from vae.doctor.findings import Context, Finding, failure, ok, warning
from vae.run.versions import versions

MINIMUM = {"torch": (2, 11), "accelerate": (1, 10)}  # as in pyproject.toml
HOW_TO_LAUNCH = "start N processes with torchrun --nproc-per-node N, accelerate launch or srun, or unset WORLD_SIZE"
STAND_IN_SHAPE = (1, 28, 28)  # of images, without data
STAND_IN_CLASSES = 10
HOW_TO_FETCH = "to download it, run train_ddp.py --dry-run where there is internet (a login node)"


def check_versions(_: Context) -> Finding:
    """Check the versions of the packages that numbers depend on."""
    found = versions()
    text = ", ".join(f"{name} {version}" for name, version in found.items())
    old = too_old(found)
    return warning(text, f"too old and never tested here: pip install -U {' '.join(old)}") if old else ok(text)


def too_old(found: Mapping[str, str]) -> list[str]:
    """Return a requirement for pip for each version below the minimum, e.g. `'torch>=2.11'`."""
    return [
        f"'{name}>={'.'.join(map(str, minimum))}'"
        for name, minimum in MINIMUM.items()
        if tuple(map(int, re.findall(r"\d+", found[name])[:2])) < minimum
    ]


def check_devices(context: Context) -> Finding:
    """Check the CPU cores and CUDA devices, and that train.device uses them."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = [torch.cuda.get_device_properties(number) for number in range(count)]
    found = ", ".join(f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB)" for gpu in gpus) or "no CUDA device"
    text = f"{found}; {len(cores())} CPU cores"
    if not gpus and context.config.train.device == "cuda":
        return failure(f"train.device=cuda, but {text}", "set train.device to auto or cpu, or ask for a GPU")
    if gpus and context.config.train.device == "cpu":
        return warning(text, "train.device=cpu leaves the GPU idle: drop it, or set train.device=auto")
    if not gpus and Path("/dev/nvidia0").exists():
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        advice = "compare nvidia-smi's CUDA version, look at CUDA_VISIBLE_DEVICES, or install another build of torch"
        return warning(f"{text}, although /dev/nvidia0 is there (torch is {build})", advice)
    return ok(text)


def check_precision(context: Context) -> Finding:
    """Check that the device can compute in train.precision, and has bf16 in hardware if that is asked for."""
    wanted = context.config.train.precision
    if context.on_cuda:
        has_bf16, what = torch.cuda.is_bf16_supported(including_emulation=False), "this GPU"
    else:
        has_bf16, what = cpu_has_bf16(), "this CPU"
    text = f"train.precision={wanted}; {what} has {'bf16' if has_bf16 else 'no bf16'} in hardware"
    if context.wants_impossible_fp16:
        source = naming_launcher(context.environment, wanted)
        return failure(f"{text}; fp16 needs a CUDA device{source}", "set train.precision to bf16 or fp32")
    if note := contradiction(context.environment, wanted):
        return warning(text, note)
    if wanted == "bf16" and not has_bf16:
        return warning(text, f"it is emulated: measure it against {'fp16' if context.on_cuda else 'fp32'}")
    return ok(text)


def check_backend(context: Context) -> Finding:
    """Check that torch has the backend that moves tensors between processes: gloo or NCCL."""
    available = {"gloo": distributed.is_gloo_available(), "nccl": distributed.is_nccl_available()}
    has = ", ".join(name for name, there in available.items() if there) or "no backend"
    needed = "nccl" if context.on_cuda else "gloo"
    if context.world_size > 1 and not available[needed]:
        return failure(f"torch has {has}, but {needed} is needed", "install another build of torch")
    return ok(f"torch has {has}; " + (f"{needed} will be used" if context.world_size > 1 else "one process needs none"))


def check_launcher(context: Context) -> Finding:
    """Check that the launcher's variables and the processes it has started go together."""
    environment, count = context.environment, context.world_size
    name = launcher(environment)
    text = f"{name}: {count} process{'es' if count > 1 else ''}"
    tasks = environment.get("SLURM_NTASKS", "1")
    if count == 1 and tasks != "1":
        return warning(f"{text}, but the job has {tasks} tasks", "start it with srun, which starts all tasks")
    if count == 1 and name == "accelerate launch" and not context.on_cuda:
        advice = "if you asked for several: --config_file launch/accelerate/cpu.yaml, or torchrun --nproc-per-node N"
        return warning(f"{text}, on the CPU", advice)
    if count == 1:
        return ok(text)
    return _check_meeting_place(context, f"{text}, to meet at {context.place}")


def launcher(environment: Mapping[str, str]) -> str:
    """Return the name of the launcher that started this process."""
    if "ACCELERATE_MIXED_PRECISION" in environment:
        return "accelerate launch"
    if "TORCHELASTIC_RUN_ID" in environment:
        return "torchrun"
    return "srun" if "SLURM_STEP_ID" in environment else "RANK was set" if "RANK" in environment else "no launcher"


def _check_meeting_place(context: Context, text: str) -> Finding:
    address = context.environment.get("MASTER_ADDR")
    if not address:
        return replace(failure(f"{text}: MASTER_ADDR is not set", HOW_TO_LAUNCH), speaker="machine")
    if on_several_nodes(context.environment) and is_loopback(address):
        advice = "set MASTER_ADDR to the first node's name"
        return replace(failure(f"{text}, which on each node is the node itself", advice), speaker="machine")
    try:
        socket.getaddrinfo(address, None)
    except OSError as error:
        advice = "set MASTER_ADDR to a name or address of rank 0's machine that every node can resolve"
        return replace(
            failure(f"{text}: not to be resolved on {context.host} ({error.strerror})", advice), speaker="machine"
        )
    return ok(text)


def on_several_nodes(environment: Mapping[str, str]) -> bool:
    """Return whether the processes run on several machines, by the variables of launcher and SLURM."""
    if "SLURM_STEP_NUM_NODES" in environment and "TORCHELASTIC_RUN_ID" not in environment:
        return environment["SLURM_STEP_NUM_NODES"] != "1"
    count = environment.get("WORLD_SIZE", "1")
    return environment.get("LOCAL_WORLD_SIZE", count) != count


def is_loopback(address: str) -> bool:
    """Return whether an address is the loopback, which on each machine is the machine itself."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address.split(".")[0] == "localhost"


def check_data(context: Context) -> Finding:
    """Check the data set by reading it; nothing is downloaded if none of its files is there."""
    data = context.config.data
    root = assemble.reading_of(context.config).root
    looked_for = [] if data.binarize == "larochelle" else FETCHED.get(data.name, [])  # a published draw is not fetched
    if looked_for and not any(any(root.glob(each)) for each in looked_for):
        problem = f"data.root = {str(root)!r}: holds no {' or '.join(looked_for)}"
        return failure(problem, f"set data.root; {HOW_TO_FETCH}")
    context.data = found = assemble.build_data(context.config)
    return ok(f"{found.name}: {found.summary}; fingerprint {found.fingerprint}")


def check_model(context: Context) -> Finding:
    """Check that the model can be built, for the shape of the data or, without data, of MNIST."""
    data = context.data
    shape, classes = (data.image_shape, data.classes) if data else (STAND_IN_SHAPE, STAND_IN_CLASSES)
    context.model = assemble.build_model(context.config, shape, classes)
    return ok(f"{context.model.count_parameters():,} parameters")


CHECKS = {
    "versions": check_versions,
    "devices": check_devices,
    "precision": check_precision,
    "data": check_data,
    "model": check_model,
    "backend": check_backend,
    "launcher": check_launcher,
}
