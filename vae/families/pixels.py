"""Distributions over pixels in [0, 1] that `torch.distributions` lacks, or computes with cancellation.

None of them validates its arguments. In (..., C, H, W) the leading dimensions are a batch.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Size, Tensor
from torch.distributions import Distribution, Independent
from torch.distributions.constraints import Constraint
from torch.types import _size

from vae.data.statistics import LEVELS

WIDTH = 1 / (LEVELS - 1)  # between neighbouring values
PIXELS = 3  # event dimensions of images: (C, H, W)

# B_2n / (2n (2n)!) for n = 1 ... 6, Bernoulli numbers B: log(sinh(a / 2) / (a / 2)) = sum of these times a^2n
_LOG_SINHC = (1 / 24, -1 / 2880, 1 / 181440, -1 / 9676800, 1 / 479001600, -691 / 15692092416000)
_SMALL = 0.5  # logits up to which these terms are exact in float64, the first left out being 1e-17
_ONE = Size()  # the sample shape of one draw


def level_of(x: Tensor) -> Tensor:
    """Return the nearest level, int64 in 0 .. 255, of each pixel in [0, 1]."""
    return (x * (LEVELS - 1)).round().long().clamp(0, LEVELS - 1)


class Pixels(Distribution):
    """Base of the distributions below: parameters of one shape, samples without gradients.

    Args:
        batch_shape, event_shape: of the distribution.
    """

    def __init__(self, batch_shape: Size, event_shape: Size = _ONE):
        super().__init__(batch_shape, event_shape, validate_args=False)

    @property
    def arg_constraints(self) -> dict[str, Constraint]:
        """No constraints: parameters are not validated."""
        return {}

    def _uniform(self, like: Tensor, sample_shape: _size) -> Tensor:
        return torch.rand(self._extended_shape(sample_shape), dtype=like.dtype, device=like.device)


class EachPixel(Independent):
    """The distribution of images (C, H, W) whose pixels are independent.

    Without a gradient, on a CPU, it evaluates an image as a whole where its pixels can: they make fewer passes over
    memory than one for each operation on each pixel. The last digits of float32 differ.

    Args:
        pixels: a distribution of batch shape (..., C, H, W).
    """

    def __init__(self, pixels: Distribution):
        super().__init__(pixels, PIXELS, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p of images (..., C, H, W), nats, summed over pixels."""
        if torch.is_grad_enabled() or value.is_cuda or not isinstance(self.base_dist, Bernoulli | Normal):
            return super().log_prob(value)
        return self.base_dist.log_prob_of_images(value)


class Bernoulli(torch.distributions.Bernoulli):
    """p(x) = sigmoid(logit)^x sigmoid(-logit)^(1 - x), for pixels in [0, 1].

    Args:
        logits: of any shape.
    """

    def __init__(self, logits: Tensor):
        super().__init__(logits=logits, validate_args=False)  # which would refuse grey pixels

    def log_prob(self, value: Tensor) -> Tensor:
        """Return x logit - log(1 + exp(logit)), nats."""
        return value * self.logits - softplus(self.logits)

    def log_prob_of_images(self, value: Tensor) -> Tensor:
        """Return the sum of `log_prob` over the pixels of images (..., C, H, W), without a gradient.

        With a for the logits it is sum (x - 1/2) a - sum |a| / 2 + log prod sigmoid(|a|). A factor of the product is at
        least 1/2, so that 16 of them may be multiplied before their logarithm is taken.
        """
        logits, shifted = self.logits.flatten(-PIXELS), (value - 0.5).flatten(-PIXELS)
        size = logits.abs()
        linear = torch.einsum("...d,...d->...", logits, shifted.to(logits)) - size.sum(-1) / 2
        factors = size.sigmoid_()
        for _ in range(4):
            if factors.shape[-1] % 2 == 0:
                one, other = factors.chunk(2, -1)
                factors = one * other
        return linear + factors.log_().sum(-1)


class Normal(torch.distributions.Normal):
    """N(loc, scale^2) for each pixel.

    Args:
        loc: (..., C, H, W).
        scale: of the same shape, or (): one for all.
    """

    def __init__(self, loc: Tensor, scale: Tensor):
        super().__init__(loc, scale, validate_args=False)
        self._given = scale

    def log_prob_of_images(self, value: Tensor) -> Tensor:
        """Return the sum of `log_prob` over the pixels of images (..., C, H, W), without a gradient."""
        squares = (value - self.loc).div_(self._given).square_().flatten(-PIXELS).sum(-1)
        log_scale, count = self._given.log(), self.loc.shape[-PIXELS:].numel()
        logs = log_scale.flatten(-PIXELS).sum(-1) if log_scale.dim() else count * log_scale
        return -squares / 2 - logs - count * math.log(2 * math.pi) / 2


