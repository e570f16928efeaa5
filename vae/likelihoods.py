"""Likelihood families: the decoder's numbers -> p(x|z), for pixels in [0, 1]."""

from abc import ABC, abstractmethod
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch import distributions as td

from vae.distributions import at_least_float32
from vae.networks import Shape

PIXELS = 3  # event dimensions of p(x|z): (C, H, W)


class Likelihood(nn.Module, ABC):
    """A family p(x|z) over images (C, H, W).

    Attributes:
        output_shape: (C', H, W), the numbers it needs for one example.
        levels: of a pixel that have a probability each: 2 (black and white) or 256; None: it has a density.
    """

    output_shape: Shape
    levels: int | None = None

    @abstractmethod
    def forward(self, numbers: Tensor) -> td.Distribution:
        """Return p(x|z), event (C, H, W); its `mean` is the picture to show, in [0, 1] or near it.

        Args:
            numbers: (..., C', H, W); what stands before is the batch shape, (B,) or (K, B).
        """

    def normalises(self, *, binary: bool) -> bool:
        """Whether the probabilities of all images (or their density) add up to 1.

        Args:
            binary: whether pixels are 0 or 1; else they are the 256 grey values.
        """
        return binary or self.levels != 2


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
        bernoulli = td.Bernoulli(logits=at_least_float32(numbers), validate_args=False)
        return td.Independent(bernoulli, PIXELS, validate_args=False)


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
        normal = td.Normal(mean, torch.full_like(mean, self.std), validate_args=False)
        return td.Independent(normal, PIXELS, validate_args=False)


LIKELIHOODS: dict[str, type[Likelihood]] = {"Bernoulli": Bernoulli, "Normal": Normal}
