"""Importance weights: log p(x) from draws of z ~ q(z|x); only their sums are kept."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vae.data import randomness
from vae.model import VAEOutput


class Drawn(NamedTuple):
    """The numbers of K draws for each of B images, (K, B) each, nats, float64.

    Attributes:
        log_w: log p(x|z) + sum over layers (log p(z) - log q(z|x)). Where labels are inferred, w is the sum over y of
            p(y) w_y: y is summed over, not drawn.
        bound: whose mean over draws is the ELBO: log w, or where labels are inferred the mean over q(y|x) of log w_y
            minus KL(q(y|x) || p(y)), which is -U(x) of Kingma et al. 2014 (M2, eq. 7), and lies below.
        log_p_x: log p(x|z), where labels are inferred the mean over q(y|x).
    """

    log_w: Tensor
    bound: Tensor
    log_p_x: Tensor


def log_weights(output: VAEOutput, x: Tensor) -> Drawn:
    """Return the importance weights of K draws.

    Args:
        output: of a forward pass of the images with K draws.
        x: images (B, C, H, W).
    """
    log_p_x = output.p_x.log_prob(x).double()
    log_w = log_p_x - sum(layer.log_ratio().double() for layer in output.latents)
    if output.labels is None:
        return Drawn(log_w, log_w, log_p_x)
    bound = output.over_labels(log_w) - output.labels.kl().double()
    return Drawn(output.labels.log_mean_under_prior(log_w), bound, output.over_labels(log_p_x))


class ImportanceWeights:
    """The importance weights of B examples, added chunk by chunk; the chunks make no difference.

    All log w are kept until the example is done: at most as many numbers as one pass draws, or K.

    Args:
        examples: B.
        device: of the numbers.

    Attributes:
        draws: k, the number of draws of each example so far.
    """

    def __init__(self, examples: int, device: torch.device):
        self._log_w: list[Tensor] = []
        self._bound = self._log_p_x = torch.zeros(examples, dtype=torch.float64, device=device)
        self.draws = 0

    def add(self, drawn: Drawn) -> None:
        """Add K draws."""
        self._log_w.append(drawn.log_w)
        self._bound = self._bound + drawn.bound.sum(0)
        self._log_p_x = self._log_p_x + drawn.log_p_x.sum(0)
        self.draws += len(drawn.log_w)

    @property
    def log_w(self) -> Tensor:
        """All of them, (k, B)."""
        return torch.cat(self._log_w)

    @property
    def elbo(self) -> Tensor:
        """The evidence lower bound, (B,), nats: the mean of k estimates from one draw each."""
        return self._bound / self.draws

    @property
    def reconstruction(self) -> Tensor:
        """The mean of -log p(x|z), (B,), nats."""
        return -self._log_p_x / self.draws


def log_mean(log_w: Tensor) -> Tensor:
    """Return log (1/k sum of w), (B,), nats, of log w (k, B).

    On average it is a lower bound of log p(x) (Burda et al. 2016, eq. 8).
    """
    return log_w.logsumexp(0) - math.log(len(log_w))


def effective_sample_size(log_w: Tensor) -> Tensor:
    """Return (sum of w)^2 / sum of w^2, (B,), of log w (k, B): k for equal weights, 1 if one outweighs all others.

    Kish 1965, Survey sampling.
    """
    return (2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp()


def jackknife(log_w: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far `log_mean` lies below log p(x), and the variance of its draws, both (B,), by leaving draws out.

    With L_i for the logarithm of the mean without draw i, the first is (k - 1) (L - mean of L_i), what the jackknife
    adds (Nowozin 2018, Debiasing evidence approximations, eq. 8); the second (k - 1)/k sum of (L_i - their mean)^2
    (Efron & Stein 1981). Where few weights count, the bias is larger than the first says, and the variance is what
    repeated draws show; the delta method gives half of it there. NaN for a single draw.

    Args:
        log_w: (k, B), float64.
    """
    count, total = len(log_w), log_w.logsumexp(0)
    rest = torch.log1p(-(log_w - total).exp())  # log of what is left of the sum
    largest = log_w.argmax(0, keepdim=True)  # of which the difference has no digits where it outweighs all others
    of_others = log_w.scatter(0, largest, -math.inf).logsumexp(0, keepdim=True) - total
    rest = rest.scatter(0, largest, of_others)
    mean = rest.mean(0)
    variance = (rest - mean).square().sum(0) * (count - 1) / count
    return (count - 1) * (math.log1p(-1 / count) - mean) if count > 1 else mean * math.nan, variance


class Draws:
    """Standard normal numbers for the draws of some examples, one after another; draw k of example i never changes.

    Args:
        seed, split: those of the evaluation.
        examples: places of B examples in the split.
        dim: D, numbers of one draw.
        pool: threads that fill the rows side by side.
    """

    def __init__(self, seed: int, split: str, examples: Sequence[int], dim: int, pool: ThreadPoolExecutor):
        self.dim, self._pool = dim, pool
        self._streams = [randomness.generator(seed, f"importance/{split}", block=place) for place in examples]

    def next(self, count: int) -> Tensor:
        """Return the next draws of each example, (B, count, D), float32, on the CPU."""
        numbers = np.empty((len(self._streams), count, self.dim), dtype=np.float32)

        def fill(rows: range) -> None:
            for row in rows:
                self._streams[row].standard_normal(dtype=np.float32, out=numbers[row])

        step = max(1, math.ceil(len(numbers) / (4 * self._pool._max_workers)))
        for _ in self._pool.map(fill, [range(i, min(i + step, len(numbers))) for i in range(0, len(numbers), step)]):
            pass
        return torch.from_numpy(numbers)
