"""Exact means over held-out data, the same at any world size."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.distributions import Distribution

from vae.data import randomness
from vae.data.batches import share
from vae.data.dataset import Split
from vae.evaluation.latents import LatentMeasures, Tally
from vae.evaluation.passes import chunks, evaluating, images_of, labels_for
from vae.families.hierarchy import total_kl
from vae.families.likelihoods import bits_per_dim
from vae.model import VAE, VAEOutput
from vae.objectives import negative_elbo


@dataclass(frozen=True)
class Evaluation:
    """Means over examples, nats per example.

    Attributes:
        loss: -ELBO at beta = 1, one z ~ q(z|x) for each example: reconstruction + kl.
        reconstruction: -log p(x|z), z ~ q(z|x).
        kl: KL(q(z|x) || p(z)).
        reconstruction_mean_z: -log p(x|z) at z = E[z|x]: lower than `reconstruction`, and not part of any bound.
        examples: their number.
        latents: KL and activity of the latent dimensions.
        accuracy: share of the images whose label is the most probable one under q(y|x); None: labels are not inferred.
        bits_per_dim: `loss` in bits for each number of an image; None: p(x|z) is a density, or has probabilities of
            other values than pixels have.
    """

    loss: float
    reconstruction: float
    kl: float
    reconstruction_mean_z: float
    examples: int
    latents: LatentMeasures
    bits_per_dim: float | None
    accuracy: float | None = None

    def numbers(self) -> dict[str, Any]:
        """Return the numbers by their names in summary.json."""
        names = ("loss", "reconstruction", "kl", "reconstruction_mean_z", "examples", "bits_per_dim")
        units = {"active_units": self.latents.active, **self.latents.of_codes}
        right = {} if self.accuracy is None else {"accuracy": self.accuracy}
        return {name: getattr(self, name) for name in names} | units | right


class HeldOut:
    """A part of the data, kept where the model is, with the noise of its evaluations; each rank has its share.

    Args:
        accelerator: precision and reduction.
        model: the unwrapped model, on the device.
        part: N images, the same on every rank.
        seed, split: the noise of example i is a function of these and i alone.
    """

    def __init__(self, accelerator: Accelerator, model: VAE, part: Split, *, seed: int, split: str):
        self.accelerator, self.model, self.count = accelerator, model, len(part)
        mine = share(len(part), accelerator.process_index, accelerator.num_processes)
        self.mine = mine.stop - mine.start
        here = mine if self.mine else slice(0, 1)  # a rank without an example: a stand-in, which does not count
        weights = next(model.parameters())
        noise = randomness.normal(len(part), model.noise_dim, seed, f"evaluate/{split}")
        self.noise = noise[here].to(weights)
        labels = None if part.labels is None else part.labels[here].to(weights.device)
        self.part = Split(part.images[here].to(weights.device), labels)
        self.truth = None if model.classifier is None or part.hides_labels else labels
        self.has_probabilities = has_probabilities(model, part)

    def evaluate(self, model: VAE | None = None) -> Evaluation:
        """Return the means over all images (all ranks); the device is read once.

        Args:
            model: other weights of the same model; None: the model itself.
        """
        model = model or self.model
        with evaluating(model):
            own = Tally.merged([self._tally(model, rows) for rows in chunks(slice(0, len(self.part)), model)])
        gathered = self.accelerator.gather(own.packed()[None] * (self.mine > 0))
        assert isinstance(gathered, Tensor)
        tally = Tally.merged([own.unpacked(row) for row in gathered.cpu()])
        loss, reconstruction, divergence, at_mean_z, *accuracy = (tally.sums / tally.count).tolist()
        bits = bits_per_dim(loss, self.model.image_shape) if self.has_probabilities else None
        latents = tally.measures(divergence)
        return Evaluation(loss, reconstruction, divergence, at_mean_z, self.count, latents, bits, *accuracy)

    def _tally(self, model: VAE, rows: slice) -> Tally:
        x, labels = images_of(model, self.part, rows), labels_for(model, self.part, rows)
        with self.accelerator.autocast():
            output = model(x, self.noise[rows], labels)
            at_mean = _at_mean(model, output, x, labels)
        terms = negative_elbo(output, x)
        values = [terms.loss, terms.reconstruction, terms.kl, -at_mean.log_prob(x)]
        if self.truth is not None and output.labels is not None:
            values.append((output.labels.most_probable == self.truth[rows]).to(terms.loss))
        return Tally.of(output.latents, torch.stack(values), output.labels)


def evaluate(accelerator: Accelerator, model: VAE, part: Split, *, seed: int, split: str) -> Evaluation:
    """Return the means over all images of a part of the data, once (all ranks); arguments as for `HeldOut`."""
    return HeldOut(accelerator, model, part, seed=seed, split=split).evaluate()


def _at_mean(model: VAE, output: VAEOutput, x: Tensor, labels: Tensor | None) -> Distribution:
    """Return p(x|z) at z = E[z|x], with the most probable label where labels are inferred."""
    if output.labels is None:
        return model.decode(output.latents[0].q.mean, labels)
    best = output.labels.most_probable
    return model.decode(model.code(x, best), best)


def has_probabilities(model: VAE, part: Split) -> bool:
    """Return whether p(x|z) has a probability, not a density, for each value of a pixel."""
    return part.levels is not None and part.levels == model.likelihood.levels


def measure_latents(model: VAE, part: Split, *, seed: int) -> LatentMeasures:
    """Return the latent measures that `evaluate` finds for a part of the data, without decoding.

    Args:
        model: the unwrapped model, on any device.
        part: N images.
        seed: of the noise of z, as in `evaluate`; a KL in closed form does not depend on it, an estimated one does.
    """
    noise = randomness.normal(len(part), model.noise_dim, seed, "evaluate/test")

    def parts() -> Iterator[Tally]:
        for rows in chunks(slice(0, len(part)), model):
            x, labels = images_of(model, part, rows), labels_for(model, part, rows)
            inferred = model.classify(x)
            latents = model.infer(x, noise[rows].to(x), labels if inferred is None else inferred.every)
            yield Tally.of(latents, total_kl(latents, inferred)[None], inferred)

    with evaluating(model):
        tally = Tally.merged(list(parts()))
    return tally.measures((tally.sums / tally.count).item())
