"""Encoders and decoders: numbers to numbers. What the numbers mean is up to the posterior and the likelihood."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vae.bfloat16 import Linear

Shape = tuple[int, int, int]  # (C, H, W)


@dataclass(frozen=True)
class Sizes:
    """What the parts of one model are built to.

    Attributes:
        image_shape: (C, H, W).
        latent_dim: D.
        hidden_dim: h, the width of the hidden layer next to the image.
        depth: hidden layers in each network.
        classes: of the labels, where the model sees them; else 0.
        context_dim: numbers that encoder and decoder see beside an image or a z: of a conditional VAE the classes,
            one of them 1 (and the others 0); else 0.
    """

    image_shape: Shape = (1, 28, 28)
    latent_dim: int = 2
    hidden_dim: int = 512
    depth: int = 2
    classes: int = 0
    context_dim: int = 0


def mlp_widths(hidden_dim: int, depth: int) -> list[int]:
    """Return the hidden widths of an encoder: h, h/2, h/4, ... (`depth` of them)."""
    return [hidden_dim // 2**layer for layer in range(depth)]


def _mlp(widths: Sequence[int]) -> list[nn.Module]:
    """Return linear layers between consecutive widths, with a SiLU between (not after) them."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [Linear(inputs, outputs), nn.SiLU()]
    return layers[:-1]


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Return a network of linear layers between consecutive widths, with a SiLU between (not after) them."""
    return nn.Sequential(*_mlp(widths))


class MLPEncoder(nn.Module):
    """Images (B, C, H, W) -> numbers (B, F): linear layers of width h, h/2, ..., SiLU between, one linear head.

    Args:
        sizes: of the model; the context, if there is one, stands behind the pixels.
        features: F, the numbers the posterior needs for one example.
    """

    def __init__(self, sizes: Sizes, features: int):
        super().__init__()
        inputs = math.prod(sizes.image_shape) + sizes.context_dim
        self.layers = nn.Sequential(nn.Flatten(), *_mlp([inputs, *mlp_widths(sizes.hidden_dim, sizes.depth), features]))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the numbers of q(z|x), (B, F), for images (B, C, H, W) and a context (B, context_dim)."""
        return self.layers(beside(x.flatten(1), context))


class MLPDecoder(nn.Module):
    """Latents (B, D) -> numbers (B, C', H, W): the mirror image of `MLPEncoder`.

    Args:
        sizes: of the model.
        output_shape: (C', H, W), the numbers the likelihood needs for one example.
    """

    def __init__(self, sizes: Sizes, output_shape: Shape):
        super().__init__()
        inner = reversed(mlp_widths(sizes.hidden_dim, sizes.depth))
        widths = [sizes.latent_dim + sizes.context_dim, *inner, math.prod(output_shape)]
        self.layers = nn.Sequential(*_mlp(widths), nn.Unflatten(1, output_shape))

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the numbers of p(x|z), (B, C', H, W), for latents (B, D) and a context (B, context_dim)."""
        return self.layers(beside(z, context))


def beside(numbers: Tensor, context: Tensor | None) -> Tensor:
    """Return numbers (B, N) with the context (B, context_dim) behind them, if there is one."""
    return numbers if context is None else torch.cat([numbers, context.to(numbers.dtype)], -1)


ENCODERS: dict[str, type[nn.Module]] = {"MLPEncoder": MLPEncoder}
DECODERS: dict[str, type[nn.Module]] = {"MLPDecoder": MLPDecoder}
