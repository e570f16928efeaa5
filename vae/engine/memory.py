"""The way out of too little memory."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vae.config import TrainConfig
from vae.errors import OutOfMemory

ON_A_CPU = "can't allocate memory"  # of torch's allocator there, whose error has no type of its own


@contextmanager
def naming_a_way_out(train: TrainConfig, share: int) -> Iterator[None]:
    """Raise `OutOfMemory`, which names `train.micro_batch`, where a block that trains or evaluates has no more memory.

    Args:
        train: the run's settings.
        share: the most examples of a batch that a process has.
    """
    try:
        yield
    except RuntimeError as error:
        if not lacks_memory(error):
            raise
        raise OutOfMemory(_line(train.micro_batch, share, wanted(error))) from error


def lacks_memory(error: BaseException) -> bool:
    """Return true for an error that says that there is no more memory, on a device or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or ON_A_CPU in str(error)


def wanted(error: BaseException) -> str:
    """Return ` (tried to allocate ...)` where an error says so, else nothing."""
    said = re.search(r"tried to allocate [\d.,]+ \w+", str(error), re.IGNORECASE)
    return f" ({said[0].lower()})" if said else ""


def _line(micro_batch: int, share: int, rest: str) -> str:
    taken, line = min(micro_batch or share, share), f"train.micro_batch = {micro_batch}: out of memory"
    if taken == 1:
        return f"{line} with one example at once; take a smaller model{rest}"
    way_out = f"the same command with train.micro_batch={taken // 2} goes on, with the same gradients"
    return f"{line} with {taken:,} examples at once; {way_out}{rest}"
