"""The gradient of the mean loss over a global batch, of which each rank holds a part."""

from abc import ABC, abstractmethod

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vae.data.batches import Batch, share
from vae.distributed.peers import Peers, alone
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
    """DDP's way: one backward pass a rank, an all-reduce beside it. The last bits depend on the number of ranks.

    Args:
        accelerator: owns precision, DDP and the collectives.
        model: as prepared by `accelerator.prepare`.
        objective: the loss.
        examples: in the training set.
        observer: of the model, if it has one.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        objective: Objective,
        examples: int,
        observer: Observer | None = None,
    ):
        self.accelerator, self.model, self.objective, self.examples = accelerator, model, objective, examples
        self.observer = observer
        self.parameters = [weight for weight in model.parameters() if weight.requires_grad]

    def __call__(self, batch: Batch, now: dict[str, float]) -> tuple[Measured, Seen]:
        """Return the global gradients, and what is to be observed (all ranks)."""
        accelerator = self.accelerator
        peers = Peers(batch.global_count, self.examples, accelerator.process_index, accelerator.num_processes)
        output = self.model(batch.x, batch.noise, batch.labels)
        terms = self.objective.terms(output, batch.x, now, peers).first(batch.count)
        # DDP averages over ranks, so that the sum over ranks / n is the gradient of the mean over the global batch
        loss = terms.loss.sum() * (accelerator.num_processes / batch.global_count)
        accelerator.backward(poisoned(loss))
        gradients = [weight.grad for weight in self.parameters if weight.grad is not None]
        for weight in self.parameters:
            weight.grad = None
        return (gradients, summed(terms)), seen_by(self.observer, output)


class Exact(Gradients):
    """Bitwise the same for every number of ranks that divides `shards`: fixed parts, summed in a fixed order.

    The global batch is cut into `shards` contiguous parts, whoever computes them. Their gradients are the leaves of one
    binary tree; a rank sums the leaves below its own nodes, all ranks gather these sums and add them up alike. The
    number of threads must be the same too: sums over many elements are split among threads.

    Args:
        accelerator, model, objective, observer: see `AllReduced`; the objective sees each example alone.
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
    ):
        self.accelerator, self.model, self.objective, self.observer = accelerator, model, objective, observer
        assert shards % accelerator.num_processes == 0
        self.shards = shards
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
        together = tuple(torch.cat(parts) for parts in zip(*seen, strict=True))
        return (self._views, torch.stack(nats).sum(0)), together

    def _parts(self, batch: Batch) -> list[slice]:
        """Return where this rank's shards lie in its part of the batch."""
        rank, mine = self.accelerator.process_index, self.shards // self.accelerator.num_processes
        parts = [share(batch.global_count, rank * mine + i, self.shards) for i in range(mine)]
        return [slice(part.start - parts[0].start, part.stop - parts[0].start) for part in parts]

    def _leaf(self, batch: Batch, part: slice, now: dict[str, float]) -> tuple[Tensor, Tensor, Seen]:
        """Return one shard's share of the gradient, (P,), the terms of its examples, (3 + E,), and what they show."""
        x, noise, labels = batch.x[part], batch.noise[part], None if batch.labels is None else batch.labels[part]
        if not len(x):
            return torch.zeros_like(self.flat), self._nothing, self._nothing_seen(batch)
        with self.accelerator.no_sync(self.model):
            output = self.model(x, noise, labels)
            terms = self.objective.terms(output, x, now, alone(x))
            gradients = torch.autograd.grad(poisoned(terms.loss.sum() / batch.global_count), self.parameters)
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        return flat, summed(terms), seen_by(self.observer, output)

    def _nothing_seen(self, batch: Batch) -> Seen:
        """Return empty tensors shaped like the observation of one example."""
        if self.observer is None:
            return ()
        labels = None if batch.labels is None else batch.labels[:1]
        with torch.no_grad():
            output = self.model(batch.x[:1], batch.noise[:1], labels)
        return tuple(part[:0] for part in seen_by(self.observer, output))


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
