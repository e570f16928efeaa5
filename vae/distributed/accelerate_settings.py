"""Accelerate's variables -> the precision that a launcher asks for, and refusals of what this job does in another way.

`accelerate launch` and the answers to `accelerate config` reach a program as these variables. Standard library only:
they are read before torch is imported, and before Accelerate would act upon them.
"""

from collections.abc import Mapping

from vae.errors import InputError

PRECISION, CPU = "ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_CPU"
SWITCHED_ON = ("y", "yes", "t", "true", "on", "1")  # as Accelerate reads them
_COPIES = "here each process holds the whole model and a share of each batch; launch with a file of launch/accelerate/"
_NO_TPU = "this job runs on CUDA devices or CPUs; launch with a file of launch/accelerate/, or without --tpu"
_NOT_WANTED = {  # variable -> the values that ask for nothing; all others ask for something that this job has not
    "ACCELERATE_DYNAMO_BACKEND": ("", "no"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("", "1"),
}
_REFUSED = {  # variable -> what it asks for; what this job does instead, and the way out
    "ACCELERATE_USE_FSDP": ("FSDP", f"{_COPIES}, or without --use_fsdp"),
    "ACCELERATE_USE_DEEPSPEED": ("DeepSpeed", f"{_COPIES}, or without --use_deepspeed"),
    "ACCELERATE_USE_MEGATRON_LM": ("Megatron-LM", f"{_COPIES}, or without --use_megatron_lm"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": (
        "tensor, context or sharded parallelism",
        f"{_COPIES}, or without --use_parallelism_config",
    ),
    "PJRT_DEVICE": ("a TPU", _NO_TPU),
    "ACCELERATE_IN_TPU_POD": ("TPUs", _NO_TPU),
    "ACCELERATE_DYNAMO_BACKEND": (
        "a dynamo backend",
        "train.engine decides what is compiled (auto, eager, compile or graph); launch with --dynamo_backend no",
    ),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (
        "gradient accumulation",
        "an update has train.batch_size examples over all processes, of which train.micro_batch is the most that a "
        "process takes at once; set these, and launch with 1",
    ),
}


def refuse_unsupported(environment: Mapping[str, str]) -> None:
    """Refuse a way of training that a launcher asks for and this job has not.

    Args:
        environment: `os.environ`.

    Raises:
        InputError: the variable, what it asks for, what this job does instead.
    """
    for name, (wish, instead) in _REFUSED.items():
        value = environment.get(name, "").strip()
        if _asks(name, value.lower()):
            raise InputError(f"{name} = {value}: the launcher asks for {wish}; {instead}")


def wants_cpu(environment: Mapping[str, str]) -> bool:
    """Return true if the launcher keeps the job on the CPU."""
    return environment.get(CPU, "").strip().lower() in SWITCHED_ON


def precision(environment: Mapping[str, str]) -> str | None:
    """Return the precision that the launcher asks for, e.g. `bf16`; None: it leaves that to the job.

    `no` is None: Accelerate's launcher says it for whoever says nothing.
    """
    asked = environment.get(PRECISION, "").strip().lower()
    return None if asked in ("", "no") else asked


def naming_launcher(environment: Mapping[str, str], precision_in_question: str = "") -> str:
    """Return the end of a line about a precision: the launcher's wish, in brackets; empty where it has none.

    Args:
        environment: `os.environ`.
        precision_in_question: the line's; nothing is said if the launcher asks for another.
    """
    asked = precision(environment)
    if asked is None or precision_in_question not in ("", asked):
        return ""
    return f" (the launcher asks for {asked}: {PRECISION})"


def contradiction(environment: Mapping[str, str], used: str) -> str | None:
    """Return the sentence about a launcher that asks for another precision than the one used; None: it does not."""
    asked = precision(environment)
    if asked in (None, used):
        return None
    return f"train.precision = {used!r} was given and is used, not the launcher's {asked} ({PRECISION})"


def without_precision(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for programs whose configuration alone decides the precision."""
    return {name: value for name, value in environment.items() if name != PRECISION}


def _asks(name: str, value: str) -> bool:
    if name == "PJRT_DEVICE":  # torch_xla's: it has CPU and CUDA too
        return value == "tpu"
    return value not in _NOT_WANTED[name] if name in _NOT_WANTED else value in SWITCHED_ON
