"""Samples for a classifier: images that a model decodes from z ~ p(z)."""

import torch
from torch import Tensor

from vae.data import randomness
from vae.evaluation import chunks, evaluating
from vae.model import VAE


def prior_samples(model: VAE, count: int, *, seed: int, draws: bool = False) -> Tensor:
    """Return images (count, C, H, W), float32 in [0, 1]: means of p(x|z) for z ~ p(z), or draws of it.

    Values outside [0, 1], which a family without bounds may have, are set to the bound.

    Args:
        model: unwrapped, on the CPU; a model that sees labels is given 0, 1, ..., and again from 0.
        count: number of images; mean i does not depend on it.
        seed: of z and of the draws.
        draws: whether pixels are drawn from p(x|z).
    """
    weights, made = next(model.parameters()), []
    noise = randomness.normal(count, model.draw_dim, seed, "quality")
    labels = torch.arange(count) % model.classes if model.sees_labels else None
    with evaluating(model), torch.random.fork_rng(devices=[]):
        for rows in chunks(slice(0, count)):
            own = None if labels is None else labels[rows]
            p_x = model.decode(model.draw(noise[rows].to(weights), own), own)
            torch.manual_seed(randomness.torch_seed(seed, f"quality/pixels/{rows.start}"))
            made.append((p_x.sample() if draws else p_x.mean).float().clamp(0, 1))
    return torch.cat(made)
