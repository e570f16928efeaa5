"""Posterior families: the encoder's numbers -> q(z|x), and base noise -> z."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Annotated, ClassVar, Generic, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from vae.components import Piece
from vae.config import Config
from vae.data.batches import send
from vae.families.codebook import Codebook
from vae.families.codes import Quantized
from vae.families.distributions import Flowed, Map, at_least_float32, from_noise
from vae.families.flows import (
    Affine,
    AutoregressiveSteps,
    Bijection,
    Bins,
    Bound,
    Layers,
    SplineCouplings,
    Width,
    one_dimension,
)
from vae.families.observing import Observer

Q = TypeVar("Q", bound=Distribution)

ScaleName = Annotated[
    Literal["softplus", "exp"],
    Field(
        description="how raw numbers become a standard deviation: softplus(raw), or exp(raw / 2) (raw = log variance)"
    ),
]
Epsilon = Annotated[float, Field(ge=0, description="added to the standard deviation, a lower bound")]
Context = Annotated[int, Field(ge=0, description="numbers of the encoder's that the flow sees, besides loc and scale")]


class PositiveScale(nn.Module):
    """Raw numbers -> standard deviations: `softplus(raw) + eps` or `exp(raw / 2) + eps`."""

    def __init__(self, scale: str, eps: float):
        super().__init__()
        self.scale, self.eps = scale, eps

    def forward(self, raw: Tensor) -> Tensor:
        """Return standard deviations of the shape of `raw`."""
        std = F.softplus(raw) if self.scale == "softplus" else torch.exp(raw / 2)
        return std + self.eps


class Posterior(nn.Module, Piece, ABC, Generic[Q]):
    """A family q(z|x) on D dimensions.

    Attributes:
        features: numbers it needs for one example.
        noise_dim: standard normal numbers that make one z.
        codes: K and d, where z is a sequence of vectors of a codebook (K, d); else None.
        gives_codes: whether z is such a sequence.
        is_normal: whether q(z|x) is a normal distribution.
        is_diagonal: whether q(z|x) is a normal distribution with independent dimensions.
    """

    features: int
    noise_dim: int
    codes: tuple[int, int] | None = None
    gives_codes: bool = False
    is_normal: bool = False
    is_diagonal: bool = False

    def vectors(self) -> Tensor | None:
        """Return the codebook (K, d), if there is one."""
        return None

    @abstractmethod
    def forward(self, numbers: Tensor) -> Q:
        """Return q(z|x), batch (...), event (D,), from numbers (..., features)."""

    @abstractmethod
    def transform(self, q: Q, noise: Tensor) -> Tensor:
        """Return z (..., B, D) ~ q made from standard normal noise (..., B, noise_dim)."""


class DiagonalNormal(Posterior[Independent]):
    """q(z|x) = N(loc, diag(std^2)) (Kingma & Welling 2014, eq. 9).

    Args:
        latent_dim: D.
        scale: `softplus` or `exp` (the log-variance form).
        eps: lower bound of the standard deviation.
    """

    is_normal = is_diagonal = True

    def __init__(self, latent_dim: int, *, scale: ScaleName = "softplus", eps: Epsilon = 1e-6):
        super().__init__()
        self.features, self.noise_dim = 2 * latent_dim, latent_dim
        self.std = PositiveScale(scale, eps)

    def forward(self, numbers: Tensor) -> Independent:
        """Return q(z|x) = N(loc, diag(std^2)) from numbers (..., 2D)."""
        loc, raw = torch.chunk(at_least_float32(numbers), 2, dim=-1)
        return Independent(Normal(loc, self.std(raw), validate_args=False), 1, validate_args=False)

    def transform(self, q: Independent, noise: Tensor) -> Tensor:
        """Return z = loc + std * noise."""
        return from_noise(q, noise)


class FullNormal(Posterior[MultivariateNormal]):
    """q(z|x) = N(loc, L L^T) with a full lower triangle L: `MultivariateNormal(loc, scale_tril=L)`.

    Args:
        latent_dim: D; the encoder gives D numbers for loc and D (D + 1) / 2 for L, row by row.
        scale: how the diagonal of L is made positive.
        eps: lower bound of the diagonal.
    """

    is_normal = True

    def __init__(self, latent_dim: int, *, scale: ScaleName = "softplus", eps: Epsilon = 1e-6):
        super().__init__()
        self.latent_dim = self.noise_dim = latent_dim
        self.features = latent_dim + latent_dim * (latent_dim + 1) // 2
        self.std = PositiveScale(scale, eps)

    def forward(self, numbers: Tensor) -> MultivariateNormal:
        """Return q(z|x) = N(loc, L L^T) from numbers (..., D + D (D + 1) / 2)."""
        numbers = at_least_float32(numbers)
        loc, raw = numbers[..., : self.latent_dim], numbers[..., self.latent_dim :]
        triangle = numbers.new_zeros(*numbers.shape[:-1], self.latent_dim, self.latent_dim)
        rows, columns = torch.tril_indices(self.latent_dim, self.latent_dim, device=numbers.device)
        triangle[..., rows, columns] = torch.where(rows == columns, self.std(raw), raw)
        return MultivariateNormal(loc, scale_tril=triangle, validate_args=False)

    def transform(self, q: MultivariateNormal, noise: Tensor) -> Tensor:
        """Return z = loc + L noise."""
        return from_noise(q, noise)


class _Flow(Posterior[Flowed]):
    """A flow over the diagonal normal: loc, std and the flow's context h come from the encoder.

    The context is bounded, h = a tanh(c) of the encoder's numbers c: no image drives the flow beyond what others do.

    `mean` of q(z|x) is the image of noise 0: E[z|x] has no closed form.
    """

    bijection: Bijection
    largest_context: ClassVar[float] = 1.0  # a

    def __init__(self, latent_dim: int, context: int, scale: str, eps: float):
        super().__init__()
        self.latent_dim = self.noise_dim = latent_dim
        self.features = 2 * latent_dim + context
        self.std, self.affine = PositiveScale(scale, eps), Affine()

    @classmethod
    def conflicts(cls, config: Config) -> Iterator[str]:
        """Yield a line if there is one latent dimension, or more than one stochastic layer."""
        key, hierarchy = f"model.posterior.name = {config.model.posterior['name']!r}", config.model.hierarchy["name"]
        yield from one_dimension(key, config.model.latent_dim, instead="DiagonalNormal")
        if hierarchy != "Flat":
            yield (
                f"{key}: a flow has weights, and the layers of model.hierarchy.name = {hierarchy!r} have posteriors "
                "without; take DiagonalNormal, or the hierarchy Flat"
            )

    @abstractmethod
    def maps(self, normal: Map, context: Tensor) -> list[Map]:
        """Return the maps from noise to z: the diagonal normal and the flow, given h (B, context)."""

    def forward(self, numbers: Tensor) -> Flowed:
        """Return q(z|x) from numbers (B, 2D + context): loc, raw std, c."""
        numbers, dim = at_least_float32(numbers), self.latent_dim
        loc, raw, c = numbers.split([dim, dim, self.features - 2 * dim], -1)
        normal, h = torch.cat([loc, self.std(raw)], -1), self.largest_context * c.tanh()
        return Flowed(self.maps((self.affine, normal), h), torch.zeros_like(loc))

    def transform(self, q: Flowed, noise: Tensor) -> Tensor:
        """Return the image of the noise."""
        return from_noise(q, noise)


class SplineFlow(_Flow):
    """z = loc + std * f(noise; h), f neural spline couplings (Durkan et al. 2019): any density takes one pass.

    The splines shape the noise before it is scaled, so that they are as fine as q(z|x) is narrow. Their networks are
    made of contracting layers: with others z becomes almost discontinuous in c, and single examples have gradients a
    hundred times those of others.

    Args:
        latent_dim: D >= 2.
        scale, eps: of std, as for `DiagonalNormal`.
        context: the numbers h.
        layers, width, bins, bound: of f.
    """

    def __init__(
        self,
        latent_dim: int,
        *,
        scale: ScaleName = "softplus",
        eps: Epsilon = 1e-6,
        context: Context = 32,
        layers: Layers = 4,
        width: Width = 64,
        bins: Bins = 8,
        bound: Bound = 5.0,
    ):
        super().__init__(latent_dim, context, scale, eps)
        self.bijection = SplineCouplings(
            latent_dim, context=context, layers=layers, width=width, bins=bins, bound=bound, contracting=True
        )

    def maps(self, normal: Map, context: Tensor) -> list[Map]:
        """Return the splines, then the diagonal normal."""
        return [(self.bijection, context), normal]


class InverseAutoregressiveFlow(_Flow):
    """z = f(loc + std * noise; h), f inverse autoregressive steps (Kingma et al. 2016).

    z and its density take one pass; the density of a z that q(z|x) has not made takes D passes for each layer. The
    context enters by a tenth of tanh(c), since masked networks do not contract.

    Args:
        latent_dim: D >= 2.
        scale, eps: of std, as for `DiagonalNormal`.
        context: the numbers h.
        layers, width: of f.
    """

    largest_context = 0.1

    def __init__(
        self,
        latent_dim: int,
        *,
        scale: ScaleName = "softplus",
        eps: Epsilon = 1e-6,
        context: Context = 32,
        layers: Layers = 4,
        width: Width = 64,
    ):
        super().__init__(latent_dim, context, scale, eps)
        self.bijection = AutoregressiveSteps(latent_dim, context=context, layers=layers, width=width)

    def maps(self, normal: Map, context: Tensor) -> list[Map]:
        """Return the diagonal normal, then the steps."""
        return [normal, (self.bijection, context)]


class VectorQuantized(Posterior[Quantized], Observer):
    """q(z|x) with all its mass on one sequence of codes (van den Oord et al. 2017, eq. 1-2).

    The encoder's D numbers are D / d vectors of d numbers, and z has in the place of each the closest vector of a
    codebook. There is no noise. The codebook follows the encoder by moving averages, see `Codebook`.

    Args:
        latent_dim: D.
        codes: K.
        code_dim: d, of which D is a multiple.
        decay, restart: of the codebook.
    """

    gives_codes = True

    def __init__(
        self,
        latent_dim: int,
        *,
        codes: Annotated[int, Field(ge=2, description="vectors in the codebook")] = 512,
        code_dim: Annotated[int, Field(ge=1, description="numbers of each; latent_dim is a multiple of it")] = 8,
        decay: Annotated[float, Field(ge=0, lt=1, description="of the codebook's moving averages, a step")] = 0.99,
        restart: Annotated[
            float,
            Field(ge=0, lt=1, description="a code used less than this share of the mean starts anew; 0: none does"),
        ] = 0.01,
    ):
        super().__init__()
        assert latent_dim % code_dim == 0
        self.features, self.noise_dim, self.codes = latent_dim, 0, (codes, code_dim)
        self.codebook = Codebook(codes, code_dim, decay=decay, restart=restart)

    @classmethod
    def conflicts(cls, config: Config) -> Iterator[str]:
        """Yield a line if there is more than one stochastic layer, or if z is not made of whole codes."""
        model, code_dim = config.model, config.model.posterior["code_dim"]
        if (hierarchy := model.hierarchy["name"]) != "Flat":
            yield (
                "model.posterior.name = 'VectorQuantized': for one stochastic layer, not model.hierarchy.name = "
                f"{hierarchy!r}; take Flat"
            )
        if model.latent_dim % code_dim:
            yield (
                f"model.latent_dim = {model.latent_dim}: must be a multiple of model.posterior.code_dim = {code_dim}"
            )

    def vectors(self) -> Tensor:
        """Return the codebook (K, d)."""
        return self.codebook.vectors

    def forward(self, numbers: Tensor) -> Quantized:
        """Return q(z|x) from numbers (..., D)."""
        before = at_least_float32(numbers).unflatten(-1, (-1, self.codebook.vectors.shape[-1]))
        return Quantized(before, self.codebook.vectors, self.codebook.usage)

    def transform(self, q: Quantized, noise: Tensor) -> Tensor:
        """Return the only z, as often as there are rows of noise."""
        return q.mean.expand(*noise.shape[:-1], -1)

    def observed(self, q: Distribution) -> tuple[Tensor, Tensor]:
        """Return the encoder's vectors (B, P, d) and their codes (B, P)."""
        assert isinstance(q, Quantized)
        return q.before.detach(), q.codes

    def observe(self, observed: tuple[Tensor, ...], skip: Tensor, rng: np.random.Generator) -> None:
        """Have the codebook follow the vectors of a step; those where codes start anew are picked by `rng`."""
        vectors, codes = (part.flatten(0, 1) for part in observed)
        seeds = torch.from_numpy(np.resize(rng.permutation(len(vectors)), len(self.codebook.counts)))
        self.codebook.follow(vectors, codes, send(seeds, vectors.device), skip)


POSTERIORS: dict[str, type[Posterior]] = {
    "DiagonalNormal": DiagonalNormal,
    "FullNormal": FullNormal,
    "SplineFlow": SplineFlow,
    "InverseAutoregressiveFlow": InverseAutoregressiveFlow,
    "VectorQuantized": VectorQuantized,
}
