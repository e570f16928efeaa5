"""Layers in bfloat16 on CPUs that have no instructions for it: the same numbers, made by float32 products.

A product of two bfloat16 numbers is exact in float32, and hardware adds such products in float32 too. So rounding the
operands to bfloat16, multiplying in float32 and rounding the result is what bfloat16 hardware does, but for the order
of its sums; torch's own way on such a CPU takes five times as long as float32, of convolutions two to seven times.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.torch_version import TorchVersion

# a compiler takes a cast there and back for a detour; from here on torch's leaves it in if it is told to, on CPUs too
COMPILER_KEEPS_CASTS = TorchVersion(torch.__version__) >= TorchVersion("2.15")


def cpu_has_instructions() -> bool:
    """Whether this CPU multiplies bfloat16 numbers (x86: AVX512-BF16 or AMX; Arm: BF16)."""
    return any(has for name, has in torch.cpu.get_capabilities().items() if "bf16" in name)


class Linear(nn.Linear):
    """A linear layer that is not slow under bfloat16 autocast on any CPU."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features)
        self._has_instructions = cpu_has_instructions()

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs (..., out_features) of inputs (..., in_features)."""
        if input.is_cpu and not self._has_instructions and _wants_bfloat16():
            return by_float32_products(input, self.weight, self.bias)
        return super().forward(input)


class Conv2d(nn.Conv2d):
    """A convolution that is not slow under bfloat16 autocast on any CPU; padded with zeros."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int, padding: tuple[int, int]):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding)
        self._operation = partial(F.conv2d, stride=stride, padding=padding)
        self._has_instructions = cpu_has_instructions()

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs (B, out_channels, H', W') of inputs (B, in_channels, H, W)."""
        if input.is_cpu and not self._has_instructions and _wants_bfloat16():
            return by_float32_products(input, self.weight, self.bias, self._operation)
        return super().forward(input)


class ConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution that is not slow under bfloat16 autocast on any CPU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int,
        padding: tuple[int, int],
        output_padding: tuple[int, int],
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, output_padding)
        self._operation = partial(F.conv_transpose2d, stride=stride, padding=padding, output_padding=output_padding)
        self._has_instructions = cpu_has_instructions()

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the outputs (B, out_channels, H', W') of inputs (B, in_channels, H, W)."""
        assert output_size is None, "follows from output_padding"
        if input.is_cpu and not self._has_instructions and _wants_bfloat16():
            return by_float32_products(input, self.weight, self.bias, self._operation)
        return super().forward(input)


def by_float32_products(
    x: Tensor, weight: Tensor, bias: Tensor | None, operation: Callable[..., Tensor] = F.linear
) -> Tensor:
    """Return what `operation` gives under bfloat16 autocast, in bfloat16; its gradients are rounded as there.

    Args:
        x, weight, bias: its arguments.
        operation: linear in x and in the weight.
    """
    with torch.autocast("cpu", enabled=False):
        y = operation(_rounded(x), _rounded(weight), None if bias is None else _rounded(bias))
        return _rounded(y).bfloat16()


def _rounded(numbers: Tensor) -> Tensor:
    """Return numbers rounded to bfloat16, in float32; gradients are rounded on their way back."""
    if torch.compiler.is_compiling() and not COMPILER_KEEPS_CASTS:
        return _RoundedBits.apply(numbers.float())
    return numbers.bfloat16().float()


class _RoundedBits(torch.autograd.Function):
    """Rounding to nearest, ties to even, by arithmetic on the bits of float32."""

    @staticmethod
    def forward(ctx: Any, numbers: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _round_bits(numbers)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (gradient,) = grad_outputs
        return _round_bits(gradient)


def _round_bits(numbers: Tensor) -> Tensor:
    bits = numbers.contiguous().view(torch.int32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
    return torch.where(numbers.isfinite(), rounded, bits).view(torch.float32)


def _wants_bfloat16() -> bool:
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
