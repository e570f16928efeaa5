"""Functions of tensors of fixed shapes, compiled by torch."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from accelerate.utils import gather_object

# else the compiler leaves out roundings to half precision between two operations: a step is no longer the eager one
OPTIONS = {"emulate_precision_casts": True}


F = TypeVar("F", bound=Callable[..., Any])


class EngineError(RuntimeError):
    """An engine cannot be had on this machine; raised on all ranks together."""


def compiled(function: F, *arguments: Any) -> F:
    """Return a function without collectives compiled, having called it once (all ranks); raises `EngineError`.

    The function may take gradients. What the call changes stays changed.
    """
    import torch._dynamo  # here: it takes half a second, and one process that trains eagerly needs none of it

    # says that there is no CUDA where nobody asked for it
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    fast: Any = torch.compile(function, fullgraph=True, dynamic=False, options=dict(OPTIONS))
    problem = ""
    try:
        with torch._dynamo.config.patch(trace_autograd_ops=True):
            fast(*arguments)
    except Exception as error:  # whatever a compiler may say
        problem = " ".join([f"{type(error).__name__}:", *str(error).split("\n")[:2]])  # the second may name the cause
    if problem := next(filter(None, gather_object([problem])), ""):
        raise EngineError(f"torch.compile failed: {problem}")
    return fast
