"""Labels that some images have and a network infers for the others: q(y|x), and means over y."""

import math

import torch
from torch import Tensor

from vae.data.dataset import HIDDEN
from vae.families.distributions import at_least_float32


class LabelPosterior:
    """The labels of B images: those that are given, and q(y|x) of the others. Under p(y) all C are equally likely.

    Args:
        logits: of q(y|x), (B, C).
        given: (B,), int64, `HIDDEN` where there is none; None: there are none at all.

    Attributes:
        every: each label for each image, (C, B), int64: 0 in the first row, 1 in the next, ...
        is_given: whether the label is given, (B,), bool.
        most_probable: the label that is given, or else the most probable one, (B,), int64.
        log_q: log q(y|x), (C, B), float32 or better, also of images with a label.
        weights: the probability of each label, (C, B): 1 where it is the one that is given, else q(y|x).
    """

    def __init__(self, logits: Tensor, given: Tensor | None = None):
        count, self.classes = logits.shape
        best = logits.argmax(-1)
        given = torch.full_like(best, HIDDEN) if given is None else given
        self.every = torch.arange(self.classes, device=logits.device)[:, None].expand(self.classes, count)
        self.is_given = given != HIDDEN
        self.most_probable = torch.where(self.is_given, given, best)
        self.log_q = at_least_float32(logits).log_softmax(-1).T
        chosen = (self.every == self.most_probable).to(self.log_q.dtype)
        self.weights = torch.where(self.is_given, chosen, self.log_q.exp())

    def mean(self, values: Tensor, event_dims: int = 0) -> Tensor:
        """Return the mean over y, (..., B, *event), of values (..., C, B, *event) with so many dimensions behind B."""
        weights = self.weights.view(*self.weights.shape, *[1] * event_dims)
        return (weights * values).sum(-2 - event_dims)

    def log_mean_under_prior(self, log_values: Tensor) -> Tensor:
        """Return log of the mean over y ~ p(y), (..., B), from logarithms (..., C, B)."""
        return log_values.logsumexp(-2) - math.log(self.classes)

    def kl(self) -> Tensor:
        """Return KL(q(y|x) || p(y)) = log C - H(q(y|x)), or of a label that is given log C, (B,), nats."""
        minus_entropy = (self.log_q.exp() * self.log_q).sum(0)
        return torch.where(self.is_given, 0.0, minus_entropy) + math.log(self.classes)

    def cross_entropy(self) -> Tensor:
        """Return -log q(y|x) of the label that is given, (B,), nats; 0 where there is none."""
        log_q = self.log_q.gather(0, self.most_probable[None])[0]
        return torch.where(self.is_given, -log_q, 0.0)
