"""Networks whose outputs see some of their inputs only: masked layers (MADE, Germain et al. 2015), small at first."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TwoHiddenLayers(nn.Module):
    """Two hidden layers of numbers (..., N) and a context (..., C), SiLU between; outputs are small at first.

    Args:
        first, second, last: its layers.
        context: C, which the first hidden layer sees too; 0: there is none.
    """

    def __init__(self, first: nn.Linear, second: nn.Linear, last: nn.Linear, context: int):
        super().__init__()
        self.first, self.second, self.last = first, second, last
        self.context = nn.Linear(context, first.out_features, bias=False) if context else None
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)

    def forward(self, numbers: Tensor, context: Tensor | None) -> Tensor:
        """Return the numbers of the last layer, (..., outputs)."""
        hidden = self.first(numbers)
        if self.context is not None:
            hidden = hidden + self.context(context)
        return self.last(F.silu(self.second(F.silu(hidden))))


@dataclass(frozen=True)
class Units:
    """Units of a masked layer: `count` of them, whose degrees 0, 1, ... begin anew after `period`."""

    count: int
    period: int

    def degrees(self, device: torch.device) -> Tensor:
        """Return the degrees, (count,), int64."""
        return torch.arange(self.count, device=device) % self.period


class Masked(nn.Linear):
    """A linear layer whose outputs see the inputs of no higher degree, `strictly` those of a lower one."""

    def __init__(self, inputs: Units, outputs: Units, *, strictly: bool = False):
        super().__init__(inputs.count, outputs.count)
        self.inputs, self.outputs, self.strictly = inputs, outputs, strictly

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs (..., out_features) of inputs (..., in_features)."""
        rows, columns = self.outputs.degrees(input.device)[:, None], self.inputs.degrees(input.device)
        hidden = rows <= columns if self.strictly else rows < columns
        return F.linear(input, self.weight.masked_fill(hidden, 0), self.bias)
