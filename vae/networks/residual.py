"""Perceptrons with residual connections, which stay trainable when they are deep."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

from vae.networks.base import Decoder, Network
from vae.networks.linear import Linear
from vae.networks.options import (
    Activation,
    Initialization,
    Layer,
    LayerNormalization,
    activated,
    initialize,
    too_narrow_to_normalise,
)
from vae.networks.sizes import Sizes, beside

if TYPE_CHECKING:
    from vae.config import Config


class ResidualBlock(nn.Module):
    """x + W2 a(W1 a(x)), (B, h), normalised before each activation a: "pre-activation" (He et al. 2016, fig. 1 b)."""

    def __init__(self, width: int, activation: str, normalization: str):
        super().__init__()
        self.change = nn.Sequential(
            *activated(width, activation, normalization),
            Linear(width, width),
            *activated(width, activation, normalization),
            Linear(width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the changed x."""
        return x + self.change(x)


def _residual_mlp(inputs: int, sizes: Sizes, outputs: int, activation: str, normalization: str) -> list[nn.Module]:
    """Return a linear layer to width h, blocks of that width, and a linear layer."""
    width = sizes.hidden_dim
    blocks = [ResidualBlock(width, activation, normalization) for _ in range(sizes.depth)]
    last = [*activated(width, activation, normalization), Linear(width, outputs)]
    return [Linear(inputs, width), *blocks, *last]


class ResidualMLPEncoder(Network):
    """Images (B, C, H, W) -> numbers (B, F): a linear layer of width h, `depth` residual blocks, one linear head.

    Args:
        sizes: of the model; the context, if there is one, stands behind the pixels.
        features: F, the numbers the posterior needs for one example.
        activation, normalization, initialization: see `vae.networks.options`.
    """

    def __init__(
        self,
        sizes: Sizes,
        features: int,
        *,
        activation: Activation = "silu",
        normalization: LayerNormalization = "none",
        initialization: Initialization = "torch",
    ):
        super().__init__()
        inputs = math.prod(sizes.image_shape) + sizes.context_dim
        self.layers = nn.Sequential(*_residual_mlp(inputs, sizes, features, activation, normalization))
        initialize(self, initialization)

    @classmethod
    def conflicts(cls, config: "Config") -> Iterator[str]:
        """Yield a line if the layers have too few units to be normalised."""
        normalization = config.model.encoder["normalization"]
        yield from too_narrow_to_normalise("model.encoder", normalization, config.model.hidden_dim)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the numbers of q(z|x), (B, F), for images (B, C, H, W) and a context (B, context_dim)."""
        return self.layers(beside(x.flatten(1), context))


class ResidualMLPDecoder(Decoder):
    """Latents (B, D) -> numbers (B, C', H, W): the mirror image of `ResidualMLPEncoder`.

    Args:
        sizes: of the model; the context, if there is one, stands behind z.
        output_shape: (C', H, W), the numbers the likelihood needs for one example.
        activation, normalization, initialization: see `vae.networks.options`.
    """

    def __init__(
        self,
        sizes: Sizes,
        output_shape: tuple[int, int, int],
        *,
        activation: Activation = "silu",
        normalization: LayerNormalization = "none",
        initialization: Initialization = "torch",
    ):
        super().__init__()
        inputs, outputs = sizes.latent_dim + sizes.context_dim, math.prod(output_shape)
        layers = _residual_mlp(inputs, sizes, outputs, activation, normalization)
        self.layers = nn.Sequential(*layers, nn.Unflatten(1, output_shape))
        initialize(self, initialization)

    @classmethod
    def conflicts(cls, config: "Config") -> Iterator[str]:
        """Yield a line if the layers have too few units to be normalised."""
        normalization = config.model.decoder["normalization"]
        yield from too_narrow_to_normalise("model.decoder", normalization, config.model.hidden_dim)

    @property
    def output_layer(self) -> Layer:
        """The last layer."""
        return cast(nn.Linear, self.layers[-2])

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the numbers of p(x|z), (B, C', H, W), for latents (B, D) and a context (B, context_dim)."""
        return self.layers(beside(z, context))
