"""P(x|z) of the 256 values of a pixel."""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch import distributions as td

from vae.data.statistics import LEVELS, PixelStatistics
from vae.families import pixels
from vae.families.distributions import at_least_float32, inverse_softplus
from vae.families.likelihoods.base import CHANNELS, RAREST, Likelihood, clipped_std, each_pixel

MinLogScale = Annotated[
    float, Field(ge=-20, le=0, description="lower bound of a logistic's log-scale; -7.7 is 1/9 of a grey level")
]


class Categorical(Likelihood):
    """P(x|z) with a free probability for each of the 256 values of a pixel, a softmax (van den Oord et al. 2016).

    The level of a pixel is round(255 x). Nothing tells the family that neighbouring levels are alike, and the decoder's
    last layer is large: from 512 hidden units to an image of 28 x 28 it has 103 million weights.
    """

    levels = LEVELS

    def __init__(self, image_shape: tuple[int, int, int]):
        super().__init__()
        C, H, W = image_shape
        self.parts, self.output_shape = (C, LEVELS), (LEVELS * C, H, W)

    def forward(self, numbers: Tensor) -> td.Independent:
        """Return P(x|z) from logits (..., 256 C, H, W), those of a channel one after another."""
        logits = at_least_float32(numbers).unflatten(CHANNELS, self.parts)
        return each_pixel(pixels.Levels(logits))

    def output_bias(self, statistics: PixelStatistics) -> Tensor:
        """Return the logarithms of the shares of the grey values, (256 C, H, W), mixed with 0.1 % of even ones."""
        return torch.lerp(statistics.shares, torch.full_like(statistics.shares, 1 / LEVELS), RAREST).log().flatten(0, 1)


class DiscretizedLogistic(Likelihood):
    """P(x|z) of the 256 values of a pixel: a logistic distribution in bins of width 1/255 (Kingma et al. 2016).

    The outermost bins are open. Here each pixel has a scale of its own.

    Args:
        image_shape: (C, H, W).
        min_log_scale: lower bound of the log-scale, in units of the pixel range [0, 1].
    """

    levels = LEVELS

    def __init__(self, image_shape: tuple[int, int, int], *, min_log_scale: MinLogScale = -7.7):
        super().__init__()
        C, H, W = image_shape
        self.output_shape, self.min_log_scale = (2 * C, H, W), min_log_scale

    def forward(self, numbers: Tensor) -> td.Independent:
        """Return P(x|z) from locations and raw log-scales, (..., 2C, H, W)."""
        loc, raw = at_least_float32(numbers).chunk(2, CHANNELS)
        return each_pixel(pixels.DiscretizedLogistic(loc, _bounded(raw, self.min_log_scale)))

    def output_bias(self, statistics: PixelStatistics) -> Tensor:
        """Return locations and raw log-scales, (2C, H, W), of logistics with each pixel's mean and variance."""
        return torch.cat([statistics.mean, _raw_log_scale(statistics, self.min_log_scale)])


class DiscretizedLogisticMixture(Likelihood):
    """P(x|z) of the 256 values of a pixel: a mixture of discretised logistics (Salimans et al. 2017, eq. 2).

    Each channel of a pixel has a mixture of its own; their autoregression over colour channels (eq. 3) is left out, so
    that given z all numbers of an image are independent.

    Args:
        image_shape: (C, H, W).
        components: of each mixture, M.
        min_log_scale: lower bound of the log-scales, in units of the pixel range [0, 1].
    """

    levels = LEVELS

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        components: Annotated[int, Field(ge=1, description="of the mixture of each pixel")] = 5,
        min_log_scale: MinLogScale = -7.7,
    ):
        super().__init__()
        C, H, W = image_shape
        self.parts, self.output_shape = (3, C, components), (3 * components * C, H, W)
        self.min_log_scale = min_log_scale

    def forward(self, numbers: Tensor) -> td.Independent:
        """Return P(x|z) from weights, locations and raw log-scales (..., 3 C M, H, W), the M of a channel in a row."""
        numbers = at_least_float32(numbers).unflatten(CHANNELS, self.parts).movedim(-3, -1)  # (..., 3, C, H, W, M)
        weights, loc, raw = numbers.unbind(-5)
        part = pixels.DiscretizedLogistic(loc, _bounded(raw, self.min_log_scale))
        chosen = td.Categorical(logits=weights, validate_args=False)
        return each_pixel(td.MixtureSameFamily(chosen, part, validate_args=False))

    def output_bias(self, statistics: PixelStatistics) -> Tensor:
        """Return the numbers (3 C M, H, W) of M logistics with each pixel's mean and variance, of equal weights."""
        parts = [torch.zeros_like(statistics.mean), statistics.mean, _raw_log_scale(statistics, self.min_log_scale)]
        return torch.stack(parts)[:, :, None].expand(-1, -1, self.parts[-1], -1, -1).flatten(0, 2)


def _bounded(raw: Tensor, lowest: float) -> Tensor:
    """Return numbers above `lowest`, smoothly: far above it, raw."""
    return lowest + F.softplus(raw - lowest)


def _raw_log_scale(statistics: PixelStatistics, lowest: float) -> Tensor:
    """Return the raw log-scale of a logistic with each pixel's variance, pi^2 / 3 times the square of the scale."""
    log_scale = torch.log(clipped_std(statistics) * math.sqrt(3) / math.pi)
    return lowest + inverse_softplus((log_scale - lowest).clamp(min=RAREST))
