"""The gradient of the mean loss over a global batch, of which each rank holds a part."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vae.data.batches import Batch, share
from vae.distributed.peers import Ranks, alone
from vae.engine.chunks import ChunkPeers, acquaint
from vae.engine.local_gradients import Measured, poisoned, stack
from vae.families.observing import Observer
from vae.model import VAEOutput
from vae.objectives import Objective, Terms

Seen = tuple[Tensor, ...]  # observations of a rank's examples, from which an observer learns


class Gradients(ABC):
    """Computes the gradient with respect to each parameter."""

    @abstractmethod
    def __call__(self, batch: Batch, now: dict[str, float]) -> tuple[Measured, Seen]:
        """Return the global gradients from this rank's part of a global batch, and what is to be observed (all ranks).

        Args:
            batch: images, noise and, where the model sees them, labels.
            now: the objective's scheduled numbers.
        """


class AllReduced(Gradients):
    """DDP's way: a backward pass for each chunk, an all-reduce beside the last. Its bits depend on the number of ranks.

    Args:
        accelerator: owns precision, DDP and the collectives.
        model: as prepared by `accelerator.prepare`.
        objective: the loss.
        examples: in the training set.
        observer: of the model, if it has one.
        micro_batch: the most examples in a chunk; 0: a rank's part of a batch is one.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        objective: Objective,
        examples: int,
        observer: Observer | None = None,
        *,
        micro_batch: int = 0,
    ):
        self.accelerator, self.model, self.objective, self.examples = accelerator, model, objective, examples
        self.observer, self.micro_batch = observer, micro_batch
        self.parameters = [weight for weight in model.parameters() if weight.requires_grad]

    def __call__(self, batch: Batch, now: dict[str, float]) -> tuple[Measured, Seen]:
        """Return the global gradients, and what is to be observed (all ranks)."""
        chunks = batch.chunks(self.micro_batch)
        *others, (last, last_peers) = zip(chunks, self._peers(batch, chunks, now), strict=True)
        with self.accelerator.no_sync(self.model):
            found = [self._backward(chunk, now, peers) for chunk, peers in others]
        found.append(self._backward(last, now, last_peers))  # a rank has one at least, so that all of them meet here
        gradients = [weight.grad for weight in self.parameters if weight.grad is not None]
        for weight in self.parameters:
            weight.grad = None
        nats = found[0][0]
        for more, _ in found[1:]:
            nats = nats + more
        return (gradients, nats), joined([seen for _, seen in found])

    def _peers(self, batch: Batch, chunks: Sequence[Batch], now: dict[str, float]) -> Sequence[Ranks | ChunkPeers]:
        """Return what each chunk sees of the global batch (all ranks: collectives, where the loss looks across)."""
        accelerator = self.accelerator
        ranks = Ranks(batch.global_count, self.examples, accelerator.process_index, accelerator.num_processes)
        largest = math.ceil(batch.global_count / accelerator.num_processes)  # part of a rank: all of them take one way
        if not (self.objective.across_examples and 0 < self.micro_batch < largest):
            return [ranks] * len(chunks)
        return acquaint(chunks, self._forward, self.objective, now, ranks)

    def _forward(self, batch: Batch) -> VAEOutput:
        return self.model(batch.x, batch.noise, batch.labels)

    def _backward(self, chunk: Batch, now: dict[str, float], peers: Ranks | ChunkPeers) -> tuple[Tensor, Seen]:
        """Add a chunk's gradients to those of the weights; returns its terms, (3 + E,), and what is to be observed."""
        output = self._forward(chunk)
        terms = self.objective.terms(output, chunk.x, now, peers).first(chunk.count)
        loss = terms.loss.sum() if isinstance(peers, Ranks) else peers.pull(terms.loss.sum())
        # DDP averages over ranks, so that the sum over ranks / n is the gradient of the mean over the global batch
        self.accelerator.backward(poisoned(loss * (self.accelerator.num_processes / chunk.global_count)))
        return summed(terms), seen_by(self.observer, output)


