"""The optimiser update: the gradient's norm, its clipping, AdamW, all on the device."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor

EPSILON = 1e-6  # in the clip factor max_norm / (norm + EPSILON), as in torch.nn.utils.clip_grad_norm_


class Update:
    """Makes updates from the `grad` of the parameters, which it then removes.

    The fused optimizer divides gradients by `grad_scale` as it reads them, and leaves weights and moments alone where
    `found_inf` is 1: clipping needs no pass of its own, skipping no answer from the device. In fp16 both belong to the
    loss scaler, and in float64 a `grad_scale`, which is float32, is not exact enough: there a pass clips.

    Args:
        accelerator: the loss scaler, if there is one.
        optimizer: as prepared by `accelerator.prepare`; fused.
        max_grad_norm: threshold for the global gradient norm; None: no clipping.
    """

    def __init__(self, accelerator: Accelerator, optimizer: AcceleratedOptimizer, max_grad_norm: float | None):
        self.accelerator, self.optimizer = accelerator, optimizer
        self.max_grad_norm = math.inf if max_grad_norm is None else max_grad_norm
        self.parameters: list[Tensor] = [weight for group in optimizer.param_groups for weight in group["params"]]
        self._folds_clip = accelerator.scaler is None and self.parameters[0].dtype == torch.float32
        self.grad_norm = self.parameters[0].new_zeros(())
        self._found_inf, self._grad_scale = (torch.zeros((), device=accelerator.device) for _ in range(2))
        if accelerator.scaler is None:
            optimizer.optimizer.found_inf = self._found_inf  # pyright: ignore[reportAttributeAccessIssue]
        if self._folds_clip:
            optimizer.optimizer.grad_scale = self._grad_scale  # pyright: ignore[reportAttributeAccessIssue]

    def clip(self) -> Tensor:
        """Return the norm of the global gradient, (), and have the update clip it; NaN or inf if it is not finite."""
        if self._folds_clip:
            norm = total_norm([weight.grad for weight in self.parameters if weight.grad is not None])
            self._grad_scale.copy_(((norm + EPSILON) / self.max_grad_norm).clamp(min=1.0))
        else:
            norm = self.accelerator.clip_grad_norm_(self.parameters, self.max_grad_norm)
            assert isinstance(norm, Tensor)
        self.grad_norm.copy_(norm)
        return self.grad_norm

    def __call__(self, skip: Tensor, lr: float | Tensor) -> None:
        """Update the weights, unless `skip`, (), bool, is true."""
        self._found_inf.copy_(skip)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        for weight in self.parameters:
            weight.grad = None

    def make_state(self) -> None:
        """Have the optimizer make its moments now rather than in its first step, ready to be captured."""
        for group in self.optimizer.param_groups:
            group["capturable"] = self.accelerator.device.type == "cuda"
        for weight in self.parameters:
            weight.grad = torch.zeros_like(weight)
        self(torch.ones_like(self._found_inf), 0.0)

    def tensors(self) -> Iterator[Tensor]:
        """Yield everything that an update changes."""
        yield from (*self.parameters, self.grad_norm)
        for moments in self.optimizer.state.values():
            yield from moments.values()

    def state_dict(self) -> dict[str, Any]:
        """Return the moments and step counts, by the position of their weights."""
        return self.optimizer.state_dict()["state"]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`; learning rate and the like stay as this run has them."""
        if not self.optimizer.state:
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": state, "param_groups": groups})
            return
        for place, weight in enumerate(self.parameters):  # a captured step goes on with the tensors it knows
            for name, value in self.optimizer.state[weight].items():
                value.copy_(state[place][name] if place in state else torch.zeros_like(value))


def total_norm(gradients: list[Tensor]) -> Tensor:
    """Return the 2-norm, (), of all gradients together."""
    if gradients[0].is_cuda:
        return torch.nn.utils.get_total_norm(gradients, foreach=True)
    # on the CPU a dot product is three times as fast as a norm, which takes one thread
    return torch.stack([torch.dot(flat, flat) for flat in (part.reshape(-1) for part in gradients)]).sum().sqrt()
