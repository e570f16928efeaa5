"""The choice of the engine that runs the training steps, with its reason."""

import math
from dataclasses import dataclass

from vae.config import TrainConfig
from vae.errors import InputError

# benchmarks/README.md: compiling the default net takes 20 seconds the first time and saves 1.6 ms of each step
STEPS_THAT_REPAY_COMPILING = 12_500
# estimated, never measured on a GPU: 124 kernels of a captured step fewer, at 1.75 us each; compiling takes 13 seconds
STEPS_THAT_REPAY_COMPILING_A_GRAPH = 60_000


@dataclass(frozen=True)
class Choice:
    """An engine.

    Attributes:
        name: `eager`, `compile` or `graph`.
        why: the reason, in a few words.
        compiles: whether its step is compiled.
    """

    name: str
    why: str
    compiles: bool


def choose(
    train: TrainConfig,
    device: str,
    world_size: int,
    total_steps: int,
    *,
    across_examples: bool = False,
    observes: bool = False,
) -> Choice:
    """Return the engine for a run.

    Args:
        train: `engine`, and precision, exact gradients and chunks of a batch, which not every engine allows.
        device: `cpu` or `cuda`.
        world_size: how many processes.
        total_steps: of the whole run.
        across_examples: whether the loss of an example depends on others.
        observes: whether the model learns without a gradient, too.

    Raises:
        InputError: the configured engine, or the number of processes, does not go with the other settings.
    """
    _check_exact(train, world_size, across_examples)

    def hindered(name: str) -> str:
        facts = {"across_examples": across_examples, "observes": observes}
        return obstacle(name, train, device, share=math.ceil(train.batch_size / world_size), **facts)

    if train.engine != "auto":
        if problem := hindered(train.engine):
            raise InputError(f"train.engine = {train.engine!r}: {problem}; use eager or auto")
        return Choice(train.engine, "as asked for", compiles=train.engine != "eager")
    best = _fastest(device, world_size, total_steps)
    problem = hindered(best.name)
    return Choice("eager", f"auto: no {best.name} {problem}", compiles=False) if problem else best


def _fastest(device: str, world_size: int, total_steps: int) -> Choice:
    if device == "cuda":
        pays = total_steps >= STEPS_THAT_REPAY_COMPILING_A_GRAPH
        few = f"; fewer than {STEPS_THAT_REPAY_COMPILING_A_GRAPH:,} steps do not repay compiling"
        return Choice("graph", f"auto: fastest on CUDA{'' if pays else few}", compiles=pays)
    if world_size > 1:
        return Choice("eager", "auto: on a CPU shared by several processes", compiles=False)
    number = f"{STEPS_THAT_REPAY_COMPILING:,} steps"
    if total_steps < STEPS_THAT_REPAY_COMPILING:
        return Choice("eager", f"auto: on a CPU, fewer than {number} do not repay compiling", compiles=False)
    return Choice("compile", f"auto: on a CPU, {number} and more repay compiling", compiles=True)


def obstacle(name: str, train: TrainConfig, device: str, *, across_examples: bool, observes: bool, share: int) -> str:
    """Return the reason why an engine cannot run this, or nothing."""
    if name != "eager" and across_examples:
        return "with an objective whose loss looks across examples"
    if name != "eager" and observes:
        return "with a posterior that learns from all ranks' examples after each update"
    if name != "eager" and train.exact:
        return f"with train.exact = {train.exact}"
    if name != "eager" and 0 < train.micro_batch < share:
        return f"with train.micro_batch = {train.micro_batch}, since its steps have all {share:,} examples at once"
    if name == "graph" and device != "cuda":
        return f"on a {device.upper()}: it needs a CUDA device"
    if name != "eager" and train.precision == "fp16":
        return "with train.precision = fp16, whose loss scale is Accelerate's and no part of a step of fixed shape"
    return ""


def _check_exact(train: TrainConfig, world_size: int, across_examples: bool) -> None:
    if train.exact and across_examples:
        raise InputError(f"train.exact = {train.exact}: not with an objective whose loss looks across examples; use 0")
    if train.exact % world_size:
        raise InputError(f"train.exact = {train.exact}: must be a multiple of the number of processes ({world_size})")
    if train.exact and train.precision == "fp16":
        raise InputError(f"train.exact = {train.exact}: not with train.precision=fp16; use bf16, fp32 or fp64")
