"""Files of samples by a fitted mixture: the images, with samples of the model beside them, and the mixture itself."""

import json
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from vae import figures
from vae.data import randomness
from vae.evaluation import visible
from vae.evaluation.mixture.drawing import draw
from vae.evaluation.mixture.kept import NOTE, Fitted
from vae.families.hierarchy import Flat
from vae.families.priors import Given, StandardNormal
from vae.run.finished import Opened
from vae.run.outputs import save_arrays, save_figure

SHOWN = 64  # of each kind
DRAWS = 20_000  # of the mixture, by which the lines that hold shares of it are found


def save(output: Path, images: Tensor, own: Tensor, opened: Opened, fitted: Fitted) -> tuple[Path, ...]:
    """Write samples by a mixture, and pictures; returns their paths.

    Args:
        output: a folder.
        images: decoded at z from the mixture, (N, C, H, W) in [0, 1].
        own: decoded at z from the model's prior, of the same shape.
        opened: the run.
        fitted: the mixture.

    Raises:
        InputError: a file cannot be written.
    """
    said = {"note": np.array(NOTE), "protocol": np.array(json.dumps(fitted.protocol))}
    arrays = save_arrays(output / "samples-gmm.npz", {"images": images.numpy(), **said})
    panels = {"z ~ p(z):\nsamples of the model": own, f"z ~ {_name(fitted)}:\nnot of the model": images}
    shown = {title: visible(some[:SHOWN]) for title, some in panels.items()}
    picture = save_figure(output / "samples-gmm.png", figures.samples_side_by_side(shown))
    if fitted.protocol["dimensions"] != 2:
        return arrays, picture
    file = output / f"mixture-{fitted.protocol['components']}-{fitted.protocol['seed']}.png"
    return arrays, picture, save_figure(file, _draw_plane(opened, fitted))


def _name(fitted: Fitted) -> str:
    each = "" if fitted.protocol["classes"] is None else " for each class"
    return f"a mixture{each} (K = {fitted.protocol['components']}) fitted to q(z)"


def _draw_plane(opened: Opened, fitted: Fitted) -> Figure:
    """Draw the mixture, of all classes together, over codes of the test set."""
    model, seed = opened.model, fitted.protocol["seed"]
    drawn = draw(model, opened.data.test, seed=seed, split="test")
    mixture = fitted.prior
    if drawn.labels is not None:
        mixture = mixture.over_classes(drawn.labels.bincount(minlength=model.classes) / len(drawn.labels))
    noise = randomness.normal(DRAWS, mixture.noise_dim, seed, "mixture/picture").double()
    draws = mixture.transform(mixture(Given(noise, model.encode)), noise)

    def density(points: np.ndarray) -> np.ndarray:
        return mixture.log_prob(torch.from_numpy(points)).exp().numpy()

    standard = isinstance(model.hierarchy, Flat) and isinstance(model.prior, StandardNormal)
    return figures.latent_mixture(drawn.z, draws.numpy(), density, standard=standard)
