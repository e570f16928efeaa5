"""Numbers on held-out data: exact sums over real examples at any world size, each stamped with its protocol."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from vae.data import randomness
from vae.data.batches import share, to_unit_interval
from vae.data.sources import DataSet
from vae.model import VAE
from vae.objectives import negative_elbo

CHUNK = 1000  # examples in one forward pass


@dataclass(frozen=True)
class Evaluation:
    """Means over the examples, nats per example.

    Attributes:
        loss: -ELBO at beta = 1, one z ~ q(z|x) for each example: reconstruction + kl.
        reconstruction: -log p(x|z), z ~ q(z|x).
        kl: KL(q(z|x) || p(z)).
        reconstruction_mean_z: -log p(x|z) at z = E[z|x]: lower than `reconstruction`, and not part of any bound.
        examples: how many.
    """

    loss: float
    reconstruction: float
    kl: float
    reconstruction_mean_z: float
    examples: int


@contextlib.contextmanager
def evaluating(model: VAE) -> Iterator[None]:
    """Put the model in evaluation mode, without gradients, and back as it was."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def evaluate(accelerator: Accelerator, model: VAE, images: Tensor, *, seed: int, split: str) -> Evaluation:
    """Return the means over all `images`, each rank doing its share (all ranks).

    Args:
        accelerator: precision and reduction.
        model: the unwrapped model.
        images: (N, C, H, W), the same on every rank; uint8 or floating point in [0, 1].
        seed, split: the noise of example i is a function of these and i alone.
    """
    dtype = next(model.parameters()).dtype
    noise = randomness.normal(len(images), model.latent_dim, seed, f"evaluate/{split}")
    sums = torch.zeros(4, dtype=torch.float64, device=accelerator.device)
    with evaluating(model):
        for rows in _chunks(share(len(images), accelerator.process_index, accelerator.num_processes)):
            x = to_unit_interval(images[rows].to(accelerator.device), dtype)
            with accelerator.autocast():
                output = model(x, noise[rows].to(accelerator.device, dtype))
                at_mean = model.decode(output.latents[0].q.mean)
            terms = negative_elbo(output, x)
            values = torch.stack([terms.loss, terms.reconstruction, terms.kl, -at_mean.log_prob(x)])
            sums += values.double().sum(1)
    totals = accelerator.reduce(sums, "sum")
    assert isinstance(totals, Tensor)
    return Evaluation(*(totals / len(images)).tolist(), examples=len(images))


def pictures(model: VAE, images: Tensor, seed: int, count: int = 64) -> dict[str, Tensor]:
    """Return `Originals`, `Reconstructions` (z = E[z|x]) and `Samples`, each (count, 1 or 3, H, W) in [0, 1].

    Args:
        model: the unwrapped model.
        images: (N, C, H, W); the first `count` are shown.
        seed: of the samples' noise, the same at every call so that epochs can be compared.
        count: how many pictures of each kind.
    """
    weights = next(model.parameters())
    originals = to_unit_interval(images[:count].to(weights.device), weights.dtype)
    noise = randomness.normal(count, model.latent_dim, seed, "samples").to(weights)
    with evaluating(model):
        return {
            "Originals": visible(originals),
            "Reconstructions": visible(model.reconstruct(originals)),
            "Samples": visible(model.sample(noise=noise)),
        }


def visible(images: Tensor) -> Tensor:
    """Return images (N, C, H, W) as a screen can show them: in [0, 1], and of C other than 1 or 3 the first channel."""
    return (images if images.shape[1] in (1, 3) else images[:, :1]).clamp(0, 1)


def protocol(data: DataSet, binarize: str, likelihood: str, *, seed: int, split: str) -> dict[str, Any]:
    """Return how a number was made: two numbers may be compared only if this agrees.

    Args:
        data: the data set, as it was evaluated.
        binarize: `none`, `dynamic` or `static`; when not `none` one fixed draw of the evaluated split is used.
        likelihood: the family of p(x|z).
        seed, split: of the evaluation noise, and what was evaluated.
    """
    part = data.val if split == "val" else data.test
    assert part is not None
    return {
        "data": data.name,
        "pixels_crc32": part.fingerprint,
        "split": split,
        "pixels": "grey in [0, 1]" if binarize == "none" else "0/1, one fixed draw",
        "likelihood": likelihood,
        "normalised": not (likelihood == "Bernoulli" and binarize == "none"),
        "bound": "-ELBO at beta = 1, one z ~ q(z|x) for each example",
        "seed": seed,
    }


def _chunks(part: slice) -> Iterator[slice]:
    for start in range(part.start, part.stop, CHUNK):
        yield slice(start, min(start + CHUNK, part.stop))
