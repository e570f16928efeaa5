"""One pass of a model over a part of the data: evaluation mode, chunks, images and labels of a chunk."""

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from vae.data.batches import send, to_unit_interval
from vae.data.dataset import Split
from vae.model import VAE

CHUNK = 1000  # examples in one forward pass
NUMBERS_ON_CUDA = 10_000 * 28 * 28  # that a decoder makes in one pass: a launch costs the same for few or many


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
    return to_unit_interval(_there(part.images[rows], weights.device), weights.dtype)


def labels_for(model: VAE, part: Split, rows: slice | Tensor) -> Tensor | None:
    """Return the labels of `rows`, (B,), on the model's device; None: the model needs none."""
    if not model.needs_labels:
        return None
    assert part.labels is not None
    return _there(part.labels[rows], next(model.parameters()).device)


def _there(numbers: Tensor, device: torch.device) -> Tensor:
    return numbers if numbers.device == device else send(numbers, device)


def chunks(part: slice, model: VAE | None = None, *, most: int = 0) -> Iterator[slice]:
    """Yield slices of `part` small enough for one pass of `model`, or of anything; of `most` rows, unless that is 0."""
    size = CHUNK if model is None else _chunk_of(model)
    size = min(size, most or size)
    for start in range(part.start, part.stop, size):
        yield slice(start, min(start + size, part.stop))


def _chunk_of(model: VAE) -> int:
    """Return the examples that one pass of a model takes, in which each image is decoded `passes` times."""
    on_cuda = next(model.parameters()).is_cuda
    size = max(CHUNK, NUMBERS_ON_CUDA // math.prod(model.likelihood.output_shape)) if on_cuda else CHUNK
    size = max(1, size // model.passes)
    return min(size, model.most_at_once or size)


def mean_and_error(values: Tensor) -> tuple[float, float | None]:
    """Return the mean of numbers (N,) and its standard error; None for the error of a single number."""
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else None
    return values.mean().item(), error
