"""The choice of the engine that runs the training steps, with its reason."""

from vae.config import TrainConfig
from vae.errors import InputError

# benchmarks/README.md: compiling the default net takes 20 seconds the first time and saves 1.6 ms of each step
STEPS_THAT_REPAY_COMPILING = 12_500
MOST_NOISE = 2**28  # numbers of an epoch in a static engine's table: 1 GiB


def choose(
    train: TrainConfig,
    device: str,
    world_size: int,
    total_steps: int,
    *,
    across_examples: bool = False,
    observes: bool = False,
    noise: int = 0,
) -> tuple[str, str]:
    """Return the engine's name and the reason, in a few words.

    Args:
        train: `engine`, and precision and exact gradients, which not every engine allows.
        device: `cpu` or `cuda`.
        world_size: how many processes.
        total_steps: of the whole run.
        across_examples: whether the loss of an example depends on others.
        observes: whether the model learns without a gradient, too.
        noise: numbers that an epoch takes.

    Raises:
        InputError: the configured engine, or the number of processes, does not go with the other settings.
    """
    _check_exact(train, world_size, across_examples)

    def hindered(name: str) -> str:
        return obstacle(name, train, device, across_examples=across_examples, observes=observes, noise=noise)

    if train.engine != "auto":
        if problem := hindered(train.engine):
            raise InputError(f"train.engine = {train.engine!r}: {problem}; use eager or auto")
        return train.engine, "as asked for"
    name, reason = _fastest(device, world_size, total_steps)
    problem = hindered(name)
    return ("eager", f"auto: no {name} {problem}") if problem else (name, f"auto: {reason}")


def _fastest(device: str, world_size: int, total_steps: int) -> tuple[str, str]:
    if device == "cuda":
        return "graph", "fastest on CUDA"
    if world_size > 1:
        return "eager", "on a CPU shared by several processes"
    if total_steps < STEPS_THAT_REPAY_COMPILING:
        return "eager", f"on a CPU, fewer than {STEPS_THAT_REPAY_COMPILING:,} steps do not repay compiling"
    return "compile", f"on a CPU, {STEPS_THAT_REPAY_COMPILING:,} steps and more repay compiling"


def obstacle(name: str, train: TrainConfig, device: str, *, across_examples: bool, observes: bool, noise: int) -> str:
    """Return the reason why an engine cannot run this, or nothing."""
    if name != "eager" and across_examples:
        return "with an objective whose loss looks across examples"
    if name != "eager" and observes:
        return "with a posterior that learns from all ranks' examples after each update"
    if name != "eager" and noise > MOST_NOISE:
        return f"with {noise:,} numbers of noise an epoch, which it would hold at once"
    if name != "eager" and train.exact:
        return f"with train.exact = {train.exact}"
    if name == "graph" and device != "cuda":
        return f"on a {device.upper()}: it needs a CUDA device"
    if name != "eager" and train.precision == "fp16":
        return "with train.precision = fp16, whose loss scaler asks the device in each step"
    return ""


def _check_exact(train: TrainConfig, world_size: int, across_examples: bool) -> None:
    if train.exact and across_examples:
        raise InputError(f"train.exact = {train.exact}: not with an objective whose loss looks across examples; use 0")
    if train.exact % world_size:
        raise InputError(f"train.exact = {train.exact}: must be a multiple of the number of processes ({world_size})")
    if train.exact and train.precision == "fp16":
        raise InputError(f"train.exact = {train.exact}: not with train.precision=fp16; use bf16, fp32 or fp64")
