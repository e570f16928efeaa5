"""Normalising flows: invertible maps of D numbers whose log-determinant is known, for priors and posteriors.

They have no buffers, which DDP would broadcast in each step, and no index made on the host, which a CUDA graph could
not hold. Nothing is in half precision, whatever the networks around them run in: `distributions.Flowed` sees to that.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vae.networks.linear import Linear
from vae.networks.masked import Autoregressive, Contracting, TwoHiddenLayers, Units

Layers = Annotated[int, Field(ge=1, description="maps one after another")]
Width = Annotated[int, Field(ge=1, description="hidden units of the network of each map (two hidden layers)")]
Bins = Annotated[int, Field(ge=2, le=100, description="pieces of each spline")]
Bound = Annotated[float, Field(gt=0, description="the splines live on [-bound, bound]; beyond it nothing is moved")]

LEAST = 1e-3  # width and height of a spline's piece, as a share of the interval; slope at a knot


def one_dimension(key: str, latent_dim: int, *, instead: str) -> Iterator[str]:
    """Yield a line if a flow has one latent dimension, which no other one can move.

    Args:
        key: of the flow, with the value.
        latent_dim: D.
        instead: a family without a flow.
    """
    if latent_dim == 1:
        yield (
            f"{key}: moves latent dimensions by what others are, and there is one alone; take {instead}, or 2 "
            "dimensions"
        )


class Bijection(nn.Module, ABC):
    """An invertible map e -> z of D numbers, given a context; its inverse maps z -> e.

    Shapes broadcast: e and z (..., D), the context (..., context), with leading dimensions that are equal or 1.
    """

    @abstractmethod
    def forward(self, e: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return z (..., D) and log |det dz/de| (...)."""

    @abstractmethod
    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return e (..., D) and log |det dz/de| (...) there: of the map, not of its inverse."""


class Affine(Bijection):
    """z = loc + scale * e: the context is loc, then scale > 0, (..., 2D). Without weights."""

    def forward(self, e: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return z and the sum of log scale."""
        loc, scale = _halves(context)
        return loc + scale * e, scale.log().sum(-1).expand(e.shape[:-1])

    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return e and the sum of log scale."""
        loc, scale = _halves(context)
        return (z - loc) / scale, scale.log().sum(-1).expand(z.shape[:-1])


def _halves(context: Tensor | None) -> tuple[Tensor, Tensor]:
    assert context is not None
    loc, scale = context.chunk(2, -1)
    return loc, scale


class SplineCouplings(Bijection):
    """Monotone splines of one half of the dimensions, made by a network of the other half (Durkan et al. 2019).

    Which dimensions make a half changes from layer to layer: every other one or neighbours, and each half in turn. Both
    directions take one pass. Close to the identity at first.

    Args:
        latent_dim: D >= 2.
        context: numbers of the context, 0: there is none.
        layers, width, bins, bound: see their descriptions.
        contracting: whether its networks are made of contracting layers.
    """

    def __init__(
        self,
        latent_dim: int,
        *,
        context: int,
        layers: int,
        width: int,
        bins: int,
        bound: float,
        contracting: bool = False,
    ):
        super().__init__()
        assert latent_dim >= 2
        layer = Contracting if contracting else Linear
        self.seen, self.moved, self.bins, self.bound = latent_dim // 2, latent_dim - latent_dim // 2, bins, bound
        alternating = [*range(0, latent_dim, 2), *range(1, latent_dim, 2)]
        orders = [alternating, alternating[::-1], list(range(latent_dim)), list(range(latent_dim))[::-1]]
        self.orders = [orders[each % len(orders)] for each in range(layers)]  # those that are seen stand first
        outputs = self.moved * (3 * bins - 1)
        self.networks = nn.ModuleList(
            TwoHiddenLayers(
                layer(self.seen, width),
                layer(width, width),
                layer(width, outputs),
                layer(context, width, bias=False) if context else None,
            )
            for _ in range(layers)
        )

    def forward(self, e: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return z and the log-determinant, in one pass."""
        return self._through(e, context, inverse=False)

    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return e and the log-determinant, in one pass."""
        return self._through(z, context, inverse=True)

    def _through(self, z: Tensor, context: Tensor | None, *, inverse: bool) -> tuple[Tensor, Tensor]:
        log_det = z.new_zeros(z.shape[:-1])
        layers = list(zip(self.orders, self.networks, strict=True))
        for order, network in reversed(layers) if inverse else layers:
            columns = z.unbind(-1)
            seen = torch.stack([columns[dim] for dim in order[: self.seen]], -1)
            moved = torch.stack([columns[dim] for dim in order[self.seen :]], -1)
            numbers = network(seen, context).unflatten(-1, (self.moved, 3 * self.bins - 1))
            moved, log_slope = spline(moved, numbers, self.bound, inverse=inverse)
            placed = dict(zip(order, (*seen.unbind(-1), *moved.unbind(-1)), strict=True))
            z, log_det = torch.stack([placed[dim] for dim in range(len(order))], -1), log_det + log_slope.sum(-1)
        return z, log_det


class AutoregressiveSteps(Bijection):
    """z_i = s_i e_i + (1 - s_i) m_i with m_i, 0 < s_i < 1 made of e_1, ..., e_(i-1) (Kingma et al. 2016, algorithm 1).

    One masked network a layer (MADE, Germain et al. 2015) gives z and the log-determinant in one pass; the inverse
    takes D of them, one after another.

    Args:
        latent_dim: D >= 2.
        context: numbers of the context, 0: there is none.
        layers, width: see their descriptions.
    """

    def __init__(self, latent_dim: int, *, context: int, layers: int, width: int):
        super().__init__()
        assert latent_dim >= 2
        dims, both = Units(latent_dim, latent_dim), Units(2 * latent_dim, latent_dim)  # both: m and s
        self.networks = nn.ModuleList(Autoregressive(dims, both, width, context) for _ in range(layers))

    def forward(self, e: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return z and the log-determinant, in one pass."""
        log_det = e.new_zeros(e.shape[:-1])
        for layer in range(len(self.networks)):
            m, s = self._numbers(layer, e, context)
            e = torch.sigmoid(s) * e + torch.sigmoid(-s) * m
            log_det = log_det + F.logsigmoid(s).sum(-1)
        return e, log_det

    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return e and the log-determinant, in D passes a layer."""
        log_det, dims = z.new_zeros(z.shape[:-1]), range(z.shape[-1])
        for layer in reversed(range(len(self.networks))):
            columns = [torch.zeros_like(z[..., 0]) for _ in dims]
            for dim in reversed(dims) if layer % 2 else dims:  # what those that follow are has no effect on its m and s
                m, s = (numbers[..., dim] for numbers in self._numbers(layer, torch.stack(columns, -1), context))
                columns[dim] = (z[..., dim] - torch.sigmoid(-s) * m) / torch.sigmoid(s)
                log_det = log_det + F.logsigmoid(s)
            z = torch.stack(columns, -1)
        return z, log_det

    def _numbers(self, layer: int, e: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return m and s, (..., D) each, of a layer; every other layer takes the dimensions from the last one on."""
        turned = layer % 2 == 1
        m, raw = self.networks[layer](e.flip(-1) if turned else e, context).chunk(2, -1)
        s = raw + 2  # so that z is close to e at first (Kingma et al. 2016, section 4)
        return (m.flip(-1), s.flip(-1)) if turned else (m, s)


