"""A normalising flow as the prior."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vae.config import Config
from vae.families.distributions import Flowed, from_noise
from vae.families.flows import Affine, Bins, Bound, Layers, SplineCouplings, Width, one_dimension
from vae.families.priors.base import Given, Prior
from vae.networks import Sizes


class Flow(Prior):
    """p(z): z = loc + scale f(e), e ~ N(0, I), f neural spline couplings (Durkan et al. 2019); at first nearly N(0, I).

    Loc and scale are learned, since splines move nothing beyond their interval.

    Args:
        sizes: of the model, D >= 2.
        layers, width, bins, bound: of the flow.
    """

    def __init__(self, sizes: Sizes, *, layers: Layers = 6, width: Width = 64, bins: Bins = 8, bound: Bound = 5.0):
        super().__init__(sizes)
        dim = sizes.latent_dim
        self.flow = SplineCouplings(dim, context=0, layers=layers, width=width, bins=bins, bound=bound)
        self.affine = Affine()
        self.loc, self.log_scale = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))

    @classmethod
    def conflicts(cls, config: Config) -> Iterator[str]:
        """Yield a line if the highest stochastic layer has one dimension."""
        yield from super().conflicts(config)
        model = config.model
        *_, top = (model.latent_dim, *model.hierarchy.get("latent_dims", ()))  # the prior is that of the highest layer
        yield from one_dimension("model.prior.name = 'Flow'", top, instead="GaussianMixture")

    def forward(self, given: Given) -> Flowed:
        """Return p(z)."""
        normal = torch.cat([self.loc, self.log_scale.exp()])
        return Flowed([(self.flow, None), (self.affine, normal)], torch.zeros_like(self.loc))

    def transform(self, p: Distribution, noise: Tensor) -> Tensor:
        """Return the image of the noise."""
        return from_noise(p, noise)
