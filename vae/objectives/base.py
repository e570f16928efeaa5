"""What objectives have in common: terms per example, and what the engine has to know of them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from vae.distributed.peers import Peers, alone
from vae.errors import InputError
from vae.families.hierarchy import Latent, total_kl
from vae.model import VAEOutput
from vae.schedules import Constant, Schedule


@dataclass(frozen=True)
class Terms:
    """The terms of a loss, each (B,), nats, summed over pixels and latent dimensions.

    Attributes:
        loss: what is minimised; not always a sum of the others.
        reconstruction: -log p(x|z).
        kl: KL(q(z|x) || p(z)), neither weighted nor raised.
        extra: what else is worth a curve, by name: an objective's own, in the order of its `extra`.
    """

    loss: Tensor
    reconstruction: Tensor
    kl: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def first(self, count: int) -> "Terms":
        """Return the terms of the first `count` examples."""
        extra = {name: term[:count] for name, term in self.extra.items()}
        return Terms(self.loss[:count], self.reconstruction[:count], self.kl[:count], extra)


# the numbers of an objective that follow a schedule: floats, or tensors () where a step is compiled
Scheduled = Mapping[str, float | Tensor]


class Objective(ABC):
    """What is minimised.

    Attributes:
        schedules: the numbers that depend on progress, by name: settings of the same name.
        beta: weight of the KL at a progress in epochs: what is logged beside it.
        samples: K, draws of z for each example; with more than 1 `output` has batch shape (K, B), else (B,).
        across_examples: whether the loss of an example depends on others: then `peers` are asked, by the eager engine.
        extra: names of the terms that it reports beside loss, reconstruction and KL.
        extra_of: of an extra term that not every example has, the extra term, 0 or 1, that says which have it.
    """

    schedules: Mapping[str, Schedule] = {}
    beta: Schedule = Constant()
    samples: int = 1
    across_examples: bool = False
    extra: tuple[str, ...] = ()
    extra_of: Mapping[str, str] = {}

    def at(self, progress: float) -> dict[str, float]:
        """Return the numbers that follow a schedule, at `progress` epochs: the same names at any time."""
        return {name: schedule(progress) for name, schedule in self.schedules.items()}

    @abstractmethod
    def terms(self, output: VAEOutput, x: Tensor, now: Scheduled, peers: Peers) -> Terms:
        """Return the terms for images x (B, C, H, W), those of this rank's examples only.

        The loss of a global batch is their sum over all ranks.

        Args:
            output: of a forward pass of these images.
            x: the images.
            now: the scheduled numbers.
            peers: the others in the global batch.
        """

    def __call__(self, output: VAEOutput, x: Tensor, progress: float) -> Terms:
        """Return the terms for images x (B, C, H, W) at `progress` epochs, which are all there are."""
        return self.terms(output, x, self.at(progress), alone(x))


def negative_elbo(output: VAEOutput, x: Tensor) -> Terms:
    """Return the terms of -ELBO (beta = 1), each (B,): what evaluation reports, whatever was minimised.

    Where labels are inferred, y is a latent variable like z: terms are means over q(y|x), or of a label that is given,
    and the KL has KL(q(y|x) || p(y)). It is L(x, y) or U(x) of Kingma et al. 2014, Semi-supervised learning with deep
    generative models (eq. 6 and 7).
    """
    reconstruction = output.over_labels(-output.p_x.log_prob(x))
    divergence = total_kl(output.latents, output.labels)
    return Terms(loss=reconstruction + divergence, reconstruction=reconstruction, kl=divergence)


def only_layer(output: VAEOutput, objective: str) -> Latent:
    """Return the stochastic layer of a model that has one; raises `InputError` for more."""
    first, *others = output.latents
    if others:
        raise InputError(f"objective.name = {objective!r}: for one stochastic layer, not {len(output.latents)}")
    return first
