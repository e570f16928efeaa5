"""Linear layers in bfloat16 on CPUs that have no instructions for it: the same numbers, made by float32 products.

A product of two bfloat16 numbers is exact in float32, and hardware adds such products in float32 too. So rounding the
operands to bfloat16, multiplying in float32 and rounding the result is what bfloat16 hardware does, but for the order
of its sums; torch's own way on such a CPU takes five times as long as float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


def by_float32_products(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return what `linear` gives under bfloat16 autocast, in bfloat16; its gradients are rounded as there."""
    with torch.autocast("cpu", enabled=False):
        return F.linear(_rounded(x), _rounded(weight), None if bias is None else _rounded(bias)).bfloat16()


def _rounded(numbers: Tensor) -> Tensor:
    return numbers.bfloat16().float()


def _wants_bfloat16() -> bool:
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
