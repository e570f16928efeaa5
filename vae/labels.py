"""Labels that some images have and a network infers for the others: q(y|x), and means over y."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from vae.distributions import at_least_float32

HIDDEN = -1  # the label of an image that has none


@dataclass(frozen=True)
class LabelPosterior:
    """What is known of the labels of B images: those given are, of the others q(y|x). Under p(y) all C are as likely.

    Attributes:
        logits: of q(y|x), (B, C).
        given: (B,), int64, `HIDDEN` where there is none; None: there are none at all.
    """

    logits: Tensor
    given: Tensor | None = None

    @cached_property
    def log_q(self) -> Tensor:
        """log q(y|x), (C, B), float32 or better, whatever is given."""
        return at_least_float32(self.logits).log_softmax(-1).T

    @cached_property
    def is_given(self) -> Tensor:
        """Whether the label is given, (B,), bool."""
        return self.logits.new_zeros(len(self.logits), dtype=torch.bool) if self.given is None else self.given >= 0

    @cached_property
    def weights(self) -> Tensor:
        """The probability of each label, (C, B): 1 where it is the one that is given, else q(y|x)."""
        given = self.most_probable[None] == self.every
        return torch.where(self.is_given, given.to(self.log_q.dtype), self.log_q.exp())

    @property
    def every(self) -> Tensor:
        """Each label for each image, (C, B), int64: 0 in the first row, 1 in the next, ..."""
        count, classes = self.logits.shape
        return torch.arange(classes, device=self.logits.device)[:, None].expand(classes, count)

    @cached_property
    def most_probable(self) -> Tensor:
        """The label that is given, or else the most probable one, (B,), int64."""
        best = self.logits.argmax(-1)
        return best if self.given is None else torch.where(self.is_given, self.given, best)

    def mean(self, values: Tensor, event_dims: int = 0) -> Tensor:
        """Return the mean over y, (..., B), or (..., B, *event), of values (..., C, B), or (..., C, B, *event)."""
        weights = self.weights.view(*self.weights.shape, *[1] * event_dims)
        return (weights * values).sum(-2 - event_dims)

    def log_mean_under_p(self, log_values: Tensor) -> Tensor:
        """Return log of the mean under p(y), (..., B), from logarithms (..., C, B)."""
        return log_values.logsumexp(-2) - math.log(self.logits.shape[-1])

    def kl(self) -> Tensor:
        """Return KL(q(y|x) || p(y)) = log C - H(q(y|x)), of a label that is given log C, (B,), nats."""
        minus_entropy = torch.where(self.is_given, 0.0, (self.log_q.exp() * self.log_q).sum(0))
        return minus_entropy + math.log(self.logits.shape[-1])

    def cross_entropy(self) -> Tensor:
        """Return -log q(y|x) of the label that is given, (B,), nats; 0 where there is none."""
        of_best = self.log_q.gather(0, self.most_probable[None])[0]
        return torch.where(self.is_given, -of_best, 0.0)
