"""The batches of a run: the examples of each step and rank, with their noise.

The global batch is the unit: step s of an epoch takes positions s * B .. (s + 1) * B of that epoch's permutation, the
last one is shorter, and each rank takes its slice of it. Any world size sees the same batches and the same noise.
"""

import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from vae.data import randomness

Made = TypeVar("Made")

NUMBERS_AT_ONCE = 2**24  # of noise, 64 MiB: an epoch's for most models, not for 50 draws of 50 latents each


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch.

    Attributes:
        x: images (B, C, H, W) in [0, 1].
        noise: standard normal (B, D), or (B, K, D) of K draws for each example.
        labels: (B,), int64, where the model sees them.
        count: how many of the B are ours. B itself, except where a global batch is smaller than the world: a rank
            without an example gets a stand-in that does not count, because networks need something to run on.
        global_count: examples in the global batch, all ranks together.
    """

    x: Tensor
    noise: Tensor
    labels: Tensor | None
    count: int
    global_count: int

    def part(self, rows: slice) -> "Batch":
        """Return some of the B as a part of the same global batch: views, no copies."""
        count = max(0, min(rows.stop, self.count) - rows.start)
        labels = None if self.labels is None else self.labels[rows]
        return Batch(self.x[rows], self.noise[rows], labels, count, self.global_count)

    def chunks(self, most: int) -> list["Batch"]:
        """Return the B in parts of at most `most` examples, the last one ragged; 0: in one part."""
        size = len(self.x)
        if not 0 < most < size:
            return [self]
        return [self.part(slice(start, min(start + most, size))) for start in range(0, size, most)]


@dataclass(frozen=True)
class Table:
    """One rank's batches of consecutive steps of an epoch, a row for each.

    All rows have one length R: past its end a batch repeats its last example, finite where that one is, without weight.

    Attributes:
        index: which images, (steps, R).
        noise: standard normal (steps, R, D) or (steps, R, K, D), float32.
        weight: of each example in the mean over its global batch, (steps, R), float64.
        count: how many examples do count, (steps,).
    """

    index: Tensor
    noise: Tensor
    weight: Tensor
    count: Tensor


def share(count: int, rank: int, world_size: int) -> slice:
    """Return the contiguous share of 0 .. count - 1 that belongs to `rank`; sizes of shares differ by at most one."""
    return slice(count * rank // world_size, count * (rank + 1) // world_size)


def count_steps(examples: int, batch_size: int, epochs: int, max_steps: int) -> tuple[int, int]:
    """Return the steps of an epoch, and those of a run of `epochs`, at most `max_steps` of them unless that is 0."""
    per_epoch = math.ceil(examples / batch_size)
    total = epochs * per_epoch
    return per_epoch, min(total, max_steps) if max_steps else total


def to_unit_interval(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Return uint8 images scaled to [0, 1] in `dtype`; floating-point images keep their values.

    The same bits as torchvision's `v2.ToDtype(dtype, scale=True)`.
    """
    return images.to(dtype) if images.is_floating_point() else images.to(dtype).mul_(1 / 255)


def send(numbers: Tensor, device: torch.device) -> Tensor:
    """Return a copy on `device` of numbers on the CPU, without waiting for kernels that still run there."""
    return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers.to(device)


