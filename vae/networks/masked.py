"""Networks of two hidden layers that make maps: some see some of their inputs only (MADE, Germain et al. 2015)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae.networks.linear import Linear, linear

LARGEST_ROW_SUM = 0.5  # of a contracting layer's weight


@dataclass(frozen=True)
class Units:
    """Units of a masked layer: `count` of them, with degrees from 0 to `period` - 1.

    The degrees 0, 1, ... begin anew after `period`. Fewer units than that have degrees spread from the first to the
    last.
    """

    count: int
    period: int

    def degrees(self, device: torch.device) -> Tensor:
        """Return the degrees, (count,), int64."""
        places = torch.arange(self.count, device=device)
        if self.count >= self.period:
            return places % self.period
        return places * (self.period - 1) // max(self.count - 1, 1)


class Masked(nn.Linear):
    """A linear layer whose outputs see the inputs of no higher degree, `strictly` those of a lower one."""

    def __init__(self, inputs: Units, outputs: Units, *, strictly: bool = False, bias: bool = True):
        super().__init__(inputs.count, outputs.count, bias=bias)
        self.inputs, self.outputs, self.strictly = inputs, outputs, strictly

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs (..., out_features) of inputs (..., in_features)."""
        rows, columns = self.outputs.degrees(input.device)[:, None], self.inputs.degrees(input.device)
        hidden = rows <= columns if self.strictly else rows < columns
        return linear(input, self.weight.masked_fill(hidden, 0), self.bias)


class Contracting(nn.Linear):
    """A linear layer whose outputs move by at most half of what its inputs move, each in the largest norm.

    That is the largest sum of |w| in a row of the weight; rows with more than a half are scaled down to it (Gouk et al.
    2021, section 4).
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs (..., out_features) of inputs (..., in_features)."""
        sums = self.weight.abs().sum(1, keepdim=True).clamp(min=LARGEST_ROW_SUM)  # a row of zeros has a gradient too
        return linear(input, self.weight * (LARGEST_ROW_SUM / sums), self.bias)


class TwoHiddenLayers(nn.Module):
    """Two hidden layers of numbers (..., N) and a context (..., C), SiLU between; outputs are small at first.

    Args:
        first, second, last: its layers.
        context: the layer by which the first hidden layer sees the context too; None: there is none.
    """

    def __init__(self, first: nn.Linear, second: nn.Linear, last: nn.Linear, context: nn.Linear | None):
        super().__init__()
        self.first, self.second, self.last, self.context = first, second, last, context
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)

    def forward(self, numbers: Tensor, context: Tensor | None) -> Tensor:
        """Return the numbers of the last layer, (..., outputs)."""
        hidden = self.first(numbers)
        if self.context is not None:
            hidden = hidden + self.context(context)
        return self.last(F.silu(self.second(F.silu(hidden))))


class Autoregressive(TwoHiddenLayers):
    """A MADE of two hidden layers (Germain et al. 2015): an output sees the inputs of lower degree, and the context.

    The outputs see the context directly too: else those of degree 0, which no hidden unit reaches, would not see it.
    Fewer hidden units than degrees let no output see all the inputs before it; there a direct connection does (the
    article's section 4.2).

    Args:
        inputs: N, whose degrees are 0, ..., P - 1.
        outputs: of the same degrees.
        width: units of each hidden layer.
        context: C; 0: there is none.
    """

    def __init__(self, inputs: Units, outputs: Units, width: int, context: int):
        between = Units(width, inputs.period - 1)
        layers = Masked(inputs, between), Masked(between, between), Masked(between, outputs, strictly=True)
        super().__init__(*layers, Linear(context, width, bias=False) if context else None)
        self.direct = Masked(inputs, outputs, strictly=True, bias=False) if width < between.period else None
        self.context_direct = Linear(context, outputs.count, bias=False) if context else None
        for layer in (self.direct, self.context_direct):
            if layer is not None:
                nn.init.zeros_(layer.weight)

    def forward(self, numbers: Tensor, context: Tensor | None) -> Tensor:
        """Return the outputs, (..., outputs)."""
        found = super().forward(numbers, context)
        if self.direct is not None:
            found = found + self.direct(numbers)
        return found if self.context_direct is None else found + self.context_direct(context)
