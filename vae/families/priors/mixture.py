"""Mixtures: of learned normals, of q(z|u) at learned pseudo-inputs u, and of normals fitted once a model is trained."""

import contextlib
from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily, MultivariateNormal

from vae.config import Config
from vae.data import randomness
from vae.data.batches import to_unit_interval
from vae.families.distributions import DiagonalGaussian, from_noise
from vae.families.mixtures import mixture
from vae.families.priors.base import Given, Prior
from vae.networks import Sizes

DARKEST = 0.01  # pixel of a pseudo-input that starts as an image; 1 - DARKEST is the brightest


class _Mixture(Prior):
    """A mixture: the last number of the noise picks a component, by the normal CDF, the others make its z."""

    def __init__(self, sizes: Sizes):
        super().__init__(sizes)
        self.noise_dim = sizes.latent_dim + 1

    def transform(self, p: Distribution, noise: Tensor) -> Tensor:
        """Return z (..., D) from noise (..., D + 1)."""
        assert isinstance(p, MixtureSameFamily)
        chosen = _component(p, noise)
        of_each = from_noise(p.component_distribution, noise[..., None, :-1])  # (..., components, D)
        # `take_along_dim` would tie an exported program to the size of its example's batch
        of_one = chosen[..., None, None].expand(*chosen.shape, 1, of_each.shape[-1])
        return of_each.gather(-2, of_one).squeeze(-2)


def _component(p: MixtureSameFamily, noise: Tensor) -> Tensor:
    """Return the component that the last number of the noise (..., D + 1) picks, (...)."""
    ends = p.mixture_distribution.probs.cumsum(-1)[..., :-1]  # the last one is 1, but for rounding
    return (torch.special.ndtr(noise[..., -1:]) > ends).sum(-1)


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
        return mixture(weights, DiagonalGaussian(self.loc, self.log_scale.exp()))


class VampPrior(_Mixture):
    """p(z) = 1/K sum_k q(z|u_k), with learned pseudo-inputs u_k (Tomczak & Welling 2018, eq. 9).

    Pixels of u_k are sigmoids of learned numbers: unlike a clipped pixel, one that is black still has a gradient.

    Args:
        sizes: of the model; an encoder that sees labels has none for pseudo-inputs.
        pseudo_inputs: K; each step encodes them beside its images.
        start: of u_k, either K of the training images, their pixels clipped to 0.01 .. 0.99, or noise, the sigmoids of
            normal numbers. More than there are images start as noise.
    """

    def __init__(
        self,
        sizes: Sizes,
        *,
        pseudo_inputs: Annotated[int, Field(ge=2, description="learned images, K, whose q(z|u) are mixed")] = 100,
        start: Annotated[
            Literal["images", "noise"], Field(description="pseudo-inputs before training: training images, or noise")
        ] = "images",
    ):
        super().__init__(sizes)
        self.raw, self._start = nn.Parameter(torch.randn(pseudo_inputs, *sizes.image_shape)), start
        self._held: MixtureSameFamily | None = None

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

    @torch.no_grad()
    def start(self, images: Tensor, seed: int) -> None:
        """Set the pseudo-inputs to training images, each at most once, unless they are to start as noise."""
        if self._start == "images":
            chosen = images[randomness.permutation(len(images), seed, "pseudo-inputs")[: len(self.raw)]]
            self.raw[: len(chosen)] = torch.logit(to_unit_interval(chosen, self.raw.dtype), DARKEST)

    @contextlib.contextmanager
    def held(self, given: Given) -> Iterator[None]:
        """Encode the pseudo-inputs once: with 5,000 draws of each image every pass would do it again."""
        before, self._held = self._held, self.forward(given)
        try:
            yield
        finally:
            self._held = before

    def forward(self, given: Given) -> MixtureSameFamily:
        """Return p(z)."""
        if self._held is not None:
            return self._held
        q = given.encode(self.raw.sigmoid())
        weights = Categorical(logits=given.like.new_zeros(len(self.raw)), validate_args=False)
        return mixture(weights, q)


class FittedMixture(_Mixture):
    """sum_k w_k N(mean_k, S_k), fitted to the codes of a trained model; of a model that sees labels, one for each y.

    It takes the place of p(z) where images are made. It is no part of the model, so no table has it.

    Args:
        sizes: of the model; `latent_dim` is that of the highest stochastic layer.
        weights: (K,), or (C, K) for C classes, float64.
        means: (K, D) or (C, K, D), float64.
        covariances: (K, D, D) or (C, K, D, D), float64.
    """

    def __init__(self, sizes: Sizes, weights: Tensor, means: Tensor, covariances: Tensor):
        super().__init__(sizes)
        self.sizes, self.needs_labels = sizes, weights.dim() == 2
        self.weights, self.means, self.triangles = weights, means, torch.linalg.cholesky(covariances)

    def over_classes(self, shares: Tensor) -> "FittedMixture":
        """Return the one mixture of C K normals that the mixtures of all classes make, for their shares (C,)."""
        numbers = (self.means, self.triangles @ self.triangles.mT)
        weights = (shares.double()[:, None] * self.weights).flatten()
        return FittedMixture(self.sizes, weights, *(each.flatten(0, 1) for each in numbers))

    def forward(self, given: Given) -> MixtureSameFamily:
        """Return the mixture, or for the labels (B,) that are given one for each, in the precision of `given.like`."""
        return self._mixture(given.like, given.labels)

    def log_prob(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the log-density, (B,), nats, of z (B, D), and where there are classes their labels (B,)."""
        return self._mixture(z, labels).log_prob(z)

    def _mixture(self, like: Tensor, labels: Tensor | None) -> MixtureSameFamily:
        parts = [self.weights, self.means, self.triangles]
        if self.needs_labels:
            assert labels is not None
            parts = [part[labels.to(part.device)] for part in parts]
        weights, means, triangles = (part.to(like) for part in parts)
        normals = MultivariateNormal(means, scale_tril=triangles, validate_args=False)
        return MixtureSameFamily(Categorical(weights, validate_args=False), normals, validate_args=False)

    def transform(self, p: Distribution, noise: Tensor) -> Tensor:
        """Return z (B, D) from noise (B, D + 1).

        Each z is made by its own component alone: all of them would take (B, K, D, D) numbers.
        """
        assert isinstance(p, MixtureSameFamily)
        normals, chosen = p.component_distribution, _component(p, noise)
        assert isinstance(normals, MultivariateNormal)
        at = (torch.arange(len(noise), device=noise.device), chosen) if self.needs_labels else (chosen,)
        own = MultivariateNormal(normals.loc[at], scale_tril=normals.scale_tril[at], validate_args=False)
        return from_noise(own, noise[:, :-1])
