"""Objectives whose loss of an example depends on the others in its global batch, on whichever rank these are."""

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.distributions import Independent, Normal

from vae.config import Config
from vae.distributed.peers import Peers
from vae.families.distributions import StandardGaussian
from vae.families.hierarchy import Latent
from vae.families.posteriors import POSTERIORS
from vae.model import VAEOutput
from vae.objectives.base import Objective, Scheduled, Terms, negative_elbo, only_layer, several_layers
from vae.schedules import Constant, Schedule, ScheduleSpec

RISE = {"name": "LinearWarmup", "epochs": 10.0, "end": 25.0}


class BetaTCVAE(Objective):
    """loss = -log p(x|z) + alpha MI + beta TC + gamma DW: KL(q(z|x) || p(z)) in three parts, each with its weight.

    Chen et al. 2018 (eq. 2 and 4). On average over the data, n being the index of an example,
    MI = KL(q(z, n) || q(z) p(n)), the mutual information of index and code; TC = KL(q(z) || prod_d q(z_d)), the total
    correlation; DW = sum_d KL(q(z_d) || p(z_d)), the dimension-wise KL. At alpha = beta = gamma = 1 it is -ELBO: the
    loss has the KL in closed form, and the estimated terms only with what their weights differ from 1.

    log q(z) and log q(z_d) at each z are estimated from the M examples of the global batch, out of N for training:

    - `weighted` by log 1/(N M) sum_j q(z|x_j) (eq. 3, minibatch weighted sampling). The factor 1/N moves MI by log N,
      TC by (D - 1) log N and DW by -D log N: so much of what is reported, and of the loss, is constant.
    - `stratified` by log [1/N q(z|x_i) + (N-1)/N mean_{j != i} q(z|x_j)], x_i being the one that z was drawn from;
      before the logarithm it has the right mean (their appendix, minibatch stratified sampling, where one of the
      others, whichever, weighs less than the rest: this is the mean over all choices). For M far below N, TC falls
      below 0 where q(z|x) is narrow, and training looks for that: take a batch that is a good part of the data.

    Both are biased for M < N: the terms of runs with different batch sizes cannot be compared. Each rank holds
    B x M x D numbers, B its share of M.

    q must have independent dimensions, and p be N(0, I).

    Args:
        beta: weight of the total correlation, as a schedule, or a number for a constant one.
        alpha: weight of the mutual information.
        gamma: weight of the dimension-wise KL.
        estimator: of log q(z): `weighted` or `stratified`.

    Extra terms:
        mutual_information, total_correlation, dimension_kl: the estimates, not weighted. Their sum is an estimate of
            the KL; a single example's may be negative.
    """

    across_examples = True
    extra = ("mutual_information", "total_correlation", "dimension_kl")

    def __init__(
        self,
        *,
        beta: Annotated[Any, ScheduleSpec, Field(description="weight of the total correlation")] = 6.0,
        alpha: Annotated[float, Field(ge=0, description="weight of the mutual information of index and code")] = 1.0,
        gamma: Annotated[float, Field(ge=0, description="weight of the dimension-wise KL")] = 1.0,
        estimator: Annotated[Literal["weighted", "stratified"], Field(description="of log q(z)")] = "weighted",
    ):
        self.beta: Schedule = ScheduleSpec.build(beta)
        self.schedules = {"beta": self.beta}
        self.alpha, self.gamma, self.estimator = alpha, gamma, estimator

    @classmethod
    def conflicts(cls, config: Config) -> Iterator[str]:
        """Yield a line if q has dependent dimensions, p is not N(0, I), or there are several stochastic layers."""
        posterior = config.model.posterior["name"]
        if not POSTERIORS[posterior].is_diagonal:
            yield (
                "objective.name = 'BetaTCVAE': estimates q(z_d) by q(z_d|x), which needs independent dimensions, not "
                f"model.posterior.name = {posterior!r}; take DiagonalNormal"
            )
        yield from _not_under_standard_normal("BetaTCVAE", config)
        yield from super().conflicts(config)

    def terms(self, output: VAEOutput, x: Tensor, now: Scheduled, peers: Peers) -> Terms:
        """Return the terms for images x (B, C, H, W), each (B,) (all ranks: two collectives)."""
        bound, layer = negative_elbo(output, x), _under_standard_normal(output)
        log_q, log_q_of_each = self._aggregate(layer, peers)
        information = layer.q.log_prob(layer.z) - log_q
        correlation = log_q - log_q_of_each
        dimensions = log_q_of_each - layer.p.log_prob(layer.z)
        weighted = (self.alpha - 1) * information + (now["beta"] - 1) * correlation + (self.gamma - 1) * dimensions
        extra = dict(zip(self.extra, (information, correlation, dimensions), strict=True))
        return Terms(bound.loss + weighted, bound.reconstruction, bound.kl, extra)

    def _aggregate(self, layer: Latent, peers: Peers) -> tuple[Tensor, Tensor]:
        """Return log q(z) and sum_d log q(z_d), each (B,), at our z (all ranks)."""
        assert isinstance(layer.q, Independent)
        assert isinstance(layer.q.base_dist, Normal)
        mine = torch.cat([layer.q.base_dist.loc, layer.q.base_dist.scale], -1)
        loc, scale = peers.gather(mine).chunk(2, -1)  # (M, D)
        log_q = Normal(loc, scale, validate_args=False).log_prob(layer.z[:, None])  # (B, M, D)
        weight = self._log_weight(layer.z, peers)[..., None]
        joint = (log_q.sum(-1, keepdim=True) + weight).logsumexp(1)
        return joint[:, 0], (log_q + weight).logsumexp(1).sum(-1)

    def _log_weight(self, z: Tensor, peers: Peers) -> Tensor:
        """Return the logarithm of what each of the M examples counts for, (B, M), at our z (B, D)."""
        examples, others = peers.examples, peers.count - 1
        if self.estimator == "weighted":
            return z.new_full((len(z), peers.count), -math.log(examples * peers.count))
        of_others = math.log((examples - 1) / (examples * others)) if others else 0.0
        place = torch.arange(len(z), device=z.device) + peers.mine.start
        is_own = place[:, None] == torch.arange(peers.count, device=z.device)
        return z.new_full(is_own.shape, of_others).masked_fill(is_own, -math.log(examples))


