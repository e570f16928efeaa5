"""Linear layers with float32 products by oneDNN, where MKL would leave half of the CPU's speed unused.

On x86 torch takes MKL for them. On an AMD CPU MKL leaves AVX-512 unused; oneDNN, which torch holds too, is about twice
as fast there.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor  # pyright: ignore[reportMissingModuleSource]

SMALLEST = 2_000_000  # multiply-adds of a product; smaller ones take as long by either library
CPUINFO = Path("/proc/cpuinfo")


def is_slowed_by_mkl() -> bool:
    """Return true on an AMD CPU with AVX-512 where torch multiplies float32 by MKL and holds oneDNN too."""
    backends = torch.backends
    try:
        is_amd = "AuthenticAMD" in CPUINFO.read_text()
    except OSError:  # another system, or a sandbox
        return False
    return (
        is_amd
        and backends.mkl.is_available()
        and backends.mkldnn.is_available()
        and backends.cpu.get_cpu_capability() == "AVX512"
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


SLOWED_BY_MKL = is_slowed_by_mkl()


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return input W^T + bias, (..., O), for an input (..., I), a weight W (O, I) and a bias (O,)."""
    if _is_for_onednn(input, weight):
        return torch.ops.vae.linear(input, weight, bias)
    return F.linear(input, weight, bias)


def _is_for_onednn(input: Tensor, weight: Tensor) -> bool:
    return (
        SLOWED_BY_MKL
        and not torch.compiler.is_exporting()  # first: a comparison would bind the number of rows
        and input.device.type == "cpu"
        and input.dtype == weight.dtype == torch.float32
        and input.dim() > 1
        and input.shape[-1] == weight.shape[-1]  # else torch's message is the better one
        and input.numel() * weight.shape[0] >= SMALLEST
        and not torch.is_autocast_enabled("cpu")
        and (torch.compiler.is_compiling() or not _is_transformed(input, weight))
    )


def _is_transformed(*tensors: Tensor) -> bool:
    """Return true under `torch.func` or in forward mode: `vae::linear` has no rule for either."""
    in_forward_mode = torch.autograd.forward_ad._current_level >= 0
    return in_forward_mode or any(is_functorch_wrapped_tensor(each) for each in tensors)


class Linear(nn.Linear):
    """`torch.nn.Linear`, with the products of `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs (..., out_features) of inputs (..., in_features)."""
        return linear(input, self.weight, self.bias)


# `vae::linear`: an operation of our own, because torch.compile refuses oneDNN's with weights that change. It has a
# gradient (and that has one), but no forward mode and no rule for vmap.

torch.library.define("vae::linear", "(Tensor input, Tensor weight, Tensor? bias) -> Tensor")


@torch.library.impl("vae::linear", "cpu")
def _linear_by_onednn(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")  # torch's only one by oneDNN


@torch.library.register_fake("vae::linear")
def _empty_result_of_linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return input.new_empty(*input.shape[:-1], weight.shape[0])


def _save_for_gradients_of_linear(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    input, weight, bias = inputs
    ctx.save_for_backward(input, weight)
    ctx.has_bias = bias is not None


def _gradients_of_linear(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    input, weight = ctx.saved_tensors
    needs_input, needs_weight, _ = ctx.needs_input_grad
    rows = gradient.reshape(-1, gradient.shape[-1])
    return (
        linear(gradient, weight.T) if needs_input else None,
        linear(rows.T, input.reshape(-1, input.shape[-1]).T) if needs_weight else None,
        rows.sum(0) if ctx.has_bias else None,
    )


torch.library.register_autograd("vae::linear", _gradients_of_linear, setup_context=_save_for_gradients_of_linear)
