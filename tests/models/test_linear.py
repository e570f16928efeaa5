"""Linear layers by oneDNN: values and gradients against float64, and which products oneDNN is given."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from vae.compat import TorchDispatchMode
from vae.networks import linear as module
from vae.networks.linear import SMALLEST, Linear, is_slowed_by_mkl, linear

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN")


@pytest.fixture(autouse=True)
def slowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have any machine take oneDNN."""
    monkeypatch.setattr(module, "SLOWED_BY_MKL", True)


@pytest.fixture
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have oneDNN take small products too."""
    monkeypatch.setattr(module, "SMALLEST", 1)


def random(*shape: int, seed: int = 0) -> Tensor:
    """Return numbers from N(0, 1)."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


INPUTS: dict[str, Callable[[], Tensor]] = {
    "rows": lambda: random(7, 5),
    "draws of rows": lambda: random(4, 7, 5),
    "transposed": lambda: random(5, 7).T,
    "every second": lambda: random(14, 10)[::2, ::2],
    "one row, expanded": lambda: random(1, 5).expand(6, 5),
    "one row": lambda: random(1, 5),
}


def results(multiply: Callable[..., Tensor], input: Tensor, weight: Tensor, bias: Tensor | None) -> list[Tensor]:
    """Return the product, and the gradients of a weighted sum of its squares."""
    given = [tensor.detach().requires_grad_() for tensor in (input, weight, bias) if tensor is not None]
    output = multiply(*given)
    weights = torch.linspace(-1, 1, output.numel()).reshape(output.shape).to(output)
    return [output.detach(), *torch.autograd.grad((weights * output.square()).sum(), given)]


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("kind", INPUTS)
def test_values_and_gradients_are_those_of_float64(kind: str, has_bias: bool) -> None:
    arguments: list[Any] = [INPUTS[kind](), random(3, 5, seed=1), random(3, seed=2) if has_bias else None]
    doubles: list[Any] = [None if tensor is None else tensor.double() for tensor in arguments]
    for found, wanted in zip(results(linear, *arguments), results(F.linear, *doubles), strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("any_size")
def test_gradients_have_gradients() -> None:
    """The second derivative of sum (x w)^2 by w is 2 x x^T, by arithmetic."""
    x, weight = random(1, 5), random(1, 5, seed=1).requires_grad_()
    (first,) = torch.autograd.grad(linear(x, weight).square().sum(), weight, create_graph=True)
    second = torch.stack([torch.autograd.grad(each, weight, retain_graph=True)[0][0] for each in first[0]])
    torch.testing.assert_close(second, 2 * x.T @ x)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch.func's own use of it
@pytest.mark.usefixtures("any_size")
def test_forward_mode_and_function_transforms_are_those_of_float64() -> None:
    x, weight, along = random(7, 5), random(3, 5, seed=1), random(7, 5, seed=2)
    wanted = (along.double() @ weight.double().T).float()
    torch.testing.assert_close(torch.func.jvp(lambda x: linear(x, weight), (x,), (along,))[1], wanted)
    with forward_ad.dual_level():
        moved = linear(forward_ad.make_dual(x, along), weight)
        torch.testing.assert_close(forward_ad.unpack_dual(moved).tangent, wanted)
    torch.testing.assert_close(torch.func.vmap(lambda row: linear(row[None], weight)[0])(x), x @ weight.T)
    x.requires_grad_()
    every_number = torch.eye(21).reshape(21, 7, 3)
    (jacobian,) = torch.autograd.grad(linear(x, weight), x, every_number, is_grads_batched=True)
    torch.testing.assert_close(jacobian, torch.einsum("knm,md->knd", every_number, weight))


def test_wrong_shapes_are_said_as_torch_says_it() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        linear(random(100, 784), random(512, 785))


@pytest.mark.usefixtures("any_size")
def test_compiled_products_are_those_of_plain_ones() -> None:
    layers, x = nn.Sequential(Linear(5, 8), nn.Tanh(), Linear(8, 3)), random(16, 5)

    def gradients(of: nn.Module) -> tuple[Tensor, ...]:
        return torch.autograd.grad(of(x).square().mean(), [*layers.parameters()])

    for one, other in zip(
        gradients(layers), gradients(cast(nn.Module, torch.compile(layers, fullgraph=True))), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


# --- which products ---------------------------------------------------------------------------------------------------


class Operations(TorchDispatchMode):
    """Notes the names of the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def count_by_onednn(layer: nn.Module, x: Tensor) -> int:
    """Return how many products of a layer and its gradients are oneDNN's."""
    with Operations() as noted:
        layer(x).sum().backward()
    return noted.names.count("vae.linear.default")


ROWS = 100
IN, OUT = 200, SMALLEST // (200 * ROWS)


def test_products_of_a_size_are_by_onednn() -> None:
    """The result and the gradient of the weights, and where it is asked for that of the input."""
    assert count_by_onednn(Linear(IN, OUT), random(ROWS, IN)) == 2
    assert count_by_onednn(Linear(IN, OUT), random(ROWS, IN).requires_grad_()) == 3
    assert count_by_onednn(Linear(IN, OUT), random(4, ROWS // 4, IN)) == 2
    assert count_by_onednn(Linear(IN, OUT), random(ROWS - 1, IN)) == 0
    assert count_by_onednn(Linear(ROWS * IN, OUT), random(ROWS * IN)) == 0  # no row: a vector


def test_other_products_are_torchs() -> None:
    assert count_by_onednn(Linear(IN, OUT).double(), random(ROWS, IN).double()) == 0
    with torch.autocast("cpu", torch.bfloat16):
        assert count_by_onednn(Linear(IN, OUT), random(ROWS, IN)) == 0
    any_count = ({0: torch.export.Dim("rows", min=1)},)
    program = torch.export.export(Linear(IN, OUT), (random(ROWS, IN),), dynamic_shapes=any_count)
    assert "vae" not in str(program.graph)


def test_other_machines_take_torchs_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOWED_BY_MKL", False)
    assert count_by_onednn(Linear(IN, OUT), random(ROWS, IN)) == 0


@pytest.mark.parametrize(
    ("vendor", "capability", "mkl", "slowed"),
    [
        ("AuthenticAMD", "AVX512", True, True),
        ("GenuineIntel", "AVX512", True, False),
        ("AuthenticAMD", "AVX2", True, False),
        ("AuthenticAMD", "AVX512", False, False),
        (None, "AVX512", True, False),
    ],
)
def test_mkl_is_slow_on_amd_with_avx512(
    vendor: str | None, capability: str, mkl: bool, slowed: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if vendor:
        cpuinfo.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: 26\n")
    monkeypatch.setattr(module, "CPUINFO", cpuinfo)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    assert is_slowed_by_mkl() == slowed
