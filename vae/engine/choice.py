"""Which engine runs the training steps, and why."""

from vae.components import InputError
from vae.config import TrainConfig


def choose(train: TrainConfig, device: str, world_size: int) -> tuple[str, str]:
    """Return the engine's name and the reason, in a few words.

    Args:
        train: `engine` is what was asked for; precision and exact gradients decide what is possible.
        device: `cpu` or `cuda`.
        world_size: how many processes.

    Raises:
        InputError: the engine that was asked for, or the processes, cannot do what else is asked for.
    """
    _check_exact(train, world_size)
    if train.engine != "auto":
        if problem := obstacle(train.engine, train, device):
            raise InputError(f"train.engine = {train.engine!r}: {problem}; use eager or auto")
        return train.engine, "as asked for"
    if device == "cpu":
        return "eager", "auto: on a CPU, compiling takes longer than most runs gain by it"
    problem = obstacle("graph", train, device)
    return ("eager", f"auto: no graph {problem}") if problem else ("graph", "auto: fastest on CUDA")


def obstacle(name: str, train: TrainConfig, device: str) -> str:
    """Return why an engine cannot run this, or nothing."""
    if name != "eager" and train.exact:
        return f"with train.exact = {train.exact}"
    if name == "graph" and device != "cuda":
        return f"on a {device.upper()}: it needs a CUDA device"
    if name == "graph" and train.precision == "fp16":
        return "with train.precision = fp16, whose loss scaler asks the device in each step"
    return ""


def _check_exact(train: TrainConfig, world_size: int) -> None:
    if train.exact % world_size:
        raise InputError(f"train.exact = {train.exact}: must be a multiple of the number of processes ({world_size})")
    if train.exact and train.precision == "fp16":
        raise InputError(f"train.exact = {train.exact}: not with train.precision=fp16; use bf16, fp32 or fp64")
