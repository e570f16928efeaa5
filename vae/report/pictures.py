"""Pictures of a finished run, written into its folder."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from vae import figures
from vae.data import randomness
from vae.data.dataset import DataSet, Split
from vae.evaluation import ACTIVE, LatentMeasures, evaluating, images_of, labels_for, pictures, visible
from vae.evaluation.encoding import encode
from vae.evaluation.latents_file import measure
from vae.model import VAE
from vae.report.prior import shown_prior
from vae.run.contents import FIGURES, METRICS, read_metrics
from vae.run.finished import Loader
from vae.run.needs import read_config
from vae.run.outputs import save_figure

PLANE = torch.linspace(-1, 1, 21)  # a plane has a centre
HELD = 0.9973  # of each dimension of the prior, which is 3 standard deviations of N(0, I)

CLASS_COLUMNS, MOST_CLASSES = 10, 26  # of samples by class


def report(run_dir: Path) -> list[Path]:
    """Draw the pictures of a finished run from its folder alone.

    Args:
        run_dir: the folder that a training run has written.

    Returns:
        The files written, see `draw_figures`.

    Raises:
        InputError: not a run folder, an unfinished or damaged run, or its data are not there.
    """
    loader = Loader()
    opened = loader.open(run_dir)
    return draw_figures(run_dir, opened.model, opened.data, measure(run_dir, loader), opened.config.run.seed)


def draw_figures(
    run_dir: Path,
    model: VAE,
    data: DataSet,
    measures: LatentMeasures,
    seed: int,
    *,
    before_each: Callable[[], None] = lambda: None,
) -> list[Path]:
    """Draw a run's pictures; on one device the same run gives the same pictures every time.

    Args:
        run_dir: holds metrics.jsonl and config.yaml; `figures/` is written there, whole files only.
        model: the unwrapped model, on any device.
        data: of the run; the test set is shown, of images with other than 1 or 3 channels the first channel.
        measures: of the model on the test set.
        seed: of the samples and of z ~ q(z|x).
        before_each: called at least each few seconds; an exception that `before_each` raises ends the drawing.

    Returns:
        The files written: curves, reconstructions, samples, interpolation, marginals and the use of each dimension.
        With two latent dimensions also the latent plane; of a model that sees labels also samples by class.

    Raises:
        InputError: a file of the run is missing, malformed or cannot be written.
    """
    rows = read_metrics(run_dir / METRICS)
    max_grad_norm = read_config(run_dir).optim.max_grad_norm
    prior = cache(partial(shown_prior, model, data.test, seed))
    kinds = [
        lambda: draw_curves(rows, max_grad_norm),
        lambda: _draw_images(model, data, seed),
        lambda: _draw_plane(model, prior()) if model.latent_dim == 2 and not model.condition else {},
        lambda: _draw_latents(model, data, prior(), seed),
        lambda: _draw_latent_use(measures),
    ]
    written = []
    for draw in kinds:
        before_each()
        with evaluating(model):
            drawn = draw()
        for name, figure in drawn.items():
            before_each()
            written.append(save_figure(run_dir / FIGURES / f"{name}.png", figure))
    return written


# --- the pictures, by file name ---------------------------------------------------------------------------------------


def draw_curves(rows: Sequence[Mapping[str, Any]], max_grad_norm: float | None) -> dict[str, Figure]:
    """Return the curves of rows of metrics.jsonl, by file name; gradients are clipped to `max_grad_norm`."""
    train = [row for row in rows if row["split"] == "train"]
    others = [row for row in rows if row["split"] != "train"]
    return {
        "loss_curves": figures.loss_curves(train, others),
        "gradient_norm": figures.gradient_norm(train, max_grad_norm),
    }


def _draw_images(model: VAE, data: DataSet, seed: int) -> dict[str, Figure]:
    shown = one_of_each(data.test, count=10)
    originals = images_of(model, data.test, shown)
    labels = labels_for(model, data.test, shown)
    drawn = {
        "reconstructions": figures.reconstructions(visible(originals), visible(model.reconstruct(originals, labels))),
        "samples": figures.samples(pictures(model, data.test, seed)["Samples"]),
    }
    if len(originals) > 1:
        ends = model.interpolate(originals[0], originals[1], labels=None if labels is None else labels[:2])
        drawn["interpolation"] = figures.interpolation(visible(ends))
    if model.sees_labels:
        drawn["samples_by_class"] = _draw_classes(model, data.class_names, seed)
    return drawn


def _draw_plane(model: VAE, prior: figures.ShownPrior | None) -> dict[str, Figure]:
    ticks = PLANE * (3 if prior is None else float(np.quantile(np.abs(prior.draws), HELD)))
    z = torch.cartesian_prod(ticks, ticks).flip(-1)  # z_1 runs fastest
    images = visible(model.decode(z.to(next(model.parameters()))).mean)
    return {"latent_plane": figures.latent_plane(images, ticks, standard=prior is None)}


def _draw_classes(model: VAE, names: Sequence[str] | None, seed: int) -> Figure:
    """Draw a row of samples for each class, the same noise in each column."""
    noise = randomness.normal(CLASS_COLUMNS, model.draw_dim, seed, "figures/classes").to(next(model.parameters()))
    rows = {}
    for label in range(min(model.classes, MOST_CLASSES)):
        given = torch.full((CLASS_COLUMNS,), label, device=noise.device)
        name = names[label] if names and label < len(names) else str(label)
        rows[name] = visible(model.sample(noise=noise, labels=given))
    p_x, p_z = "p(x|z, y)" if model.condition else "p(x|z)", "p(z|y)" if model.prior.needs_labels else "p(z)"
    return figures.images_by_setting(
        "Samples by class", f"mean of {p_x}, z ~ {p_z}; the same noise in each column", rows
    )


def _draw_latents(model: VAE, data: DataSet, prior: figures.ShownPrior | None, seed: int) -> dict[str, Figure]:
    noise = randomness.normal(len(data.test), model.noise_dim, seed, "figures/posterior")
    codes = encode(model, data.test, noise)
    means, z = codes.mean, codes.z
    assert z is not None
    drawn = {"latent_marginals": figures.latent_marginals(z, prior=prior)}
    if model.latent_dim == 2:
        drawn["latent_scatter"] = figures.latent_scatter(means, data.test.labels, class_names=data.class_names)
        drawn["latent_histogram"] = figures.latent_histogram(z, prior=prior)
    return drawn


def _draw_latent_use(measures: LatentMeasures) -> dict[str, Figure]:
    kl = None if measures.kl is None else np.array(measures.kl)
    return {"latent_use": figures.latent_use(kl, np.array(measures.variance), threshold=ACTIVE)}


def one_of_each(split: Split, *, count: int) -> Tensor:
    """Return the indices of the first example of each class, or without classes of the first ones; at most `count`."""
    if split.labels is None or len(split.labels.unique()) < 2:
        return torch.arange(min(count, len(split)))
    return torch.stack([(split.labels == label).nonzero()[0, 0] for label in split.labels.unique()[:count]])
