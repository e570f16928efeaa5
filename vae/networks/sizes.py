"""Dimensions that all parts of a model share."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sizes:
    """Dimensions that all parts of a model share.

    Attributes:
        image_shape: (C, H, W).
        latent_dim: D.
        hidden_dim: h, the width of the hidden layer next to the image; of a convolutional network, of its linear one.
        depth: hidden layers in each network, residual blocks, or convolutions that halve the image.
        classes: of the labels, where the model sees them; else 0.
        context_dim: numbers that encoder and decoder see beside an image or a z: of a conditional VAE the classes,
            one of them 1 (and the others 0); else 0.
        codes: K and d, where z is a sequence of vectors of a codebook (K, d); else None.
    """

    image_shape: tuple[int, int, int] = (1, 28, 28)
    latent_dim: int = 2
    hidden_dim: int = 512
    depth: int = 2
    classes: int = 0
    context_dim: int = 0
    codes: tuple[int, int] | None = None


def beside(numbers: Tensor, context: Tensor | None) -> Tensor:
    """Return numbers (B, N) with the context (B, context_dim) behind them, if there is one."""
    return numbers if context is None else torch.cat([numbers, context.to(numbers.dtype)], -1)
