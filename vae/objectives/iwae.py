"""The importance-weighted bound."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from vae.config import Config
from vae.distributed.peers import Peers
from vae.families.posteriors import POSTERIORS
from vae.model import VAEOutput
from vae.objectives.base import Objective, Scheduled, Terms, only_layer, several_layers


class IWAE(Objective):
    """loss = -log 1/K sum_k w_k, w_k = p(x, z_k) / q(z_k|x), z_k ~ q: the importance-weighted bound.

    Burda et al. 2016 (eq. 8); -ELBO at K = 1, and never looser with more draws. Reconstruction and KL are reported as
    the means over the K draws of -log p(x|z) and of log q(z|x) - log p(z). Their sum is an estimate of -ELBO, and the
    loss lies below it. Nothing follows a schedule.

    The gradient of the encoder gets noisier with K, relative to its size (Rainforth et al. 2018). Tucker et al. 2019
    give another estimate of the same gradient, without that fault: for the parameters of q
    `sum_k v_k^2 (d log w_k / d z_k) (d z_k / d parameters)`, v_k = w_k / sum_j w_j, where log q(z_k|x) is derived by
    z_k alone; for all others, the prior's among them, `sum_k v_k d log w_k` as usual. It is for one stochastic layer,
    and any backward pass through the output that it was given is weighted so: an output is for one call.

    Args:
        samples: K, draws of z for each example.
        gradient: `standard`, or `doubly_reparameterized` (Tucker et al. 2019).

    Extra terms:
        effective_samples: 1 / sum_k v_k^2, between 1 and K (Kong et al. 1994): how many draws the bound rests on.
    """

    extra = ("effective_samples",)

    def __init__(
        self,
        *,
        samples: Annotated[int, Field(ge=1, description="draws of z for each example")] = 5,
        gradient: Annotated[
            Literal["standard", "doubly_reparameterized"], Field(description="which estimate the encoder learns from")
        ] = "standard",
    ):
        self.samples, self.gradient = samples, gradient

    @classmethod
    def conflicts(cls, config: Config) -> Iterator[str]:
        """Yield a line if the gradient needs log q(z|x) with fixed parameters, or one stochastic layer."""
        gradient, posterior = config.objective["gradient"], config.model.posterior["name"]
        if gradient == "doubly_reparameterized":
            if not POSTERIORS[posterior].is_normal:
                normal = ", ".join(name for name, family in POSTERIORS.items() if family.is_normal)
                yield (
                    f"objective.gradient = {gradient!r}: needs log q(z|x) with fixed parameters, which "
                    f"model.posterior.name = {posterior!r} does not give; take standard, or one of {normal}"
                )
            yield from several_layers(f"objective.gradient = {gradient!r}", config)
        yield from super().conflicts(config)

    def terms(self, output: VAEOutput, x: Tensor, now: Scheduled, peers: Peers) -> Terms:
        """Return the terms for images x (B, C, H, W), each (B,), from an output of K draws."""
        doubly = self.gradient == "doubly_reparameterized"
        draws = (self.samples, len(x))
        reconstruction = -output.p_x.log_prob(x).view(draws)
        divergence = reconstruction.new_zeros(())
        for layer in output.latents:
            counted = replace(layer, q=held_fixed(layer.q)) if doubly else layer
            divergence = divergence + counted.log_ratio().view(draws)
        log_weight = -(reconstruction + divergence)
        share = log_weight.detach().softmax(0)
        if doubly:
            _scale_gradient(only_layer(output).z, share)
        return Terms(
            loss=math.log(self.samples) - log_weight.logsumexp(0),
            reconstruction=reconstruction.mean(0),
            kl=divergence.mean(0),
            extra={"effective_samples": 1 / share.square().sum(0)},
        )


def held_fixed(q: Distribution) -> Distribution:
    """Return a normal q as a function of z alone: no gradient reaches its parameters."""
    if isinstance(q, Independent) and isinstance(q.base_dist, Normal):
        base = Normal(q.base_dist.loc.detach(), q.base_dist.scale.detach(), validate_args=False)
        return Independent(base, q.reinterpreted_batch_ndims, validate_args=False)
    assert isinstance(q, MultivariateNormal)
    return MultivariateNormal(q.loc.detach(), scale_tril=q.scale_tril.detach(), validate_args=False)


def _scale_gradient(z: Tensor, factor: Tensor) -> None:
    """Have the gradient of z (..., D) multiplied by factor (K, B) on its way back."""
    factor = factor.view(z.shape[:-1])[..., None]
    if z.requires_grad:
        z.register_hook(lambda gradient: gradient * factor)
