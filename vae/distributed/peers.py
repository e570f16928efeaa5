"""The other examples of a global batch, for losses that look across examples."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vae.data.batches import share


class Peers(ABC):
    """The other examples of a global batch, as seen by some of them: those of a rank, or a chunk of these.

    Attributes:
        count: N, the examples of the global batch on all ranks together.
        examples: in the training set.
    """

    count: int
    examples: int

    @property
    @abstractmethod
    def mine(self) -> slice:
        """Where our examples stand in what `gather` returns."""

    @abstractmethod
    def gather(self, numbers: Tensor) -> Tensor:
        """Return the numbers of all examples (N, ...), differentiably (all ranks).

        Each rank gathers equally often, in one order, and nothing that depends on what was gathered before.

        Args:
            numbers: of our examples, (B, ...); a stand-in, on a rank without an example, is left out.
        """


@dataclass(frozen=True)
class Ranks(Peers):
    """The examples of all ranks, as seen by all those of one.

    Attributes:
        count, examples: see `Peers`.
        rank, world_size: which contiguous share of the N is ours.
    """

    count: int
    examples: int
    rank: int = 0
    world_size: int = 1

    @property
    def mine(self) -> slice:
        """Where this rank's examples stand in what `gather` returns."""
        return share(self.count, self.rank, self.world_size)

    def gather(self, numbers: Tensor) -> Tensor:
        """Return the numbers of all examples (N, ...), differentiably (all ranks: a collective, and one backward)."""
        if self.world_size == 1:
            return numbers
        shares = [share(self.count, rank, self.world_size) for rank in range(self.world_size)]
        counts = [part.stop - part.start for part in shares]
        own = numbers[: counts[self.rank]]
        padded = torch.cat([own, own.new_zeros(max(counts) - len(own), *own.shape[1:])])
        gathered = _AllGather.apply(padded, self.rank, self.world_size)
        return torch.cat([gathered[rank, :count] for rank, count in enumerate(counts)])


class _AllGather(torch.autograd.Function):
    """(R, ...) on each of W ranks -> (W, R, ...) on all; gradients of all ranks are summed on the way back."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, rank: int, world_size: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.rank = rank
        everyone = [torch.empty_like(mine) for _ in range(world_size)]
        torch.distributed.all_gather(everyone, mine.contiguous())
        return torch.stack(everyone)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        gradient = grad_outputs[0].clone()
        torch.distributed.all_reduce(gradient)
        return gradient[ctx.rank], None, None


def alone(batch: Sequence[Any] | Tensor) -> Ranks:
    """Return the peers of a batch that is all there is."""
    return Ranks(len(batch), len(batch))
