"""Convolutional networks for images of any size: each stage halves the image (rounded up) or doubles it again.

Strided convolutions instead of pooling, as in DCGAN (Radford et al. 2016). The kernel of 4 is a multiple of the stride
of 2, so that each pixel of a decoder's image is the sum of equally many products: without that the image is
checkered (Odena et al. 2016, Deconvolution and checkerboard artifacts).
"""

import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, cast

from pydantic import Field
from torch import Tensor, nn

from vae.networks.base import Decoder, Network
from vae.networks.linear import Linear
from vae.networks.options import (
    Activation,
    ImageNormalization,
    Initialization,
    Layer,
    activated,
    activated_image,
    initialize,
    too_narrow_to_normalise,
)
from vae.networks.sizes import Sizes, beside

if TYPE_CHECKING:
    from vae.config import Config

KERNEL, STRIDE = 4, 2

Channels = Annotated[
    int, Field(ge=1, description="of the stage next to the image, of the next twice as many, ...; stages: model.depth")
]


def stage_shapes(image_shape: tuple[int, int, int], channels: int, depth: int) -> list[tuple[int, int, int]]:
    """Return the image's shape and those after each of `depth` stages: halved, rounded up, with twice the channels.

    Raises:
        ValueError: before the last stage the image is a single pixel.
    """
    _, height, width = image_shape
    shapes = [image_shape]
    for stage in range(depth):
        if height == width == 1:
            raise ValueError(
                f"depth = {depth}: an image of {image_shape[1]} x {image_shape[2]} pixels is a single one after "
                f"{stage} convolutions, which halve it each; take a smaller depth"
            )
        height, width = math.ceil(height / 2), math.ceil(width / 2)
        shapes.append((channels * 2**stage, height, width))
    return shapes


def _down(larger: tuple[int, int, int], smaller: tuple[int, int, int]) -> nn.Conv2d:
    """Return a convolution (B, *larger) -> (B, *smaller)."""
    return nn.Conv2d(larger[0], smaller[0], KERNEL, stride=STRIDE, padding=_padding(larger))


def _up(smaller: tuple[int, int, int], larger: tuple[int, int, int]) -> nn.ConvTranspose2d:
    """Return a transposed convolution (B, *smaller) -> (B, *larger), the adjoint of `_down`."""
    odd = (larger[1] % 2, larger[2] % 2)
    return nn.ConvTranspose2d(
        smaller[0], larger[0], KERNEL, stride=STRIDE, padding=_padding(larger), output_padding=odd
    )


def _padding(larger: tuple[int, int, int]) -> tuple[int, int]:
    """Return the padding with which n pixels become n / 2, rounded up: ceil(n / 2) = (n + 2 p - 4) // 2 + 1."""
    return 1 + larger[1] % 2, 1 + larger[2] % 2


class ConvEncoder(Network):
    """Images (B, C, H, W) -> numbers (B, F): `depth` convolutions of stride 2, one hidden layer of width h, one head.

    Args:
        sizes: of the model; the context, if there is one, stands behind the convolutions' features.
        features: F, the numbers the posterior needs for one example.
        channels: of the stage next to the image.
        activation, normalization, initialization: see `vae.networks.options`.

    Raises:
        ValueError: an image is too small to be halved `depth` times.
    """

    def __init__(
        self,
        sizes: Sizes,
        features: int,
        *,
        channels: Channels = 32,
        activation: Activation = "silu",
        normalization: ImageNormalization = "none",
        initialization: Initialization = "torch",
    ):
        super().__init__()
        shapes, hidden = stage_shapes(sizes.image_shape, channels, sizes.depth), sizes.hidden_dim
        stages: list[nn.Module] = []
        for larger, smaller in itertools.pairwise(shapes):
            stages += [_down(larger, smaller), *activated_image(smaller[0], activation, normalization)]
        self.stages = nn.Sequential(*stages, nn.Flatten())
        self.head = nn.Sequential(
            Linear(math.prod(shapes[-1]) + sizes.context_dim, hidden),
            *activated(hidden, activation, normalization),
            Linear(hidden, features),
        )
        initialize(self, initialization)

    @classmethod
    def conflicts(cls, config: "Config") -> Iterator[str]:
        """Yield a line if a layer has too few units or channels to be normalised."""
        network = config.model.encoder
        narrowest = min(config.model.hidden_dim, network["channels"])
        yield from too_narrow_to_normalise("model.encoder", network["normalization"], narrowest)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the numbers of q(z|x), (B, F), for images (B, C, H, W) and a context (B, context_dim)."""
        return self.head(beside(self.stages(x), context))


class ConvDecoder(Decoder):
    """Latents (B, D) -> numbers (B, C', H, W): the mirror image of `ConvEncoder`, with transposed convolutions.

    Args:
        sizes: of the model; the context, if there is one, stands behind z.
        output_shape: (C', H, W), the numbers the likelihood needs for one example.
        channels: of the stage next to the image.
        activation, normalization, initialization: see `vae.networks.options`.

    Raises:
        ValueError: an image is too small to be halved `depth` times.
    """

    def __init__(
        self,
        sizes: Sizes,
        output_shape: tuple[int, int, int],
        *,
        channels: Channels = 32,
        activation: Activation = "silu",
        normalization: ImageNormalization = "none",
        initialization: Initialization = "torch",
    ):
        super().__init__()
        *outer, innermost = stage_shapes(output_shape, channels, sizes.depth)
        layers: list[nn.Module] = [
            Linear(sizes.latent_dim + sizes.context_dim, sizes.hidden_dim),
            *activated(sizes.hidden_dim, activation, normalization),
            Linear(sizes.hidden_dim, math.prod(innermost)),
            nn.Unflatten(1, innermost),
        ]
        for smaller, larger in itertools.pairwise([innermost, *reversed(outer)]):
            layers += [*activated_image(smaller[0], activation, normalization), _up(smaller, larger)]
        self.layers = nn.Sequential(*layers)
        initialize(self, initialization)

    @classmethod
    def conflicts(cls, config: "Config") -> Iterator[str]:
        """Yield a line if a layer has too few units or channels to be normalised."""
        network = config.model.decoder
        narrowest = min(config.model.hidden_dim, network["channels"])
        yield from too_narrow_to_normalise("model.decoder", network["normalization"], narrowest)

    @property
    def output_layer(self) -> Layer:
        """The last layer."""
        return cast(nn.ConvTranspose2d, self.layers[-1])

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the numbers of p(x|z), (B, C', H, W), for latents (B, D) and a context (B, context_dim)."""
        return self.layers(beside(z, context))
