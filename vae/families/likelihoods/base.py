"""The base of all likelihood families, and the measures of their numbers."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

from torch import Tensor, nn
from torch import distributions as td

from vae.components import Piece
from vae.config import Config
from vae.data.statistics import PixelStatistics
from vae.families.pixels import EachPixel

CHANNELS = -3  # where they are in numbers (..., C', H, W)
RAREST = 0.001  # share of the images that differ in a pixel, where in all training images the pixel is the same
NOT_NORMALISED = "not normalised"  # a measure: such numbers are compared with those of the same family only


class Likelihood(nn.Module, Piece, ABC):
    """A family p(x|z) over images (C, H, W).

    Attributes:
        output_shape: (C', H, W), the numbers it needs for one example.
        levels: of a pixel that have a probability each: 2 (black and white) or 256; None: it has a density.
        density: the kind of density, where it has one.
        learns_width: whether it has a density whose width is learned, which grows without limit for 0/1 pixels.
    """

    output_shape: tuple[int, int, int]
    levels: int | None = None
    density: str = "density"
    learns_width: bool = False

    @classmethod
    def conflicts(cls, config: Config) -> Iterator[str]:
        """Yield a line if 0/1 pixels meet a density whose width is learned."""
        binarize, name = config.data.binarize, config.model.likelihood["name"]
        if cls.learns_width and config.data.is_binary:
            yield (
                f"model.likelihood = {name!r}: 0/1 pixels (data.binarize = {binarize!r}) have no density, it would "
                "grow as far as it is let; take Bernoulli, or data.binarize=none"
            )

    @abstractmethod
    def forward(self, numbers: Tensor) -> td.Distribution:
        """Return p(x|z), event (C, H, W); its `mean` is the picture to show, in [0, 1] or near it.

        Args:
            numbers: (..., C', H, W) with the batch shape (B,) or (K, B) in front.
        """

    @abstractmethod
    def output_bias(self, statistics: PixelStatistics) -> Tensor:
        """Return the numbers (C', H, W), float64, with which p(x|z) is close to each pixel's own distribution.

        A decoder may start there (Burda et al. 2016). All are finite: a pixel that never changes counts as one that
        differs in 0.1 % of the images.

        Args:
            statistics: of the training images; where a decoder's bias is one of a channel, H = W = 1.
        """

    @classmethod
    def normalises(cls, *, binary: bool) -> bool:
        """Return whether the probabilities of all images (or their density) add up to 1.

        Args:
            binary: whether pixels are 0 or 1; else they are the 256 grey values.
        """
        return binary or cls.levels != 2

    @classmethod
    def measure(cls, *, binary: bool) -> str:
        """Return the measure of log p(x|z) in words: numbers of two measures are never compared.

        Args:
            binary: as for `normalises`.
        """
        if not cls.normalises(binary=binary):
            return NOT_NORMALISED
        if cls.levels is None:
            return cls.density
        return "probability of 0/1 pixels" if cls.levels == 2 else f"probability of {cls.levels} grey values"


def clipped_mean(statistics: PixelStatistics) -> Tensor:
    """Return the mean of each pixel, (C, H, W), within 0.001 and 0.999."""
    return statistics.mean.clamp(RAREST, 1 - RAREST)


def clipped_std(statistics: PixelStatistics) -> Tensor:
    """Return the standard deviation of each pixel, (C, H, W), at least that of 1 among 999 times 0."""
    return statistics.variance.clamp(min=RAREST * (1 - RAREST)).sqrt()


def bits_per_dim(nats: float, image_shape: tuple[int, int, int]) -> float:
    """Return -log p(x) in bits for each number of an image: nats / (C H W log 2).

    Args:
        nats: of an image, where pixels have probabilities; of a density this would depend on the unit of x.
        image_shape: (C, H, W).
    """
    return nats / (math.prod(image_shape) * math.log(2))


def each_pixel(distribution: td.Distribution) -> EachPixel:
    """Return the distribution of images (C, H, W) whose pixels are independent."""
    return EachPixel(distribution)
