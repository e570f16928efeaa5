"""Priors over sequences of a codebook's codes, as a VQ-VAE has them."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution

from vae.config import Config
from vae.families.codes import CodeSequences
from vae.families.priors.base import Given, Prior
from vae.networks import Sizes
from vae.networks.masked import Autoregressive, Units


class _Codes(Prior):
    """p(z) of P = D / d codes: noise is one number for each.

    Args:
        sizes: of the model, with codes.
    """

    of_codes = True

    def __init__(self, sizes: Sizes):
        super().__init__(sizes)
        assert sizes.codes is not None
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
        assert self.positions > 1
        self.embedding = nn.Embedding(self.codes, embedding)
        seen, given = (Units(each * self.positions, self.positions) for each in (embedding, self.codes))
        self.network = Autoregressive(seen, given, width, context=0)

    @classmethod
    def conflicts(cls, config: Config) -> Iterator[str]:
        """Yield a line if z is a single code."""
        yield from super().conflicts(config)
        if config.model.latent_dim == config.model.posterior.get("code_dim"):
            yield (
                "model.prior.name = 'AutoregressiveCodes': has a code follow from others, and z is one; take "
                "UniformCodes"
            )

    def logits(self, codes: Tensor) -> Tensor:
        """Return (..., P, K)."""
        seen = self.embedding(codes).transpose(-1, -2).flatten(-2)  # of a layer's units, every P-th has one position
        return self.network(seen, None).unflatten(-1, (self.codes, self.positions)).transpose(-1, -2)
