"""Numbers on held-out data: exact sums over real examples at any world size, each stamped with its protocol."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from vae.data import randomness
from vae.data.batches import share, to_unit_interval
from vae.data.sources import DataSet, Split, class_names
from vae.distributions import kl, kl_by_group, marginals
from vae.likelihoods import Likelihood, bits_per_dim
from vae.model import VAE
from vae.objectives import negative_elbo

CHUNK = 1000  # examples in one forward pass
ACTIVE = 0.01  # variance of E[z_d|x] above which dimension d is active (Burda et al. 2016, section 5)


@dataclass(frozen=True)
class Evaluation:
    """Means over the examples, nats per example.

    Attributes:
        loss: -ELBO at beta = 1, one z ~ q(z|x) for each example: reconstruction + kl.
        reconstruction: -log p(x|z), z ~ q(z|x).
        kl: KL(q(z|x) || p(z)).
        reconstruction_mean_z: -log p(x|z) at z = E[z|x]: lower than `reconstruction`, and not part of any bound.
        examples: how many.
        bits_per_dim: `loss` in bits for each number of an image, where p(x|z) has a probability for each value that
            these have; else None.
    """

    loss: float
    reconstruction: float
    kl: float
    reconstruction_mean_z: float
    examples: int
    bits_per_dim: float | None = None


@dataclass(frozen=True)
class LatentMeasures:
    """Means and variances over a test set, dimension by dimension.

    Attributes:
        variance: Var_x(E[z_d|x]) of each dimension d, over the examples (divided by their number).
        kl: mean of KL(q(z_d|x) || p(z_d)) for each dimension, nats. A diagonal posterior's sum to `total_kl`; those of
            a full-covariance one are its marginals', see `shared_kl`. None: there is no closed form.
        total_kl: mean of KL(q(z|x) || p(z)), nats: the `kl` of summary.json.
        examples: how many.
    """

    variance: tuple[float, ...]
    kl: tuple[float, ...] | None
    total_kl: float
    examples: int

    @property
    def active(self) -> int:
        """Dimensions whose posterior mean varies over the data by more than 0.01 (Burda et al. 2016, section 5)."""
        return sum(variance > ACTIVE for variance in self.variance)

    @property
    def shared_kl(self) -> float | None:
        """What no dimension has alone: `total_kl` less the sum of `kl`, nats.

        Under a factorised prior it is the total correlation of q(z|x), 0 for a diagonal posterior.
        """
        return None if self.kl is None else self.total_kl - math.fsum(self.kl)


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


def evaluate(accelerator: Accelerator, model: VAE, part: Split, *, seed: int, split: str) -> Evaluation:
    """Return the means over all images of a part of the data, each rank doing its share (all ranks).

    Args:
        accelerator: precision and reduction.
        model: the unwrapped model.
        part: N images, the same on every rank.
        seed, split: the noise of example i is a function of these and i alone.
    """
    dtype, count = next(model.parameters()).dtype, len(part)
    noise = randomness.normal(count, model.noise_dim, seed, f"evaluate/{split}")
    sums = torch.zeros(4, dtype=torch.float64, device=accelerator.device)
    with evaluating(model):
        for rows in chunks(share(count, accelerator.process_index, accelerator.num_processes)):
            x = to_unit_interval(part.images[rows].to(accelerator.device), dtype)
            labels = labels_for(model, part, rows)
            with accelerator.autocast():
                output = model(x, noise[rows].to(accelerator.device, dtype), labels)
                at_mean = model.decode(output.latents[0].q.mean, labels)
            terms = negative_elbo(output, x)
            values = torch.stack([terms.loss, terms.reconstruction, terms.kl, -at_mean.log_prob(x)])
            sums += values.double().sum(1)
    totals = accelerator.reduce(sums, "sum")
    assert isinstance(totals, Tensor)
    means = (totals / count).tolist()
    discrete = part.levels is not None and part.levels == model.likelihood.levels
    bits = bits_per_dim(means[0], model.image_shape) if discrete else None
    return Evaluation(*means, examples=count, bits_per_dim=bits)


def labels_for(model: VAE, part: Split, rows: slice | Tensor) -> Tensor | None:
    """Return the labels of some images, where the model is, if it needs them."""
    if not model.needs_labels:
        return None
    assert part.labels is not None
    return part.labels[rows].to(next(model.parameters()).device)


def measure_latents(model: VAE, part: Split, *, seed: int) -> LatentMeasures:
    """Return the measures of a model on a part of the data.

    Args:
        model: the unwrapped model, on any device.
        part: N images.
        seed: of the noise that `evaluate` draws z with; used by a KL that is estimated, not by one in closed form.
    """
    weights = next(model.parameters())
    noise = randomness.normal(len(part), model.noise_dim, seed, "evaluate/test")
    means, totals, groups = [], [], []
    with evaluating(model):
        for rows in chunks(slice(0, len(part))):
            x = to_unit_interval(part.images[rows].to(weights.device), weights.dtype)
            layer = model.infer(x, noise[rows].to(weights), labels_for(model, part, rows))[0]
            means.append(layer.q.mean)
            totals.append(kl(layer.q, layer.p, layer.z))
            groups.append(kl_by_group(marginals(layer.q), layer.p, layer.z))
    variance = torch.cat(means).double().var(0, correction=0)
    total, by_group = torch.cat(totals).double().mean(), torch.cat(groups).double().mean(0)
    kl_of_each = tuple(by_group.tolist()) if len(by_group) == model.latent_dim else None
    return LatentMeasures(tuple(variance.tolist()), kl_of_each, total.item(), len(part))


def pictures(model: VAE, part: Split, seed: int, count: int = 64) -> dict[str, Tensor]:
    """Return `Originals`, `Reconstructions` (z = E[z|x]) and `Samples`, each (count, 1 or 3, H, W) in [0, 1].

    Args:
        model: the unwrapped model.
        part: of the data; the first `count` images are shown.
        seed: of the samples' noise, the same at every call so that epochs can be compared.
        count: how many pictures of each kind.
    """
    weights = next(model.parameters())
    originals = to_unit_interval(part.images[:count].to(weights.device), weights.dtype)
    labels = labels_for(model, part, slice(0, count))
    noise = randomness.normal(count, model.draw_dim, seed, "samples").to(weights)
    with evaluating(model):
        return {
            "Originals": visible(originals),
            "Reconstructions": visible(model.reconstruct(originals, labels)),
            "Samples": visible(model.sample(noise=noise)),
        }


def posterior_means(model: VAE, part: Split) -> Tensor:
    """Return E[z|x] (N, D), where the model is, for the images of a part of the data; in evaluation mode."""
    weights = next(model.parameters())
    found = []
    for rows in chunks(slice(0, len(part))):
        x = to_unit_interval(part.images[rows].to(weights.device), weights.dtype)
        found.append(model.code(x, labels_for(model, part, rows)))
    return torch.cat(found)


def embedding(model: VAE, data: DataSet, count: int = 2000) -> tuple[Tensor, Tensor, list[str] | None]:
    """Return E[z|x] (N, D) of the first test images, these images in [0, 1], and their classes.

    Args:
        model: the unwrapped model.
        data: N is the size of its test set, or `count` if that is smaller.
        count: how many, at most.

    Returns:
        Means (N, D), images (N, 1 or 3, H, W), and N names, where the data have labels.
    """
    part = data.test[torch.arange(min(count, len(data.test)))]
    with evaluating(model):
        means = posterior_means(model, part)
    x = to_unit_interval(part.images, means.dtype)
    known = dict(enumerate(class_names(data.name) or ()))
    names = None if part.labels is None else [known.get(label, str(label)) for label in part.labels.tolist()]
    return means, visible(x), names


def visible(images: Tensor) -> Tensor:
    """Return images (N, C, H, W) as a screen can show them: in [0, 1], and of C other than 1 or 3 the first channel."""
    return (images if images.shape[1] in (1, 3) else images[:, :1]).clamp(0, 1)


def protocol(data: DataSet, binarize: str, likelihood: Likelihood, *, seed: int, split: str) -> dict[str, Any]:
    """Return how a number was made: two numbers may be compared only if this agrees.

    Args:
        data: the data set, as it was evaluated.
        binarize: `none`, `dynamic` or `static`; when not `none` one fixed draw of the evaluated split is used.
        likelihood: the family of p(x|z).
        seed, split: of the evaluation noise, and what was evaluated.
    """
    part = data.val if split == "val" else data.test
    assert part is not None
    binary = part.levels == 2
    pixels = "0/1" if binary else "grey in [0, 1]"
    return {
        "data": data.name,
        "pixels_crc32": part.fingerprint,
        "split": split,
        "pixels": pixels if binarize == "none" else "0/1, one fixed draw",
        "likelihood": type(likelihood).__name__,
        "normalised": likelihood.normalises(binary=binary),
        "measure": likelihood.measure(binary=binary),
        "bound": "-ELBO at beta = 1, one z ~ q(z|x) for each example",
        "seed": seed,
    }


def chunks(part: slice) -> Iterator[slice]:
    """Yield slices of a slice that are small enough for one forward pass."""
    for start in range(part.start, part.stop, CHUNK):
        yield slice(start, min(start + CHUNK, part.stop))
