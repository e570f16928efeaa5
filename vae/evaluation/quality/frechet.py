"""The Frechet distance of two sets of features, each taken for a normal distribution."""

import torch
from torch import Tensor


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (F,) and the covariance (F, F) of features (N, F), N > F, in float64."""
    values = features.double()
    return values.mean(0), torch.cov(values.T).reshape(values.shape[1], -1)


def frechet_distance(mean: Tensor, covariance: Tensor, its_mean: Tensor, its_covariance: Tensor) -> float:
    """Return the squared distance |m - m'|^2 + tr(S + S' - 2 (S^1/2 S' S^1/2)^1/2) of two normal distributions.

    Dowson & Landau 1982, The Fréchet distance between multivariate normal distributions, eq. 4. The symmetric product
    has the eigenvalues of S S', which are real and not negative; those that rounding makes negative are 0,
    and so is such a distance.

    Args:
        mean, its_mean: (F,), float64.
        covariance, its_covariance: (F, F), float64, symmetric and without negative eigenvalues.
    """
    values, directions = torch.linalg.eigh(covariance)
    root = (directions * values.clamp(min=0).sqrt()) @ directions.T
    product = root @ its_covariance @ root
    trace_of_root = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    shift = (mean - its_mean).square().sum()
    distance = shift + covariance.trace() + its_covariance.trace() - 2 * trace_of_root
    return max(0.0, distance.item())
