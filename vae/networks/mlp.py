"""Multi-layer perceptrons: images and latents as plain rows of numbers."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, cast

from pydantic import Field
from torch import Tensor, nn

from vae.components import Spec
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

Widths = Annotated[
    Literal["halving", "constant"],
    Field(description="of the hidden layers, from the image on: h, h/2, h/4, ..., or h throughout"),
]


def mlp_widths(hidden_dim: int, depth: int, widths: str = "halving") -> list[int]:
    """Return an encoder's hidden widths, `depth` of them: `halving` h, h/2, h/4, ..., or `constant` h, h, h, ..."""
    return [hidden_dim // 2**layer if widths == "halving" else hidden_dim for layer in range(depth)]


def mlp(
    widths: Sequence[int], activation: str = "silu", normalization: str = "none", initialization: str = "torch"
) -> nn.Sequential:
    """Return linear layers between consecutive widths, each but the last normalised and activated.

    Args:
        widths: (B, first) -> (B, last).
        activation, normalization, initialization: see `vae.networks.options`.
    """
    network = nn.Sequential(*_mlp(widths, activation, normalization))
    initialize(network, initialization)
    return network


def _mlp(widths: Sequence[int], activation: str, normalization: str) -> list[nn.Module]:
    """Return linear layers between consecutive widths, each but the last normalised and activated."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths[:-1]):
        layers += [Linear(inputs, outputs), *activated(outputs, activation, normalization)]
    return [*layers, Linear(widths[-2], widths[-1])]


def _too_narrow(key: str, network: Spec, hidden_dim: int, depth: int) -> Iterator[str]:
    """Yield a line if a perceptron's last hidden layer has no unit, or too few to be normalised."""
    last = mlp_widths(hidden_dim, depth, network["widths"])[-1]
    if last < 1:
        yield (
            f"model.depth = {depth}: in the {network['name']} each layer is half as wide as the one before, which "
            f"leaves none of model.hidden_dim = {hidden_dim} for the last; take a smaller depth, a larger hidden_dim "
            f"or {key}.widths=constant"
        )
    yield from too_narrow_to_normalise(key, network["normalization"], last)


class MLPEncoder(Network):
    """Images (B, C, H, W) -> numbers (B, F): linear layers of width h, h/2, ..., an activation each, one linear head.

    Args:
        sizes: of the model; the context, if there is one, stands behind the pixels.
        features: F, the numbers the posterior needs for one example.
        widths: `halving` or `constant`.
        activation, normalization, initialization: see `vae.networks.options`.
    """

    def __init__(
        self,
        sizes: Sizes,
        features: int,
        *,
        widths: Widths = "halving",
        activation: Activation = "silu",
        normalization: LayerNormalization = "none",
        initialization: Initialization = "torch",
    ):
        super().__init__()
        inputs = math.prod(sizes.image_shape) + sizes.context_dim
        hidden = mlp_widths(sizes.hidden_dim, sizes.depth, widths)
        self.layers = nn.Sequential(nn.Flatten(), *_mlp([inputs, *hidden, features], activation, normalization))
        initialize(self, initialization)

    @classmethod
    def conflicts(cls, config: "Config") -> Iterator[str]:
        """Yield a line if the last hidden layer has no unit, or too few to be normalised."""
        model = config.model
        yield from _too_narrow("model.encoder", model.encoder, model.hidden_dim, model.depth)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the numbers of q(z|x), (B, F), for images (B, C, H, W) and a context (B, context_dim)."""
        return self.layers(beside(x.flatten(1), context))


class MLPDecoder(Decoder):
    """Latents (B, D) -> numbers (B, C', H, W): the mirror image of `MLPEncoder`.

    Args:
        sizes: of the model; the context, if there is one, stands behind z.
        output_shape: (C', H, W), the numbers the likelihood needs for one example.
        widths: `halving` or `constant`, from the image on.
        activation, normalization, initialization: see `vae.networks.options`.
    """

    def __init__(
        self,
        sizes: Sizes,
        output_shape: tuple[int, int, int],
        *,
        widths: Widths = "halving",
        activation: Activation = "silu",
        normalization: LayerNormalization = "none",
        initialization: Initialization = "torch",
    ):
        super().__init__()
        self.activation, self.normalization = activation, normalization
        hidden = reversed(mlp_widths(sizes.hidden_dim, sizes.depth, widths))
        all_widths = [sizes.latent_dim + sizes.context_dim, *hidden, math.prod(output_shape)]
        self.layers = nn.Sequential(*_mlp(all_widths, activation, normalization), nn.Unflatten(1, output_shape))
        initialize(self, initialization)

    @classmethod
    def conflicts(cls, config: "Config") -> Iterator[str]:
        """Yield a line if the narrowest hidden layer has no unit, or too few to be normalised."""
        model = config.model
        yield from _too_narrow("model.decoder", model.decoder, model.hidden_dim, model.depth)

    @property
    def output_layer(self) -> Layer:
        """The last layer."""
        return cast(nn.Linear, self.layers[-2])

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the numbers of p(x|z), (B, C', H, W), for latents (B, D) and a context (B, context_dim)."""
        return self.layers(beside(z, context))
