"""The evidence lower bound."""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from vae.distributed.peers import Peers
from vae.model import VAEOutput
from vae.objectives.base import Objective, Scheduled, Terms, negative_elbo, over_draws
from vae.schedules import Schedule, ScheduleSpec


class ELBO(Objective):
    """loss = -log p(x|z) + beta KL(q(z|x) || p(z)), z ~ q: the negative evidence lower bound at beta = 1.

    Kingma & Welling 2014 (eq. 7); beta other than 1 as in Higgins et al. 2017 (eq. 4). The KL is reported as it is,
    neither weighted nor raised.

    Args:
        beta: weight of the KL as a schedule, or a number for a constant one; 1 is the bound without a warm-up.
        free_bits: the KL that a latent dimension has free, nats (the "free bits" of Kingma et al. 2016, Improved
            variational inference with inverse autoregressive flow, eq. 15): the loss takes `max(KL, free_bits)` for
            each, KL being the mean over the global batch, so that below there is no gradient towards the prior.
            Dimensions that q makes dependent share `free_bits` times their number.
        samples: K, draws of z for each example; the loss is the mean over them, whose gradient has less noise.
        pixels: whether the loss has the sum over pixels or, as a common slip has it, their mean: the bound with beta
            times the number of pixels (and channels), at which the posterior collapses. What is reported is a sum.
    """

    marginalises_labels = True

    def __init__(
        self,
        *,
        beta: Annotated[
            Any, ScheduleSpec, Field(description="weight of the KL, a schedule or a number")
        ] = "LinearWarmup",
        free_bits: Annotated[float, Field(ge=0, description="KL each latent dimension has free, nats")] = 0.0,
        pixels: Annotated[Literal["sum", "mean"], Field(description="mean: beta times pixels, in disguise")] = "sum",
        samples: Annotated[int, Field(ge=1, description="draws of z for each example")] = 1,
    ):
        self.beta: Schedule = ScheduleSpec.build(beta)
        self.schedules = {"beta": self.beta}
        self.free_bits, self.pixels, self.samples = free_bits, pixels, samples
        self.across_examples = free_bits > 0

    def terms(self, output: VAEOutput, x: Tensor, now: Scheduled, peers: Peers) -> Terms:
        """Return loss, reconstruction and KL, each (B,) (all ranks: with free bits one collective)."""
        terms = negative_elbo(output, x)
        share = 1 / x[0].numel() if self.pixels == "mean" else 1
        divergence = self._raised_kl(output, peers) if self.free_bits else terms.kl
        loss = share * terms.reconstruction + now["beta"] * divergence
        return Terms(loss=loss, reconstruction=terms.reconstruction, kl=terms.kl)

    def _raised_kl(self, output: VAEOutput, peers: Peers) -> Tensor:
        """Return each example's share of the KL, (B,), whose mean is raised to what is free, group by group."""
        kls, free = [], []
        for layer in output.latents:
            groups = over_draws(output.over_labels(layer.kl_by_group(), event_dims=1), event_dims=1)  # (B, G)
            kls.append(groups)
            free.append(groups.new_full(groups.shape[-1:], self.free_bits * layer.z.shape[-1] / groups.shape[-1]))
        each, least = torch.cat(kls, -1), torch.cat(free)
        mean = peers.gather(each.detach()).mean(0)  # the same numbers in the same order on all ranks
        total = torch.where(mean > least, each, least).sum(-1)
        return total if output.labels is None else total + output.labels.kl()
