"""Draws from the aggregate posterior of the highest stochastic layer: one z ~ q(z|x) for each image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vae.bars import following
from vae.data import randomness
from vae.data.dataset import Split
from vae.evaluation.passes import chunks, evaluating, images_of, labels_for
from vae.model import VAE


@dataclass(frozen=True)
class Drawn:
    """One z ~ q(z|x) for each of N images, float64, on the CPU.

    Attributes:
        z: of the highest stochastic layer, (N, D).
        log_prior: log p(z) under the model's own prior, (N,), nats; where the prior is p(z|y), log p(z|y).
        labels: (N,), int64, as the decoder sees them; None: the model sees no labels.
    """

    z: Tensor
    log_prior: Tensor
    labels: Tensor | None


def draw(model: VAE, part: Split, *, seed: int, split: str) -> Drawn:
    """Return one z ~ q(z|x) for each image of a part of the data.

    Args:
        model: unwrapped, on any device; its z has a density.
        part: images, with labels where the model needs them. Where it infers labels, each image has its most probable
            one.
        seed, split: of the noise.
    """
    noise = randomness.normal(len(part), model.noise_dim, seed, f"mixture/{split}")
    found: dict[str, list[Tensor]] = {"z": [], "log_prior": [], "labels": []}
    with evaluating(model):
        for rows in following(list(chunks(slice(0, len(part)), model)), f"encoding the {split} set", "chunk", delay=1):
            x = images_of(model, part, rows)
            labels = model.labels_of(x, labels_for(model, part, rows))
            top = model.infer(x, noise[rows].to(x), labels)[-1]
            found["z"].append(top.z.double().cpu())
            found["log_prior"].append(top.p.log_prob(top.z).double().cpu())
            if labels is not None:
                found["labels"].append(labels.cpu())
    z, log_prior = torch.cat(found["z"]), torch.cat(found["log_prior"])
    return Drawn(z, log_prior, torch.cat(found["labels"]) if found["labels"] else None)
