"""p(x|z) from one logit for each pixel."""

import torch
from torch import Tensor
from torch import distributions as td

from vae.data.statistics import PixelStatistics
from vae.families import pixels
from vae.families.distributions import at_least_float32
from vae.families.likelihoods.base import Likelihood, clipped_mean, each_pixel


class Bernoulli(Likelihood):
    """p(x|z) = Bernoulli(sigmoid(logits)) for each pixel, evaluated on logits, never on probabilities.

    A normalised likelihood for binary pixels only: for grey ones -log p is the usual cross-entropy, which cannot be
    compared with tables of likelihoods (Loaiza-Ganem & Cunningham 2019).
    """

    levels = 2

    def __init__(self, image_shape: tuple[int, int, int]):
        super().__init__()
        self.output_shape = image_shape

    def forward(self, numbers: Tensor) -> td.Independent:
        """Return p(x|z) from logits (..., C, H, W)."""
        return each_pixel(pixels.Bernoulli(at_least_float32(numbers)))

    def output_bias(self, statistics: PixelStatistics) -> Tensor:
        """Return the logit of each pixel's mean, (C, H, W), as in the code of Burda et al. 2016."""
        return torch.logit(clipped_mean(statistics))


class ContinuousBernoulli(Likelihood):
    """p(x|z) on [0, 1] for each pixel: the Bernoulli's expression, normalised (Loaiza-Ganem & Cunningham 2019).

    For grey pixels: at 0 and 1 alone the density has no upper bound.
    """

    density = "density on [0, 1]"
    learns_width = True

    def __init__(self, image_shape: tuple[int, int, int]):
        super().__init__()
        self.output_shape = image_shape

    def forward(self, numbers: Tensor) -> td.Independent:
        """Return p(x|z) from logits (..., C, H, W); its mean is not their sigmoid, but nearer to 1/2."""
        return each_pixel(pixels.ContinuousBernoulli(at_least_float32(numbers)))

    def output_bias(self, statistics: PixelStatistics) -> Tensor:
        """Return the logit that gives each pixel its mean, (C, H, W)."""
        return pixels.ContinuousBernoulli.with_mean(clipped_mean(statistics)).logits
