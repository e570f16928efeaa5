"""Encoders and decoders: numbers to numbers. The posterior and the likelihood give the numbers their meaning."""

from vae.networks.base import Decoder, Network
from vae.networks.convolutional import ConvDecoder, ConvEncoder
from vae.networks.mlp import MLPDecoder, MLPEncoder, mlp, mlp_widths
from vae.networks.residual import ResidualMLPDecoder, ResidualMLPEncoder
from vae.networks.sizes import Sizes, beside

__all__ = [
    "DECODERS",
    "ENCODERS",
    "ConvDecoder",
    "ConvEncoder",
    "Decoder",
    "MLPDecoder",
    "MLPEncoder",
    "Network",
    "ResidualMLPDecoder",
    "ResidualMLPEncoder",
    "Sizes",
    "beside",
    "mlp",
    "mlp_widths",
]

ENCODERS: dict[str, type[Network]] = {
    "MLPEncoder": MLPEncoder,
    "ResidualMLPEncoder": ResidualMLPEncoder,
    "ConvEncoder": ConvEncoder,
}
DECODERS: dict[str, type[Decoder]] = {
    "MLPDecoder": MLPDecoder,
    "ResidualMLPDecoder": ResidualMLPDecoder,
    "ConvDecoder": ConvDecoder,
}
