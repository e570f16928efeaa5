"""The base classes of encoders and decoders."""

from abc import ABC, abstractmethod

from torch import nn

from vae.components import Piece
from vae.networks.options import Layer


class Network(nn.Module, Piece):
    """Numbers -> numbers, for each example alone.

    An encoder is built with (sizes, features) and maps images (B, C, H, W) to (B, features); a decoder with (sizes,
    output_shape) and maps latents (B, D) to (B, *output_shape). Both take a context (B, context_dim) or None behind.
    """


class Decoder(Network, ABC):
    """A network that ends with a layer whose bias may start from data."""

    @property
    @abstractmethod
    def output_layer(self) -> Layer:
        """The last layer, with a bias: linear, (C' H W,), or a convolution, (C',)."""
