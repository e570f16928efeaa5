"""The bound for images with and without a label, and a classifier that learns from the images with a label."""

from collections.abc import Iterator
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from vae.config import Config
from vae.distributed.peers import Peers
from vae.model import VAEOutput
from vae.objectives.base import Objective, Scheduled, Terms, negative_elbo
from vae.schedules import Schedule, ScheduleSpec


class SemiSupervised(Objective):
    """loss = -ELBO, the labels that are not given marginalised, + alpha times -log q(y|x) of those that are.

    The model M2 of Kingma et al. 2014, Semi-supervised learning with deep generative models (eq. 6 to 9), for a model
    with `infer_labels`. There alpha stands before the mean over labelled images, beside a sum over all N; here before
    each labelled one in a mean over the batch. An epoch has n labelled images R times (data.repeat_labelled). So their
    0.1 N is 0.1 N / (n R) here, and labelled = 1 / R counts the bound of such an image once.

    Args:
        beta: weight of the KL, that of y included, as a schedule, or a number for a constant one.
        alpha: weight of the cross entropy.
        labelled: weight of the bound of an image that has a label.
        unlabelled: weight of the bound of one that has none; with both 0 a classifier learns from the labels alone.

    Extra terms:
        labelled: 1 for an image that has a label, else 0; on average their share.
        cross_entropy: -log q(y|x) of the label; the mean that is logged is over images that have one.
    """

    marginalises_labels = True
    extra = ("labelled", "cross_entropy")
    extra_of = {"cross_entropy": "labelled"}  # noqa: RUF012 (read only)

    def __init__(
        self,
        *,
        beta: Annotated[Any, ScheduleSpec, Field(description="weight of the KL, a schedule or a number")] = 1.0,
        alpha: Annotated[float, Field(ge=0, description="weight of -log q(y|x) of an image that has a label")] = 1.0,
        labelled: Annotated[float, Field(ge=0, description="weight of the bound of an image that has a label")] = 1.0,
        unlabelled: Annotated[float, Field(ge=0, description="weight of the bound of an image that has none")] = 1.0,
    ):
        self.beta: Schedule = ScheduleSpec.build(beta)
        self.schedules = {"beta": self.beta}
        self.alpha, self.labelled, self.unlabelled = alpha, labelled, unlabelled

    @classmethod
    def conflicts(cls, config: Config) -> Iterator[str]:
        """Yield a line if no network gives q(y|x)."""
        if not config.model.infer_labels:
            yield ("objective.name = 'SemiSupervised': needs q(y|x); set model.infer_labels=true model.condition=true")
        yield from super().conflicts(config)

    def terms(self, output: VAEOutput, x: Tensor, now: Scheduled, peers: Peers) -> Terms:
        """Return the terms for images x (B, C, H, W), each (B,)."""
        assert output.labels is not None
        bound, has_label, entropy = negative_elbo(output, x), output.labels.is_given, output.labels.cross_entropy()
        loss = bound.reconstruction + now["beta"] * bound.kl
        loss = torch.where(has_label, self.labelled * loss, self.unlabelled * loss) + self.alpha * entropy
        extra = {"labelled": has_label.to(loss.dtype), "cross_entropy": entropy}
        return Terms(loss, bound.reconstruction, bound.kl, extra)
