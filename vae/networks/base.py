"""The base class of encoders and decoders."""

from torch import nn

from vae.components import Piece


class Network(nn.Module, Piece):
    """Numbers -> numbers, for each example alone.

    An encoder is built with (sizes, features) and maps images (B, C, H, W) to (B, features); a decoder with (sizes,
    output_shape) and maps latents (B, D) to (B, *output_shape). Both take a context (B, context_dim) or None behind.
    """
