"""Normal priors: N(0, I), and one normal for each class."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vae.families.distributions import DiagonalGaussian, StandardGaussian, from_noise
from vae.families.priors.base import Given, Prior
from vae.networks import Sizes


class StandardNormal(Prior):
    """p(z) = N(0, I)."""

    def forward(self, given: Given) -> StandardGaussian:
        """Return p(z) = N(0, I)."""
        # made anew each time: DDP would broadcast a buffer in every step
        return StandardGaussian(given.like.new_zeros(self.latent_dim))

    def transform(self, p: Distribution, noise: Tensor) -> Tensor:
        """Return the noise itself."""
        return noise


class ClassNormal(Prior):
    """p(z|y) = N(loc_y, diag(scale_y^2)), loc and scale learned for each class; N(0, I) at first.

    The bound is then on log p(x|y).
    """

    needs_labels = True

    def __init__(self, sizes: Sizes):
        super().__init__(sizes)
        self.loc = nn.Parameter(torch.zeros(sizes.classes, sizes.latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(sizes.classes, sizes.latent_dim))

    def forward(self, given: Given) -> DiagonalGaussian:
        """Return p(z|y), batch (B,), for the labels (B,) that are given."""
        if given.labels is None:
            raise ValueError("labels: must be given to a model whose prior is p(z|y)")
        return DiagonalGaussian(self.loc[given.labels], self.log_scale[given.labels].exp())

    def transform(self, p: Distribution, noise: Tensor) -> Tensor:
        """Return z = loc_y + scale_y * noise."""
        return from_noise(p, noise)
