"""Prior families: -> p(z)."""

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.distributions import Distribution

from vae.distributions import StandardGaussian


class Prior(nn.Module, ABC):
    """A family p(z) on D dimensions."""

    @abstractmethod
    def forward(self, like: Tensor) -> Distribution:
        """Return p(z), event (D,), on the device and in the precision of `like`."""

    @abstractmethod
    def transform(self, p: Distribution, noise: Tensor) -> Tensor:
        """Return z (B, D) ~ p made from standard normal noise (B, D)."""


class StandardNormal(Prior):
    """p(z) = N(0, I).

    Args:
        latent_dim: D.
    """

    def __init__(self, latent_dim: int):
        super().__init__()
        self.latent_dim = latent_dim

    def forward(self, like: Tensor) -> StandardGaussian:
        """Return p(z) = N(0, I)."""
        # made anew each time: DDP would broadcast a buffer in every step
        return StandardGaussian(like.new_zeros(self.latent_dim))

    def transform(self, p: Distribution, noise: Tensor) -> Tensor:
        """Return the noise itself."""
        return noise


PRIORS: dict[str, type[Prior]] = {"StandardNormal": StandardNormal}