def staged(numbers: np.ndarray, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Return a copy of numbers on the CPU, pinned where `device` is CUDA, so that no copy to it makes the host wait.

    By NumPy, for the reason that `TrainingBatches.table` gives.
    """
    dtype = torch.from_numpy(numbers).dtype if dtype is None else dtype
    copy = torch.empty(numbers.shape, dtype=dtype, pin_memory=device.type == "cuda")
    np.copyto(copy.numpy(), numbers, casting="same_kind")
    return copy


class Ahead(Generic[Made]):
    """A function of the epoch; that of the next epoch is computed meanwhile, by a thread.

    Args:
        thread: computes ahead.
        function: of the epoch.
    """

    def __init__(self, thread: ThreadPoolExecutor, function: Callable[[int], Made]):
        self._thread, self._function = thread, function
        self._next: tuple[int, Future[Made]] | None = None

    def __call__(self, epoch: int) -> Made:
        """Return the value of an epoch: at once where the epoch before was asked for last."""
        ready, self._next = self._next, (epoch + 1, self._thread.submit(self._function, epoch + 1))
        return ready[1].result() if ready and ready[0] == epoch else self._function(epoch)


class TrainingBatches:
    """`batches(step)` is this rank's part of the global batch of that step, a pure function of seed and step.

    Args:
        images: the training set (N, C, H, W), uint8 or floating point in [0, 1], on the device.
        batch_size: examples in a global batch.
        noise_dim: D, the standard normal numbers that a draw of the latents takes.
        samples: K, draws for each example.
        labels: (N,), int64, on the device, where the model sees them.
        seed: the run's seed.
        binarize: `none`, `dynamic` (anew each epoch) or `static` (once).
        dtype: of the images and noise in a batch.
        rank, world_size: which part is ours.

    Attributes:
        ahead: a thread for what a coming epoch needs.
    """

    def __init__(
        self,
        images: Tensor,
        *,
        batch_size: int,
        noise_dim: int,
        seed: int,
        samples: int = 1,
        labels: Tensor | None = None,
        binarize: str = "none",
        dtype: torch.dtype = torch.float32,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.images = randomness.binarize(images, seed, "train") if binarize == "static" else images
        self.labels, self.batch_size, self.seed, self.dtype = labels, batch_size, seed, dtype
        self.noise_shape = (noise_dim,) if samples == 1 else (samples, noise_dim)  # of an example
        self.dynamic = binarize == "dynamic"
        self.rank, self.world_size = rank, world_size
        self.steps_per_epoch = math.ceil(len(images) / batch_size)
        self.rows = math.ceil(batch_size / world_size)  # the most examples that a batch of ours has
        self._epoch = -1
        begin = None
        if images.is_cuda:  # a thread's own device is the machine's first, which may be another rank's
            begin = partial(torch.cuda.set_device, images.device)
        self.ahead = ThreadPoolExecutor(1, thread_name_prefix="batches", initializer=begin)
        self._thresholds = Ahead(self.ahead, self._draw_thresholds)
        numbers = max(1, math.prod(self.noise_shape))
        self._block = max(1, NUMBERS_AT_ONCE // numbers)  # positions whose noise is drawn at once

    def __call__(self, step: int) -> Batch:
        """Return this rank's part of the global batch of `step`, counted from 0 over the whole run."""
        epoch, position = divmod(step, self.steps_per_epoch)
        self._prepare(epoch)
        rows, count, global_count = self._part(position)
        index = self._order[rows]
        x = to_unit_interval(self._pixels.index_select(0, index), self.dtype)
        labels = None if self.labels is None else self.labels.index_select(0, index)
        return Batch(x, self._noise(epoch, rows), labels, count, global_count)

    def pixels(self, epoch: int) -> Tensor:
        """Return the images (N, C, H, W) that the batches of an epoch are taken from.

        Dynamic ones are those of `randomness.binarize`; the next epoch's thresholds are drawn meanwhile.
        """
        if not self.dynamic:
            return self.images
        return randomness.above(self._thresholds(epoch).to(self.images.device, non_blocking=True), self.images)

    def table(self, epoch: int, positions: range | None = None) -> Table:
        """Return the batches at consecutive positions of an epoch (default: all), on the CPU.

        Their `index` is into `pixels(epoch)`.

        In NumPy, since a thread may do it while another one trains: torch would give that thread a team of workers of
        its own, and with more workers than cores OpenMP puts all of them to sleep between any two operations.
        """
        order = randomness.permutation(len(self.images), self.seed, "order", epoch).numpy()
        parts = [self._part(position) for position in positions or range(self.steps_per_epoch)]
        first, last = (np.array([[getattr(rows, end)] for rows, _, _ in parts]) for end in ("start", "stop"))
        count, global_count = (np.array([part[i] for part in parts]) for i in (1, 2))
        offsets = np.arange(self.rows)
        places = np.minimum(first + offsets, last - 1)
        weight = np.where(offsets < count[:, None], 1 / global_count[:, None], 0.0)
        noise = np.empty((*places.shape, *self.noise_shape), dtype=np.float32)
        for block in range(places.min() // self._block, places.max() // self._block + 1):
            here = places // self._block == block
            noise[here] = self._draw(epoch, block).numpy()[places[here] - block * self._block]
        return Table(*map(torch.from_numpy, (order[places], noise, weight, count)))

    def close(self) -> None:
        """Draw nothing ahead any more."""
        self.ahead.shutdown(wait=False, cancel_futures=True)

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

    def _draw(self, epoch: int, block: int) -> Tensor:
        """Return the noise of a block of positions, on the CPU."""
        count = min(self._block, len(self.images) - block * self._block)
        noise = randomness.normal(count, math.prod(self.noise_shape), self.seed, "noise", epoch, block)
        return noise.view(count, *self.noise_shape)

    def _draw_thresholds(self, epoch: int) -> Tensor:
        drawn = randomness.thresholds(tuple(self.images.shape), self.images.dtype, self.seed, "train", epoch)
        return staged(drawn, self.images.device)

    def _noise(self, epoch: int, rows: slice) -> Tensor:
        """Return the noise of some positions, on the device."""
        needed = range(rows.start // self._block, (rows.stop - 1) // self._block + 1)
        self._blocks = {
            block: self._blocks[block] if block in self._blocks else self._send(self._draw(epoch, block).to(self.dtype))
            for block in needed
        }
        starts = [block * self._block for block in needed]
        parts = [self._blocks[start // self._block][max(rows.start - start, 0) : rows.stop - start] for start in starts]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _send(self, numbers: Tensor) -> Tensor:
        """Return a copy of numbers on the device, without waiting for kernels that still run there."""
        return send(numbers, self.images.device)

    def _prepare(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        self._order = self._send(randomness.permutation(len(self.images), self.seed, "order", epoch))
        self._blocks: dict[int, Tensor] = {}
        self._pixels = self.pixels(epoch)
        self._epoch = epoch
