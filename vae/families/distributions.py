"""Distributions that torch lacks for VAEs: flows, z made of noise, exact KL rules, an estimate for other pairs."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, kl_divergence, register_kl

from vae.families.flows import Bijection

Map = tuple[Bijection, Tensor | None]  # with its context, (*batch, C)


def at_least_float32(numbers: Tensor) -> Tensor:
    """Return `numbers` in float32 or better: probabilities are never computed in half precision."""
    return numbers.to(torch.promote_types(numbers.dtype, torch.float32))


def inverse_softplus(numbers: Tensor) -> Tensor:
    """Return x where softplus(x) is `numbers`, all of them above 0."""
    return numbers + torch.log(-torch.expm1(-numbers))


class DiagonalGaussian(Independent):
    """N(loc, diag(scale^2)).

    Args:
        loc, scale: (..., D), float32 or better.
    """

    def __init__(self, loc: Tensor, scale: Tensor):
        super().__init__(Normal(loc, scale, validate_args=False), 1, validate_args=False)


class StandardGaussian(DiagonalGaussian):
    """N(0, I) on D dimensions.

    Args:
        loc: zeros (D,), which carry the device and the precision.
    """

    def __init__(self, loc: Tensor):
        super().__init__(loc, torch.ones_like(loc))


class Flowed(Distribution):
    """The distribution of z = f_n(... f_1(e)), e ~ N(0, I) (Rezende & Mohamed 2015), in float32 or better.

    The z that it made last comes with the e it was made of, and its density then takes no inverse. Any other z is
    mapped back, which is as right, and for autoregressive maps slow.

    Args:
        maps: f_1, ..., f_n, each with its context.
        zeros: (*batch, D), which carry the device and the precision.
    """

    has_rsample = True

    def __init__(self, maps: Sequence[Map], zeros: Tensor):
        self._maps, self._zeros = maps, zeros
        self._made: tuple[Tensor, Tensor, Tensor] | None = None  # z, e, log |det dz/de|
        super().__init__(zeros.shape[:-1], zeros.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The image of the base's mean, f(0), (*batch, D), for pictures: E[z] of a flow has no closed form."""
        return self._through(self._zeros)[0]

    def from_noise(self, e: Tensor) -> Tensor:
        """Return z = f(e), (..., *batch, D), for e of the same shape, or one that broadcasts."""
        e = e.expand(torch.broadcast_shapes(e.shape, self._zeros.shape))
        z, log_det = self._through(e)
        self._made = (z, e, log_det)
        return z

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Return z (*sample_shape, *batch, D), differentiable."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.from_noise(torch.randn(shape, dtype=self._zeros.dtype, device=self._zeros.device))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density, nats, of any z (..., *batch, D), or one that broadcasts."""
        made = self._made
        e, log_det = made[1:] if made is not None and made[0] is value else self._back(value)
        return -0.5 * (e.square() + math.log(2 * math.pi)).sum(-1) - log_det

    def _through(self, e: Tensor) -> tuple[Tensor, Tensor]:
        log_det = e.new_zeros(e.shape[:-1])
        with torch.autocast(e.device.type, enabled=False):
            for flow, context in self._maps:
                e, more = flow(e, context)
                log_det = log_det + more
        return e, log_det

    def _back(self, z: Tensor) -> tuple[Tensor, Tensor]:
        z = z.expand(torch.broadcast_shapes(z.shape, self._zeros.shape))
        log_det = z.new_zeros(z.shape[:-1])
        with torch.autocast(z.device.type, enabled=False):
            for flow, context in reversed(self._maps):
                z, more = flow.inverse(z, context)
                log_det = log_det + more
        return z, log_det


def from_noise(q: Distribution, noise: Tensor) -> Tensor:
    """Return z (..., D) ~ q made from standard normal noise that broadcasts to it, for normal distributions and flows.

    A triangle times noise is a plain sum, which autocast leaves in float32.
    """
    if isinstance(q, Flowed):
        return q.from_noise(noise)
    if isinstance(q, MultivariateNormal):
        return q.loc + (q.scale_tril * noise[..., None, :]).sum(-1)
    assert isinstance(q, Independent)
    return q.base_dist.loc + q.base_dist.scale * noise


@register_kl(Independent, DiagonalGaussian)
def _kl_diagonal_diagonal(q: Independent, p: DiagonalGaussian) -> Tensor:
    """KL(N(m, s^2) || N(0, I)) = 1/2 sum(m^2 + s^2 - 1 - log s^2) (Kingma & Welling 2014, B), in units of p."""
    return _kl_of_each_dimension(q, p).sum(-1)


def _kl_of_each_dimension(q: Independent, p: DiagonalGaussian) -> Tensor:
    """Return (..., D); `expm1` keeps it exact and non-negative near p, where `s^2 - 1 - log s^2` cancels."""
    if not isinstance(q.base_dist, Normal):
        return kl_divergence(q.base_dist, p.base_dist)
    loc, scale = q.base_dist.loc, q.base_dist.scale
    if not isinstance(p, StandardGaussian):
        loc, scale = (loc - p.base_dist.loc) / p.base_dist.scale, scale / p.base_dist.scale
    log_variance = 2 * scale.log()
    return 0.5 * (loc.square() + torch.expm1(log_variance) - log_variance)


@register_kl(MultivariateNormal, DiagonalGaussian)
def _kl_full_diagonal(q: MultivariateNormal, p: DiagonalGaussian) -> Tensor:
    """KL(N(m, L L^T) || N(0, I)) = 1/2 (|m|^2 + |L|^2 - D - 2 sum log L_ii), in units of p, the diagonal as above."""
    loc, triangle = q.loc, q.scale_tril
    if not isinstance(p, StandardGaussian):
        loc, triangle = (loc - p.base_dist.loc) / p.base_dist.scale, triangle / p.base_dist.scale[..., None]
    below = triangle.tril(-1).square().sum((-2, -1))
    log_variance = 2 * triangle.diagonal(dim1=-2, dim2=-1).log()
    return 0.5 * (below + (loc.square() + torch.expm1(log_variance) - log_variance).sum(-1))


def kl_by_group(q: Distribution, p: Distribution, z: Tensor) -> Tensor:
    """Return the KL of each group of dimensions that q and p have independent of the others, (B, G), nats.

    Two that make all dimensions independent have a group for each of them; any other pair is one group, whose KL is
    `kl`'s, where there is no rule an estimate, which may be negative.

    Args:
        q, p, z: see `kl`.
    """
    if isinstance(q, Independent) and isinstance(p, DiagonalGaussian):
        return _kl_of_each_dimension(q, p)
    return kl(q, p, z)[..., None]


def marginals(q: Distribution) -> Distribution:
    """Return the distribution whose dimensions have q's marginals and are independent; q itself if it has no rule."""
    if isinstance(q, MultivariateNormal):
        return DiagonalGaussian(q.loc, q.stddev)
    return q


def kl(q: Distribution, p: Distribution, z: Tensor) -> Tensor:
    """Return KL(q || p), (B,), nats: in closed form where there is a rule, else the estimate log q(z) - log p(z).

    Args:
        q: q(z|x), batch shape (B,).
        p: the prior, batch shape () or (B,).
        z: a sample of q, (B, D), or K of them, (K, B, D), whose mean is the estimate; used by it alone.
    """
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        ratio = q.log_prob(z) - p.log_prob(z)
        draws = ratio.dim() - max(len(q.batch_shape), len(p.batch_shape))
        return ratio.mean(tuple(range(draws))) if draws else ratio
