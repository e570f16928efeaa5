"""Images for a classifier, which a model decodes from z ~ p(z), from a mixture's z, or from z ~ q(z|x)."""

import torch
from torch import Tensor
from torch.distributions import Distribution

from vae.data import randomness
from vae.data.dataset import Split
from vae.evaluation import chunks, evaluating, images_of, labels_for
from vae.families.priors import Prior
from vae.model import VAE


def prior_samples(model: VAE, count: int, *, seed: int, draws: bool = False, prior: Prior | None = None) -> Tensor:
    """Return images (count, C, H, W), float32 in [0, 1]: means of p(x|z) for z ~ p(z), or draws of it.

    Values outside [0, 1], which a family without bounds may have, are set to the bound.

    Args:
        model: unwrapped, on the CPU; a model that sees labels is given 0, 1, ..., and again from 0.
        count: number of images; mean i does not depend on it.
        seed: of z and of the draws.
        draws: whether pixels are drawn from p(x|z).
        prior: takes the place of the model's own p(z).
    """
    weights, made = next(model.parameters()), []
    noise = randomness.normal(count, model.hierarchy.draw_dim(prior or model.prior), seed, "quality")
    labels = torch.arange(count) % model.classes if model.sees_labels else None
    with evaluating(model), torch.random.fork_rng(devices=[]):
        for rows in chunks(slice(0, count)):
            own = None if labels is None else labels[rows]
            p_x = model.decode(model.draw(noise[rows].to(weights), own, prior), own)
            made.append(_pixels(p_x, seed, f"quality/pixels/{rows.start}", draws=draws))
    return torch.cat(made)


def reconstructions(model: VAE, part: Split, *, seed: int, draws: bool = False) -> Tensor:
    """Return images as `prior_samples` does, but for one z ~ q(z|x) of each image of a part of the data.

    No density of z can be expected to give images nearer to the part: it is the decoder that is measured.

    Args:
        model: unwrapped, on the CPU.
        part: the images that are encoded, as the encoder is trained to see them.
        seed: of z and of the draws.
        draws: whether pixels are drawn from p(x|z).
    """
    made = []
    noise = randomness.normal(len(part), model.noise_dim, seed, "quality/reconstructions")
    with evaluating(model), torch.random.fork_rng(devices=[]):
        for rows in chunks(slice(0, len(part))):
            x = images_of(model, part, rows)
            labels = model.labels_of(x, labels_for(model, part, rows))
            p_x = model.decode(model.infer(x, noise[rows].to(x), labels)[0].z, labels)
            made.append(_pixels(p_x, seed, f"quality/reconstructed/{rows.start}", draws=draws))
    return torch.cat(made)


def _pixels(p_x: Distribution, seed: int, stream: str, *, draws: bool) -> Tensor:
    """Return the mean of p(x|z), or a draw, which takes torch's own generator, in [0, 1]."""
    torch.manual_seed(randomness.torch_seed(seed, stream))
    return (p_x.sample() if draws else p_x.mean).float().clamp(0, 1)
