"""Stochastic layers: the encoder's numbers -> q, p and z of each, the one that is decoded first."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vae.components import Piece
from vae.config import Config
from vae.families.distributions import DiagonalGaussian, kl, kl_by_group
from vae.families.labels import LabelPosterior
from vae.families.posteriors import POSTERIORS, DiagonalNormal, Posterior
from vae.families.priors import Given, Prior
from vae.networks import Sizes, mlp
from vae.networks.options import ACTIVATIONS, Activation, Initialization


@dataclass(frozen=True)
class Latent:
    """One stochastic layer.

    Attributes:
        q: of this layer, given the image and the layers drawn before.
        p: given the layers above; of the highest one the prior.
        z: drawn from q, (B, D), or (K, B, D) of K draws.
        estimated: whether KL(q || p) has to be estimated at z. It has to where p depends on z through a layer above:
            the mean of log q(z) - log p(z) is not that of a closed form then.
    """

    q: Distribution
    p: Distribution
    z: Tensor
    estimated: bool = False

    def kl(self) -> Tensor:
        """Return KL(q || p), (B,) or (K, B), nats; see `vae.families.distributions.kl`."""
        return self.log_ratio() if self.estimated else kl(self.q, self.p, self.z)

    def kl_by_group(self) -> Tensor:
        """Return the KL of each group of independent dimensions, (..., B, G), nats; see `distributions.kl_by_group`."""
        return self.log_ratio()[..., None] if self.estimated else kl_by_group(self.q, self.p, self.z)

    def log_ratio(self) -> Tensor:
        """Return log q(z) - log p(z), (B,) or (K, B), nats."""
        return self.q.log_prob(self.z) - self.p.log_prob(self.z)


def total_kl(latents: Sequence[Latent], labels: LabelPosterior | None = None) -> Tensor:
    """Return KL(q(z|x) || p(z)), (B,), nats, summed over stochastic layers; where labels are inferred, with theirs."""
    divergence = sum((layer.kl() for layer in latents), start=latents[0].z.new_zeros(()))
    return divergence if labels is None else labels.mean(divergence) + labels.kl()


@dataclass(frozen=True)
class Families:
    """The families around which a hierarchy is built: q of the layer that is decoded, p of the highest layer."""

    posterior: Posterior
    prior: Prior


Family = Callable[[int], Posterior]


class Hierarchy(nn.Module, Piece, ABC):
    """The stochastic layers of a model.

    Args:
        sizes: of the model; `latent_dim` is that of the layer that is decoded.
        posterior: the model's own, of that layer.
        family: a number of dimensions -> a posterior of the same family.

    Attributes:
        top_dim: dimensions of the highest layer, whose prior the model has.
        features: numbers that the encoder gives for one example.
        noise_dim: standard normal numbers that one draw of all layers takes.
    """

    top_dim: int
    features: int
    noise_dim: int

    @abstractmethod
    def infer(self, numbers: Tensor, noise: Tensor | None, families: Families, given: Given) -> tuple[Latent, ...]:
        """Return all layers, the one that is decoded first.

        Args:
            numbers: of the encoder, (B, features).
            noise: standard normal (B, noise_dim) or (K, B, noise_dim); None: torch draws.
            families: the model's.
            given: values that the prior may depend on.
        """

    @abstractmethod
    def draw(self, noise: Tensor, families: Families, given: Given) -> Tensor:
        """Return z (B, D) of the layer that is decoded, from all priors.

        Args:
            noise: standard normal (B, N), N from `draw_dim`.
            families, given: as for `infer`.
        """

    def draw_dim(self, prior: Prior) -> int:
        """Return the count of standard normal numbers that a draw from all priors takes."""
        return prior.noise_dim


class Flat(Hierarchy):
    """One stochastic layer: p(z), q(z|x)."""

    def __init__(self, sizes: Sizes, posterior: Posterior, family: Family):
        super().__init__()
        self.top_dim, self.features, self.noise_dim = sizes.latent_dim, posterior.features, posterior.noise_dim

    def infer(self, numbers: Tensor, noise: Tensor | None, families: Families, given: Given) -> tuple[Latent, ...]:
        """Return the one layer."""
        q = families.posterior(numbers)
        z = drawn(families.posterior, q, noise)
        return (Latent(q, families.prior(replace(given, like=z)), z),)

    def draw(self, noise: Tensor, families: Families, given: Given) -> Tensor:
        """Return z ~ p(z)."""
        return families.prior.transform(families.prior(given), noise)


LatentDims = Annotated[
    list[Annotated[int, Field(ge=1)]],
    Field(min_length=1, description="dimensions of each layer above the one that is decoded"),
]
HiddenDims = Annotated[
    list[Annotated[int, Field(ge=1)]],
    Field(min_length=1, description="width of the networks of each layer above; the last one counts for the rest"),
]
Depth = Annotated[int, Field(ge=0, description="hidden layers in each of these networks")]


class _Stacked(Hierarchy):
    """Base of hierarchies of several layers: the way down, p(z_l | z_{l+1}) = N(mean(z), diag(std(z)^2)).

    Args:
        sizes, posterior, family: see `Hierarchy`.
        latent_dims: of z_2, z_3, ...
        hidden_dims: of the networks between z_l and z_{l+1}, both ways.
        depth: hidden layers in each of them.
        activation, initialization: see `vae.networks.options`.
    """

    def __init__(
        self,
        sizes: Sizes,
        posterior: Posterior,
        family: Family,
        *,
        latent_dims: LatentDims = [50],  # noqa: B006 (read only)
        hidden_dims: HiddenDims = [100],  # noqa: B006
        depth: Depth = 2,
        activation: Activation = "silu",
        initialization: Initialization = "torch",
    ):
        super().__init__()
        network = partial(mlp, activation=activation, initialization=initialization)
        self.activation = ACTIVATIONS[activation]()
        self.dims = [sizes.latent_dim, *latent_dims]
        widths = [*hidden_dims, *[hidden_dims[-1]] * len(latent_dims)][: len(latent_dims)]
        hidden = [[width] * depth for width in widths]
        self.top_dim = self.dims[-1]
        self.upper = nn.ModuleList([family(dim) for dim in latent_dims])  # without weights
        families = self.families(posterior)
        self.noise_dims = [each.noise_dim for each in families]
        self.noise_dim = sum(self.noise_dims)
        self.conditionals = nn.ModuleList([DiagonalNormal(dim) for dim in self.dims[:-1]])
        pairs = zip(self.dims, self.dims[1:], hidden, strict=False)
        self.down = nn.ModuleList([network([above, *inner, 2 * below]) for below, above, inner in pairs])
        self.splits = self.numbers_up([each.features for each in families], widths)
        self.features = sum(self.splits[0])
        seen = self.numbers_seen(self.dims, widths)
        ways = zip(seen, hidden, self.splits[1:], strict=True)
        self.up = nn.ModuleList([network([below, *inner, sum(wanted)]) for below, inner, wanted in ways])

    @staticmethod
    @abstractmethod
    def numbers_up(features: Sequence[int], widths: Sequence[int]) -> list[list[int]]:
        """Return the numbers that reach each layer on the way up: those of its posterior, and those handed on.

        Args:
            features: numbers that the posterior of each layer needs.
            widths: of the networks between each layer and the next.
        """

    @staticmethod
    @abstractmethod
    def numbers_seen(dims: Sequence[int], widths: Sequence[int]) -> Sequence[int]:
        """Return the count of numbers that the network from each layer to the next one sees.

        Args:
            dims: of z_1, z_2, ...
            widths: as for `numbers_up`.
        """

    def families(self, posterior: Posterior) -> list[Posterior]:
        """Return the posterior family of each layer."""
        return [posterior, *(cast(Posterior, each) for each in self.upper)]

    def below(self, layer: int, z: Tensor) -> DiagonalGaussian:
        """Return p(z_l | z_{l+1}) for the z above it."""
        normal = cast(Independent, self.conditionals[layer](self.down[layer](z))).base_dist
        return DiagonalGaussian(normal.loc, normal.scale)

    def split(self, noise: Tensor | None) -> Sequence[Tensor | None]:
        """Return the noise of each layer."""
        return [None] * len(self.dims) if noise is None else noise.split(self.noise_dims, -1)

    def draw_dim(self, prior: Prior) -> int:
        """Return the count of standard normal numbers that a draw from all priors takes."""
        return prior.noise_dim + sum(self.dims[:-1])

    def draw(self, noise: Tensor, families: Families, given: Given) -> Tensor:
        """Return z_1, after z_L ~ p(z_L), z_{L-1} ~ p(z_{L-1} | z_L), ..."""
        *lower, own = noise.split([*self.dims[:-1], families.prior.noise_dim], -1)
        z = families.prior.transform(families.prior(given), own)
        for layer in reversed(range(len(self.dims) - 1)):
            z = cast(DiagonalNormal, self.conditionals[layer]).transform(self.below(layer, z), lower[layer])
        return z


class BottomUp(_Stacked):
    """q(z_1|x) q(z_2|z_1) ... q(z_L|z_{L-1}), p(z_L) ... p(z_1|z_2), as in Burda et al. 2016 (section 2.1, eq. 1-2)."""

    @staticmethod
    def numbers_up(features: Sequence[int], widths: Sequence[int]) -> list[list[int]]:
        """Return the numbers of each posterior: z itself is handed on."""
        return [[own] for own in features]

    @staticmethod
    def numbers_seen(dims: Sequence[int], widths: Sequence[int]) -> Sequence[int]:
        """Return the dimensions of the z that is drawn at the layer below."""
        return dims[:-1]

    def infer(self, numbers: Tensor, noise: Tensor | None, families: Families, given: Given) -> tuple[Latent, ...]:
        """Return all layers; each layer sees the z drawn at the layer below."""
        qs: list[Distribution] = []  # a compiler does not follow list[...]()
        zs: list[Tensor] = []
        posteriors = self.families(families.posterior)
        for layer, (family, own) in enumerate(zip(posteriors, self.split(noise), strict=True)):
            qs.append(family(numbers if layer == 0 else self.up[layer - 1](zs[-1])))
            zs.append(drawn(family, qs[-1], own))
        ps = [*(self.below(layer, z) for layer, z in enumerate(zs[1:])), families.prior(replace(given, like=zs[-1]))]
        top = len(zs) - 1
        # z_{l+1} is drawn after z_l, so that p(z_l | z_{l+1}) knows of z_l
        return tuple(Latent(qs[i], ps[i], zs[i], estimated=i < top) for i in range(len(zs)))


class Ladder(_Stacked):
    """q(z_L|x), then downwards q(z_l | x, z_{l+1}): the product of a normal from the way up and of p(z_l | z_{l+1}).

    The ladder VAE of Sonderby et al. 2016 (eq. 11-19), without batch normalisation. The encoder's last numbers go
    further up beside those of z_1, deterministically. The posterior is a `DiagonalNormal`.
    """

    @classmethod
    def conflicts(cls, config: Config) -> Iterator[str]:
        """Yield a line if the posterior is not a normal distribution with independent dimensions."""
        name = config.model.posterior["name"]
        if not POSTERIORS[name].is_diagonal:
            yield f"model.posterior.name = {name!r}: a Ladder multiplies diagonal normals; use DiagonalNormal"

    @staticmethod
    def numbers_up(features: Sequence[int], widths: Sequence[int]) -> list[list[int]]:
        """Return the numbers of each posterior, and beside them those handed on; the highest layer hands on none."""
        return [[own, further] for own, further in zip(features, [*widths, 0], strict=True)]

    @staticmethod
    def numbers_seen(dims: Sequence[int], widths: Sequence[int]) -> Sequence[int]:
        """Return the numbers that the layer below hands on: as many as the network is wide, at any depth."""
        return widths

    def infer(self, numbers: Tensor, noise: Tensor | None, families: Families, given: Given) -> tuple[Latent, ...]:
        """Return all layers, drawn from the highest one down."""
        found = []
        for layer, split in enumerate(self.splits):
            own, further = numbers.split(split, -1)
            found.append(own)
            if layer < len(self.up):
                numbers = self.up[layer](self.activation(further))
        noises, top = self.split(noise), len(self.dims) - 1
        posteriors = self.families(families.posterior)
        q = posteriors[top](found[top])
        z = drawn(posteriors[top], q, noises[top])
        layers = [Latent(q, families.prior(replace(given, like=z)), z)]
        for layer in reversed(range(top)):
            p = self.below(layer, layers[0].z)
            q = product(cast(Independent, posteriors[layer](found[layer])), p)
            layers.insert(0, Latent(q, p, drawn(posteriors[layer], q, noises[layer])))
        return tuple(layers)


def drawn(family: Posterior, q: Distribution, noise: Tensor | None) -> Tensor:
    """Return z ~ q, from noise if there is any."""
    return q.rsample() if noise is None else family.transform(q, noise)


def product(a: Independent, b: Independent) -> Independent:
    """Return the normal proportional to the product of two diagonal normals (Sonderby et al. 2016, eq. 18, 19)."""
    first, second = a.base_dist, b.base_dist
    variance, other = first.scale.square(), second.scale.square()
    share = other / (variance + other)  # of the first mean
    loc = torch.lerp(second.loc, first.loc.expand_as(share), share)
    return Independent(Normal(loc, (variance * share).sqrt(), validate_args=False), 1, validate_args=False)


HIERARCHIES: dict[str, type[Hierarchy]] = {"Flat": Flat, "BottomUp": BottomUp, "Ladder": Ladder}
