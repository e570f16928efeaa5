"""The mutual information gap of a factor: that of the best latent dimension less that of the second best.

Chen et al. 2018, eq. 4 to 6. There, the entropies of q(z_j) are means over draws; here they are integrals over the
line, by the trapezoidal rule. In one dimension that needs no draws and fewer densities; it errs by less than 1e-5 nats.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

REACH = 8.0  # standard deviations beyond the outermost mean, where the integrals end
PLACES_PER_STD = 2.0  # of the narrowest Gaussian: the rule's error in its mass is then exp(-8 pi^2)
AT_ONCE = 2**21  # densities


@dataclass(frozen=True)
class Information:
    """The mutual information of latent dimensions and factors.

    Attributes:
        nats: I(z_j; v_k), (F, D).
        entropy: H(v_k), (F,), nats.
    """

    nats: np.ndarray
    entropy: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """I(z_j; v_k) / H(v_k), (F, D), from 0 to 1."""
        return self.nats / self.entropy[:, None]

    @property
    def gaps(self) -> np.ndarray:
        """The best latent dimension's share less the second best's (0 if there is only one), for each factor (F,)."""
        return top_gaps(self.shares)


def top_gaps(scores: np.ndarray, nothing: Sequence[float] | None = None) -> np.ndarray:
    """Return the largest less the second largest of scores (F, D), for each factor (F,).

    Args:
        scores: of each dimension for each factor.
        nothing: for each factor the score of a dimension that tells nothing, the second one if D = 1; None: 0.
    """
    if scores.shape[1] == 1:
        scores = np.column_stack([scores, np.zeros(len(scores)) if nothing is None else nothing])
    second, first = np.sort(scores, 1)[:, -2:].T
    return first - second


def information(mean: Tensor, std: Tensor, values: np.ndarray) -> Information:
    """Return the mutual information of each latent dimension and each factor, for N images, each as likely.

    q(z_j) = 1/N sum_n q(z_j|x_n), and q(z_j|v_k = v) the same over the images whose factor k is v;
    I(z_j; v_k) = H(z_j) - H(z_j|v_k), in float64.

    Args:
        mean, std: of the Gaussians q(z_j|x_n), (N, D).
        values: of the factors, 0, 1, ..., (N, F).
    """
    groups = [torch.nn.functional.one_hot(torch.from_numpy(each)).T.double() for each in values.T]
    shares = [group.mean(1) for group in groups]
    weights = torch.cat([group / group.sum(1, keepdim=True) for group in groups])
    nats = []
    for centre, width in zip(mean.double().T, std.double().T, strict=True):
        of_all, *of_groups = _entropies(centre, width, weights).split([1, *map(len, groups)])
        nats.append([(of_all - share @ each).item() for share, each in zip(shares, of_groups, strict=True)])
    entropy = np.array([-torch.special.xlogy(share, share).sum().item() for share in shares])
    return Information(np.array(nats).T.clip(min=0), entropy)


def _entropies(mean: Tensor, std: Tensor, weights: Tensor) -> Tensor:
    """Return the entropies (1 + M,), nats, of mixtures of N Gaussians: of equal weights, then of weights (M, N)."""
    weights = torch.cat([torch.full_like(weights[:1], 1 / len(mean)), weights])
    total, step = mean.new_zeros(len(weights)), std.min().item() / PLACES_PER_STD
    for places in _places(mean, std, step):
        density = torch.exp(-0.5 * ((places - mean[:, None]) / std[:, None]) ** 2) / (
            std[:, None] * math.sqrt(2 * math.pi)
        )
        mixed = weights @ density
        total -= torch.special.xlogy(mixed, mixed).sum(1)
    return total * step


def _places(mean: Tensor, std: Tensor, step: float) -> Iterator[Tensor]:
    """Yield the places of the trapezoidal rule in chunks that fit in memory; beyond the places all densities are 0."""
    low, high = (mean - REACH * std).min().item(), (mean + REACH * std).max().item()
    count = math.ceil((high - low) / step)
    room = max(1, AT_ONCE // len(mean))
    for start in range(0, count + 1, room):
        yield low + step * torch.arange(start, min(start + room, count + 1), dtype=torch.float64)