class ContinuousBernoulli(Pixels):
    """p(x) proportional to l^x (1 - l)^(1 - x) on [0, 1], l = sigmoid(logit) (Loaiza-Ganem & Cunningham 2019).

    With the logit a as natural parameter log p(x) = a x - A(a), A(a) = log((exp(a) - 1) / a). Near a = 0 (l = 1/2),
    where A and its derivative, the mean, are differences of large numbers, both are their power series. torch's own
    class goes by l, clipped away from 0 and 1: in float32 it loses digits next to 1/2, and is wrong beyond |a| = 16.

    Args:
        logits: a, of any shape.
    """

    def __init__(self, logits: Tensor):
        self.logits = logits
        super().__init__(logits.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of pixels in [0, 1], nats."""
        # the branch that is not taken is evaluated where it has a finite gradient
        small = self.logits.abs() < _SMALL
        near, far = torch.where(small, self.logits, 0.0), torch.where(small, 1.0, self.logits.abs())
        series = near / 2 + near.square() * _polynomial(near.square(), _LOG_SINHC)
        exact = F.relu(self.logits) + torch.log(-torch.expm1(-far)) - far.log()
        return value * self.logits - torch.where(small, series, exact)

    @property
    def mean(self) -> Tensor:
        """A'(a) = 1 / (1 - exp(-a)) - 1 / a."""
        small = self.logits.abs() < _SMALL
        near, far = torch.where(small, self.logits, 0.0), torch.where(small, 1.0, self.logits.abs())
        derivative = [2 * n * factor for n, factor in enumerate(_LOG_SINHC, start=1)]
        series = 0.5 + near * _polynomial(near.square(), derivative)
        exact = -1 / torch.expm1(-far) - 1 / far  # of |a|; that of -|a| is the mirror image
        return torch.where(small, series, torch.where(self.logits > 0, exact, 1 - exact))

    @classmethod
    def with_mean(cls, mean: Tensor) -> "ContinuousBernoulli":
        """Return the distribution of means within 0.001 and 0.999, float64, by bisection of its logit."""
        low, high = torch.full_like(mean, -1000.0), torch.full_like(mean, 1000.0)  # where the mean is 0.001, 0.999
        for _ in range(60):  # 2000 / 2^60 is the last digit of a logit of 10
            middle = (low + high) / 2
            is_below = cls(middle).mean < mean
            low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
        return cls((low + high) / 2)

    @torch.no_grad()
    def sample(self, sample_shape: _size = _ONE) -> Tensor:
        """Return x where the distribution function is uniform."""
        size = self.logits.abs().clamp(min=1e-6)  # below, x is uniform to float32's last digit
        x = -torch.log1p(self._uniform(self.logits, sample_shape) * torch.expm1(-size)) / size  # of logit -size
        return torch.where(self.logits > 0, 1 - x, x).clamp(0, 1)


class Levels(Pixels):
    """A probability for each of the 256 values of a pixel.

    Args:
        logits: (..., C, 256, H, W), not normalised.
    """

    def __init__(self, logits: Tensor):
        self.logits = logits
        super().__init__(logits.shape[:-3] + logits.shape[-2:])

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of the levels of pixels in [0, 1], nats."""
        logits = self.logits - self.logits.detach().amax(-3, keepdim=True)  # or large ones lose digits in a difference
        batch = torch.broadcast_shapes(value.shape, self.batch_shape)
        index = level_of(value).expand(batch).unsqueeze(-3)
        chosen = logits.expand(*batch[:-2], *logits.shape[-3:]).gather(-3, index).squeeze(-3)
        return chosen - logits.exp().sum(-3).log()

    @property
    def mean(self) -> Tensor:
        """The expected pixel."""
        values = torch.linspace(0, 1, LEVELS, dtype=self.logits.dtype, device=self.logits.device)
        return (self.logits.softmax(-3) * values[:, None, None]).sum(-3)

    @torch.no_grad()
    def sample(self, sample_shape: _size = _ONE) -> Tensor:
        """Return pixels in [0, 1]."""
        categorical = torch.distributions.Categorical(logits=self.logits.movedim(-3, -1), validate_args=False)
        return categorical.sample(sample_shape).to(self.logits.dtype) * WIDTH


class DiscretizedLogistic(Pixels):
    """P(level) = the mass of a logistic distribution nearer to level / 255 than to any other (Kingma et al. 2016).

    What lies below 0 belongs to level 0, what lies above 1 to level 255. No difference of probabilities is formed: with
    bin edges a < b in units of the scale, sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)).

    Args:
        loc: of the logistic distribution, in units of the pixel range [0, 1].
        log_scale: the logarithm of its scale, of the shape of `loc`.
    """

    def __init__(self, loc: Tensor, log_scale: Tensor):
        self.loc, self.log_scale = loc, log_scale
        super().__init__(loc.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of the levels of pixels in [0, 1], nats."""
        level = level_of(value)
        # a level's upper edge is, to the bit, the lower one of the next
        lower, upper = ((level + shift).to(self.loc.dtype) * WIDTH for shift in (-0.5, 0.5))
        below_upper = -softplus((self.loc - upper) * torch.exp(-self.log_scale))
        above_lower = -softplus((lower - self.loc) * torch.exp(-self.log_scale))
        is_first, is_last = level == 0, level == LEVELS - 1
        within = torch.where(is_last, 0.0, below_upper) + torch.where(is_first, 0.0, above_lower)
        return within + torch.where(is_first | is_last, 0.0, self._log_width())

    def _log_width(self) -> Tensor:
        """Return log(1 - exp(-w)), w = 1 / (255 scale), the width of a bin in units of the scale."""
        log_w = math.log(WIDTH) - self.log_scale
        tiny = log_w < -17  # below, the first terms log(w) - w / 2 are exact in float64
        width = torch.where(tiny, 1.0, log_w).exp()
        return torch.where(tiny, log_w - log_w.exp() / 2, torch.log(-torch.expm1(-width)))

    @property
    def mean(self) -> Tensor:
        """The expected pixel before it is rounded to a level, which moves it by 1/510 at most.

        The logistic distribution, moved into [0, 1] where it is outside, has the mean s log((1 + exp(loc / s)) /
        (1 + exp((loc - 1) / s))), s being the scale.
        """
        scale = self.log_scale.exp().clamp(max=1e30)
        wide = scale > 0.1
        s = torch.where(wide, scale, 1.0)
        of_wide = s * torch.log1p(torch.sigmoid((self.loc - 1) / s) * torch.expm1(1 / s))
        s, loc = torch.where(wide, 0.1, scale), self.loc.clamp(-4, 5)  # 40 scales beyond [0, 1] nothing is inside
        return torch.where(wide, of_wide, s * (F.softplus(loc / s) - F.softplus((loc - 1) / s)))

    @torch.no_grad()
    def sample(self, sample_shape: _size = _ONE) -> Tensor:
        """Return pixels in [0, 1]: draws of the logistic distribution, to the nearest level."""
        uniform = self._uniform(self.loc, sample_shape)
        x = self.loc + self.log_scale.exp() * torch.logit(uniform, eps=torch.finfo(uniform.dtype).tiny)
        return level_of(x).to(x.dtype) * WIDTH


