"""Options of all networks: activation, normalisation, initial weights.

There is no batch normalisation. With it the numbers of an example depend on the others in its batch, so on how many
processes share a batch; and its running statistics are a second state that `train.exact` could not keep.
"""

import math
from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

Activation = Annotated[
    Literal["silu", "relu", "tanh", "gelu", "elu", "leaky_relu", "softplus"],
    Field(description="what comes after each hidden layer (leaky_relu: slope 0.01 below 0)"),
]
LayerNormalization = Annotated[
    Literal["none", "layer"],
    Field(description="before each activation: nothing, or layer normalisation (Ba et al. 2016)"),
]
ImageNormalization = Annotated[
    Literal["none", "layer", "group"],
    Field(
        description="before each activation: nothing, or normalisation over all channels and pixels (layer; Ba et al. "
        "2016), or over groups of 16 channels or more (group; Wu & He 2018); after a linear layer: over the layer"
    ),
]
Initialization = Annotated[
    Literal["torch", "xavier", "he", "orthogonal"],
    Field(
        description="weights: torch's own; or xavier (Glorot & Bengio 2010; for tanh), he (He et al. 2015; for relu), "
        "orthogonal (Saxe et al. 2014), and biases of 0"
    ),
]


class Tanh(nn.Tanh):
    """tanh(x), for float32 on a CPU as 2 sigmoid(2 x) - 1: a fifth of the time, and an error of at most 3e-7.

    So small outputs lose their last digits, as a sum with 1 would.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return tanh of the input, of its shape."""
        if input.device.type == "cpu" and input.dtype == torch.float32 and not torch.compiler.is_exporting():
            return 2 * torch.sigmoid(2 * input) - 1
        return super().forward(input)


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "tanh": Tanh,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "softplus": nn.Softplus,
}

CHANNELS_A_GROUP = 16  # at least, where a group is one of several: among the best of Wu & He 2018, table 3

Layer = nn.Linear | nn.Conv2d | nn.ConvTranspose2d


def activated(width: int, activation: str, normalization: str) -> list[nn.Module]:
    """Return the layers behind a hidden layer (B, width): normalisation, if there is one, and activation."""
    normalize = [] if normalization == "none" else [nn.LayerNorm(width)]
    return [*normalize, ACTIVATIONS[activation]()]


def activated_image(channels: int, activation: str, normalization: str) -> list[nn.Module]:
    """Return the layers behind a hidden layer (B, channels, H, W): normalisation, if there is one, and activation."""
    groups = {"none": 0, "layer": 1, "group": count_groups(channels)}[normalization]
    return [*([nn.GroupNorm(groups, channels)] if groups else []), ACTIVATIONS[activation]()]


def too_narrow_to_normalise(key: str, normalization: str, narrowest: int) -> Iterator[str]:
    """Yield a line if a layer of two numbers or fewer would be normalised.

    Args:
        key: of the network, e.g. `model.encoder`.
        normalization: the network's setting.
        narrowest: width of the narrowest layer that is normalised.
    """
    if normalization != "none" and narrowest < 3:
        yield (
            f"{key}.normalization = {normalization!r}: the narrowest layer has a width of {narrowest}, and whatever "
            "comes in, one number normalised is 0, and two are 1 and -1; take a larger model.hidden_dim (or channels), "
            "a smaller model.depth or normalization=none"
        )


def count_groups(channels: int) -> int:
    """Return the number of equal groups of channels: as many as have `CHANNELS_A_GROUP` channels each, or one."""
    return max(count for count in range(1, channels + 1) if channels % count == 0 and _enough(channels // count, count))


def _enough(channels: int, groups: int) -> bool:
    return channels >= CHANNELS_A_GROUP or groups == 1


def matrices_of(network: nn.Module) -> set[Tensor]:
    """Return the matrices and kernels of linear and convolutional layers: no bias, embedding, gain or own parameter."""
    return {layer.weight for layer in network.modules() if isinstance(layer, Layer)}


@torch.no_grad()
def initialize(network: nn.Module, how: str) -> None:
    """Give the layers of a network new weights, and biases of 0, unless they are to keep torch's own.

    Args:
        network: as torch has made it.
        how: `torch`; `xavier`: uniform, of variance 2 / (fan-in + fan-out) (Glorot & Bengio 2010, eq. 16); `he`:
            normal, of variance 2 / fan-in (He et al. 2015, eq. 10); `orthogonal`: rows or, if these are more, columns
            of the weight, flattened to (its first dimension, the rest), are orthonormal (Saxe et al. 2014).
    """
    if how == "torch":
        return
    for layer in network.modules():
        if isinstance(layer, Layer):
            _draw(layer, how)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _draw(layer: Layer, how: str) -> None:
    fan_in, fan_out = fans(layer)
    if how == "xavier":
        bound = math.sqrt(6 / (fan_in + fan_out))
        nn.init.uniform_(layer.weight, -bound, bound)
    elif how == "he":
        nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_in))
    else:
        nn.init.orthogonal_(layer.weight)


def fans(layer: Layer) -> tuple[float, float]:
    """Return fan-in and fan-out of a layer: inputs of an output, and outputs of an input, borders aside.

    A stride thins out one of the two, which the fans of `torch.nn.init` leave out; and of a transposed convolution
    these are the wrong way round.
    """
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    taps, stride = math.prod(layer.kernel_size), math.prod(layer.stride)
    fan_in, fan_out = layer.in_channels * taps, layer.out_channels * taps
    return (fan_in / stride, fan_out) if isinstance(layer, nn.ConvTranspose2d) else (fan_in, fan_out / stride)
