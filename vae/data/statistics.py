"""Statistics of each pixel over the training images, from which initial weights may start."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

LEVELS = 256  # of an 8-bit pixel
NUMBERS_AT_ONCE = 2**20


@dataclass(frozen=True)
class PixelStatistics:
    """Mean, variance and distribution of each pixel over images, or of each channel over images and pixels.

    In NumPy, which adds image after image: the same bits on any rank and for any number of threads.

    Attributes:
        images: (N, C, H, W) on the CPU, uint8 or floating point in [0, 1].
        binary: whether a pixel is drawn, 1 with a probability equal to its grey value, else 0. The statistics are then
            those of all draws together, and not of one.
        per_channel: whether all pixels of a channel count as one: H = W = 1 in the results.
    """

    images: Tensor
    binary: bool = False
    per_channel: bool = False

    @cached_property
    def mean(self) -> Tensor:
        """The mean of a pixel in [0, 1], (C, H, W), float64."""
        return self._mean(lambda pixels: pixels)

    @cached_property
    def variance(self) -> Tensor:
        """The variance of a pixel in [0, 1], (C, H, W), float64."""
        if self.binary:
            return self.mean * (1 - self.mean)
        mean = self.mean.numpy()
        return self._mean(lambda pixels: (pixels - mean) ** 2)

    @cached_property
    def shares(self) -> Tensor:
        """The share of each of the 256 grey values, (C, 256, H, W), float64."""
        if self.binary:
            shares = torch.zeros(len(self.mean), LEVELS, *self.mean.shape[1:], dtype=torch.float64)
            shares[:, 0], shares[:, -1] = 1 - self.mean, self.mean
            return shares
        C, H, W = self.images.shape[1:]
        places, counts = np.arange(C * H * W).reshape(C, H, W), np.zeros(LEVELS * C * H * W, dtype=np.int64)
        for pixels in self._parts():
            levels = np.rint(pixels * (LEVELS - 1)).astype(np.int64)
            counts += np.bincount((levels * places.size + places).ravel(), minlength=len(counts))
        each = torch.from_numpy(counts).view(LEVELS, C, H, W).movedim(0, 1)
        together = each.sum((-2, -1), keepdim=True) if self.per_channel else each
        return together / together.sum(1, keepdim=True, dtype=torch.float64)

    def _mean(self, function: Callable[[np.ndarray], np.ndarray]) -> Tensor:
        """Return the mean of a function of the pixels."""
        total = np.zeros(self.images.shape[1:])
        for pixels in self._parts():
            total += function(pixels).sum(0)
        mean = total / len(self.images)
        return torch.from_numpy(mean.mean((-2, -1), keepdims=True) if self.per_channel else mean)

    def _parts(self) -> Iterator[np.ndarray]:
        """Yield images after images, their pixels in [0, 1], float64."""
        scale = 1 if self.images.is_floating_point() else LEVELS - 1
        for part in self.images.split(max(1, NUMBERS_AT_ONCE // self.images[0].numel())):
            yield part.numpy().astype(np.float64) / scale
