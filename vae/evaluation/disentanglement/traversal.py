"""A latent traversal: one code, of which one dimension after the other moves while the others stay."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vae.data.dataset import Split
from vae.evaluation import evaluating, images_of, labels_for
from vae.model import VAE

PLACES = torch.linspace(-2.5, 2.5, 11)  # where a dimension is put; under a standard prior, standard deviations


def traverse(model: VAE, part: Split, index: int, dimensions: Sequence[int]) -> list[Tensor]:
    """Return the images (11, C, H, W) that follow from the code E[z|x] of an image with one dimension at `PLACES`.

    Args:
        model: unwrapped, on any device.
        part: of the data.
        index: of the image there.
        dimensions: which are moved, each for itself.

    Returns:
        Of each of these dimensions the means of p(x|z).
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
