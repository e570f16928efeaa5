"""Probabilistic PCA, x = W z + b + std e, as a model whose likelihood and posterior are closed forms."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from vae.data import randomness
from vae.model import VAE

PIXELS, D, STD = 5, 2, 0.7


def linear_gaussian(*, shift: float = 0.0, wider: float = 1.0) -> tuple[VAE, MultivariateNormal]:
    """Return the model, in float64, with its exact posterior, or one that is shifted and wider; and p(x).

    Tipping & Bishop 1999 (probabilistic PCA): p(x) = N(b, W W^T + std^2 I), p(z|x) = N(M^-1 W^T (x - b), std^2 M^-1),
    M = W^T W + std^2 I.
    """
    generator = randomness.generator(1, "linear")
    w, b = torch.from_numpy(generator.normal(size=(PIXELS, D))), torch.from_numpy(generator.normal(size=PIXELS))
    to_mean, covariance = posterior_of(w, STD)
    triangle = wider * torch.linalg.cholesky(covariance)
    full: dict[str, Any] = {"name": "FullNormal", "scale": "exp", "eps": 0.0}
    model = VAE((1, 1, PIXELS), D, posterior=full, likelihood={"name": "Normal", "std": STD}).double()
    decoder, encoder = nn.Linear(D, PIXELS), nn.Linear(PIXELS, model.posterior.features)
    rows, columns = torch.tril_indices(D, D)
    numbers = torch.where(rows == columns, 2 * triangle.diagonal().log()[rows], triangle[rows, columns])
    with torch.no_grad():
        decoder.weight.data, decoder.bias.data = w, b
        encoder.weight.data = torch.cat([to_mean, torch.zeros(len(numbers), PIXELS)]).double()
        encoder.bias.data = torch.cat([shift - to_mean @ b, numbers])
    model.decoder = nn.Sequential(decoder, nn.Unflatten(1, (1, 1, PIXELS)))  # pyright: ignore[reportAttributeAccessIssue]
    model.encoder = nn.Sequential(nn.Flatten(), encoder)
    return model, marginal_of(w, b, STD)


def posterior_of(w: Tensor, std: float) -> tuple[Tensor, Tensor]:
    """Return the matrix (D, P) that maps x - b to E[z|x], and the covariance of p(z|x), (D, D), for W (P, D)."""
    m = w.T @ w + std**2 * torch.eye(w.shape[1], dtype=w.dtype)
    return torch.linalg.solve(m, w.T), std**2 * torch.linalg.inv(m)


def marginal_of(w: Tensor, b: Tensor, std: float) -> MultivariateNormal:
    """Return p(x) for W (P, D) and b (P,)."""
    return MultivariateNormal(b, w @ w.T + std**2 * torch.eye(len(w), dtype=w.dtype))


def images(count: int, pixels: int = PIXELS) -> Tensor:
    """Return images (count, 1, 1, pixels) in [0, 1], float64."""
    return torch.from_numpy(randomness.generator(7, "test").random((count, 1, 1, pixels)))
