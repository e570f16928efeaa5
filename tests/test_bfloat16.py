"""Layers in bfloat16 by float32 products, against torch's own bfloat16 and against exact sums."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from vae import bfloat16
from vae.bfloat16 import Conv2d, ConvTranspose2d, Linear, _round_bits, by_float32_products
from vae.engine.compiler import OPTIONS

ULP = 2.0**-8  # half the distance of neighbouring bfloat16 numbers, relative, is at most this


def layers(inputs: int, outputs: int) -> tuple[Any, Any]:
    return alike(nn.Linear(inputs, outputs), Linear(inputs, outputs))


def alike(plain: Any, ours: Any) -> tuple[Any, Any]:
    """Return two layers with the same weights."""
    torch.manual_seed(0)
    plain.reset_parameters()
    ours.load_state_dict(plain.state_dict())
    return plain, ours


KINDS = {
    "linear": ((784,), lambda: layers(784, 64)),
    "convolution": (
        (16, 9, 8),
        lambda: alike(nn.Conv2d(16, 24, 4, stride=2, padding=(2, 1)), Conv2d(16, 24, 4, stride=2, padding=(2, 1))),
    ),
    "transposed": (
        (24, 5, 4),
        lambda: alike(
            nn.ConvTranspose2d(24, 16, 4, stride=2, padding=(2, 1), output_padding=(1, 0)),
            ConvTranspose2d(24, 16, 4, stride=2, padding=(2, 1), output_padding=(1, 0)),
        ),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_and_gradients_are_those_of_autocast(
    kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To one rounding: the order of sums is nobody's to choose."""
    monkeypatch.setattr(bfloat16, "cpu_has_instructions", lambda: False)
    shape, build = KINDS[kind]
    plain, ours = build()
    x = torch.rand(32, *shape, dtype=dtype)
    found = []
    for layer in (plain, ours):
        copy = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(copy)
        assert y.dtype == torch.bfloat16
        y.float().square().sum().backward()
        found.append([y.detach(), copy.grad, layer.weight.grad, layer.bias.grad])
    for expected, actual in zip(*found, strict=True):
        assert actual.dtype == expected.dtype
        torch.testing.assert_close(actual.float(), expected.float(), rtol=4 * ULP, atol=expected.abs().max() * ULP)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_result_is_the_exact_sum_rounded_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "cpu_has_instructions", lambda: False)
    shape, build = KINDS[kind]
    plain, ours = build()
    x = torch.rand(32, *shape)
    exact = plain.bfloat16().double()(x.bfloat16().double())
    with torch.autocast("cpu", torch.bfloat16):
        y = ours(x)
    # float32 sums may fall on the other side of a tie now and then
    assert (y == exact.bfloat16()).float().mean() > 0.999
    torch.testing.assert_close(y.double(), exact, rtol=ULP, atol=1e-6)


def test_compiled_as_the_engine_does_it_nothing_is_left_out() -> None:
    """The compiler takes a rounding between two float32 operations for a detour; forward and backward, bit for bit."""
    _, layer = layers(784, 64)
    found = []
    for compile in (lambda function: function, lambda function: torch.compile(function, options=dict(OPTIONS))):
        x = torch.rand(32, 784, generator=torch.Generator().manual_seed(1)).requires_grad_()

        def activations(x: torch.Tensor) -> torch.Tensor:
            return nn.functional.silu(by_float32_products(x, layer.weight, layer.bias))

        y = compile(activations)(x)
        y.float().square().sum().backward()
        found.append([y.detach(), x.grad, layer.weight.grad])
        layer.weight.grad = None
    for eager, compiled in zip(*found, strict=True):
        # the derivative of SiLU is another formula in compiled code: now and then its last bit
        assert (eager == compiled).float().mean() > 0.99
        torch.testing.assert_close(compiled.float(), eager.float(), rtol=4 * ULP, atol=eager.abs().max() * ULP)
    assert torch.equal(found[0][0], found[1][0])


def test_rounding_by_bits_is_rounding_by_casts() -> None:
    numbers = torch.randn(100_000) * torch.logspace(-44, 38, 100_000)
    ties = (torch.randn(1000).bfloat16().float().view(torch.int32) + 0x8000).view(torch.float32)
    special = torch.tensor([0.0, -0.0, math.inf, -math.inf, 3.4e38, 1e-45])
    numbers = torch.cat([numbers, ties, special])
    assert torch.equal(_round_bits(numbers), numbers.bfloat16().float())
    assert _round_bits(torch.tensor([math.nan, -math.nan])).isnan().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("has", [True, False])
def test_without_autocast_or_with_instructions_it_is_a_plain_layer(
    kind: str, has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bfloat16, "cpu_has_instructions", lambda: has)
    shape, build = KINDS[kind]
    plain, ours = build()
    x = torch.rand(5, *shape)
    assert torch.equal(ours(x), plain(x))
    with torch.autocast("cpu", torch.bfloat16, enabled=has):
        assert torch.equal(ours(x), plain(x))
