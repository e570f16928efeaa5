"""Mixtures: of learned normals, and of q(z|u) at learned pseudo-inputs u."""

from collections.abc import Iterator
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily

from vae.config import Config
from vae.families.distributions import DiagonalGaussian, from_noise
from vae.families.priors.base import Given, Prior
from vae.networks import Sizes


class _Mixture(Prior):
    """A mixture: the last number of the noise picks a component, by the normal CDF, the others make its z."""

    def __init__(self, sizes: Sizes):
        super().__init__(sizes)
        self.noise_dim = sizes.latent_dim + 1

    def transform(self, p: Distribution, noise: Tensor) -> Tensor:
        """Return z (..., D) from noise (..., D + 1)."""
        assert isinstance(p, MixtureSameFamily)
        ends = p.mixture_distribution.probs.cumsum(-1)[:-1]  # the last one is 1, but for rounding
        chosen = (torch.special.ndtr(noise[..., -1:]) > ends).sum(-1)
        of_each = from_noise(p.component_distribution, noise[..., None, :-1])  # (..., components, D)
        # `take_along_dim` would tie an exported program to the size of its example's batch
        of_one = chosen[..., None, None].expand(*chosen.shape, 1, of_each.shape[-1])
        return of_each.gather(-2, of_one).squeeze(-2)


class GaussianMixture(_Mixture):
    """p(z) = sum_k w_k N(loc_k, diag(scale_k^2)), all learned; at first even weights, scales 1, and loc_k ~ N(0, I).

    Args:
        sizes: of the model.
        components: how many.
    """

    def __init__(
        self, sizes: Sizes, *, components: Annotated[int, Field(ge=2, description="normals in the mixture")] = 10
    ):
        super().__init__(sizes)
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, sizes.latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(components, sizes.latent_dim))

    def forward(self, given: Given) -> MixtureSameFamily:
        """Return p(z)."""
        weights = Categorical(logits=self.logits, validate_args=False)
        return MixtureSameFamily(weights, DiagonalGaussian(self.loc, self.log_scale.exp()), validate_args=False)


class VampPrior(_Mixture):
    """p(z) = 1/K sum_k q(z|u_k), with learned pseudo-inputs u_k (Tomczak & Welling 2018, eq. 9).

    Pixels of u_k are sigmoids of learned numbers, which are normal at first: unlike a clipped pixel, one that is black
    still has a gradient.

    Args:
        sizes: of the model; an encoder that sees labels has none for pseudo-inputs.
        pseudo_inputs: K; each step encodes them beside its images.
    """

    def __init__(
        self,
        sizes: Sizes,
        *,
        pseudo_inputs: Annotated[int, Field(ge=2, description="learned images, K, whose q(z|u) are mixed")] = 100,
    ):
        super().__init__(sizes)
        self.raw = nn.Parameter(torch.randn(pseudo_inputs, *sizes.image_shape))

    @classmethod
    def conflicts(cls, config: Config) -> Iterator[str]:
        """Yield a line if the pseudo-inputs have no labels or no layer to be encoded for."""
        yield from super().conflicts(config)
        model, key = config.model, "model.prior.name = 'VampPrior'"
        if model.condition:
            yield f"{key}: its pseudo-inputs have no labels for an encoder with model.condition; take GaussianMixture"
        if (hierarchy := model.hierarchy["name"]) != "Flat":
            yield (
                f"{key}: mixes q(z|u) of the layer that is decoded, and in model.hierarchy.name = {hierarchy!r} the "
                "prior is that of the highest one; take GaussianMixture"
            )

    def forward(self, given: Given) -> MixtureSameFamily:
        """Return p(z)."""
        q = given.encode(self.raw.sigmoid())
        weights = Categorical(logits=given.like.new_zeros(len(self.raw)), validate_args=False)
        return MixtureSameFamily(weights, q, validate_args=False)