class Exact(Gradients):
    """Bitwise the same for every number of ranks that divides `shards`: fixed parts, summed in a fixed order.

    The global batch is cut into `shards` contiguous parts, whoever computes them. Their gradients are the leaves of one
    binary tree; a rank sums the leaves below its own nodes, all ranks gather these sums and add them up alike. The
    number of threads must be the same too: sums over many elements are split among threads. A part is cut into chunks
    of its own, so that these do not depend on the number of ranks either.

    Args:
        accelerator, model, objective, observer, micro_batch: see `AllReduced`; the objective sees each example alone.
        shards: S, a multiple of the number of ranks.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        objective: Objective,
        *,
        shards: int,
        observer: Observer | None = None,
        micro_batch: int = 0,
    ):
        self.accelerator, self.model, self.objective, self.observer = accelerator, model, objective, observer
        assert shards % accelerator.num_processes == 0
        self.shards, self.micro_batch = shards, micro_batch
        self.parameters = list(model.parameters())
        self.flat = torch.cat([torch.zeros_like(weight).flatten() for weight in self.parameters])
        views = self.flat.split([weight.numel() for weight in self.parameters])
        self._nothing = self.flat.new_zeros(3 + len(objective.extra), dtype=torch.float64)
        self._views = [view.view_as(weight) for view, weight in zip(views, self.parameters, strict=True)]

    def __call__(self, batch: Batch, now: dict[str, float]) -> tuple[Measured, Seen]:
        """Return the global gradients, and what is to be observed (all ranks)."""
        leaves, nats, seen = zip(*[self._leaf(batch, part, now) for part in self._parts(batch)], strict=True)
        gathered = self.accelerator.gather(sum_own(torch.stack(leaves)))
        assert isinstance(gathered, Tensor)
        self.flat.copy_(sum_tree(gathered))
        return (self._views, torch.stack(nats).sum(0)), joined(seen)

    def _parts(self, batch: Batch) -> list[slice]:
        """Return where this rank's shards lie in its part of the batch."""
        rank, mine = self.accelerator.process_index, self.shards // self.accelerator.num_processes
        parts = [share(batch.global_count, rank * mine + i, self.shards) for i in range(mine)]
        return [slice(part.start - parts[0].start, part.stop - parts[0].start) for part in parts]

    def _leaf(self, batch: Batch, part: slice, now: dict[str, float]) -> tuple[Tensor, Tensor, Seen]:
        """Return one shard's share of the gradient, (P,), the terms of its examples, (3 + E,), and what they show."""
        shard = batch.part(part)
        if not len(shard.x):
            return torch.zeros_like(self.flat), self._nothing, self._nothing_seen(batch)
        first, *others = shard.chunks(self.micro_batch)
        flat, nats, seen = self._chunk(first, now)
        shown = [seen]
        for chunk in others:
            gradient, more, seen = self._chunk(chunk, now)
            flat += gradient
            nats = nats + more
            shown.append(seen)
        return flat, nats, joined(shown)

    def _chunk(self, chunk: Batch, now: dict[str, float]) -> tuple[Tensor, Tensor, Seen]:
        """Return a chunk's share of the gradient, (P,), the terms of its examples, (3 + E,), and what they show."""
        with self.accelerator.no_sync(self.model):
            output = self.model(chunk.x, chunk.noise, chunk.labels)
            terms = self.objective.terms(output, chunk.x, now, alone(chunk.x))
            gradients = torch.autograd.grad(poisoned(terms.loss.sum() / chunk.global_count), self.parameters)
        return torch.cat([each.flatten() for each in gradients]), summed(terms), seen_by(self.observer, output)

    def _nothing_seen(self, batch: Batch) -> Seen:
        """Return empty tensors shaped like the observation of one example."""
        if self.observer is None:
            return ()
        labels = None if batch.labels is None else batch.labels[:1]
        with torch.no_grad():
            output = self.model(batch.x[:1], batch.noise[:1], labels)
        return tuple(part[:0] for part in seen_by(self.observer, output))


def joined(seen: Sequence[Seen]) -> Seen:
    """Return the observations of several parts of a batch as those of all their examples, in order."""
    return seen[0] if len(seen) == 1 else tuple(torch.cat(parts) for parts in zip(*seen, strict=True))


def seen_by(observer: Observer | None, output: VAEOutput) -> Seen:
    """Return the observations of an output, of the layer that is decoded; none without an observer."""
    return () if observer is None else observer.observed(output.latents[0].q)


def summed(terms: Terms) -> Tensor:
    """Return loss, reconstruction, KL and the E extra terms, (3 + E,), float64, summed over the examples."""
    return stack(terms).detach().sum(1, dtype=torch.float64)


def sum_own(rows: Tensor) -> Tensor:
    """Return a rank's leaves (N, P) summed to the nodes of `sum_tree` that hold none but its own, (N / 2^k, P)."""
    while len(rows) % 2 == 0:
        rows = rows[0::2] + rows[1::2]
    return rows


def sum_tree(rows: Tensor) -> Tensor:
    """Return the sum (P,) of rows (N, P): neighbours in pairs, level by level, an odd last one passed up as it is."""
    while len(rows) > 1:
        paired = len(rows) // 2 * 2
        rows = torch.cat([rows[0:paired:2] + rows[1:paired:2], rows[paired:]])
    return rows[0]
