"""Private doors of libraries that have no public one, in one place; `tests/ranks/test_compat.py` opens each."""

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
    "TorchDispatchMode", "forget_accelerator", "fused_adamw", "keep_from_ddp", "move_towards", "tracing_autograd",
    "tree_leaves",
]  # fmt: skip

# AdamW's kernel: it reads the count of steps, which `torch.optim.adamw.adamw` would first add to, weight by weight
fused_adamw = torch._fused_adamw_  # pyright: ignore[reportPrivateImportUsage]


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
