"""Importance weights: log p(x) from draws of z ~ q(z|x); only their sums are kept."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from vae.data import randomness
from vae.model import VAEOutput


def log_weights(output: VAEOutput, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return log w = log p(x|z) + sum over layers (log p(z) - log q(z|x)), and log p(x|z), nats, float64.

    Where labels are inferred, w is the sum over y of p(y) w_y: y is summed over, not drawn. log p(x|z) is the mean over
    q(y|x).

    Args:
        output: of a forward pass of the images with K draws.
        x: images (B, C, H, W).

    Returns:
        Both (K, B).
    """
    log_p_x = output.p_x.log_prob(x).double()
    log_w = log_p_x - sum(layer.log_ratio().double() for layer in output.latents)
    return (log_w if output.labels is None else output.labels.log_mean_under_prior(log_w)), output.over_labels(log_p_x)


class WeightSums:
    """Sums of the importance weights of B examples, added chunk by chunk; the chunks make no difference.

    Args:
        examples: B.
        device: of the sums.

    Attributes:
        draws: k, the number of draws of each example so far.
    """

    def __init__(self, examples: int, device: torch.device):
        nothing = torch.full((examples,), -math.inf, dtype=torch.float64, device=device)
        self._log_sum, self._log_sum_of_squares = nothing, nothing
        self._sum_of_logs = self._sum_of_log_p_x = torch.zeros_like(nothing)
        self.draws = 0

    def add(self, log_w: Tensor, log_p_x: Tensor) -> None:
        """Add K draws: log w and log p(x|z), each (K, B)."""
        self._log_sum = torch.logaddexp(self._log_sum, log_w.logsumexp(0))
        self._log_sum_of_squares = torch.logaddexp(self._log_sum_of_squares, (2 * log_w).logsumexp(0))
        self._sum_of_logs = self._sum_of_logs + log_w.sum(0)
        self._sum_of_log_p_x = self._sum_of_log_p_x + log_p_x.sum(0)
        self.draws += len(log_w)

    @property
    def log_likelihood(self) -> Tensor:
        """log (1/k sum of w), (B,), nats: on average a lower bound of log p(x) (Burda et al. 2016, eq. 8)."""
        return self._log_sum - math.log(self.draws)

    @property
    def elbo(self) -> Tensor:
        """The mean of log w, (B,), nats: of k estimates of the evidence lower bound from one draw each."""
        return self._sum_of_logs / self.draws

    @property
    def reconstruction(self) -> Tensor:
        """The mean of -log p(x|z), (B,), nats."""
        return -self._sum_of_log_p_x / self.draws

    @property
    def effective_sample_size(self) -> Tensor:
        """(sum of w)^2 / sum of w^2, (B,): k for equal weights, 1 for one that outweighs all others (Kish 1965)."""
        return (2 * self._log_sum - self._log_sum_of_squares).exp()


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

        step = math.ceil(len(numbers) / (4 * self._pool._max_workers))
        for _ in self._pool.map(fill, [range(i, min(i + step, len(numbers))) for i in range(0, len(numbers), step)]):
            pass
        return torch.from_numpy(numbers)
