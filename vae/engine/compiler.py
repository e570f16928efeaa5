"""Functions of tensors of fixed shapes, compiled by torch."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate.utils import gather_object

from vae.compat import tracing_autograd

# else the compiler leaves out roundings to half precision between two operations: a step is no longer the eager one
OPTIONS: dict[str, Any] = {"emulate_precision_casts": True}
# on CUDA: no padding, decided by a benchmark, that gives gradients other strides than their weights have; no choice of
# kernels by their speed, by which ranks and continued runs would differ; independent small kernels in one launch
CUDA_OPTIONS = OPTIONS | {"shape_padding": False, "deterministic": True, "combo_kernels": True}

F = TypeVar("F", bound=Callable[..., Any])


class EngineError(RuntimeError):
    """An engine cannot be had on this machine; raised on all ranks together."""


def compiled(function: F, *arguments: Any, device: str) -> F:
    """Return a function without collectives compiled, having called it once (all ranks); raises `EngineError`.

    The function may take gradients. What the call changes stays changed.

    Args:
        function: of tensors of fixed shapes.
        arguments: for the call.
        device: where the tensors are, `cpu` or `cuda`.
    """
    # says that there is no CUDA where nobody asked for it
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    options = dict(CUDA_OPTIONS if device == "cuda" else OPTIONS)
    fast: Any = torch.compile(function, fullgraph=True, dynamic=False, options=options)
    problem = ""
    try:
        with tracing_autograd():
            fast(*arguments)
    except Exception as error:  # whatever a compiler may say
        problem = " ".join([f"{type(error).__name__}:", *str(error).split("\n")[:2]])  # the second may name the cause
    together(problem and f"torch.compile failed: {problem}")
    return fast


def together(problem: str) -> None:
    """Raise `EngineError` on all ranks if one of them has a problem (all ranks)."""
    if problem := next(filter(None, gather_object([problem])), ""):
        raise EngineError(problem)
