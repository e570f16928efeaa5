"""The loss of a batch as one function of tensors of fixed shapes: it can be compiled, and captured."""

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from vae.data.batches import to_unit_interval
from vae.model import VAE
from vae.objectives import Objective, Scheduled, Terms

# else the compiler leaves out roundings to half precision between two operations, and is no longer what eager is
COMPILER = {"emulate_precision_casts": True}
AUTOCAST = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}

# images (N, C, H, W), index (R,), noise (R, D), weight (R,), scheduled numbers -> loss (), nats (3,)
Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Scheduled], tuple[Tensor, Tensor]]


class EngineError(RuntimeError):
    """An engine cannot be had on this machine; raised on all ranks together."""


def weighted_loss(accelerator: Accelerator, model: VAE, objective: Objective) -> Loss:
    """Return the loss function of a model that is not wrapped: it makes no collectives.

    It gives this rank's share of the mean loss over a global batch, (), and the sums of loss, reconstruction and KL
    over the examples that count, (3,), float64.
    """
    kind, dtype = accelerator.device.type, AUTOCAST[accelerator.mixed_precision]

    def loss_of(images: Tensor, index: Tensor, noise: Tensor, weight: Tensor, now: Scheduled) -> tuple[Tensor, Tensor]:
        x = to_unit_interval(images.index_select(0, index), noise.dtype)
        with torch.autocast(kind, dtype=dtype, enabled=dtype is not None):
            output = model(x, noise)
        terms = objective.terms(output, x, now)
        nats = torch.where(weight > 0, stack(terms), 0.0)
        return poisoned((terms.loss * weight).sum()), nats.detach().sum(1, dtype=torch.float64)

    return loss_of


def compiled(loss: Loss, arguments: tuple[Any, ...], parameters: list[Tensor]) -> Loss:
    """Return the loss compiled, forward and backward, having tried it (all ranks); raises `EngineError`."""
    with torch.no_grad():
        loss(*arguments)  # torch.distributions looks up its KL rules once, in a way that cannot be traced
    fast: Any = torch.compile(loss, fullgraph=True, dynamic=False, options=dict(COMPILER))
    problem = ""
    try:
        torch.autograd.grad(fast(*arguments)[0], parameters)
    except Exception as error:  # whatever a compiler may say
        problem = " ".join([f"{type(error).__name__}:", *str(error).split("\n")[:2]])  # the second may name the cause
    if problem := next(filter(None, gather_object([problem])), ""):
        raise EngineError(f"torch.compile failed: {problem}")
    return fast


def stack(terms: Terms) -> Tensor:
    """Return loss, reconstruction and KL as (3, B)."""
    return torch.stack([terms.loss, terms.reconstruction, terms.kl])


def poisoned(loss: Tensor) -> Tensor:
    """Make the gradient of a loss that is not finite NaN, hence the global gradient on all ranks."""
    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)
