"""Prior of a model, for its pictures: marginals, draws and a density."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MixtureSameFamily, Normal

from vae.data import randomness
from vae.data.dataset import Split
from vae.evaluation import chunks
from vae.families.distributions import marginals
from vae.families.hierarchy import Flat
from vae.families.priors import Given, StandardNormal
from vae.figures import ShownPrior
from vae.model import VAE

DRAWS = 10_000
BINS = 100  # of a marginal that is known by draws alone


def shown_prior(model: VAE, part: Split, seed: int) -> ShownPrior | None:
    """Return the prior of the layer that is decoded, None for N(0, I); its functions hold references to the model.

    A p(z|y) is shown as the mean over the labels of the data. Marginals of normals and of their mixtures are in closed
    form; any others are histograms of draws.

    Args:
        model: the unwrapped model, in evaluation mode.
        part: data whose labels a p(z|y) is averaged over.
        seed: of the draws.
    """
    flat = isinstance(model.hierarchy, Flat)
    if flat and isinstance(model.prior, StandardNormal):
        return None
    draws = _draws(model, part, seed)
    if not flat or model.posterior.codes:  # a mean over all z above, or on single points: draws, and no density
        return ShownPrior(_histogram(draws), draws, None)
    weights = next(model.parameters())
    if model.prior.needs_labels:
        assert part.labels is not None
        labels = torch.arange(model.classes, device=weights.device)
        shares = part.labels.bincount(minlength=model.classes).to(weights) / len(part)
    else:
        labels, shares = None, weights.new_ones(1)
    p = model.prior(Given(weights, model.encode, labels))

    def density(points: np.ndarray) -> np.ndarray:
        z = torch.from_numpy(points).to(weights)[:, None]
        found = [torch.logsumexp(p.log_prob(z[rows]) + shares.log(), -1) for rows in chunks(slice(0, len(z)))]
        return torch.cat(found).double().exp().cpu().numpy()

    parts = _independent_normals(p, shares)
    return ShownPrior(_histogram(draws) if parts is None else _sum_of_normals(*parts), draws, density)


def _draws(model: VAE, part: Split, seed: int) -> np.ndarray:
    weights = next(model.parameters())
    noise = randomness.normal(DRAWS, model.draw_dim, seed, "figures/prior").to(weights)
    labels = None
    if model.prior.needs_labels:
        assert part.labels is not None
        labels = part.labels[torch.arange(DRAWS) % len(part)].to(weights.device)
    found = [
        model.draw(noise[rows], None if labels is None else labels[rows]).cpu() for rows in chunks(slice(0, DRAWS))
    ]
    return torch.cat(found).double().numpy()


def _independent_normals(p: Distribution, shares: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return weights (N,), means and standard deviations (N, D) of normals whose weighted sum has p's marginals."""
    if isinstance(p, MixtureSameFamily):
        shares, p = p.mixture_distribution.probs, p.component_distribution
    p = marginals(p)
    if not isinstance(p, Independent) or not isinstance(p.base_dist, Normal):
        return None
    return shares, p.base_dist.loc.expand(len(shares), -1), p.base_dist.scale.expand(len(shares), -1)


def _sum_of_normals(shares: Tensor, loc: Tensor, scale: Tensor) -> Callable[[np.ndarray], np.ndarray]:
    weights, means, stds = (numbers.double().cpu().numpy() for numbers in (shares, loc, scale))

    def marginals(places: np.ndarray) -> np.ndarray:
        units = (places[:, None, None] - means) / stds  # (G, N, D)
        return np.einsum("n,gnd->gd", weights, np.exp(-0.5 * units**2) / (stds * math.sqrt(2 * math.pi)))

    return marginals


def _histogram(draws: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    found = [np.histogram(column, bins=BINS, density=True) for column in draws.T]

    def marginals(places: np.ndarray) -> np.ndarray:
        middles = [(edges[:-1] + edges[1:]) / 2 for _, edges in found]
        columns = [np.interp(places, at, values, 0, 0) for at, (values, _) in zip(middles, found, strict=True)]
        return np.stack(columns, -1)

    return marginals
