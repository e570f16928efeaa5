"""The networks of several models as one, whose gradients lie in memory as their weights do.

By itself vmap multiplies the same matrices, but gives the gradient of a weight transposed, and to turn it round takes
a tenth of a step on a CPU.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from vae.bfloat16 import Linear


class StackedNetwork(nn.Module):
    """K networks as one: the first of K equal parts of a batch goes through the first network, and so on.

    Args:
        network: like the K, and of no use to others afterwards.
        weights: theirs, name -> (K, ...).
        draws: how many such batches stand one behind the other in an input, as those of several z for each image do.
    """

    def __init__(self, network: nn.Module, weights: dict[str, Tensor], draws: int = 1):
        super().__init__()
        _use_stacked_layers(network)
        self.weights, self.members, self.draws = weights, len(next(iter(weights.values()))), draws
        # a tuple hides the network from `parameters`: it has none that count
        self._network = (network,)

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs (draws K B, ...) of inputs (draws K B, ...)."""
        parts = input.unflatten(0, (self.draws, self.members, -1)).movedim(0, 1).flatten(1, 2)
        outputs = vmap(self._one)(self.weights, parts)  # (K, draws B, ...)
        return outputs.unflatten(1, (self.draws, -1)).movedim(1, 0).flatten(0, 2)

    def _one(self, weights: dict[str, Tensor], input: Tensor) -> Tensor:
        return functional_call(self._network[0], weights, (input,))


class StackedLinear(Linear):
    """A linear layer inside of vmap, which goes over its weights too."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs (B, out_features) of inputs (B, in_features)."""
        if torch.is_autocast_enabled(input.device.type):  # then the gradient is turned round where it is cast
            return super().forward(input)
        return _Product.apply(input, self.weight, self.bias)  # pyright: ignore[reportReturnType]


def _use_stacked_layers(model: nn.Module) -> None:
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
