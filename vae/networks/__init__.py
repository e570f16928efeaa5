"""Encoders and decoders: numbers to numbers. What the numbers mean is up to the posterior and the likelihood."""

from torch import nn

from vae.networks.convolutional import ConvDecoder, ConvEncoder
from vae.networks.mlp import MLPDecoder, MLPEncoder, mlp, mlp_widths
from vae.networks.residual import ResidualMLPDecoder, ResidualMLPEncoder
from vae.networks.sizes import Sizes, beside

__all__ = [
    "DECODERS",
    "ENCODERS",
    "ConvDecoder",
    "ConvEncoder",
    "MLPDecoder",
    "MLPEncoder",
    "ResidualMLPDecoder",
    "ResidualMLPEncoder",
    "Sizes",
    "beside",
    "mlp",
    "mlp_widths",
]

ENCODERS: dict[str, type[nn.Module]] = {
    "MLPEncoder": MLPEncoder,
    "ResidualMLPEncoder": ResidualMLPEncoder,
    "ConvEncoder": ConvEncoder,
}
DECODERS: dict[str, type[nn.Module]] = {
    "MLPDecoder": MLPDecoder,
    "ResidualMLPDecoder": ResidualMLPDecoder,
    "ConvDecoder": ConvDecoder,
}
