"""Linear layers of several models at once, whose gradients lie in memory as their weights do.

By itself vmap multiplies the same matrices, but gives the gradient of a weight transposed, and to turn it round takes
a tenth of a step on a CPU.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae.bfloat16 import Linear


class StackedLinear(Linear):
    """A linear layer inside of vmap, which goes over its weights too."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs (B, out_features) of inputs (B, in_features)."""
        if torch.is_autocast_enabled(input.device.type):  # then the gradient is turned round where it is cast
            return super().forward(input)
        return _Product.apply(input, self.weight, self.bias)  # pyright: ignore[reportReturnType]


def use_stacked_layers(model: nn.Module) -> None:
    """Exchange a model's linear layers for `StackedLinear` ones without weights of their own."""
    for module in model.modules():
        for name, layer in module.named_children():
            if type(layer) is Linear:
                setattr(module, name, StackedLinear(layer.in_features, layer.out_features).to("meta"))


class _Product(torch.autograd.Function):
    """x (B, in), weight (out, in), bias (out,) -> (B, out)."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return F.linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        raise AssertionError("only inside of vmap, over weights")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Tensor) -> tuple[Tensor, int]:
        assert in_dims == (0, 0, 0)
        return _StackedProduct.apply(*args), 0  # pyright: ignore[reportReturnType]


class _StackedProduct(torch.autograd.Function):
    """x (K, B, in), weight (K, out, in), bias (K, out) -> (K, B, out)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x, weight)
        return torch.baddbmm(bias[:, None], x, weight.mT)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (x, weight) = grad_outputs, ctx.saved_tensors
        for_x = gradient.bmm(weight) if ctx.needs_input_grad[0] else None  # the first layer's are images
        return for_x, gradient.mT.bmm(x), gradient.sum(1)