def spline(x: Tensor, numbers: Tensor, bound: float, *, inverse: bool) -> tuple[Tensor, Tensor]:
    """Return y = f(x), or x for y, of monotone rational-quadratic splines f, and log df/dx there, (...) each.

    Durkan et al. 2019 (Neural spline flows, section 3.1). Outside of [-bound, bound] f is the identity,
    and where all numbers are 0 it is the identity everywhere.

    Args:
        x: (...); y where `inverse`.
        numbers: (..., 3 bins - 1), any: the widths and heights of the pieces and the slopes between them.
        bound: of the interval.
        inverse: whether x is looked for.
    """
    bins = (numbers.shape[-1] + 1) // 3
    widths, heights, slopes = numbers.split([bins, bins, bins - 1], -1)
    steepness = LEAST + F.softplus(slopes + math.log(math.expm1(1 - LEAST)))
    knots = (_knots(widths, bound), _knots(heights, bound), F.pad(steepness, (1, 1), value=1.0))
    inside, clamped = x.abs() < bound, x.clamp(-bound, bound)
    piece = (knots[inverse][..., 1:-1] <= clamped[..., None]).sum(-1, keepdim=True)
    (x0, x1), (y0, y1), (d0, d1) = [[k.gather(-1, piece + end).squeeze(-1) for end in (0, 1)] for k in knots]
    width, height = x1 - x0, y1 - y0
    s = height / width
    excess = d1 + d0 - 2 * s
    if inverse:
        above = clamped - y0
        a, b, c = height * (s - d0) + above * excess, height * d0 - above * excess, -s * above
        # rounding may leave a negative discriminant; it is far above the limit else
        t = 2 * c / (-b - (b.square() - 4 * a * c).clamp(min=1e-20).sqrt())
        found = x0 + t * width
    else:
        t = (clamped - x0) / width
        found = y0 + height * (s * t.square() + d0 * t * (1 - t)) / (s + excess * t * (1 - t))
    slope = d1 * t.square() + 2 * s * t * (1 - t) + d0 * (1 - t).square()
    log_slope = slope.log() + 2 * (s.log() - (s + excess * t * (1 - t)).log())
    return torch.where(inside, found, x), torch.where(inside, log_slope, 0.0)


def _knots(numbers: Tensor, bound: float) -> Tensor:
    """Return bins + 1 rising places from -bound to bound, whose distances follow from numbers (..., bins)."""
    shares = LEAST + (1 - LEAST * numbers.shape[-1]) * numbers.softmax(-1)
    inner = bound * (2 * shares[..., :-1].cumsum(-1) - 1)
    return F.pad(F.pad(inner, (1, 0), value=-bound), (0, 1), value=bound)
