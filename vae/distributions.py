"""What `torch.distributions` lacks for VAEs: exact KL rules against N(0, I), and an estimate for any other pair."""

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, kl_divergence, register_kl


def at_least_float32(numbers: Tensor) -> Tensor:
    """Return `numbers` in float32 or better: probabilities are never computed in half precision."""
    return numbers.to(torch.promote_types(numbers.dtype, torch.float32))


class StandardGaussian(Independent):
    """N(0, I) on D dimensions.

    Args:
        loc: zeros (D,), which carry the device and the precision.
    """

    def __init__(self, loc: Tensor):
        super().__init__(Normal(loc, torch.ones_like(loc), validate_args=False), 1, validate_args=False)


@register_kl(Independent, StandardGaussian)
def _kl_diagonal_standard(q: Independent, p: StandardGaussian) -> Tensor:
    """KL(N(m, s^2) || N(0, I)) = 1/2 sum(m^2 + s^2 - 1 - log s^2), (B,) (Kingma & Welling 2014, appendix B)."""
    return _kl_of_each_dimension(q, p).sum(-1)


def _kl_of_each_dimension(q: Independent, p: StandardGaussian) -> Tensor:
    """Return (B, D); `expm1` keeps it exact and non-negative near the prior, where `s^2 - 1 - log s^2` cancels."""
    if not isinstance(q.base_dist, Normal):
        return kl_divergence(q.base_dist, p.base_dist)
    log_variance = 2 * q.base_dist.scale.log()
    return 0.5 * (q.base_dist.loc.square() + torch.expm1(log_variance) - log_variance)


@register_kl(MultivariateNormal, StandardGaussian)
def _kl_full_standard(q: MultivariateNormal, p: StandardGaussian) -> Tensor:
    """KL(N(m, L L^T) || N(0, I)) = 1/2 (|m|^2 + |L|^2 - D - 2 sum log L_ii), (B,), the diagonal as above."""
    diagonal = q.scale_tril.diagonal(dim1=-2, dim2=-1)
    below = q.scale_tril.tril(-1).square().sum((-2, -1))
    log_variance = 2 * diagonal.log()
    return 0.5 * (below + (q.loc.square() + torch.expm1(log_variance) - log_variance).sum(-1))


def kl_by_group(q: Distribution, p: Distribution, z: Tensor) -> Tensor:
    """Return the KL of each group of dimensions that q and p have independent of the others, (B, G), nats.

    Under N(0, I) an independent q has a group for each dimension; any other pair is one group, whose KL is `kl`'s.

    Args:
        q, p, z: see `kl`.
    """
    if isinstance(q, Independent) and isinstance(p, StandardGaussian):
        return _kl_of_each_dimension(q, p)
    return kl(q, p, z)[:, None]


def marginals(q: Distribution) -> Distribution:
    """Return the distribution whose dimensions have q's marginals and are independent; q itself if it has no rule."""
    if isinstance(q, MultivariateNormal):
        return Independent(Normal(q.loc, q.stddev, validate_args=False), 1, validate_args=False)
    return q


def kl(q: Distribution, p: Distribution, z: Tensor) -> Tensor:
    """Return KL(q || p), (B,), nats: in closed form where torch has a rule, else the estimate log q(z) - log p(z).

    Args:
        q: q(z|x), batch shape (B,).
        p: the prior, batch shape () or (B,).
        z: a sample of q, (B, D), used by the estimate alone.
    """
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return q.log_prob(z) - p.log_prob(z)
