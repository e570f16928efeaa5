"""The optimiser update: the gradient's norm, its clipping, AdamW, all on the device."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from vae.compat import fused_adamw

CLIP_EPSILON = 1e-6  # in the clip factor max_norm / (norm + CLIP_EPSILON), as in torch.nn.utils.clip_grad_norm_

State = Mapping[int, Mapping[str, Tensor]]  # moments and step counts, by the position of their weights
Numbers = tuple[Any, ...]  # from `prepare` for `apply`: tensors (), and a learning rate that may be a float


@dataclass(frozen=True)
class Settings:
    """The settings of AdamW.

    Attributes:
        weight_decay: of each weight, decoupled.
        betas: decay a step of the moving averages of gradients and of their squares.
        eps: added to the root of the latter average.
    """

    weight_decay: Sequence[float]
    betas: tuple[float, float]
    eps: float

    def groups(self) -> dict[float, list[int]]:
        """Return each weight decay with the positions of its weights."""
        groups: dict[float, list[int]] = {}
        for place, decay in enumerate(self.weight_decay):
            groups.setdefault(decay, []).append(place)
        return groups


class Update(ABC):
    """Makes AdamW updates (Loshchilov & Hutter 2019, algorithm 2) from gradients, clipped to a global norm.

    Args:
        parameters: of the model, on the device.
        max_grad_norm: threshold for the global gradient norm; None: no clipping.
        settings: of AdamW.
    """

    def __init__(self, parameters: Sequence[Tensor], max_grad_norm: float | None, settings: Settings):
        self.parameters, self.settings, self.groups = list(parameters), settings, settings.groups()
        self.max_grad_norm = math.inf if max_grad_norm is None else max_grad_norm
        self.grad_norm = parameters[0].new_zeros(())

    @abstractmethod
    def clip(self, gradients: Sequence[Tensor]) -> Tensor:
        """Return the norm of the global gradient, (), and have the update clip it; NaN or inf if it is not finite.

        Args:
            gradients: one tensor for each weight, or all in one flat tensor.
        """

    @abstractmethod
    def prepare(self, skip: Tensor, lr: float | Tensor) -> Numbers:
        """Count the step, unless `skip`, (), bool, is true; returns the numbers that `apply` takes."""

    @abstractmethod
    def apply(self, gradients: Sequence[Tensor], numbers: Numbers) -> None:
        """Update the weights by a gradient for each of them, unless the step is skipped; it is of no use afterwards."""

    def __call__(self, gradients: Sequence[Tensor], skip: Tensor, lr: float | Tensor) -> None:
        """Update the weights by clipped gradients, unless `skip`, (), bool, is true."""
        self.apply(gradients, self.prepare(skip, lr))

    @abstractmethod
    def state_dict(self) -> State:
        """Return the moments and step counts themselves."""

    @abstractmethod
    def load_state_dict(self, state: State) -> None:
        """Continue from a `state_dict`; learning rate and the like stay as this run has them."""

    def tensors(self) -> Iterator[Tensor]:
        """Yield every tensor that an update changes."""
        moments = [tensor for each in self.state_dict().values() for tensor in each.values()]
        yield from {id(tensor): tensor for tensor in (*self.parameters, self.grad_norm, *moments)}.values()


class AdamW(Update):
    """An update that keeps moments and the count of steps itself: one count, which is the same for all weights.

    (The `step` of a `torch.optim.Optimizer` takes 0.3 ms more on a CPU, and cannot be compiled with what is before it.)

    Args:
        parameters, max_grad_norm, settings: see `Update`.
    """

    def __init__(self, parameters: Sequence[Tensor], max_grad_norm: float | None, settings: Settings):
        super().__init__(parameters, max_grad_norm, settings)
        self._mean, self._square = ([torch.zeros_like(weight) for weight in parameters] for _ in range(2))
        self._step = self.grad_norm.new_zeros((), dtype=torch.float32)

    def state_dict(self) -> State:
        """Return the moments and step counts themselves, as a `torch.optim.AdamW` names them."""
        rows = enumerate(zip(self._mean, self._square, strict=True))
        return {place: {"step": self._step, "exp_avg": mean, "exp_avg_sq": square} for place, (mean, square) in rows}

    def load_state_dict(self, state: State) -> None:
        """Continue from a `state_dict`: the same tensors, for a captured step knows no others."""
        for place, moments in self.state_dict().items():
            for name, tensor in moments.items():
                tensor.copy_(state[place][name])

    def _scale(self) -> Tensor:
        """Return the divisor of the gradients, ()."""
        return ((self.grad_norm + CLIP_EPSILON) / self.max_grad_norm).clamp(min=1.0)


class CompilableAdamW(AdamW):
    """Plain tensor operations, which a compiler makes one pass of for each weight; eagerly they are slow."""

    def clip(self, gradients: Sequence[Tensor]) -> Tensor:
        """Return the norm of the global gradient, (), and have the update clip it."""
        squares = [gradient.square().sum() for gradient in gradients]
        return self.grad_norm.copy_(torch.stack(squares).sum().sqrt())

    @torch.no_grad()
    def prepare(self, skip: Tensor, lr: float | Tensor) -> Numbers:
        """Count the step; returns `skip`, then numbers of the whole step, then a weight's factor for each decay."""
        beta1, beta2 = self.settings.betas
        step = self._step.add_(~skip).double()
        corrected = [1 / self._scale(), lr / (1 - beta1**step), 1 / (1 - beta2**step).sqrt()]
        numbers = [*corrected, *[1 - lr * decay for decay in self.groups]]
        # stacked they lie in memory; else a compiler would put their computation into the loops over the weights
        return skip, *torch.stack([n.to(self.grad_norm.dtype) for n in numbers]).unbind()

    @torch.no_grad()
    def apply(self, gradients: Sequence[Tensor], numbers: Numbers) -> None:
        """Update the weights, unless the step is skipped."""
        beta1, beta2 = self.settings.betas
        skip, factor, size, correction, *shares = numbers
        kept = dict(zip(self.groups, shares, strict=True))
        rows = zip(self.parameters, gradients, self._mean, self._square, self.settings.weight_decay, strict=True)
        for weight, gradient, mean, square, decay in rows:
            clipped = gradient * factor
            new_mean = mean + (clipped - mean) * (1 - beta1)
            new_square = square * beta2 + clipped * clipped * (1 - beta2)
            new_weight = weight * kept[decay] - size * new_mean / (new_square.sqrt() * correction + self.settings.eps)
            for old, new in ((weight, new_weight), (mean, new_mean), (square, new_square)):
                old.copy_(torch.where(skip, old, new))


