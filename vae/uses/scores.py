"""log p(x) of each image, and how well it tells two sets of images apart."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vae.evaluation.log_likelihood.importance import Estimates
from vae.families.likelihoods import bits_per_dim


@dataclass(frozen=True)
class Scores:
    """Scores of N images by one model.

    Attributes:
        protocol: of the numbers; its `measure` says what log p(x) is the logarithm of.
        estimates: of each image.
        image_shape: (C, H, W).
        has_bits: true where pixels have probabilities, so that there are bits per dimension.
    """

    protocol: Mapping[str, Any]
    estimates: Estimates
    image_shape: tuple[int, int, int]
    has_bits: bool

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what a .npz holds, each (N,) but the protocol, which is JSON.

        `index` in the split, `log_likelihood`, `bias` (by which it is too low for want of draws, or more), `elbo`, all
        nats, `effective_sample_size` (from 1 to K), and where there are any `bits_per_dim`.
        """
        found = self.estimates
        arrays = {"log_likelihood": found.log_likelihood, "bias": found.bias, "elbo": found.elbo}
        arrays |= {"effective_sample_size": found.effective_sample_size}
        if self.has_bits:
            arrays["bits_per_dim"] = -found.log_likelihood * bits_per_dim(1.0, self.image_shape)
        numbers = {name: values.cpu().numpy() for name, values in arrays.items()}
        return {"index": np.arange(len(found.elbo)), **numbers, "protocol": np.array(json.dumps(self.protocol))}

    def extremes(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the places of the least likely images, and of the most likely ones, each (count,) or all there are."""
        order = self.estimates.log_likelihood.argsort(stable=True)
        return order[:count], order.flip(0)[:count]


def area_under_roc(positives: Tensor, negatives: Tensor) -> float:
    """Return the area under the ROC curve of a score: P(a > b) + P(a = b) / 2 for a positive a and a negative b.

    It is 1 where each positive is above all negatives, 0.5 for a score that tells nothing, and less for one that is
    the wrong way round.

    Args:
        positives: scores (N,).
        negatives: scores (M,).
    """
    from sklearn.metrics import roc_auc_score  # a second, that only the comparison of two data sets needs

    is_positive = torch.cat([torch.ones_like(positives), torch.zeros_like(negatives)])
    return float(roc_auc_score(is_positive.cpu(), torch.cat([positives, negatives]).cpu()))
