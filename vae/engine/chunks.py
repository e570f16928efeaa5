"""What the chunks of a global batch see of each other, for losses that look across examples.

A loss of this kind is a function of numbers that all examples show each other (`Peers.gather`). Chunks that are gone
before the next one comes cannot show them, so each chunk is looked at three times: for its numbers; for the gradient of
all losses with respect to all numbers; and, by the caller, for the gradient of the weights, into which the chunk's
numbers carry what the losses of all examples ask of them (Gao et al. 2021, Scaling deep contrastive learning batch size
under memory limited setup, section 3). The first two looks keep no graph of the networks.
"""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from vae.data.batches import Batch
from vae.distributed.peers import Peers, Ranks
from vae.model import VAEOutput
from vae.objectives import Objective, Scheduled

Forward = Callable[[Batch], VAEOutput]


class ChunkPeers(Peers):
    """The examples of all ranks, as seen by a chunk of one rank's; nothing here is a collective.

    Args:
        ranks: who shares the global batch.
        start: where the chunk begins among this rank's examples.
        count: how many these are; 0 of a stand-in.
        shown: of each call of `gather` the numbers of all examples, (N, ...); None: not yet known, and NaN is given.
        wanted: for each of these, the gradient of the losses of all examples, (N, ...).

    Attributes:
        own: what the chunk has shown in each call of `gather`, (count, ...).
    """

    def __init__(
        self,
        ranks: Ranks,
        start: int,
        count: int,
        shown: Sequence[Tensor] | None = None,
        wanted: Sequence[Tensor] = (),
    ):
        self.count, self.examples, self.own = ranks.count, ranks.examples, list[Tensor]()
        self._place = slice(ranks.mine.start + start, ranks.mine.start + start + count)
        self._shown, self._wanted = shown, wanted

    @property
    def mine(self) -> slice:
        """Where the chunk's examples stand in what `gather` returns."""
        return self._place

    def gather(self, numbers: Tensor) -> Tensor:
        """Return the numbers of all examples (N, ...): constants; `pull` gives `numbers` their gradient."""
        self.own.append(numbers[: self._place.stop - self._place.start])
        if self._shown is None:
            return numbers.new_full((self.count, *numbers.shape[1:]), math.nan)
        return self._shown[len(self.own) - 1]

    def pull(self, loss: Tensor) -> Tensor:
        """Return a loss, (), plus a number whose gradient is what all examples' losses ask of the chunk's numbers."""
        for own, wanted in zip(self.own, self._wanted, strict=True):
            loss = loss + (own * wanted[self._place]).sum()
        return loss


def acquaint(
    chunks: Sequence[Batch], forward: Forward, objective: Objective, now: Scheduled, ranks: Ranks
) -> list[ChunkPeers]:
    """Return the peers of each chunk, ready for the last look (all ranks: two collectives for each `gather`).

    Args:
        chunks: of this rank's part of a global batch, in order.
        forward: the model.
        objective: the loss, across examples.
        now: its scheduled numbers.
        ranks: who shares the global batch.
    """
    ends = list(accumulate(chunk.count for chunk in chunks))
    places = [(end - chunk.count, chunk.count) for chunk, end in zip(chunks, ends, strict=True)]

    def look(chunk: Batch, peers: ChunkPeers) -> Tensor:
        with torch.no_grad():
            output = forward(chunk)
        return objective.terms(output, chunk.x, now, peers).first(chunk.count).loss.sum()

    looks = list(zip(chunks, [ChunkPeers(ranks, *place) for place in places], strict=True))
    with torch.no_grad():
        for chunk, peers in looks:
            look(chunk, peers)
        shown = [ranks.gather(torch.cat(parts)) for parts in zip(*[peers.own for _, peers in looks], strict=True)]

    wanted = [torch.zeros_like(each) for each in shown]
    leaves = [each.requires_grad_() for each in shown]
    for chunk, place in zip(chunks, places, strict=True):
        loss = look(chunk, ChunkPeers(ranks, *place, leaves))
        if loss.requires_grad:
            gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
            for total, gradient in zip(wanted, gradients, strict=True):
                total += gradient
    for total in wanted if ranks.world_size > 1 else ():
        torch.distributed.all_reduce(total)
    return [ChunkPeers(ranks, *place, [each.detach() for each in shown], wanted) for place in places]
