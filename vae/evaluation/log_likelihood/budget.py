"""The memory of an evaluation: the largest batch that fits, measured on a small one; free memory given back."""

import ctypes
import time
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from vae.compat import TorchDispatchMode, tree_leaves

MIB = 2**20
CPU_BUDGET = 64 * MIB  # of one pass: 24 take up to 9 % more time (benchmarks/README.md)
CUDA_BUDGET = 4096 * MIB  # of one pass, or a quarter of the free memory if that is less
SECONDS_BETWEEN_TRIMS = 2.0
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT, LARGEST_KEPT = 256 * MIB, 32 * MIB  # free bytes that stay with the process; of one tensor
TENSORS_ALIVE = 8  # of the largest one's size, at once


class _LargestTensor(TorchDispatchMode):
    """Notes the size, in bytes, of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {storage.data_ptr() for storage in _storages((args, kwargs))}  # a view of the weights is not made
        self.bytes = max([self.bytes, *(each.nbytes() for each in _storages(result) if each.data_ptr() not in known)])
        return result


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def largest_tensor(compute: Callable[[], object]) -> int:
    """Return the size, in bytes, of the largest tensor that a computation makes."""
    with _LargestTensor() as largest:
        compute()
    return largest.bytes


def largest_batch(accelerator: Accelerator, compute: Callable[[int], object], few: int = 64) -> int:
    """Return the largest batch that fits in each rank's memory, at least 1 (all ranks): all are to make equal steps.

    Args:
        accelerator: the process group.
        compute: computes a batch of the given size on the device.
        few: the size of the batch that is measured: large enough for memory to grow with it.
    """
    device, budget = accelerator.device, CPU_BUDGET
    if device.type == "cuda":
        budget = min(CUDA_BUDGET, torch.cuda.mem_get_info(device)[0] // 4)
    own = max(1, budget * few // (TENSORS_ALIVE * largest_tensor(lambda: compute(few))))
    everyones = accelerator.gather(torch.tensor([own], device=device))
    assert isinstance(everyones, Tensor)
    return int(everyones.min())


class FreeMemory:
    """Free memory, on glibc: the next pass has what one pass has freed, and once in a while it goes back to the system.

    glibc by itself gives freed tensors of a few MiB back at once, and a pass would spend a third of its time on asking
    for memory. It also keeps what lies below anything in use: an evaluation with 5,000 draws grew by up to 2 MB an
    image.
    """

    def __init__(self) -> None:
        libc = ctypes.CDLL(None)
        self._trim, self._last = getattr(libc, "malloc_trim", None), time.monotonic()
        if mallopt := getattr(libc, "mallopt", None):
            mallopt(M_TRIM_THRESHOLD, KEPT)
            mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)

    def give_back(self) -> None:
        """Give it back, unless that has been done within `SECONDS_BETWEEN_TRIMS`."""
        if self._trim is not None and time.monotonic() - self._last >= SECONDS_BETWEEN_TRIMS:
            self._trim(0)
            self._last = time.monotonic()
