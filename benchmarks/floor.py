"""The floor of a training step: the matrix products of its linear layers alone, and what they cost on paper."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from vae.networks.linear import linear

FLOAT32 = 4  # bytes
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

Product = tuple[Tensor, Tensor, Tensor]  # left, right, where the result goes


def products_of_step(model: nn.Module, batch_size: int, dtype: torch.dtype, device: str) -> list[Product]:
    """Return the products of a training step: for each linear layer its result, the gradient of its weights and, but
    for the first layer, whose input is data, the gradient of its input; transposed where autograd has them transposed.
    """

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype, device=device)

    factors: list[tuple[Tensor, Tensor]] = []
    for layer in (module for module in model.modules() if isinstance(module, nn.Linear)):
        x, weight = random(batch_size, layer.in_features), random(layer.out_features, layer.in_features)
        gradient = random(batch_size, layer.out_features)
        is_first = not factors
        factors += [(x, weight.t()), (gradient.t(), x), *([] if is_first else [(gradient, weight)])]
    return [(left, right, random(left.shape[0], right.shape[1])) for left, right in factors]


@dataclass(frozen=True)
class Model:
    """The cost of a step on paper: FLOP of its products, and bytes, each array read or written once.

    Attributes:
        flop: of the matrix products.
        product_bytes: operands and results of the products.
        cast_bytes: weights to bf16 and gradients back, under autocast.
        clip_bytes: gradients are read for their norm, then read and written to scale them.
        optimizer_bytes: AdamW reads weights, gradients and two moments, and writes all but the gradients.
    """

    flop: int
    product_bytes: int
    cast_bytes: int
    clip_bytes: int
    optimizer_bytes: int

    @property
    def bytes(self) -> int:
        """All of them."""
        return sum(asdict(self).values()) - self.flop


def model_of_step(model: nn.Module, batch_size: int, precision: str) -> Model:
    """Return the FLOP and bytes of a training step."""
    dtype = DTYPES[precision]
    products = products_of_step(model, batch_size, dtype, device="meta")
    weights = sum(weight.numel() for weight in model.parameters())
    return Model(
        flop=sum(2 * left.numel() * right.shape[1] for left, right, _ in products),
        product_bytes=dtype.itemsize * sum(tensor.numel() for product in products for tensor in product),
        cast_bytes=2 * weights * (FLOAT32 + dtype.itemsize) if precision == "bf16" else 0,
        clip_bytes=3 * weights * FLOAT32,
        optimizer_bytes=7 * weights * FLOAT32,
    )


class Floor:
    """Runs the products of a training step, and nothing else, on a GPU into memory that is there already.

    Args:
        model: whose linear layers it takes the shapes of.
        batch_size: examples a step.
        device: `cpu`, or `cuda`, where a step is replayed as a graph, so that launches do not count.
        precision: `fp32` or `bf16`.
    """

    def __init__(self, model: nn.Module, batch_size: int, device: str, precision: str):
        self.device = device
        self._products = products_of_step(model, batch_size, DTYPES[precision], device)
        self._step: Callable[[], None] = self._multiply if device == "cpu" else self._capture()

    def measure(self, steps: int, warm_up: int) -> float:
        """Return the seconds that so many steps took, after some that are not counted."""
        for _ in range(warm_up):
            self._step()
        self._synchronize()
        started = time.perf_counter()
        for _ in range(steps):
            self._step()
        self._synchronize()
        return time.perf_counter() - started

    def _multiply(self) -> None:
        for left, right, result in self._products:
            if self.device == "cpu":
                linear(left, right.t())  # by the library that the job would take, which has no memory to write to
            else:
                torch.mm(left, right, out=result)

    def _capture(self) -> Callable[[], None]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries set themselves up outside of the graph
            self._multiply()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._multiply()
        return graph.replay

    def _synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
