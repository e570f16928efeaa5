"""Likelihood families: the decoder's numbers -> p(x|z), for pixels in [0, 1]."""

import math
from abc import ABC, abstractmethod
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch import distributions as td

from vae import pixels
from vae.distributions import at_least_float32
from vae.networks import Shape
from vae.posteriors import PositiveScale

PIXELS = 3  # event dimensions of p(x|z): (C, H, W)
CHANNELS = -3  # where they are in numbers (..., C', H, W)
NOT_NORMALISED = "not normalised"  # a measure: such numbers are compared with those of the same family only

MinStd = Annotated[
    float, Field(gt=0, description="lower bound of the standard deviation; 8-bit pixels are 1/255 = 0.004 apart")
]
MinLogScale = Annotated[
    float, Field(ge=-20, le=0, description="lower bound of a logistic's log-scale; -7.7 is 1/9 of a grey level")
]


class Likelihood(nn.Module, ABC):
    """A family p(x|z) over images (C, H, W).

    Attributes:
        output_shape: (C', H, W), the numbers it needs for one example.
        levels: of a pixel that have a probability each: 2 (black and white) or 256; None: it has a density.
        density: what kind of density, where it has one.
    """

    output_shape: Shape
    levels: int | None = None
    density: str = "density"

    @abstractmethod
    def forward(self, numbers: Tensor) -> td.Distribution:
        """Return p(x|z), event (C, H, W); its `mean` is the picture to show, in [0, 1] or near it.

        Args:
            numbers: (..., C', H, W); what stands before is the batch shape, (B,) or (K, B).
        """

    @classmethod
    def normalises(cls, *, binary: bool) -> bool:
        """Whether the probabilities of all images (or their density) add up to 1.

        Args:
            binary: whether pixels are 0 or 1; else they are the 256 grey values.
        """
        return binary or cls.levels != 2

    @classmethod
    def measure(cls, *, binary: bool) -> str:
        """Return in words what log p(x|z) is the logarithm of: numbers of two measures are never compared.

        Args:
            binary: as for `normalises`.
        """
        if not cls.normalises(binary=binary):
            return NOT_NORMALISED
        if cls.levels is None:
            return cls.density
        return "probability of 0/1 pixels" if cls.levels == 2 else f"probability of {cls.levels} grey values"


def bits_per_dim(nats: float, image_shape: Shape) -> float:
    """Return -log p(x) in bits for each number of an image: nats / (C H W log 2).

    Args:
        nats: of an image, where pixels have probabilities; of a density this would depend on the unit of x.
        image_shape: (C, H, W).
    """
    return nats / (math.prod(image_shape) * math.log(2))


class Bernoulli(Likelihood):
    """p(x|z) = Bernoulli(sigmoid(logits)) for each pixel, evaluated on logits, never on probabilities.

    A normalised likelihood for binary pixels only: for grey ones -log p is the usual cross-entropy, which cannot be
    compared with tables of likelihoods (Loaiza-Ganem & Cunningham 2019).
    """

    levels = 2

    def __init__(self, image_shape: Shape):
        super().__init__()
        self.output_shape = image_shape

    def forward(self, numbers: Tensor) -> td.Independent:
        """Return p(x|z) from logits (..., C, H, W)."""
        # validate_args would refuse grey pixels
        return _each_pixel(td.Bernoulli(logits=at_least_float32(numbers), validate_args=False))


class ContinuousBernoulli(Likelihood):
    """p(x|z) on [0, 1] for each pixel: the Bernoulli's expression, normalised (Loaiza-Ganem & Cunningham 2019).

    For grey pixels: at 0 and 1 alone the density has no upper bound.
    """

    density = "density on [0, 1]"

    def __init__(self, image_shape: Shape):
        super().__init__()
        self.output_shape = image_shape

    def forward(self, numbers: Tensor) -> td.Independent:
        """Return p(x|z) from logits (..., C, H, W); its mean is not their sigmoid, but nearer to 1/2."""
        return _each_pixel(pixels.ContinuousBernoulli(at_least_float32(numbers)))


class Normal(Likelihood):
    """p(x|z) = N(mean, std^2) for each pixel, std fixed; std = 1 is the squared-error decoder up to a constant.

    Args:
        image_shape: (C, H, W).
        std: standard deviation, in units of the pixel range [0, 1].
    """

    def __init__(
        self,
        image_shape: Shape,
        *,
        std: Annotated[float, Field(gt=0, description="standard deviation of a pixel, pixels in [0, 1]")] = 1.0,
    ):
        super().__init__()
        self.output_shape = image_shape
        self.std = std

    def forward(self, numbers: Tensor) -> td.Independent:
        """Return p(x|z) from means (..., C, H, W)."""
        mean = at_least_float32(numbers)
        return _each_pixel(td.Normal(mean, torch.full_like(mean, self.std), validate_args=False))


