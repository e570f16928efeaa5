"""Everything random is a pure function of (seed, stream, epoch, position): no generator state to save or to share."""

import zlib

import numpy as np
import torch
from torch import Tensor


def generator(seed: int, stream: str, epoch: int = 0, block: int = 0) -> np.random.Generator:
    """Return a fresh generator for one stream of one epoch; the same on every machine, rank and device.

    Args:
        seed: the run's seed.
        stream: the purpose of the numbers, e.g. `"noise"`; streams are independent of each other.
        epoch: which pass over the data.
        block: which part of a pass whose numbers are not all drawn at once.
    """
    place = (epoch, block) if block else (epoch,)
    key = np.random.SeedSequence(seed, spawn_key=(zlib.crc32(stream.encode()), *place))
    return np.random.Generator(np.random.PCG64(key))


def permutation(count: int, seed: int, stream: str, epoch: int = 0) -> Tensor:
    """Return a permutation of 0 .. count - 1, (count,), int64."""
    return torch.from_numpy(generator(seed, stream, epoch).permutation(count))


def normal(count: int, dim: int, seed: int, stream: str, epoch: int = 0, block: int = 0) -> Tensor:
    """Return standard normal noise (count, dim), float32; row i belongs to example (or position) i of its block."""
    return torch.from_numpy(generator(seed, stream, epoch, block).standard_normal((count, dim), dtype=np.float32))


def binarize(images: Tensor, seed: int, part: str, epoch: int = 0) -> Tensor:
    """Return 0/1 pixels drawn with probability equal to the grey value.

    Args:
        images: (N, C, H, W), uint8 or floating point in [0, 1].
        seed, part, epoch: of the draw, in which example i never changes; `part` of the data, e.g. `"train"`.

    Returns:
        Images of the same shape and type: 0 or 255 in uint8, 0 or 1 in floating point.
    """
    drawn = thresholds(tuple(images.shape), images.dtype, seed, part, epoch)
    return above(torch.from_numpy(drawn).to(images.device), images)


def thresholds(shape: tuple[int, ...], dtype: torch.dtype, seed: int, part: str, epoch: int = 0) -> np.ndarray:
    """Return the draws of `binarize`: images of this shape and dtype have a 1 where they exceed them.

    For uint8 images the draws are uint8, uniform on 0 .. 254: P(r < p) = p / 255 exactly. Else float32 in [0, 1).
    """
    rng = generator(seed, f"binarize/{part}", epoch)
    return rng.integers(0, 255, shape, dtype=np.uint8) if dtype == torch.uint8 else rng.random(shape, dtype=np.float32)


def above(threshold: Tensor, images: Tensor) -> Tensor:
    """Return 0/1 pixels, 1 where an image exceeds its threshold: 0 or 255 in uint8, 0 or 1 in floating point."""
    ones = (threshold < images).to(images.dtype)
    return ones * 255 if images.dtype == torch.uint8 else ones


def torch_seed(seed: int, stream: str) -> int:
    """Return a seed for torch's own generator, e.g. for the initial weights."""
    return int(generator(seed, stream).integers(2**63))
