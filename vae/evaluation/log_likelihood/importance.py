"""log p(x) of each image by importance sampling, each rank doing its share."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import torch
from accelerate import Accelerator
from torch import Tensor

from vae.data.batches import share
from vae.data.dataset import Split
from vae.distributed.peers import Peers
from vae.evaluation.log_likelihood.budget import agreed, give_back, room_for
from vae.evaluation.log_likelihood.progress import Progress
from vae.evaluation.log_likelihood.weights import Draws, WeightSums, log_weights
from vae.evaluation.passes import evaluating, images_of, labels_for
from vae.model import VAE


@dataclass(frozen=True)
class Estimates:
    """Of each of N images, (N,), float64, on all ranks; nats unless something else is said.

    Attributes:
        log_likelihood: log (1/K sum over k of w_k), on average a lower bound of log p(x) (Burda et al. 2016, eq. 8).
        elbo: the mean of log w_k.
        reconstruction: the mean of -log p(x|z_k).
        effective_sample_size: (sum of w_k)^2 / sum of w_k^2, from 1 to K (Kish 1965).
        squared_error: of E[x|z] at z = E[z|x], mean over pixels and channels.
    """

    log_likelihood: Tensor
    elbo: Tensor
    reconstruction: Tensor
    effective_sample_size: Tensor
    squared_error: Tensor


def estimate(
    accelerator: Accelerator,
    model: VAE,
    part: Split,
    *,
    samples: int,
    seed: int,
    split: str,
    progress: Progress,
    at_once: int | None = None,
) -> Estimates:
    """Return estimates from K draws of z ~ q(z|x) for each image (all ranks).

    Draw k of image i has the same noise at any world size and in chunks of any size, and of any K above it.

    Args:
        accelerator: the process group.
        model: the unwrapped model, on the device.
        part: N images, the same on every rank.
        samples: K.
        seed, split: of the noise.
        progress: is told after each chunk.
        at_once: draws in one pass, those of all its images together; None: as many as memory allows.
    """
    rank, world_size = accelerator.process_index, accelerator.num_processes
    mine, longest = share(len(part), rank, world_size), math.ceil(len(part) / world_size)
    with evaluating(model), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        at_once = at_once or _room(accelerator, model, part)
        different = samples if model.noise_dim else 1  # of a q that is a point all draws are one
        images, draws = min(max(1, at_once // different), longest), min(at_once, different)  # in a pass
        found = []
        with progress.stage("log p(x)", (mine.stop - mine.start) * samples, "draws"):
            for first in range(mine.start, mine.start + longest, images):  # all ranks make as many passes
                block = _Block(model, part, range(first, min(first + images, mine.stop)), seed, split, pool)
                for drawn in range(0, different, draws):
                    times = samples // different
                    block.draw(count := min(draws, different - drawn), times)
                    progress.advance(count * times * len(block.rows))
                found.append(block.estimates())
                give_back()
    together = Peers(len(part), len(part), rank, world_size).gather(torch.cat(found))
    return Estimates(*together.unbind(1))


class _Block:
    """Some images, none of them where other ranks have one more, and what has been drawn for them."""

    def __init__(self, model: VAE, part: Split, rows: range, seed: int, split: str, pool: ThreadPoolExecutor):
        where = slice(rows.start, rows.stop)
        self.model, self.rows = model, rows
        self.x, self.labels = images_of(model, part, where), labels_for(model, part, where)
        self._noise = Draws(seed, split, rows, model.noise_dim, pool)
        self._sums = WeightSums(len(rows), self.x.device)

    def draw(self, count: int, times: int) -> None:
        """Take in so many draws more of each image, each of them so many times, of which one may be more than 1."""
        if not self.rows:
            return
        noise = self._noise.next(count)
        if self.x.is_cuda:
            noise = noise.pin_memory()
        output = self.model(self.x, noise.to(self.x, non_blocking=True), self.labels)
        self._sums.add(*(each.expand(count * times, -1) for each in log_weights(output, self.x)))

    def estimates(self) -> Tensor:
        """Return the columns of `Estimates`, (B, 5)."""
        sums = self._sums
        if not self.rows:
            return self.x.new_zeros(0, len(fields(Estimates)), dtype=torch.float64)
        error = (self.model.reconstruct(self.x, self.labels) - self.x).double().square().flatten(1).mean(1)
        columns = (sums.log_likelihood, sums.elbo, sums.reconstruction, sums.effective_sample_size, error)
        return torch.stack(columns, 1)


def _room(accelerator: Accelerator, model: VAE, part: Split) -> int:
    """Return how many draws fit in memory at once, on each rank (all ranks)."""
    x, labels = images_of(model, part, slice(0, 1)), labels_for(model, part, slice(0, 1))

    def draw(count: int) -> object:
        return log_weights(model(x, x.new_zeros(1, count, model.noise_dim), labels), x)

    return agreed(accelerator, room_for(draw, x.device))