class OptimalNormal(Pixels):
    """N(loc, s^2 I) over images (C, H, W), with that s which makes the image at hand most likely.

    s^2 is the mean squared error over the pixels of an image, but at least `min_std`^2.

    Args:
        loc: (..., C, H, W).
        min_std: lower bound of s.
    """

    def __init__(self, loc: Tensor, min_std: float):
        self.loc, self.min_std = loc, min_std
        super().__init__(loc.shape[:-3], loc.shape[-3:])

    def log_prob(self, value: Tensor) -> Tensor:
        """Return max over s of log N(x; loc, s^2 I), nats: no likelihood, as it does not integrate to 1 over x."""
        error = (value - self.loc).square().mean((-3, -2, -1))
        variance = error.clamp(min=self.min_std**2)
        return -0.5 * self.event_shape.numel() * (torch.log(2 * math.pi * variance) + error / variance)

    @property
    def mean(self) -> Tensor:
        """The picture to show."""
        return self.loc

    def sample(self, sample_shape: _size = _ONE) -> Tensor:
        """Return the mean: s is known beside an image only, so there is no noise to add."""
        return self.loc.detach().expand(self._extended_shape(sample_shape))


def softplus(x: Tensor) -> Tensor:
    """Return log(1 + exp(x)), at any x.

    Compiled for a CPU it takes three quarters of the time of torch's, and is right to the last digit of 1. A sum over
    pixels keeps no more.
    """
    softened = _Softplus.apply(x)
    assert isinstance(softened, Tensor)
    return softened


class _Softplus(torch.autograd.Function):
    """See `softplus`; the slope is sigmoid(x), also at 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x)
        if torch.compiler.is_compiling() and not x.is_cuda:
            return x.abs().neg().exp().add(1).log().add(x.clamp(min=0))
        return F.softplus(x, threshold=80)  # exp(80) is finite in float32

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad_outputs[0] * x.sigmoid()


def _polynomial(x: Tensor, coefficients: tuple[float, ...] | list[float]) -> Tensor:
    """Return c0 + c1 x + c2 x^2 + ..."""
    total = torch.zeros_like(x)
    for coefficient in reversed(coefficients):
        total = total * x + coefficient
    return total
