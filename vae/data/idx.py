"""IDX, the file format of MNIST and its kin (Y. LeCun): a magic number, sizes, bytes."""

import math
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

UNSIGNED_BYTES = 0x08  # the type code of uint8, the only one that images and labels use


def read(path: Path, dimensions: int) -> Tensor:
    """Return the array that an IDX file holds, uint8.

    Args:
        path: the file, not compressed.
        dimensions: how many the array must have.

    Raises:
        ValueError: the file holds something else, or less or more than it says.
    """
    content = np.fromfile(path, np.uint8)
    header = struct.Struct(f">I{dimensions}I")  # big-endian
    if len(content) < header.size:
        raise ValueError(f"{path.name}: {len(content)} bytes are no IDX file")
    magic, *shape = header.unpack(content[: header.size].tobytes())
    if magic != UNSIGNED_BYTES << 8 | dimensions:
        raise ValueError(f"{path.name}: no IDX file of bytes in {dimensions} dimensions (it begins with {magic:#010x})")
    if len(content) != header.size + math.prod(shape):
        raise ValueError(f"{path.name}: {len(content)} bytes, but an array {tuple(shape)} takes another number")
    return torch.from_numpy(content[header.size :]).view(shape)
