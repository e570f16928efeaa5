"""IDX, the file format of MNIST and its kin (Y. LeCun): a magic number, sizes, numbers (big-endian)."""

import math
import struct

import numpy as np
import torch
from torch import Tensor

CODES = {"u1": 0x08, "i4": 0x0C}  # of a type of numbers: images and labels are bytes, the labels of QMNIST int32


def parse(content: bytes, name: str, dimensions: int, numbers: str = "u1") -> Tensor:
    """Return the array that an IDX file holds.

    Args:
        content: of the file, not compressed.
        name: of the file, for errors.
        dimensions: how many the array must have.
        numbers: their type, one of `CODES`.

    Raises:
        ValueError: the file holds something else, or less or more than it says.
    """
    header = struct.Struct(f">I{dimensions}I")
    if len(content) < header.size:
        raise ValueError(f"{name}: {len(content)} bytes are no IDX file")
    magic, *shape = header.unpack_from(content)
    if magic != CODES[numbers] << 8 | dimensions:
        wanted = f"{np.dtype(numbers).name} in {dimensions} dimensions"
        raise ValueError(f"{name}: no IDX file of {wanted} (it begins with {magic:#010x})")
    kind = np.dtype(numbers)
    if len(content) != header.size + math.prod(shape) * kind.itemsize:
        raise ValueError(f"{name}: {len(content)} bytes, but an array {tuple(shape)} takes another number")
    array = np.frombuffer(content, kind.newbyteorder(">"), offset=header.size)
    return torch.from_numpy(array.astype(kind)).view(shape)  # a copy, which may be written
