"""Damaged images made whole: missing pixels, noise."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vae.bars import following
from vae.data import randomness
from vae.evaluation import evaluating
from vae.model import VAE


@dataclass(frozen=True)
class Repaired:
    """Damaged images and what became of them.

    Attributes:
        damaged: what the model was given, (N, C, H, W) in [0, 1].
        repaired: (N, C, H, W).
        error: root of the mean squared error of `repaired`, over the pixels that were damaged, in units of the pixel
            range [0, 1].
        baseline: the same of the simplest repair: the mean image where pixels are missing, the noisy image itself.
    """

    damaged: Tensor
    repaired: Tensor
    error: float
    baseline: float


def impute(
    model: VAE,
    x: Tensor,
    missing: Tensor,
    mean_image: Tensor,
    *,
    sweeps: int = 100,
    draw: bool = True,
    seed: int = 0,
    labels: Tensor | None = None,
) -> Repaired:
    """Fill in missing pixels by encoding and decoding again and again, what is known staying as it is.

    With `draw` it is the chain that Rezende et al. 2014 impute missing data with: z ~ q(z|x), then missing pixels from
    p(x|z), of which the mean is taken here; the answer is the average over the second half of the sweeps. Without, z is
    E[z|x], which settles at a fixed point.

    Args:
        model: unwrapped.
        x: whole images (N, C, H, W) in [0, 1]; of missing pixels only the error is measured.
        missing: bool, (H, W), (C, H, W) or (N, C, H, W).
        mean_image: (C, H, W), the mean of the training images: the start, and what the error is held against.
        sweeps: how many times.
        draw: whether z is drawn.
        seed: of z.
        labels: (N,), of a model that sees them.

    Raises:
        ValueError: no pixel is missing, or the shapes do not go together.
    """
    missing = missing.to(x.device).expand_as(x)
    if not bool(missing.any()):
        raise ValueError("no pixel is missing")
    start = torch.where(missing, mean_image.to(x), x)
    filled, total, counted = start, torch.zeros_like(x), 0
    with evaluating(model):
        for sweep in following(range(sweeps), "imputing", "sweep"):
            noise = x.new_zeros(len(x), model.noise_dim)
            if draw:
                noise = randomness.normal(len(x), model.noise_dim, seed, "impute", sweep).to(x)
            seen = model.labels_of(filled, labels)
            z = model.infer(filled, noise, seen)[0].z
            filled = torch.where(missing, model.decode(z, seen).mean.to(x.dtype), x)
            if sweep >= sweeps // 2:
                total, counted = total + filled, counted + 1
    repaired = torch.where(missing, total / counted, x) if draw else filled
    return Repaired(start, repaired, _error(repaired, x, missing), _error(start, x, missing))


def denoise(
    model: VAE, x: Tensor, *, kind: str = "gaussian", level: float = 0.3, seed: int = 0, labels: Tensor | None = None
) -> Repaired:
    """Add noise to images, and return what the model makes of them: the mean of p(x|z) at z = E[z|noisy x].

    Args:
        model: unwrapped.
        x: clean images (N, C, H, W) in [0, 1].
        kind: `gaussian`: normal noise is added, and the image clipped to [0, 1]; `salt`: pixels become 0 or 1.
        level: standard deviation of the noise, or share of the pixels that are hit.
        seed: of the noise.
        labels: (N,), of a model that sees them.
    """
    flat = randomness.normal(len(x), x[0].numel(), seed, "denoise").view(x.shape).to(x)
    if kind == "salt":
        uniform = torch.special.ndtr(flat)
        noisy = torch.where(uniform < level / 2, 0.0, torch.where(uniform > 1 - level / 2, 1.0, x)).to(x.dtype)
    else:
        noisy = (x + level * flat).clamp(0, 1)
    with evaluating(model):
        repaired = model.reconstruct(noisy, labels)
    everywhere = torch.ones_like(x, dtype=torch.bool)
    return Repaired(noisy, repaired, _error(repaired, x, everywhere), _error(noisy, x, everywhere))


def _error(images: Tensor, truth: Tensor, where: Tensor) -> float:
    return (images - truth)[where].double().square().mean().sqrt().item()
