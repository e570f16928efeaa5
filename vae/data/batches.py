"""Which example goes to which step and rank.

The global batch is the unit: step s of an epoch takes positions s * B .. (s + 1) * B of that epoch's permutation, the
last one is shorter, and each rank takes its slice of it. Any world size sees the same batches and the same noise.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vae.data import randomness


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch.

    Attributes:
        x: images (B, C, H, W) in [0, 1].
        noise: standard normal (B, D).
        count: how many of the B are ours. B itself, except where a global batch is smaller than the world: a rank
            without an example gets a stand-in that does not count, because networks need something to run on.
        global_count: examples in the global batch, all ranks together.
    """

    x: Tensor
    noise: Tensor
    count: int
    global_count: int


@dataclass(frozen=True)
class EpochTable:
    """One rank's batches of one epoch, a row for each step.

    All rows have one length R: past its end a batch repeats its last example, finite where that one is, without weight.

    Attributes:
        index: which images, (steps, R).
        noise: standard normal (steps, R, D), float32.
        weight: what each example counts for in the mean over its global batch, (steps, R), float64.
        count: how many examples do count, (steps,).
    """

    index: Tensor
    noise: Tensor
    weight: Tensor
    count: Tensor


def share(count: int, rank: int, world_size: int) -> slice:
    """Return the contiguous share of 0 .. count - 1 that belongs to `rank`; shares differ by at most one in size."""
    return slice(count * rank // world_size, count * (rank + 1) // world_size)


def to_unit_interval(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Return uint8 images scaled to [0, 1] in `dtype`; floating-point images keep their values.

    To the bit what torchvision's `v2.ToDtype(dtype, scale=True)` gives.
    """
    return images.to(dtype) if images.is_floating_point() else images.to(dtype).mul_(1 / 255)


class TrainingBatches:
    """`batches(step)` is this rank's part of the global batch of that step, a pure function of seed and step.

    Args:
        images: the training set (N, C, H, W), uint8 or floating point in [0, 1], on the device.
        batch_size: examples in a global batch.
        latent_dim: D, of the noise.
        seed: the run's seed.
        binarize: `none`, `dynamic` (anew each epoch) or `static` (once).
        dtype: of the images and noise in a batch.
        rank, world_size: which part is ours.
    """

    def __init__(
        self,
        images: Tensor,
        *,
        batch_size: int,
        latent_dim: int,
        seed: int,
        binarize: str = "none",
        dtype: torch.dtype = torch.float32,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.images = randomness.binarize(images, seed, "binarize/train") if binarize == "static" else images
        self.batch_size, self.latent_dim, self.seed, self.dtype = batch_size, latent_dim, seed, dtype
        self.dynamic = binarize == "dynamic"
        self.rank, self.world_size = rank, world_size
        self.steps_per_epoch = math.ceil(len(images) / batch_size)
        self.rows = math.ceil(batch_size / world_size)  # the most examples that a batch of ours has
        self._epoch = -1

    def __call__(self, step: int) -> Batch:
        """Return this rank's part of the global batch of `step`, counted from 0 over the whole run."""
        epoch, position = divmod(step, self.steps_per_epoch)
        self._prepare(epoch)
        rows, count, global_count = self._part(position)
        images = self._pixels.index_select(0, self._order[rows])
        return Batch(to_unit_interval(images, self.dtype), self._noise[rows], count, global_count)

    def pixels(self, epoch: int) -> Tensor:
        """Return the images (N, C, H, W) that the batches of an epoch are taken from."""
        return randomness.binarize(self.images, self.seed, "binarize/train", epoch) if self.dynamic else self.images

    def table(self, epoch: int) -> EpochTable:
        """Return all batches of an epoch at once, on the CPU; `index` is into `pixels(epoch)`.

        In NumPy, since a thread may do it while another one trains: torch would give that thread a team of workers of
        its own, and with more workers than cores OpenMP puts all of them to sleep between any two operations.
        """
        order, noise = (drawn.numpy() for drawn in self._draw(epoch))
        parts = [self._part(position) for position in range(self.steps_per_epoch)]
        first, last = (np.array([[getattr(rows, end)] for rows, _, _ in parts]) for end in ("start", "stop"))
        count, global_count = (np.array([part[i] for part in parts]) for i in (1, 2))
        offsets = np.arange(self.rows)
        places = np.minimum(first + offsets, last - 1)
        weight = np.where(offsets < count[:, None], 1 / global_count[:, None], 0.0)
        return EpochTable(*map(torch.from_numpy, (order[places], noise[places], weight, count)))

    def total_steps(self, epochs: int, max_steps: int) -> int:
        """Return the steps of a run of `epochs` epochs, at most `max_steps` of them unless that is 0."""
        total = epochs * self.steps_per_epoch
        return min(total, max_steps) if max_steps else total

    def progress(self, step: int) -> float:
        """Return the epochs seen before `step`: examples seen over examples in the training set."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return epoch + position * self.batch_size / len(self.images)

    def _part(self, position: int) -> tuple[slice, int, int]:
        """Return our rows of a global batch, how many of them are ours, and how many examples it has."""
        start = position * self.batch_size
        global_count = min(self.batch_size, len(self.images) - start)
        part = share(global_count, self.rank, self.world_size)
        count = part.stop - part.start
        first = start + part.start if count else start
        return slice(first, first + max(count, 1)), count, global_count

    def _draw(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Return an epoch's order (N,) and noise (N, D), on the CPU."""
        count = len(self.images)
        noise = randomness.normal(count, self.latent_dim, self.seed, "noise", epoch)
        return randomness.permutation(count, self.seed, "order", epoch), noise

    def _send(self, numbers: Tensor) -> Tensor:
        """Return numbers on the device, without waiting for what is still running there."""
        device = self.images.device
        return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers.to(device)

    def _prepare(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        order, noise = self._draw(epoch)
        self._order, self._noise = self._send(order), self._send(noise.to(self.dtype))
        self._pixels = self.pixels(epoch)
        self._epoch = epoch
