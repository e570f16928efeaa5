"""Gradient-free updates (e.g. an EMA codebook), after each optimizer step, from the whole global batch."""

from abc import ABC, abstractmethod

import numpy as np
from torch import Tensor
from torch.distributions import Distribution


class Observer(ABC):
    """A posterior family with buffers that follow the training examples, alike on all ranks.

    The engine calls `observe` after an update. A forward pass, held-out data and a skipped update change no buffer.
    """

    @abstractmethod
    def observed(self, q: Distribution) -> tuple[Tensor, ...]:
        """Return the tensors to learn from, each (B, ...), without gradient, of q(z|x) of some training examples."""

    @abstractmethod
    def observe(self, observed: tuple[Tensor, ...], skip: Tensor, rng: np.random.Generator) -> None:
        """Learn from a step, the same on all ranks; nothing waits for the device.

        Args:
            observed: as from `observed`, of all examples of the global batch.
            skip: whether the step's update was left out, (), bool: then nothing changes.
            rng: of this step.
        """
