"""Views of a model: originals, reconstructions, samples, and codes for TensorBoard's projector."""

import torch
from torch import Tensor

from vae.data import randomness
from vae.data.batches import send, to_unit_interval
from vae.data.dataset import DataSet, Split
from vae.evaluation.encoding import encode
from vae.evaluation.passes import evaluating, images_of, labels_for
from vae.model import VAE


def pictures(model: VAE, part: Split, seed: int, count: int = 64) -> dict[str, Tensor]:
    """Return `Originals`, `Reconstructions` (z = E[z|x]) and `Samples`, each (count, 1 or 3, H, W) in [0, 1].

    Args:
        model: the unwrapped model.
        part: of the data; its first `count` images are the originals.
        seed: of the samples' noise, the same at every call so that epochs can be compared.
        count: number of images of each kind.
    """
    weights = next(model.parameters())
    originals = images_of(model, part, slice(0, count))
    labels = labels_for(model, part, slice(0, count))
    noise = send(randomness.normal(count, model.draw_dim, seed, "samples").to(weights.dtype), weights.device)
    with evaluating(model):
        return {
            "Originals": visible(originals),
            "Reconstructions": visible(model.reconstruct(originals, labels)),
            "Samples": visible(model.sample(noise=noise)),
        }


def embedding(model: VAE, data: DataSet, count: int = 2000) -> tuple[Tensor, Tensor, list[str] | None]:
    """Return E[z|x] (N, D) of the first test images, these images in [0, 1], and their classes.

    Args:
        model: the unwrapped model.
        data: N is the size of its test set, or `count` if that is smaller.
        count: the largest N.

    Returns:
        Means (N, D) and images (N, 1 or 3, H, W), float32 on the CPU, and N names, where the data have labels.
    """
    part = data.test[torch.arange(min(count, len(data.test)))]
    means = encode(model, part).mean
    x = to_unit_interval(part.images, means.dtype)
    known = dict(enumerate(data.class_names or ()))
    names = None if part.labels is None else [known.get(label, str(label)) for label in part.labels.tolist()]
    return means, visible(x), names


def visible(images: Tensor) -> Tensor:
    """Return images (N, 1 or 3, H, W) in [0, 1] for a screen.

    Of four channels the last is the opacity of the others, over white; of two, or of more than four, one is shown.
    """
    if images.shape[1] == 4:
        opacity = images[:, 3:].clamp(0, 1)
        images = images[:, :3] * opacity + 1 - opacity
    return (images if images.shape[1] in (1, 3) else images[:, :1]).clamp(0, 1)
