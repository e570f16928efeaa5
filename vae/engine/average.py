"""The exponential moving average of a model's weights: one more copy on the device, moved at the end of each step.

`torch.optim.swa_utils.AveragedModel` asks the device in each update how many there were, so that each step would wait
and none could be captured; and it knows no update that is left out. It is the witness in the tests.
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from vae.compat import move_towards
from vae.model import VAE


class Average:
    """A model with averaged weights: average <- d average + (1 - d) weight, after each update.

    The decay d is min(decay, (1 + t) / (10 + t)) after t updates before this one. So the average looks back on the last
    tenth of a young run, and its initial weights are soon forgotten. (With the whole decay from the beginning, 0.999
    would leave the initial weights a share of 63 % after an epoch of MNIST.)

    Buffers are the trained model's own: they follow the examples as moving averages already.

    Args:
        model: the unwrapped model, on the device, with the weights at which the average begins.
        decay: the largest d.

    Attributes:
        model: with averaged weights.
    """

    def __init__(self, model: VAE, *, decay: float):
        self.decay = decay
        self.model = copy.deepcopy(model, {id(buffer): buffer for buffer in model.buffers()})
        pairs = zip(model.parameters(), self.model.parameters(), strict=True)
        trained = [pair for pair in pairs if pair[0].requires_grad]
        self._weights: list[Tensor] = [weight for weight, _ in trained]
        self._averages: list[Tensor] = [average for _, average in trained]
        self._before = self._weights[0].new_zeros((), dtype=torch.float64)

    @torch.no_grad()
    def share(self, skip: Tensor, step: int | Tensor) -> Tensor:
        """Return 1 - d, (), or 0 if `skip`, (), bool, is true; nothing waits for the device.

        Args:
            skip: whether the update is left out.
            step: updates made before this one.
        """
        before = self._before.fill_(step)
        decay = ((1 + before) / (10 + before)).clamp(max=self.decay)
        return torch.where(skip, 0.0, 1 - decay).to(self._weights[0].dtype)

    @torch.no_grad()
    def follow(self, share: Tensor) -> None:
        """Move the average towards the weights by a share of the way, ()."""
        if share.is_cuda:
            move_towards(self._averages, self._weights, share)
        else:  # in one pass
            for average, weight in zip(self._averages, self._weights, strict=True):
                average.lerp_(weight, share)

    def tensors(self) -> Iterator[Tensor]:
        """Yield every tensor that a step changes."""
        yield from self._averages
