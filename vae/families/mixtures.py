"""Mixtures of normals with independent dimensions, whose density takes one matrix product."""

import math

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

FAINTEST = -80.0  # log of a component's share beside the greatest: what lies below counts as this, which adds nothing


def mixture(weights: Categorical, components: Distribution) -> MixtureSameFamily:
    """Return sum_k w_k p_k(z), in the form that has the fastest density.

    Args:
        weights: w, of K components.
        components: p_k, batch (K,).
    """
    is_diagonal = isinstance(components, Independent) and isinstance(components.base_dist, Normal)
    kind = DiagonalMixture if is_diagonal else MixtureSameFamily
    return kind(weights, components, validate_args=False)


class DiagonalMixture(MixtureSameFamily):
    """sum_k w_k N(loc_k, diag(scale_k^2)), K normals on D dimensions, batch shape ().

    log w_k N(z; loc_k, scale_k) = c_k - sum_d (z_d^2 / 2 - z_d loc_kd) / scale_kd^2, where z has no part in c_k. That
    is a product of (z^2, z) with 2 D numbers of each component, and takes a tenth of the time of D differences for each
    z and component. The product is in float64: its terms are large and cancel, and float32 would lose up to 0.002 nats.
    """

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density, (...), nats, of x (..., D), in the precision of the components."""
        components = self.component_distribution
        assert isinstance(components, Independent)
        loc, scale = components.base_dist.loc.double(), components.base_dist.scale.double()
        assert loc.dim() == 2
        z, precision = x.double(), scale.pow(-2)
        start = self.mixture_distribution.logits.double().log_softmax(-1)
        start = start - (0.5 * (loc.square() * precision + math.log(2 * math.pi)) + scale.log()).sum(-1)
        of_components = torch.cat([-0.5 * precision, loc * precision], -1)
        rows = torch.cat([z.square(), z], -1).reshape(-1, 2 * z.shape[-1])
        terms = torch.addmm(start, rows, of_components.T)
        return _log_sum_exp(terms, components.base_dist.loc.dtype).reshape(x.shape[:-1])


def _log_sum_exp(terms: Tensor, dtype: torch.dtype) -> Tensor:
    """Return log of the sum over the last dimension of exp(terms), in `dtype`; the sum is computed in that, too.

    `torch.logsumexp` takes seven times as long for the terms of a mixture, of which most are thousands of nats below
    the greatest: the exponential of such a number is slow.
    """
    greatest = terms.detach().amax(-1, keepdim=True)
    shares = (terms - greatest).to(dtype).clamp(min=FAINTEST).exp()
    return (greatest.squeeze(-1) + shares.sum(-1).log()).to(dtype)
