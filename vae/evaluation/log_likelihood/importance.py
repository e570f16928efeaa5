"""log p(x) of each image by importance sampling; each rank evaluates its share of the images."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import torch
from accelerate import Accelerator
from torch import Tensor

from vae.data.batches import share
from vae.data.dataset import Split
from vae.distributed.peers import Ranks
from vae.evaluation.log_likelihood.budget import FreeMemory, largest_batch
from vae.evaluation.log_likelihood.progress import Progress
from vae.evaluation.log_likelihood.unfinished import UnfinishedEvaluation
from vae.evaluation.log_likelihood.weights import (
    Drawn,
    Draws,
    ImportanceWeights,
    effective_sample_size,
    jackknife,
    log_mean,
    log_weights,
)
from vae.evaluation.passes import evaluating, images_of, labels_for
from vae.model import VAE


@dataclass(frozen=True)
class Estimates:
    """Estimates for each of N images, (N,), float64, on the CPU of all ranks; nats unless another unit is named.

    Attributes:
        log_likelihood: log (1/K sum over k of w_k), on average a lower bound of log p(x) (Burda et al. 2016, eq. 8).
        bias: how far it lies below log p(x) for want of draws, or less; see `weights.jackknife`.
        variance: of it, over sets of K draws, nats^2.
        elbo: the mean of log w_k; where labels are inferred, -U(x), which lies below; see `weights.Drawn`.
        reconstruction: the mean of -log p(x|z_k).
        effective_sample_size: (sum of w_k)^2 / sum of w_k^2, from 1 to K (Kish 1965).
        squared_error: squared error of E[x|z] at z = E[z|x], mean over pixels and channels.
    """

    log_likelihood: Tensor
    bias: Tensor
    variance: Tensor
    elbo: Tensor
    reconstruction: Tensor
    effective_sample_size: Tensor
    squared_error: Tensor


COLUMNS = tuple(field.name for field in fields(Estimates))


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
    unfinished: UnfinishedEvaluation | None = None,
) -> Estimates:
    """Return estimates from K draws of z ~ q(z|x) for each image (all ranks).

    The noise of draw k of image i depends neither on K nor on world size and chunks.

    Args:
        accelerator: the process group.
        model: the unwrapped model, on the device.
        part: N images, the same on every rank.
        samples: K.
        seed, split: of the noise.
        progress: is advanced after each pass.
        at_once: draws in one pass, those of all its images together; None: as many as fit in memory.
        unfinished: holds the estimates of earlier attempts, and is given those of this one; None: nothing is kept.
    """
    rank, world_size = accelerator.process_index, accelerator.num_processes
    whole, missing = _known_and_missing(len(part), unfinished)
    mine, longest = missing[share(len(missing), rank, world_size)], math.ceil(len(missing) / world_size)
    with evaluating(model), model.holding_prior(), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        at_once = at_once or _most_draws(accelerator, model, part)
        times = 1 if model.noise_dim else samples  # where q is a point, all K draws are equal: one is made
        draws = samples // times  # made for each image
        images_a_pass = min(max(1, at_once // draws), max(1, longest))
        draws_a_pass = math.ceil(draws / math.ceil(draws / at_once))  # equal passes, but for the last one
        found, free = [whole[:0].to(accelerator.device)], FreeMemory()
        with progress.stage("log p(x)", len(mine) * samples, "draw"):
            for first in range(0, longest, images_a_pass):  # as many passes on each rank
                block = _Block(model, part, mine[first : first + images_a_pass], seed, split, pool)
                for made in range(0, draws, draws_a_pass):
                    block.add(count := min(draws_a_pass, draws - made), times)
                    progress.advance(count * times * len(block.places))
                found.append(block.estimates())
                if unfinished is not None:
                    unfinished.add(block.places, found[-1])
                free.give_back()
    together = Ranks(len(missing), len(missing), rank, world_size).gather(torch.cat(found))
    whole[missing] = together.cpu()
    return Estimates(*whole.unbind(1))


def _known_and_missing(count: int, unfinished: UnfinishedEvaluation | None) -> tuple[Tensor, Tensor]:
    """Return the columns of `Estimates` of N images (N, 7), where they are known, and the places of the others (n,)."""
    whole, missing = torch.zeros(count, len(COLUMNS), dtype=torch.float64), torch.arange(count)
    if unfinished is not None and len(unfinished.places):
        whole[unfinished.places] = unfinished.numbers
        missing = missing[~torch.isin(missing, unfinished.places)]
    return whole, missing


class _Block:
    """A block of images with the sums of their draws; empty on a rank that has one image fewer than others."""

    def __init__(self, model: VAE, part: Split, places: Tensor, seed: int, split: str, pool: ThreadPoolExecutor):
        self.model, self.places = model, places
        self.x, self.labels = images_of(model, part, places), labels_for(model, part, places)
        self._noise = Draws(seed, split, places.tolist(), model.noise_dim, pool)
        self._weights = ImportanceWeights(len(places), self.x.device)

    def add(self, count: int, times: int) -> None:
        """Add `count` draws per image; each counts `times` times (one of the two is 1)."""
        if not len(self.places):
            return
        noise = self._noise.next(count)
        if self.x.is_cuda:
            noise = noise.pin_memory()
        output = self.model(self.x, noise.to(self.x, non_blocking=True), self.labels)
        drawn = log_weights(output, self.x)
        self._weights.add(Drawn(*(each.expand(count * times, -1) for each in drawn)))

    def estimates(self) -> Tensor:
        """Return the columns of `Estimates`, (B, 7)."""
        if not len(self.places):
            return self.x.new_zeros(0, len(COLUMNS), dtype=torch.float64)
        error = (self.model.reconstruct(self.x, self.labels) - self.x).double().square().flatten(1).mean(1)
        weights, log_w = self._weights, self._weights.log_w
        size = effective_sample_size(log_w)
        columns = (log_mean(log_w), *jackknife(log_w), weights.elbo, weights.reconstruction, size, error)
        return torch.stack(columns, 1)


def _most_draws(accelerator: Accelerator, model: VAE, part: Split) -> int:
    """Return the number of draws in one pass that fits in each rank's memory (all ranks)."""
    x, labels = images_of(model, part, slice(0, 1)), labels_for(model, part, slice(0, 1))

    def draw(count: int) -> object:
        return log_weights(model(x, x.new_zeros(1, count, model.noise_dim), labels), x)

    return largest_batch(accelerator, draw)
