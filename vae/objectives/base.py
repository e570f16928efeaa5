"""The base of all objectives: terms per example, and the facts that an engine needs."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from vae.components import Piece
from vae.config import Config
from vae.distributed.peers import Peers, alone
from vae.families.hierarchy import Latent, total_kl
from vae.families.posteriors import POSTERIORS
from vae.model import VAEOutput
from vae.schedules import Constant, Schedule


@dataclass(frozen=True)
class Terms:
    """The terms of a loss, each (B,), nats, summed over pixels and latent dimensions.

    Attributes:
        loss: to be minimised; not always a sum of the others.
        reconstruction: -log p(x|z).
        kl: KL(q(z|x) || p(z)), neither weighted nor raised.
        extra: further terms, by name: an objective's own, in the order of its `extra`.
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


class Objective(Piece, ABC):
    """A loss to be minimised.

    Attributes:
        schedules: the numbers that depend on progress, by name: settings of the same name.
        beta: weight of the KL at a progress in epochs, logged beside the KL.
        samples: K, draws of z for each example; with more than 1 `output` has batch shape (K, B), else (B,).
        across_examples: whether the loss of an example depends on others: then `peers` are asked, by the eager engine.
        extra: names of the terms that it reports beside loss, reconstruction and KL.
        marginalises_labels: whether its terms are means over labels that are inferred.
        keeps_codes: whether it keeps the encoder near a codebook.
        extra_of: of an extra term that not every example has, the extra term, 0 or 1, that says which have it.
    """

    schedules: Mapping[str, Schedule] = {}
    beta: Schedule = Constant()
    samples: int = 1
    across_examples: bool = False
    marginalises_labels: bool = False
    keeps_codes: bool = False
    extra: tuple[str, ...] = ()
    extra_of: Mapping[str, str] = {}

    @classmethod
    def conflicts(cls, config: Config) -> Iterator[str]:
        """Yield a line if labels are inferred, or codes given, for which the objective has no term."""
        name, posterior = config.objective["name"], config.model.posterior["name"]
        if POSTERIORS[posterior].gives_codes and not cls.keeps_codes:
            yield (
                f"model.posterior.name = {posterior!r}: objective.name = {name!r} does not keep the encoder near the "
                "codes; take VectorQuantization"
            )
        if config.model.infer_labels and not cls.marginalises_labels:
            yield (
                f"model.infer_labels = True: objective.name = {name!r} has no rule for labels that are marginalised; "
                "take SemiSupervised or ELBO"
            )

    @property
    def settled_at(self) -> float:
        """Progress, in epochs, after which none of its numbers changes any more."""
        return max((schedule.ends_at for schedule in self.schedules.values()), default=0.0)

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

    Of K draws of z for each example the terms are the means. Where labels are inferred, y is a latent variable like z:
    terms are means over q(y|x), or of a label that is given, and the KL has KL(q(y|x) || p(y)). It is L(x, y) or U(x)
    of Kingma et al. 2014, Semi-supervised learning with deep generative models (eq. 6 and 7).
    """
    reconstruction = over_draws(output.over_labels(-output.p_x.log_prob(x)))
    divergence = over_draws(total_kl(output.latents, output.labels))
    return Terms(loss=reconstruction + divergence, reconstruction=reconstruction, kl=divergence)


def over_draws(values: Tensor, event_dims: int = 0) -> Tensor:
    """Return the mean over K draws, (B, *event), of (K, B, *event); values (B, *event) are their own mean.

    Args:
        values: numbers of each example, or of each draw.
        event_dims: dimensions behind B.
    """
    return values.mean(0) if values.dim() > 1 + event_dims else values


def several_layers(setting: str, config: Config) -> Iterator[str]:
    """Yield a line if a model has several stochastic layers and an objective's setting takes one."""
    if (hierarchy := config.model.hierarchy["name"]) != "Flat":
        yield f"{setting}: for one stochastic layer, not model.hierarchy.name = {hierarchy!r}; take Flat"


def only_layer(output: VAEOutput) -> Latent:
    """Return the stochastic layer of a model that has one."""
    (layer,) = output.latents
    return layer
