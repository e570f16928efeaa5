"""One pass of a model over a part of the data: evaluation mode, chunks, images and labels of a chunk."""

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from vae.data.batches import to_unit_interval
from vae.data.dataset import Split
from vae.model import VAE

CHUNK = 1000  # examples in one forward pass


@contextlib.contextmanager
def evaluating(model: VAE) -> Iterator[None]:
    """Put the model in evaluation mode, without gradients, and restore its mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def images_of(model: VAE, part: Split, rows: slice | Tensor) -> Tensor:
    """Return the images of `rows`, (B, C, H, W) in [0, 1], in the model's precision and on its device."""
    weights = next(model.parameters())
    return to_unit_interval(part.images[rows].to(weights.device), weights.dtype)


def labels_for(model: VAE, part: Split, rows: slice | Tensor) -> Tensor | None:
    """Return the labels of `rows`, (B,), on the model's device; None: the model needs none."""
    if not model.needs_labels:
        return None
    assert part.labels is not None
    return part.labels[rows].to(next(model.parameters()).device)


def chunks(part: slice, passes: int = 1) -> Iterator[slice]:
    """Yield slices of `part` small enough for one forward pass, in which each image is decoded `passes` times."""
    size = max(1, CHUNK // passes)
    for start in range(part.start, part.stop, size):
        yield slice(start, min(start + size, part.stop))


def mean_and_error(values: Tensor) -> tuple[float, float | None]:
    """Return the mean of numbers (N,) and its standard error; None for the error of a single number."""
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else None
    return values.mean().item(), error
