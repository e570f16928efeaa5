"""Runs that differ in no shape make their steps together: one forward and one backward pass, over stacked weights.

A member of a pack is an eager engine, whole in itself: it has its own batches, clip factor, update, sums and state. The
pack computes the gradients of all of them at once, and gives each one its own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import stack_module_state

from vae.data.batches import Batch
from vae.engine.loss import AUTOCAST, Measured, poisoned, stack
from vae.engine.stacked import StackedNetwork
from vae.engine.stepwise import Stepwise
from vae.model import VAE
from vae.peers import alone


class Pack:
    """Makes the steps of several runs.

    Their models stay what they are, to be evaluated and saved; only, their weights now are parts of stacked ones. A
    member whose loss is not finite changes nothing for the others.

    Args:
        members: at the same step; their batches have the same sizes, their objectives differ in scheduled numbers only.
        models: theirs, on the device.
        structure: a model like theirs, whose weights are not used, and which is of no use to others afterwards.
    """

    def __init__(self, members: Sequence[Stepwise], models: Sequence[VAE], structure: VAE):
        self.members, self._model = members, structure
        self.weights, buffers = stack_module_state(list(models))  # name -> (K, ...)
        structure.encoder = StackedNetwork(structure.encoder, _below("encoder", self.weights))
        draws = members[0].objective.samples
        structure.decoder = StackedNetwork(structure.decoder, _below("decoder", self.weights), draws)
        # families and objectives see all examples at once: they must have no weights of their own
        assert not buffers
        assert not list(structure.parameters())
        for place, model in enumerate(models):
            for name, weight in model.named_parameters():
                weight.data = self.weights[name].data[place]

    def advance(self, step: int) -> None:
        """Make one update of each member, after `step` of them; nothing waits for the device."""
        batches = [member.batches(step) for member in self.members]
        progress = self.members[0].batches.progress(step)
        gradients, nats = self._measure(batches, [member.objective.at(progress) for member in self.members])
        for place, member in enumerate(self.members):
            # fused kernels take gradients to lie in memory as weights do
            own = [gradient[place].contiguous() for gradient in gradients]
            member.finish((own, nats[place]), batches[place].count, step, progress)

    def _measure(self, batches: Sequence[Batch], scheduled: Sequence[dict[str, float]]) -> Measured:
        """Return the gradient for each weight (K, ...); terms (K, 3 + E), float64, summed."""
        members, count = len(batches), batches[0].count
        x, noise = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("x", "noise"))  # (K B, ...)
        now = {name: _on_device([at[name] for at in scheduled], like=noise) for name in scheduled[0]}
        now = {name: values.repeat_interleave(count) for name, values in now.items()}  # one for each example
        accelerator = self.members[0].accelerator
        dtype = AUTOCAST[accelerator.mixed_precision]
        with torch.autocast(accelerator.device.type, dtype=dtype, enabled=dtype is not None):
            output = self._model(x, noise)
        terms = stack(self.members[0].objective.terms(output, x, now, alone(x))).view(-1, members, count)
        losses = terms[0].sum(1) * (1 / count)  # (K,)
        trained = [weight for weight in self.weights.values() if weight.requires_grad]
        # no weight of a member is in the loss of another: the gradient of the sum is that of each
        gradients = torch.autograd.grad(poisoned(losses).sum(), trained)
        return gradients, terms.detach().sum(2, dtype=torch.float64).T


def unstack(model: VAE) -> None:
    """Give a model that has left its pack weights of its own: safetensors does not write parts of a larger tensor."""
    for weight in model.parameters():
        weight.data = weight.data.clone()


def _below(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a part of a model, by their names within it."""
    return {name.removeprefix(f"{prefix}."): value for name, value in weights.items() if name.startswith(f"{prefix}.")}


def _on_device(numbers: Sequence[float], *, like: Tensor) -> Tensor:
    """Return numbers (K,) where another tensor is, without waiting for what is still running there."""
    here = torch.tensor(numbers, dtype=like.dtype)
    return here.pin_memory().to(like.device, non_blocking=True) if like.is_cuda else here
