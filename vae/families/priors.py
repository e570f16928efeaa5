"""Prior families: -> p(z)."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily

from vae.families.codes import CodeSequences
from vae.families.distributions import DiagonalGaussian, Flowed, StandardGaussian, from_noise
from vae.families.flows import Affine, Bins, Bound, Layers, SplineCouplings, Width
from vae.networks import Sizes
from vae.networks.masked import Masked, TwoHiddenLayers, Units


@dataclass(frozen=True)
class Given:
    """What a prior may depend on besides its weights.

    Attributes:
        like: any tensor on the device and in the precision of the model.
        encode: images (N, C, H, W) in [0, 1] -> q(z|x), the model's own.
        labels: (B,), int64, where the model sees them.
        codebook: (K, d), where z is a sequence of its vectors.
    """

    like: Tensor
    encode: Callable[[Tensor], Distribution]
    labels: Tensor | None = None
    codebook: Tensor | None = None


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
        return of_each.take_along_dim(chosen[..., None, None], -2).squeeze(-2)


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

    def forward(self, given: Given) -> MixtureSameFamily:
        """Return p(z)."""
        q = given.encode(self.raw.sigmoid())
        weights = Categorical(logits=given.like.new_zeros(len(self.raw)), validate_args=False)
        return MixtureSameFamily(weights, q, validate_args=False)


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
        self.affine, self.loc, self.log_scale = Affine(), nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, given: Given) -> Flowed:
        """Return p(z)."""
        normal = torch.cat([self.loc, self.log_scale.exp()])
        return Flowed([(self.flow, None), (self.affine, normal)], torch.zeros_like(self.loc))

    def transform(self, p: Distribution, noise: Tensor) -> Tensor:
        """Return the image of the noise."""
        return from_noise(p, noise)


class _Codes(Prior):
    """p(z) of P = D / d codes: noise is one number for each.

    Args:
        sizes: of the model, with codes.
    """

    def __init__(self, sizes: Sizes):
        super().__init__(sizes)
        if sizes.codes is None:
            raise ValueError(f"prior {type(self).__name__}: of codes, which only posterior VectorQuantized gives")
        self.codes, dim = sizes.codes
        self.noise_dim = self.positions = sizes.latent_dim // dim

    @abstractmethod
    def logits(self, codes: Tensor) -> Tensor:
        """Return log P(c_p = k | c_1, ..., c_(p-1)) up to a constant, (..., P, K), for codes (..., P), int64."""

    def forward(self, given: Given) -> CodeSequences:
        """Return p(z)."""
        assert given.codebook is not None
        return CodeSequences(self.logits, given.codebook, self.positions)

    def transform(self, p: Distribution, noise: Tensor) -> Tensor:
        """Return the codes' vectors (B, D), each code by the inverse of its CDF, one after another."""
        assert isinstance(p, CodeSequences)
        return p.from_noise(noise)


class UniformCodes(_Codes):
    """p(z) that has all sequences of codes alike, as while a VQ-VAE is trained: the KL is P log K, whatever x is."""

    def logits(self, codes: Tensor) -> Tensor:
        """Return zeros."""
        return torch.zeros(*codes.shape, self.codes, device=codes.device)


class AutoregressiveCodes(_Codes):
    """p(z) = prod_p P(c_p | c_1, ..., c_(p-1)), made by one masked network (MADE, Germain et al. 2015); even at first.

    No gradient reaches the encoder from here: learnt beside it, this is the prior that van den Oord et al. 2017 fit to
    the codes afterwards, but that a gradient which is clipped is clipped together.

    Args:
        sizes: of the model, with two codes or more.
        embedding: numbers that the network sees of a code.
        width: of its hidden layers.
    """

    def __init__(
        self,
        sizes: Sizes,
        *,
        embedding: Annotated[int, Field(ge=1, description="numbers that its network sees of each code")] = 16,
        width: Annotated[int, Field(ge=1, description="units of its network's two hidden layers")] = 256,
    ):
        super().__init__(sizes)
        if self.positions < 2:
            raise ValueError("prior AutoregressiveCodes: of two codes or more, and z is one")
        self.embedding = nn.Embedding(self.codes, embedding)
        seen, hidden = Units(embedding * self.positions, self.positions), Units(width, self.positions - 1)
        given = Units(self.codes * self.positions, self.positions)
        layers = Masked(seen, hidden), Masked(hidden, hidden), Masked(hidden, given, strictly=True)
        self.network = TwoHiddenLayers(*layers, context=0)

    def logits(self, codes: Tensor) -> Tensor:
        """Return (..., P, K)."""
        seen = self.embedding(codes).transpose(-1, -2).flatten(-2)  # of a layer's units, every P-th has one position
        return self.network(seen, None).unflatten(-1, (self.codes, self.positions)).transpose(-1, -2)


PRIORS: dict[str, type[Prior]] = {
    "StandardNormal": StandardNormal,
    "GaussianMixture": GaussianMixture,
    "VampPrior": VampPrior,
    "Flow": Flow,
    "ClassNormal": ClassNormal,
    "UniformCodes": UniformCodes,
    "AutoregressiveCodes": AutoregressiveCodes,
}