class CapacityVAE(Objective):
    """loss = -log p(x|z) + gamma |KL - C|: the KL is held at a capacity C, which rises during training.

    Burgess et al. 2018. KL is the mean over the global batch, as implementations have it, not that of a single example:
    C is then the rate of the code, of which images that are harder to tell may use more than others.

    Args:
        capacity: C as a schedule, nats, or a number for a constant one.
        gamma: weight of the distance, large enough to hold the KL there. A larger one leaves the reconstruction less of
            a gradient that is clipped.

    Extra terms:
        capacity: C.
        capacity_gap: an example's share of |KL - C|: KL - C, or C - KL where the mean over the global batch is below C.
    """

    across_examples = True
    extra = ("capacity", "capacity_gap")

    def __init__(
        self,
        *,
        capacity: Annotated[Any, ScheduleSpec, Field(description="KL to be held, nats, a schedule or a number")] = RISE,
        gamma: Annotated[float, Field(gt=0, description="weight of the distance of the KL from it")] = 10.0,
    ):
        self.capacity: Schedule = ScheduleSpec.build(capacity)
        self.schedules = {"capacity": self.capacity}
        self.gamma, self.beta = gamma, Constant(value=gamma)

    def terms(self, output: VAEOutput, x: Tensor, now: Scheduled, peers: Peers) -> Terms:
        """Return the terms for images x (B, C, H, W), each (B,) (all ranks: one collective)."""
        bound = negative_elbo(output, x)
        capacity = torch.zeros_like(bound.kl) + now["capacity"]
        excess = bound.kl - capacity
        gap = excess * peers.gather(excess.detach()).mean().sign()
        extra = dict(zip(self.extra, (capacity, gap), strict=True))
        return Terms(bound.reconstruction + self.gamma * gap, bound.reconstruction, bound.kl, extra)


