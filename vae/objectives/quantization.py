"""The objective of a VQ-VAE."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field
from torch import Tensor

from vae.config import Config
from vae.distributed.peers import Peers
from vae.families.codes import Quantized, perplexity
from vae.families.posteriors import POSTERIORS
from vae.model import VAEOutput
from vae.objectives.base import Objective, Scheduled, Terms, negative_elbo, only_layer


class VectorQuantization(Objective):
    """loss = -log p(x|z) - log p(z) + commitment |z_e - sg(e)|^2 (van den Oord et al. 2017, eq. 3).

    z_e are the encoder's vectors, e those of the codes closest to them, whose learning is the posterior's own business.
    KL(q(z|x) || p(z)) = -log p(z), since q has all its mass on one z: without the commitment the loss is -ELBO. The KL
    has no weight, for it teaches the prior alone: no gradient of it reaches the encoder. Nothing follows a schedule.

    Args:
        commitment: weight of the squared distance, nats a unit.

    Extra terms:
        commitment: |z_e - sg(e)|^2, not weighted, summed over an example's positions.
        perplexity: e^H, no nats, H the entropy of the codes' shares of the vectors in a global batch, that of the step
            before (1 at the first step); the same for all examples.
    """

    keeps_codes = True
    extra = ("commitment", "perplexity")

    def __init__(
        self,
        *,
        commitment: Annotated[
            float,
            Field(ge=0, description="weight of the squared distance between the encoder's vectors and the codes'"),
        ] = 0.25,
    ):
        self.commitment = commitment

    @classmethod
    def conflicts(cls, config: Config) -> Iterator[str]:
        """Yield a line if the posterior gives no codes."""
        if not POSTERIORS[config.model.posterior["name"]].gives_codes:
            yield ("objective.name = 'VectorQuantization': of codes, which only model.posterior=VectorQuantized gives")
        yield from super().conflicts(config)

    def terms(self, output: VAEOutput, x: Tensor, now: Scheduled, peers: Peers) -> Terms:
        """Return the terms for images x (B, C, H, W), each (B,)."""
        bound, q = negative_elbo(output, x), only_layer(output).q
        assert isinstance(q, Quantized)
        distance = (q.before - q.after).square().sum((-2, -1))
        extra = {"commitment": distance, "perplexity": perplexity(q.usage).expand_as(distance)}
        return Terms(bound.loss + self.commitment * distance, bound.reconstruction, bound.kl, extra)