class NormalLearnedStd(Likelihood):
    """p(x|z) = N(mean, std^2) for each pixel, with one std for all pixels of all images, learned with the weights.

    std = min_std + softplus(raw). `raw` is a weight like others: weight decay draws it, weakly, to 0 (std = 0.69).
    The bound keeps the density of 8-bit pixels, which can be met exactly, from growing without limit.

    Args:
        image_shape: (C, H, W).
        std: softplus(raw) to begin with, in units of the pixel range [0, 1].
        min_std: lower bound of the standard deviation.
    """

    def __init__(
        self,
        image_shape: Shape,
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
        return _each_pixel(td.Normal(mean, std, validate_args=False))


class NormalPixelStd(Likelihood):
    """p(x|z) = N(mean, std^2) for each pixel, where the decoder gives a std for each one too.

    std = min_std + softplus(raw). Where pixels of an image can be known exactly, such as a black margin, their std goes
    to the bound: then the density is as high as the bound allows, and says little about the rest of the image.

    Args:
        image_shape: (C, H, W).
        min_std: lower bound of the standard deviation, in units of the pixel range [0, 1].
    """

    def __init__(self, image_shape: Shape, *, min_std: MinStd = 0.004):
        super().__init__()
        C, H, W = image_shape
        self.output_shape, self.std = (2 * C, H, W), PositiveScale("softplus", min_std)

    def forward(self, numbers: Tensor) -> td.Independent:
        """Return p(x|z) from means and raw standard deviations, (..., 2C, H, W)."""
        mean, raw = at_least_float32(numbers).chunk(2, CHANNELS)
        return _each_pixel(td.Normal(mean, self.std(raw), validate_args=False))


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

    def __init__(self, image_shape: Shape, *, min_std: MinStd = 0.004):
        super().__init__()
        self.output_shape, self.min_std = image_shape, min_std

    def forward(self, numbers: Tensor) -> pixels.OptimalNormal:
        """Return what scores images, from means (..., C, H, W)."""
        return pixels.OptimalNormal(at_least_float32(numbers), self.min_std)

    @classmethod
    def normalises(cls, *, binary: bool) -> bool:
        """Never: see above."""
        return False


class Categorical(Likelihood):
    """P(x|z) with a free probability for each of the 256 values of a pixel, a softmax (van den Oord et al. 2016).

    The level of a pixel is round(255 x). Nothing tells the family that neighbouring levels are alike, and the decoder's
    last layer is large: from 512 hidden units to an image of 28 x 28 it has 103 million weights.
    """

    levels = pixels.LEVELS

    def __init__(self, image_shape: Shape):
        super().__init__()
        C, H, W = image_shape
        self.parts, self.output_shape = (C, pixels.LEVELS), (pixels.LEVELS * C, H, W)

    def forward(self, numbers: Tensor) -> td.Independent:
        """Return P(x|z) from logits (..., 256 C, H, W), those of a channel one after another."""
        logits = at_least_float32(numbers).unflatten(CHANNELS, self.parts)
        return _each_pixel(pixels.Levels(logits))


class DiscretizedLogistic(Likelihood):
    """P(x|z) of the 256 values of a pixel: a logistic distribution in bins of width 1/255 (Kingma et al. 2016).

    The outermost bins are open. Here each pixel has a scale of its own.

    Args:
        image_shape: (C, H, W).
        min_log_scale: lower bound of the log-scale, in units of the pixel range [0, 1].
    """

    levels = pixels.LEVELS

    def __init__(self, image_shape: Shape, *, min_log_scale: MinLogScale = -7.7):
        super().__init__()
        C, H, W = image_shape
        self.output_shape, self.min_log_scale = (2 * C, H, W), min_log_scale

    def forward(self, numbers: Tensor) -> td.Independent:
        """Return P(x|z) from locations and raw log-scales, (..., 2C, H, W)."""
        loc, raw = at_least_float32(numbers).chunk(2, CHANNELS)
        return _each_pixel(pixels.DiscretizedLogistic(loc, _bounded(raw, self.min_log_scale)))


class DiscretizedLogisticMixture(Likelihood):
    """P(x|z) of the 256 values of a pixel: a mixture of discretised logistics (Salimans et al. 2017, eq. 2).

    Each channel of a pixel has a mixture of its own; their autoregression over colour channels (eq. 3) is left out, so
    that given z all numbers of an image are independent.

    Args:
        image_shape: (C, H, W).
        components: of each mixture, M.
        min_log_scale: lower bound of the log-scales, in units of the pixel range [0, 1].
    """

    levels = pixels.LEVELS

    def __init__(
        self,
        image_shape: Shape,
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
        return _each_pixel(td.MixtureSameFamily(chosen, part, validate_args=False))


def _each_pixel(distribution: td.Distribution) -> td.Independent:
    """Return the distribution of images (C, H, W) whose pixels are independent."""
    return td.Independent(distribution, PIXELS, validate_args=False)


def _bounded(raw: Tensor, lowest: float) -> Tensor:
    """Return numbers above `lowest`, smoothly: far above it, raw."""
    return lowest + F.softplus(raw - lowest)


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "Bernoulli": Bernoulli,
    "ContinuousBernoulli": ContinuousBernoulli,
    "Normal": Normal,
    "NormalLearnedStd": NormalLearnedStd,
    "NormalPixelStd": NormalPixelStd,
    "OptimalNormal": OptimalNormal,
    "Categorical": Categorical,
    "DiscretizedLogistic": DiscretizedLogistic,
    "DiscretizedLogisticMixture": DiscretizedLogisticMixture,
}
