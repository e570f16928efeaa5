"""A latent traversal: from the code of one image, one dimension moves while the others stay."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vae.data.dataset import Split
from vae.evaluation import evaluating, images_of, labels_for
from vae.model import VAE

PLACES = torch.linspace(-2.5, 2.5, 11)  # where a dimension is put; under a standard prior, standard deviations


def traverse(model: VAE, part: Split, index: int, dimensions: Sequence[int]) -> list[Tensor]:
    """Return, for each of some dimensions, images (11, C, H, W) with this dimension of E[z|x] at each of `PLACES`.

    Args:
        model: unwrapped, on any device.
        part: of the data.
        index: of the image in `part`.
        dimensions: the dimensions that move, one at a time.

    Returns:
        Means of p(x|z), for each dimension.
    """
    row = torch.tensor([index])
    with evaluating(model):
        labels = labels_for(model, part, row)
        z = model.code(images_of(model, part, row), labels).repeat(len(PLACES), 1)
        labels = None if labels is None else labels.expand(len(PLACES))
        return [model.decode(_with(z, dimension), labels).mean for dimension in dimensions]


def _with(z: Tensor, dimension: int) -> Tensor:
    """Return codes (11, D) with one dimension at `PLACES`."""
    moved = z.clone()
    moved[:, dimension] = PLACES.to(z)
    return moved
