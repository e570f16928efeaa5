"""Private doors of libraries that have no public one, in one place; `tests/ranks/test_compat.py` opens each."""

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = [
    "TorchDispatchMode", "forget_accelerator", "fused_adamw", "keep_from_ddp", "load_special_values", "move_towards",
    "tracing_autograd", "tree_leaves",
]  # fmt: skip

# AdamW's kernel: it reads the count of steps, which `torch.optim.adamw.adamw` would first add to, weight by weight
fused_adamw = torch._fused_adamw_  # pyright: ignore[reportPrivateImportUsage]


def load_special_values() -> None:
    """Make `log1p` and `expm1`, and `softplus` with them, 10 to 20 times as fast on a CPU with AVX-512.

    SLEEF's kernels load what they return for infinity, -1 and the like under a mask, which is empty for all other
    numbers. A load under an empty mask does not bring its page of the library into memory. Until another load does,
    the processor handles a fault for every 16 numbers. This function makes that load, for its own process.
    """
    special = [math.inf, -math.inf, math.nan, 0.0, -0.0, -1.0, -2.0, 1e38, -1e38]
    for dtype in (torch.float32, torch.float64):
        numbers = torch.tensor(special, dtype=dtype).repeat(16)
        numbers.log1p()
        numbers.expm1()


def move_towards(tensors: list[Tensor], targets: list[Tensor], share: Tensor) -> None:
    """Move each tensor towards its target by a share of the way, (): on CUDA in three kernels for all of them.

    (The one kernel that `torch.lerp` has for lists takes no share that lies on the device.)
    """
    apart = torch._foreach_sub(targets, tensors)  # pyright: ignore[reportPrivateImportUsage]
    torch._foreach_mul_(apart, share)  # pyright: ignore[reportPrivateImportUsage]
    torch._foreach_add_(tensors, apart)  # pyright: ignore[reportPrivateImportUsage]


def keep_from_ddp(model: nn.Module, names: Iterable[str]) -> None:
    """Have DDP neither send nor reduce the parameters and buffers of these names; to be called before it wraps."""
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, list(names))


def forget_accelerator() -> None:
    """Leave the process group, if there is one, and forget Accelerate's state, if there is any."""
    if PartialState._shared_state:  # to construct one, in order to ask, would start a group
        PartialState().destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)


def tracing_autograd() -> AbstractContextManager[None]:
    """Let torch.compile trace functions that take gradients."""
    import torch._dynamo  # here: it takes half a second, and one process that trains eagerly needs none of it

    return torch._dynamo.config.patch(trace_autograd_ops=True)
