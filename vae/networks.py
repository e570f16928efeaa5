"""Encoders and decoders: numbers to numbers. What the numbers mean is up to the posterior and the likelihood."""

import itertools
import math

from torch import Tensor, nn

from vae.bfloat16 import Linear

Shape = tuple[int, int, int]  # (C, H, W)


def mlp_widths(hidden_dim: int, depth: int) -> list[int]:
    """Return the hidden widths of an encoder: h, h/2, h/4, ... (`depth` of them)."""
    return [hidden_dim // 2**layer for layer in range(depth)]


def _mlp(widths: list[int]) -> list[nn.Module]:
    """Return linear layers between consecutive widths, with a SiLU between (not after) them."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [Linear(inputs, outputs), nn.SiLU()]
    return layers[:-1]


class MLPEncoder(nn.Module):
    """Images (B, C, H, W) -> numbers (B, F): linear layers of width h, h/2, ..., SiLU between, one linear head.

    Args:
        image_shape: (C, H, W).
        features: F, the numbers the posterior needs for one example.
        hidden_dim: h, the width of the layer next to the image.
        depth: how many hidden layers.
    """

    def __init__(self, image_shape: Shape, features: int, hidden_dim: int, depth: int):
        super().__init__()
        widths = [math.prod(image_shape), *mlp_widths(hidden_dim, depth), features]
        self.layers = nn.Sequential(nn.Flatten(), *_mlp(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Return the numbers of q(z|x), (B, F)."""
        return self.layers(x)


class MLPDecoder(nn.Module):
    """Latents (B, D) -> numbers (B, C', H, W): the mirror image of `MLPEncoder`.

    Args:
        latent_dim: D.
        output_shape: (C', H, W), the numbers the likelihood needs for one example.
        hidden_dim: h, the width of the layer next to the image.
        depth: how many hidden layers.
    """

    def __init__(self, latent_dim: int, output_shape: Shape, hidden_dim: int, depth: int):
        super().__init__()
        widths = [latent_dim, *reversed(mlp_widths(hidden_dim, depth)), math.prod(output_shape)]
        self.layers = nn.Sequential(*_mlp(widths), nn.Unflatten(1, output_shape))

    def forward(self, z: Tensor) -> Tensor:
        """Return the numbers of p(x|z), (B, C', H, W)."""
        return self.layers(z)


ENCODERS: dict[str, type[nn.Module]] = {"MLPEncoder": MLPEncoder}
DECODERS: dict[str, type[nn.Module]] = {"MLPDecoder": MLPDecoder}
