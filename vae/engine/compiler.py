"""Functions of tensors of fixed shapes, compiled by torch."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate.utils import gather_object

from vae.compat import tracing_autograd

# else the compiler leaves out roundings to half precision between two operations: a step is no longer the eager one
OPTIONS = {"emulate_precision_casts": True}


F = TypeVar("F", bound=Callable[..., Any])


class EngineError(RuntimeError):
    """An engine cannot be had on this machine; raised on all ranks together."""


def compiled(function: F, *arguments: Any) -> F:
    """Return a function without collectives compiled, having called it once (all ranks); raises `EngineError`.

    The function may take gradients. What the call changes stays changed.
    """
    # says that there is no CUDA where nobody asked for it
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    fast: Any = torch.compile(function, fullgraph=True, dynamic=False, options=dict(OPTIONS))
    problem = ""
    try:
        with tracing_autograd():
            fast(*arguments)
    except Exception as error:  # whatever a compiler may say
        problem = " ".join([f"{type(error).__name__}:", *str(error).split("\n")[:2]])  # the second may name the cause
    if problem := next(filter(None, gather_object([problem])), ""):
        raise EngineError(f"torch.compile failed: {problem}")
    return fast
