"""Prior families: -> p(z)."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.distributions import Distribution

from vae.distributions import StandardGaussian
from vae.networks import Sizes


@dataclass(frozen=True)
class Given:
    """What a prior may depend on besides its weights.

    Attributes:
        like: any tensor on the device and in the precision of the model.
        encode: images (N, C, H, W) in [0, 1] -> q(z|x), the model's own.
        labels: (B,), int64, where the model sees them.
    """

    like: Tensor
    encode: Callable[[Tensor], Distribution]
    labels: Tensor | None = None


class Prior(nn.Module, ABC):
    """A family p(z) on D dimensions.

    Args:
        sizes: of the model.

    Attributes:
        noise_dim: standard normal numbers that make one z.
        needs_labels: whether it is p(z|y): then `given.labels` are there, and its batch shape is (B,), else ().
    """

    needs_labels = False

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.latent_dim = self.noise_dim = sizes.latent_dim

    @abstractmethod
    def forward(self, given: Given) -> Distribution:
        """Return p(z), event (D,)."""

    @abstractmethod
    def transform(self, p: Distribution, noise: Tensor) -> Tensor:
        """Return z (B, D) ~ p made from standard normal noise (B, noise_dim)."""


class StandardNormal(Prior):
    """p(z) = N(0, I)."""

    def forward(self, given: Given) -> StandardGaussian:
        """Return p(z) = N(0, I)."""
        # made anew each time: DDP would broadcast a buffer in every step
        return StandardGaussian(given.like.new_zeros(self.latent_dim))

    def transform(self, p: Distribution, noise: Tensor) -> Tensor:
        """Return the noise itself."""
        return noise


PRIORS: dict[str, type[Prior]] = {"StandardNormal": StandardNormal}
