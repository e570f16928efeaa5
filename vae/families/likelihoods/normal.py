"""p(x|z) with a mean for each pixel and a standard deviation: fixed, learned, of each pixel, or the best there is."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch import distributions as td

from vae.data.statistics import PixelStatistics
from vae.families import pixels
from vae.families.distributions import at_least_float32, inverse_softplus
from vae.families.likelihoods.base import CHANNELS, RAREST, Likelihood, clipped_std, each_pixel
from vae.families.posteriors import PositiveScale

MinStd = Annotated[
    float, Field(gt=0, description="lower bound of the standard deviation; 8-bit pixels are 1/255 = 0.004 apart")
]


class Normal(Likelihood):
    """p(x|z) = N(mean, std^2) for each pixel, std fixed; std = 1 is the squared-error decoder up to a constant.

    Args:
        image_shape: (C, H, W).
        std: standard deviation, in units of the pixel range [0, 1].
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        std: Annotated[float, Field(gt=0, description="standard deviation of a pixel, pixels in [0, 1]")] = 1.0,
    ):
        super().__init__()
        self.output_shape = image_shape
        self.std = std

    def forward(self, numbers: Tensor) -> td.Independent:
        """Return p(x|z) from means (..., C, H, W)."""
        mean = at_least_float32(numbers)
        return each_pixel(pixels.Normal(mean, mean.new_full((), self.std)))

    def output_bias(self, statistics: PixelStatistics) -> Tensor:
        """Return each pixel's mean, (C, H, W)."""
        return statistics.mean


class NormalLearnedStd(Likelihood):
    """p(x|z) = N(mean, std^2) for each pixel, with one std for all pixels of all images, learned with the weights.

    std = min_std + softplus(raw). `raw` is a weight like others: weight decay draws it, weakly, to 0 (std = 0.69).
    The bound keeps the density of 8-bit pixels, which can be met exactly, from growing without limit.

    Args:
        image_shape: (C, H, W).
        std: softplus(raw) to begin with, in units of the pixel range [0, 1].
        min_std: lower bound of the standard deviation.
    """

    learns_width = True

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        std: Annotated[float, Field(gt=0, le=50, description="standard deviation to begin with, above min_std")] = 0.3,
        min_std: MinStd = 0.004,
    ):
        super().__init__()
        self.output_shape, self.std = image_shape, PositiveScale("softplus", min_std)
        self.raw = nn.Parameter(torch.tensor(math.log(math.expm1(std))))

    def forward(self, numbers: Tensor) -> td.Independent:
        """Return p(x|z) from means (..., C, H, W)."""
        mean, std = at_least_float32(numbers), self.std(at_least_float32(self.raw))
        return each_pixel(pixels.Normal(mean, std))

    def output_bias(self, statistics: PixelStatistics) -> Tensor:
        """Return each pixel's mean, (C, H, W); `std` is a setting of its own."""
        return statistics.mean


class NormalPixelStd(Likelihood):
    """p(x|z) = N(mean, std^2) for each pixel, where the decoder gives a std for each one too.

    std = min_std + softplus(raw). Where pixels of an image can be known exactly, such as a black margin, their std goes
    to the bound: then the density is as high as the bound allows, and says little about the rest of the image.

    Args:
        image_shape: (C, H, W).
        min_std: lower bound of the standard deviation, in units of the pixel range [0, 1].
    """

    learns_width = True

    def __init__(self, image_shape: tuple[int, int, int], *, min_std: MinStd = 0.004):
        super().__init__()
        C, H, W = image_shape
        self.output_shape, self.std = (2 * C, H, W), PositiveScale("softplus", min_std)

    def forward(self, numbers: Tensor) -> td.Independent:
        """Return p(x|z) from means and raw standard deviations, (..., 2C, H, W)."""
        mean, raw = at_least_float32(numbers).chunk(2, CHANNELS)
        return each_pixel(pixels.Normal(mean, self.std(raw)))

    def output_bias(self, statistics: PixelStatistics) -> Tensor:
        """Return each pixel's mean and raw standard deviation, (2C, H, W)."""
        above = (clipped_std(statistics) - self.std.eps).clamp(min=RAREST)
        return torch.cat([statistics.mean, inverse_softplus(above)])


class OptimalNormal(Likelihood):
    """N(mean, std^2) for each pixel, std^2 being the mean squared error of the image at hand, in closed form.

    The sigma-VAE of Rybkin, Daniilidis & Levine 2021, here with an optimum for each image, so that the loss of one does
    not depend on others. The reconstruction term is then C H W / 2 times the logarithm of the mean squared error, up to
    a constant, and there is no std to tune.

    Not a normalised likelihood: x is scored with a std that was fitted to x, so that no image scores lower than under
    any fixed std, and most score higher. Its numbers are never in one ranking with those of others. Without an image
    there is no std: a sample of it is its mean.

    Args:
        image_shape: (C, H, W).
        min_std: lower bound of the standard deviation, in units of the pixel range [0, 1].
    """

    learns_width = True

    def __init__(self, image_shape: tuple[int, int, int], *, min_std: MinStd = 0.004):
        super().__init__()
        self.output_shape, self.min_std = image_shape, min_std

    def forward(self, numbers: Tensor) -> pixels.OptimalNormal:
        """Return what scores images, from means (..., C, H, W)."""
        return pixels.OptimalNormal(at_least_float32(numbers), self.min_std)

    def output_bias(self, statistics: PixelStatistics) -> Tensor:
        """Return each pixel's mean, (C, H, W)."""
        return statistics.mean

    @classmethod
    def normalises(cls, *, binary: bool) -> bool:
        """Never: see above."""
        return False