class InfoVAE(Objective):
    """loss = -log p(x|z) + (1 - alpha) KL(q(z|x) || p(z)) + (alpha + lambda - 1) MMD(q(z) || p(z)).

    Zhao et al. 2019; alpha = 1 is their MMD-VAE. Nothing follows a schedule. MMD is the squared maximum mean
    discrepancy (Gretton et al. 2012) E k(z, z') - 2 E k(z, y) + E k(y, y'), where z and z' ~ q(z), y and y' ~ p(z). The
    kernel is Gaussian, k(a, b) = exp(-|a - b|^2 / (2 s^2)). The first mean is over all pairs of different examples in
    the global batch, so that the estimate has no bias, and may be negative. The others are exact under p(z) = N(0, I)
    in D dimensions: E k(z, y) = (s^2 / (s^2 + 1))^(D/2) exp(-|z|^2 / (2 s^2 + 2)), and
    E k(y, y') = (s^2 / (s^2 + 2))^(D/2). Each rank holds B x M x D numbers, B its share of the M examples.

    p must be N(0, I); alpha + lambda_ may not be less than 1.

    Args:
        alpha: worth of the mutual information of x and z: 0 as in the ELBO, 1: the KL does not count.
        lambda_: worth of KL(q(z) || p(z)), for which the MMD stands in.
        width: s, in units of sqrt(D), since |y - y'|^2 is 2 D on average.

    Extra terms:
        mmd: not weighted, no nats; its mean over a global batch is the estimate.
    """

    across_examples = True
    extra = ("mmd",)

    def __init__(
        self,
        *,
        alpha: Annotated[float, Field(le=1, description="what mutual information of x and z is worth")] = 0.0,
        lambda_: Annotated[float, Field(gt=0, description="what the divergence of q(z) from p(z) is worth")] = 100.0,
        width: Annotated[float, Field(gt=0, description="of the kernel, in units of sqrt(latent_dim)")] = 1.0,
    ):
        self.alpha, self.lambda_, self.width = alpha, lambda_, width
        self.beta = Constant(value=1 - alpha)

    @classmethod
    def conflicts(cls, config: Config) -> Iterator[str]:
        """Yield a line if p is not N(0, I), the MMD has no weight, or there are several stochastic layers."""
        alpha, lambda_ = config.objective["alpha"], config.objective["lambda_"]
        yield from _not_under_standard_normal("InfoVAE", config)
        if (weight := alpha + lambda_ - 1) < 0:
            yield (
                f"objective.lambda_ = {lambda_}: with objective.alpha = {alpha} the MMD would weigh {weight:g}; take "
                f"{1 - alpha:g} or more"
            )
        yield from super().conflicts(config)

    def terms(self, output: VAEOutput, x: Tensor, now: Scheduled, peers: Peers) -> Terms:
        """Return the terms for images x (B, C, H, W), each (B,) (all ranks: two collectives)."""
        bound = negative_elbo(output, x)
        mmd = self.mmd(_under_standard_normal(output).z, peers)
        loss = bound.reconstruction + (1 - self.alpha) * bound.kl + (self.alpha + self.lambda_ - 1) * mmd
        return Terms(loss, bound.reconstruction, bound.kl, {"mmd": mmd})

    def mmd(self, z: Tensor, peers: Peers) -> Tensor:
        """Return the share of each of our z (B, D) in the squared MMD from N(0, I), (B,) (all ranks)."""
        dim = z.shape[-1]
        s2 = self.width**2 * dim
        others = (z[:, None] - peers.gather(z)).square().sum(-1).mul(-1 / (2 * s2)).exp()  # (B, M), and with itself: 1
        between = (others.sum(1) - 1) / max(peers.count - 1, 1)
        across = (s2 / (s2 + 1)) ** (dim / 2) * torch.exp(z.square().sum(-1) / (-2 * s2 - 2))
        return between - 2 * across + (s2 / (s2 + 2)) ** (dim / 2)


def _not_under_standard_normal(objective: str, config: Config) -> Iterator[str]:
    """Yield a line if an objective that takes one stochastic layer under N(0, I) has another prior or more layers."""
    if (prior := config.model.prior["name"]) != "StandardNormal":
        yield (
            f"objective.name = {objective!r}: compares q(z) with N(0, I) in closed form, not with model.prior.name = "
            f"{prior!r}; take StandardNormal"
        )
    yield from several_layers(f"objective.name = {objective!r}", config)


def _under_standard_normal(output: VAEOutput) -> Latent:
    """Return the one layer of a model whose prior is N(0, I)."""
    layer = only_layer(output)
    assert isinstance(layer.p, StandardGaussian)
    return layer
