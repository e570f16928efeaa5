"""The evidence lower bound."""

from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from vae.distributed.peers import Peers
from vae.model import VAEOutput
from vae.objectives.base import Objective, Scheduled, Terms, negative_elbo
from vae.schedules import Schedule, ScheduleSpec


class ELBO(Objective):
    """loss = -log p(x|z) + beta KL(q(z|x) || p(z)), z ~ q: the negative evidence lower bound at beta = 1.

    Kingma & Welling 2014 (eq. 7); beta other than 1 as in Higgins et al. 2017 (eq. 4). The KL is reported as it is,
    neither weighted nor raised.

    Args:
        beta: weight of the KL as a schedule, or a number for a constant one; 1 is the bound without a warm-up.
        free_bits: the KL that a latent dimension has free, nats (the "free bits" of Kingma et al. 2016, Improved
            variational inference with inverse autoregressive flow): the loss takes `max(KL, free_bits)` for each, so
            that below there is no gradient towards the prior. There the KL is first averaged over the minibatch; here
            each example has its own, so that its loss does not depend on others. Dimensions that q makes dependent
            share `free_bits` times their number.
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
    ):
        self.beta: Schedule = ScheduleSpec.build(beta)
        self.schedules = {"beta": self.beta}
        self.free_bits, self.pixels = free_bits, pixels

    def terms(self, output: VAEOutput, x: Tensor, now: Scheduled, peers: Peers) -> Terms:
        """Return loss, reconstruction and KL, each (B,)."""
        terms = negative_elbo(output, x)
        share = 1 / x[0].numel() if self.pixels == "mean" else 1
        loss = share * terms.reconstruction + now["beta"] * (self._raised_kl(output) if self.free_bits else terms.kl)
        return Terms(loss=loss, reconstruction=terms.reconstruction, kl=terms.kl)

    def _raised_kl(self, output: VAEOutput) -> Tensor:
        """Return the KL, (B,), of which no group of dimensions has less than it has free."""
        total = output.latents[0].z.new_zeros(()) if output.labels is None else output.labels.kl()
        for layer in output.latents:
            groups = layer.kl_by_group()
            raised = groups.clamp(min=self.free_bits * layer.z.shape[-1] / groups.shape[-1]).sum(-1)
            total = total + output.over_labels(raised)
        return total