class FusedAdamW(AdamW):
    """One fused kernel clips and updates, or leaves everything alone.

    It divides gradients by a scale as it reads them, and does nothing where `found_inf` is 1: clipping needs no pass of
    its own, skipping no answer from the device. The scale is float32: for float64 weights a pass clips. Weights that
    decay otherwise take a kernel of their own.
    """

    def clip(self, gradients: Sequence[Tensor]) -> Tensor:
        """Return the norm of the global gradient, (), and have the update clip it."""
        self.grad_norm.copy_(total_norm(gradients))
        if self._clips_in_a_pass:
            for gradient in gradients:
                gradient.div_(self._scale())
        return self.grad_norm

    @torch.no_grad()
    def prepare(self, skip: Tensor, lr: float | Tensor) -> Numbers:
        """Count the step; returns `found_inf`, the gradients' divisor (both (), float32) and the learning rate."""
        self._step.add_(~skip)
        scale = torch.ones_like(self._step) if self._clips_in_a_pass else self._scale()
        return skip.to(torch.float32), scale, lr

    @torch.no_grad()
    def apply(self, gradients: Sequence[Tensor], numbers: Numbers) -> None:
        """Update the weights, unless the step is skipped."""
        found_inf, scale, lr = numbers
        beta1, beta2 = self.settings.betas
        lists = (self.parameters, gradients, self._mean, self._square)
        for decay, places in self.groups.items():
            weights, own, means, squares = ([tensors[place] for place in places] for tensors in lists)
            fused_adamw(
                weights, own, means, squares, [], [self._step] * len(places),
                lr=lr, beta1=beta1, beta2=beta2, weight_decay=decay, eps=self.settings.eps,
                amsgrad=False, maximize=False, grad_scale=scale, found_inf=found_inf,
            )  # fmt: skip

    @property
    def _clips_in_a_pass(self) -> bool:
        return self.grad_norm.dtype == torch.float64


class LossScaledAdamW(Update):
    """In fp16 the loss is scaled up; Accelerate's scaler scales gradients down again and skips what overflowed.

    Args:
        accelerator: has the scaler.
        parameters, max_grad_norm, settings: see `Update`.
    """

    def __init__(
        self, accelerator: Accelerator, parameters: Sequence[Tensor], max_grad_norm: float | None, settings: Settings
    ):
        super().__init__(parameters, max_grad_norm, settings)
        self.accelerator = accelerator
        groups = self.groups.items()
        self._places = [place for _, places in groups for place in places]  # torch counts group after group
        own = [{"params": [parameters[i] for i in places], "weight_decay": decay} for decay, places in groups]
        self.optimizer = accelerator.prepare(torch.optim.AdamW(own, betas=settings.betas, eps=settings.eps, fused=True))

    def clip(self, gradients: Sequence[Tensor]) -> Tensor:
        """Return the norm of the global gradient, (), which is clipped by a pass."""
        for weight, gradient in zip(self.parameters, gradients, strict=True):
            weight.grad = gradient
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.max_grad_norm)
        assert isinstance(norm, Tensor)
        self.grad_norm.copy_(norm)
        return self.grad_norm

    def prepare(self, skip: Tensor, lr: float | Tensor) -> Numbers:
        """Return the learning rate; the scaler finds out for itself what is skipped."""
        return (lr,)

    def apply(self, gradients: Sequence[Tensor], numbers: Numbers) -> None:
        """Update the weights, unless the scaler has found an overflow: then the norm is not finite either."""
        for group in self.optimizer.param_groups:
            (group["lr"],) = numbers
        self.optimizer.step()
        for weight in self.parameters:
            weight.grad = None

    def state_dict(self) -> State:
        """Return the moments and step counts themselves."""
        return {self._places[row]: moments for row, moments in self.optimizer.state_dict()["state"].items()}

    def load_state_dict(self, state: State) -> None:
        """Continue from a `state_dict`."""
        groups = self.optimizer.state_dict()["param_groups"]
        rows = {row: state[place] for row, place in enumerate(self._places) if place in state}
        self.optimizer.load_state_dict({"state": rows, "param_groups": groups})


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the 2-norm, (), of all gradients together."""
    if len(gradients) == 1:
        return torch.linalg.vector_norm(gradients[0])
    if gradients[0].is_cuda:
        return torch.nn.utils.get_total_norm(list(gradients), foreach=True)
    # on the CPU a dot product is three times as fast as a norm, which takes one thread
    return torch.stack([torch.dot(flat, flat) for flat in (part.reshape(-1) for part in gradients)]).sum().sqrt()
