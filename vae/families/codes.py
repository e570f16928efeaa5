"""Distributions of sequences of codes: z is P vectors of one codebook, side by side.

Their log-probabilities are of sequences, of which there are K^P: no densities.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, register_kl


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Return the codes (...), int64, of the vectors of a codebook (K, d) that are closest to vectors (..., d)."""
    with torch.autocast(vectors.device.type, enabled=False):
        return (codebook.square().sum(-1) - 2 * vectors @ codebook.T).argmin(-1)


def perplexity(counts: Tensor) -> Tensor:
    """Return the perplexity e^H, (), H the entropy of the shares of counts (K,); 1 without any count."""
    shares = counts / counts.sum().clamp(min=torch.finfo(counts.dtype).tiny)
    return torch.special.entr(shares).sum().exp()


class Quantized(Distribution):
    """q(z|x) with all its mass on one z: at each of P positions the vector closest to the encoder's numbers.

    The z that it gives has the gradient of the encoder's numbers: dz/d before = 1, the straight-through estimator of
    van den Oord et al. 2017 (section 3.2), while its value is that of the codebook, to the bit.

    Args:
        before: the encoder's numbers, (*batch, P, d), float32 or better.
        codebook: (K, d), without gradient.
        usage: how often each code was chosen in the last step, (K,).

    Attributes:
        before, usage: as given.
        codes: (*batch, P), int64.
        after: their vectors, (*batch, P, d).
    """

    has_rsample = True

    def __init__(self, before: Tensor, codebook: Tensor, usage: Tensor):
        self.before, self.usage = before, usage
        self.codes = nearest(before.detach(), codebook)
        self.after = codebook[self.codes]
        super().__init__(before.shape[:-2], self.after.flatten(-2).shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The only z, (*batch, P d), with the encoder's gradient."""
        return (self.after + (self.before - self.before.detach())).flatten(-2)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Return that z, (*sample_shape, *batch, P d)."""
        return self.mean.expand(self._extended_shape(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return 0 where a value (..., *batch, P d) is that z, else -inf."""
        same = (value == self.after.flatten(-2)).all(-1)
        return torch.where(same, 0.0, -math.inf).to(self.before.dtype)


class CodeSequences(Distribution):
    """p(z) of P vectors of a codebook, chosen one after another: P(c) = prod_p P(c_p | c_1, ..., c_(p-1)).

    Args:
        logits: codes (..., P) -> log P(c_p = k | ...) up to a constant, (..., P, K): at p it sees those before p only.
        codebook: (K, d), without gradient.
        positions: P.
    """

    def __init__(self, logits: Callable[[Tensor], Tensor], codebook: Tensor, positions: int):
        self._logits, self.codebook, self.positions = logits, codebook, positions
        super().__init__(event_shape=torch.Size([positions * codebook.shape[-1]]), validate_args=False)

    def log_prob_of(self, codes: Tensor) -> Tensor:
        """Return log P(c), (...), nats, of codes (..., P), int64."""
        return self._log_shares(codes).gather(-1, codes[..., None]).squeeze(-1).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(c), (...), nats, of z (..., P d), and -inf of one that is no sequence of codes."""
        vectors = value.unflatten(-1, (self.positions, -1))
        codes = nearest(vectors, self.codebook)
        is_one = (self.codebook[codes] == vectors).flatten(-2).all(-1)
        return torch.where(is_one, self.log_prob_of(codes), -math.inf)

    def from_noise(self, noise: Tensor) -> Tensor:
        """Return z (..., P d) made of standard normal noise (..., P): code after code by the inverse of its CDF."""
        uniform, columns = (
            torch.special.ndtr(noise).unbind(-1),
            [torch.zeros_like(noise[..., 0]).long()] * self.positions,
        )
        for place in range(self.positions):
            ends = self._log_shares(torch.stack(columns, -1))[..., place, :].exp().cumsum(-1)[..., :-1]
            columns[place] = (uniform[place][..., None] > ends).sum(-1)  # the last end is 1, but for rounding
        return self.codebook[torch.stack(columns, -1)].flatten(-2)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Return z (*sample_shape, P d)."""
        shape = (*sample_shape, self.positions)
        with torch.no_grad():
            return self.from_noise(torch.randn(shape, dtype=self.codebook.dtype, device=self.codebook.device))

    def _log_shares(self, codes: Tensor) -> Tensor:
        with torch.autocast(codes.device.type, enabled=False):
            return self._logits(codes).log_softmax(-1)


@register_kl(Quantized, CodeSequences)
def _kl_quantized_codes(q: Quantized, p: CodeSequences) -> Tensor:
    """KL(q || p) = -log P(c): all of q is on one sequence c."""
    return -p.log_prob_of(q.codes)
