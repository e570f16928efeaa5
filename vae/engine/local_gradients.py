"""The gradients of one rank's batch as a function of tensors of fixed shapes: it can be compiled, and captured."""

from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from vae.data.batches import to_unit_interval
from vae.distributed.peers import alone
from vae.model import VAE
from vae.objectives import Objective, Scheduled, Terms

AUTOCAST = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}

Measured = tuple[Sequence[Tensor], Tensor]  # the gradient for each parameter; the sums of `stack`, (3 + E,), float64
# images (N, C, H, W), labels (N,), index (R,), noise (R, ...), weight (R,), scheduled numbers
LocalGradients = Callable[[Tensor, Tensor | None, Tensor, Tensor, Tensor, Scheduled], Measured]


def local_gradients(
    accelerator: Accelerator, model: VAE, objective: Objective, parameters: Sequence[Tensor]
) -> LocalGradients:
    """Return a function that computes the gradients of a model that is not wrapped, without collectives.

    The gradients are those of this rank's share of the mean loss over a global batch; the sums of the terms are over
    the examples that count.
    """
    kind, dtype = accelerator.device.type, AUTOCAST[accelerator.mixed_precision]

    def gradients_of(
        images: Tensor, labels: Tensor | None, index: Tensor, noise: Tensor, weight: Tensor, now: Scheduled
    ) -> Measured:
        x = to_unit_interval(images.index_select(0, index), noise.dtype)
        with torch.autocast(kind, dtype=dtype, enabled=dtype is not None):
            output = model(x, noise, None if labels is None else labels.index_select(0, index))
        terms = objective.terms(output, x, now, alone(x))
        nats = torch.where(weight > 0, stack(terms), 0.0)
        gradients = torch.autograd.grad(poisoned((terms.loss * weight).sum()), list(parameters))
        return gradients, nats.detach().sum(1, dtype=torch.float64)

    return gradients_of


def stack(terms: Terms) -> Tensor:
    """Return loss, reconstruction, KL and the E extra terms as (3 + E, B)."""
    return torch.stack([terms.loss, terms.reconstruction, terms.kl, *terms.extra.values()])


def poisoned(loss: Tensor) -> Tensor:
    """Make the gradient of a loss that is not finite NaN, hence the global gradient on all ranks."""
    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)
