"""Paths between images."""

import torch
from torch import Tensor

from vae.evaluation import evaluating
from vae.model import VAE


def interpolate(
    model: VAE, starts: Tensor, ends: Tensor, *, steps: int = 10, spherical: bool = False, labels: Tensor | None = None
) -> Tensor:
    """Return decoded images between pairs of images, (N, steps, C, H, W).

    Args:
        model: unwrapped.
        starts, ends: images (N, C, H, W) in [0, 1].
        steps: points on each path, both ends included.
        spherical: along an arc about the origin instead of the straight line (White 2016, Sampling generative networks,
            section 2.1): in many dimensions the straight line passes through a region near 0 where the prior has
            next to no mass.
        labels: (2, N), of starts and ends, of a model that sees them; the decoder sees that of the nearer end.
    """
    with evaluating(model):
        inferred = model.classify(torch.cat([starts, ends])) if labels is None else None
        if inferred is not None:
            labels = inferred.most_probable.view(2, -1)
        first = model.code(starts, None if labels is None else labels[0])
        last = model.code(ends, None if labels is None else labels[1])
        weights = torch.linspace(0, 1, steps, device=first.device, dtype=first.dtype)
        path = slerp if spherical else torch.lerp
        images = []
        for weight in weights:
            nearer = None if labels is None else labels[int(weight > 0.5)]
            images.append(model.decode(path(first, last, weight), nearer).mean)
    return torch.stack(images, dim=1)


def slerp(first: Tensor, last: Tensor, weight: Tensor) -> Tensor:
    """Return points (N, D) on arcs from `first` to `last` (N, D), whose angles and lengths change evenly.

    Where the two point the same way (or one is 0) it is the straight line; opposite ones have no one arc, and are
    joined by the straight line too.

    Args:
        first, last: (N, D).
        weight: (), 0 at the first and 1 at the last.
    """
    length, its_length = first.norm(dim=-1, keepdim=True), last.norm(dim=-1, keepdim=True)
    one, other = first / length.clamp(min=1e-12), last / its_length.clamp(min=1e-12)
    angle = (one * other).sum(-1, keepdim=True).clamp(-1, 1).arccos()
    sine = angle.sin()
    direction = (((1 - weight) * angle).sin() * one + (weight * angle).sin() * other) / sine.clamp(min=1e-6)
    arc = torch.lerp(length, its_length, weight) * direction
    has_arc = (sine > 1e-4) & (length > 0) & (its_length > 0)
    return torch.where(has_arc, arc, torch.lerp(first, last, weight))
