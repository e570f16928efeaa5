"""Paths between codes, beside the straight line (`torch.lerp`)."""

import torch
from torch import Tensor


def slerp(first: Tensor, last: Tensor, weight: Tensor) -> Tensor:
    """Return points on arcs about the origin from `first` to `last`, whose angles and lengths change evenly.

    In many dimensions the straight line passes through a region near 0 where a standard normal prior has next to no
    mass (White 2016, Sampling generative networks, section 2.1). Where the two point the same way (or one is 0) it is
    the straight line; opposite ones have no one arc, and are joined by the straight line too.

    Args:
        first, last: (..., D).
        weight: that broadcasts against them, 0 at the first and 1 at the last.
    """
    length, its_length = first.norm(dim=-1, keepdim=True), last.norm(dim=-1, keepdim=True)
    one, other = first / length.clamp(min=1e-12), last / its_length.clamp(min=1e-12)
    angle = (one * other).sum(-1, keepdim=True).clamp(-1, 1).arccos()
    sine = angle.sin()
    direction = (((1 - weight) * angle).sin() * one + (weight * angle).sin() * other) / sine.clamp(min=1e-6)
    arc = torch.lerp(length, its_length, weight) * direction
    has_arc = (sine > 1e-4) & (length > 0) & (its_length > 0)
    return torch.where(has_arc, arc, torch.lerp(first, last, weight))
