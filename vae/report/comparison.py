"""Pictures that compare settings, each with a caption: the results of a sweep."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from vae import figures
from vae.data import randomness
from vae.data.batches import to_unit_interval
from vae.errors import InputError
from vae.evaluation import LatentMeasures, evaluating, images_of, labels_for, visible
from vae.evaluation.latents_file import measure
from vae.report.axis import find_axis
from vae.report.compared import Compared
from vae.report.pictures import one_of_each
from vae.report.rendering import sentence
from vae.run.finished import Loader
from vae.run.settings import Run, Setting

COLUMNS = 10  # images of each setting

Drawn = dict[str, tuple[Figure, str]]


def draw(settings: Sequence[Setting], loader: Loader) -> Drawn:
    """Draw pictures that compare settings; losses are -ELBO at beta = 1 on the test set, nats per example.

    Unfinished runs are in the curves only. Left out are runs on other data than those of the first finished run, or
    whose likelihood has another measure: their numbers cannot be compared. Captions name all that is left out.

    Args:
        settings: at least one, with labels of their own.
        loader: opens finished runs.

    Returns:
        Name -> figure and caption: `loss_curves_by_setting`, and where runs are finished `test_loss`,
        `rate_distortion`, `reconstructions_by_setting`, `samples_by_setting`, `latent_use_by_setting`.

    Raises:
        InputError: the data of a finished run are not there.
    """
    compared = Compared.of(settings)
    drawn = {"loss_curves_by_setting": _draw_curves(compared)}
    if any(setting.finished for setting in compared.settings.values()):
        drawn["test_loss"] = _draw_test_loss(compared)
        drawn["rate_distortion"] = _draw_rate_distortion(compared)
        drawn |= _draw_images(compared, loader)
        drawn["latent_use_by_setting"] = _draw_latent_use(compared, loader)
    return drawn


# --- numbers ----------------------------------------------------------------------------------------------------------


def _draw_curves(compared: Compared) -> tuple[Figure, str]:
    curves = {
        label: [_curve(run) for run in setting.runs if run.of_split("test")]
        for label, setting in compared.settings.items()
    }
    latest = {label: [float(losses[-1]) for _, losses in runs] for label, runs in curves.items()}
    omitted = compared.omitted_so_far(latest, [label for label, runs in curves.items() if not runs])
    return figures.loss_curves_by_setting(curves), sentence("loss_curves_by_setting", omitted=omitted)


def _curve(run: Run) -> tuple[np.ndarray, np.ndarray]:
    rows = run.of_split("test")
    return np.array([row["epoch"] for row in rows]), np.array([row["loss"] for row in rows])


def _draw_test_loss(compared: Compared) -> tuple[Figure, str]:
    losses = compared.results("loss")
    settings = compared.settings.values()
    axis = find_axis([setting.varied for setting in settings])
    caption = sentence("test_loss", axis=axis, omitted=compared.omitted(losses))
    if axis is None:
        return figures.loss_by_setting(losses), caption
    lines: dict[str, dict[float, list[float]]] = {}
    for setting, values in zip(settings, losses.values(), strict=True):
        lines.setdefault(axis.line_of(setting.varied), {})[setting.varied[axis.key]] = values
    return figures.loss_against(axis.name, lines), caption


def _draw_rate_distortion(compared: Compared) -> tuple[Figure, str]:
    rates, distortions = compared.results("kl"), compared.results("reconstruction")
    points = {label: (np.array(rates[label]), np.array(distortions[label])) for label in compared.settings}
    omitted = compared.omitted(compared.results("loss"))
    return figures.rate_distortion(points), sentence("rate_distortion", omitted=omitted)


def _draw_latent_use(compared: Compared, loader: Loader) -> tuple[Figure, str]:
    found = {label: _measure_all(setting, loader) for label, setting in compared.settings.items()}
    kl = {label: [np.array(one.kl) for one in runs if one.kl] for label, runs in found.items()}
    active = {label: [(one.active, len(one.variance)) for one in runs] for label, runs in found.items()}
    caption = sentence(
        "latent_use_by_setting",
        marginals=any(one.shared_kl and one.shared_kl > 1e-3 for runs in found.values() for one in runs),
        omitted=compared.omitted({}, [label for label, runs in found.items() if not runs]),
    )
    return figures.latent_use_by_setting(kl, active), caption


def _measure_all(setting: Setting, loader: Loader) -> list[LatentMeasures]:
    found = []
    for run in setting.finished:
        try:
            found.append(measure(run.folder, loader))
        except InputError:  # its model is gone: the caption names the setting
            continue
    return found


# --- images -----------------------------------------------------------------------------------------------------------


def _draw_images(compared: Compared, loader: Loader) -> Drawn:
    """Draw reconstructions and samples, of the run with the lowest seed of each setting."""
    first = next(run for setting in compared.settings.values() for run in setting.finished)
    test = loader.data(first.config).test
    chosen = one_of_each(test, count=COLUMNS)
    images = test.images[chosen]
    originals = {"test images": visible(to_unit_interval(images, torch.float32))}
    reconstructed, sampled = dict[str, Tensor](), dict[str, Tensor]()
    for label, setting in compared.settings.items():
        for run in setting.finished[:1]:
            try:
                model = loader.open(run.folder).model
            except InputError:  # its model is gone: the caption names the setting
                continue
            with evaluating(model):
                x = images_of(model, test, chosen)
                reconstructed[label] = visible(model.reconstruct(x, labels_for(model, test, chosen)))
                # a row for each dimension, so that models of fewer dimensions have the first ones
                noise = randomness.normal(model.draw_dim, COLUMNS, 0, "comparison/samples").T
                sampled[label] = visible(model.sample(noise=noise.to(x)))
    if not reconstructed:
        return {}
    omitted = compared.omitted({}, [label for label in compared.settings if label not in reconstructed])
    rows = {
        "reconstructions_by_setting": (
            "Reconstructions by setting", "mean of p(x|z) at z = E[z|x]", originals | reconstructed,
        ),
        "samples_by_setting": ("Samples by setting", "means of p(x|z), z ~ p(z)", sampled),
    }  # fmt: skip
    return {name: (figures.images_by_setting(*parts), sentence(name, omitted=omitted)) for name, parts in rows.items()}
