"""Measures of samples by a classifier: the distance of their features from real ones, classes, entropies."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vae.evaluation.quality.classifier import Classifier, look
from vae.evaluation.quality.frechet import frechet_distance, moments


@dataclass(frozen=True)
class Seen:
    """Images as a classifier sees them: features (N, F) and probabilities of C classes (N, C), float64."""

    features: Tensor
    probabilities: Tensor

    @property
    def shares(self) -> Tensor:
        """The share of the images whose most probable class is each of C, (C,)."""
        counts = self.probabilities.argmax(1).bincount(minlength=self.probabilities.shape[1])
        return counts.double() / len(self.probabilities)

    @property
    def entropies(self) -> Tensor:
        """The entropy of each prediction, (N,), nats: 0 for a certain one, log C where all classes are as probable."""
        return entropy(self.probabilities)

    def distance(self, other: "Seen") -> float:
        """Return the classifier Frechet distance, squared."""
        return frechet_distance(*moments(self.features), *moments(other.features))


def see(classifier: Classifier, images: Tensor) -> Seen:
    """Return images (N, C, H, W), uint8 or in [0, 1], as a classifier sees them."""
    return Seen(*look(classifier, images))


def entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy of distributions over C classes (..., C), (...), nats."""
    return torch.special.entr(probabilities).sum(-1)
