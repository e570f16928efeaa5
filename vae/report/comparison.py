"""Pictures that compare settings: what a sweep has found, each with a caption."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
from vae.figures.sweeps import ceiling, finite
from vae.report.pictures import one_of_each
from vae.report.table import evaluated
from vae.run.finished import Loader
from vae.run.settings import Run, Setting, short, word

COLUMNS = 10  # images of each setting

Drawn = dict[str, tuple[Figure, str]]
Named = Mapping[str, Setting]  # by label


def draw(settings: Sequence[Setting], loader: Loader) -> Drawn:
    """Draw what compares settings; losses are -ELBO at beta = 1 on the test set, nats per example.

    Unfinished runs are in the curves only. Runs whose data, or the measure of whose likelihood, are not those of the
    first finished one are left out, as their numbers cannot be compared. Captions say what has been left out.

    Args:
        settings: at least one, with labels of their own.
        loader: opens finished runs.

    Returns:
        Name -> figure and caption: `loss_curves_by_setting`, and where runs are finished `test_loss`,
        `rate_distortion`, `reconstructions_by_setting`, `samples_by_setting`, `latent_use_by_setting`.

    Raises:
        InputError: the data of a finished run are not there.
    """
    named, note = _of_one_protocol(settings)
    drawn = {"loss_curves_by_setting": _draw_curves(named)}
    finished = {label: setting for label, setting in named.items() if setting.finished}
    if finished:
        drawn["test_loss"] = _draw_test_loss(named)
        drawn["rate_distortion"] = _draw_rate_distortion(named)
        drawn |= _draw_images(named, loader)
        drawn["latent_use_by_setting"] = _draw_latent_use(named, loader)
    return {name: (figure, f"{caption}{note}") for name, (figure, caption) in drawn.items()}


# --- numbers ----------------------------------------------------------------------------------------------------------


def _draw_curves(named: Named) -> tuple[Figure, str]:
    curves = {label: [_curve(run) for run in setting.runs if run.of_split("test")] for label, setting in named.items()}
    latest = {label: [float(losses[-1]) for _, losses in runs] for label, runs in curves.items()}
    caption = (
        "Test loss over epochs: the mean over the seeds of each setting, in a band from the lowest to the highest of"
        " them (dotted: runs that are further than the others)."
    )
    silent = [label for label, runs in curves.items() if not runs]
    return figures.loss_curves_by_setting(curves), caption + _notes(named, latest, silent, complete=False)


def _curve(run: Run) -> tuple[np.ndarray, np.ndarray]:
    rows = run.of_split("test")
    return np.array([row["epoch"] for row in rows]), np.array([row["loss"] for row in rows])


def _draw_test_loss(named: Named) -> tuple[Figure, str]:
    losses = {label: _results(setting, "loss") for label, setting in named.items()}
    notes = _notes(named, losses)
    over = "mean over seeds, bars of one standard deviation (of two runs or more), each run as a small dot."
    axis = find_axis([setting.varied for setting in named.values()])
    if axis is None:
        return figures.loss_by_setting(losses), f"Final test loss of each setting: {over}{notes}"
    lines: dict[str, dict[float, list[float]]] = {}
    for setting, values in zip(named.values(), losses.values(), strict=True):
        lines.setdefault(axis.line_of(setting.varied), {})[setting.varied[axis.key]] = values
    return figures.loss_against(axis.name, lines), f"Final test loss against {axis.name}: {over}{notes}"


def _draw_rate_distortion(named: Named) -> tuple[Figure, str]:
    points = {
        label: (
            np.array(_results(setting, "kl")),
            np.array(_results(setting, "reconstruction")),
        )
        for label, setting in named.items()
    }
    caption = (
        "Each run by the two parts of its final test loss: to the left less information about x in z, further down a"
        " better reconstruction; along a dashed line -ELBO is the same."
    )
    losses = {label: _results(setting, "loss") for label, setting in named.items()}
    return figures.rate_distortion(points), caption + _notes(named, losses)


def _draw_latent_use(named: Named, loader: Loader) -> tuple[Figure, str]:
    found = {label: _measure_all(setting, loader) for label, setting in named.items()}
    kl = {label: [np.array(one.kl) for one in runs if one.kl] for label, runs in found.items()}
    active = {label: [(one.active, len(one.variance)) for one in runs] for label, runs in found.items()}
    caption = (
        "Left, the KL of each latent dimension, averaged over the test set, the most used dimension first; right, the"
        " dimensions whose posterior mean varies over the test set by more than 0.01 (Burda et al. 2016): the mean over"
        " seeds as a bar, each run as a mark, all dimensions in grey."
    )
    if any(one.shared_kl and one.shared_kl > 1e-3 for runs in found.values() for one in runs):
        caption += " Of full-covariance posteriors the KL of each dimension's marginal is shown, which adds up to less."
    silent = [label for label, runs in found.items() if not runs]
    return figures.latent_use_by_setting(kl, active), caption + _notes(named, {}, silent)


def _measure_all(setting: Setting, loader: Loader) -> list[LatentMeasures]:
    found = []
    for run in setting.finished:
        try:
            found.append(measure(run.folder, loader))
        except InputError:  # its model is gone: said as what is left out
            continue
    return found


def _results(setting: Setting, key: str) -> list[float]:
    """Return a number of `test` in summary.json, of each finished run; NaN where there is none."""
    return [float(run.summary["test"].get(key, math.nan)) for run in setting.finished if run.summary is not None]


# --- images -----------------------------------------------------------------------------------------------------------


def _draw_images(named: Named, loader: Loader) -> Drawn:
    """Draw reconstructions and samples, of the run with the lowest seed of each setting."""
    first = next(run for setting in named.values() for run in setting.finished)
    test = loader.data(first.config).test
    chosen = one_of_each(test, count=COLUMNS)
    images = test.images[chosen]
    originals = {"test images": visible(to_unit_interval(images, torch.float32))}
    reconstructed, sampled = dict[str, Tensor](), dict[str, Tensor]()
    for label, setting in named.items():
        for run in setting.finished[:1]:
            try:
                model = loader.open(run.folder).model
            except InputError:  # its model is gone: said as what is left out
                continue
            with evaluating(model):
                x = images_of(model, test, chosen)
                reconstructed[label] = visible(model.reconstruct(x, labels_for(model, test, chosen)))
                # a row for each dimension, so that models of fewer dimensions have the first ones
                noise = randomness.normal(model.draw_dim, COLUMNS, 0, "comparison/samples").T
                sampled[label] = visible(model.sample(noise=noise.to(x)))
    if not reconstructed:
        return {}
    silent = _notes(named, {}, [label for label in named if label not in reconstructed])
    of_whom = "of the run with the lowest seed of each setting"
    return {
        "reconstructions_by_setting": (
            figures.images_by_setting(
                "Reconstructions by setting", "mean of p(x|z) at z = E[z|x]", originals | reconstructed
            ),
            f"The same test images and their reconstructions, the mean of p(x|z) at z = E[z|x], {of_whom}.{silent}",
        ),
        "samples_by_setting": (
            figures.images_by_setting("Samples by setting", "means of p(x|z), z ~ p(z)", sampled),
            f"Means of p(x|z) for z drawn from the prior, with the same noise (of fewer dimensions its first ones), "
            f"{of_whom}.{silent}",
        ),
    }


# --- what is swept ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """The number that settings are drawn against.

    Attributes:
        key: its dotted key.
        in_step: keys whose values follow from its value.
        rest: keys whose values tell lines apart.
    """

    key: str
    in_step: tuple[str, ...]
    rest: tuple[str, ...]

    @property
    def name(self) -> str:
        """What the axis is called."""
        names = " and ".join(short(key) for key in self.in_step)
        return short(self.key) + (f" (with {names} in step)" if names else "")

    def line_of(self, varied: Mapping[str, Any]) -> str:
        """Return the label of a setting's line."""
        return ", ".join(f"{short(key)} = {word(varied[key])}" for key in self.rest if key in varied)


def find_axis(varied: Sequence[Mapping[str, Any]]) -> Axis | None:
    """Return what to draw settings against, or None if they have no order.

    Of the numbers that all of them have it is the one with the most values, if two settings or more fall on a line, on
    average.

    Args:
        varied: of each setting, dotted key -> value; no two alike.
    """
    keys = list(dict.fromkeys(key for setting in varied for key in setting))
    numeric = [key for key in keys if all(_is_number(setting.get(key)) for setting in varied)]
    for key in sorted(numeric, key=lambda key: -len({setting[key] for setting in varied})):
        values = {setting[key] for setting in varied}
        in_step = [k for k in keys if k != key and len({(s[key], repr(s.get(k))) for s in varied}) == len(values)]
        rest = [k for k in keys if k != key and k not in in_step]
        lines = {repr([setting.get(k) for k in rest]) for setting in varied}
        if len(lines) * 2 <= len(varied):
            return Axis(key, tuple(in_step), tuple(rest))
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# --- what is left out -------------------------------------------------------------------------------------------------


def _of_one_protocol(settings: Sequence[Setting]) -> tuple[dict[str, Setting], str]:
    """Return the settings by label, as far as their runs can be compared with the first finished one, and a note."""
    runs = [run for setting in settings for run in setting.runs]
    first = next((run for run in runs if run.summary is not None), runs[0])
    named: dict[str, Setting] = {}
    for label, setting in zip(_labels(settings), settings, strict=True):
        kept = tuple(run for run in setting.runs if _comparable(run, first))
        if kept:
            named[label] = replace(setting, runs=kept)
    others = len(runs) - sum(len(setting.runs) for setting in named.values())
    what = f"{_runs(others)} on other data or with another likelihood"
    return named, f" Left out, not to be compared: {what}." if others else ""


def _labels(settings: Sequence[Setting]) -> list[str]:
    """Return a label for each setting, no two alike, without what a component's name says already."""
    varied = [setting.varied for setting in settings]
    keys = list(dict.fromkeys(key for each in varied for key in each))
    for detail in [key for key in keys if f"{key.rpartition('.')[0]}.name" in keys and not key.endswith(".name")]:
        fewer = [key for key in keys if key != detail]
        if len({repr([each.get(key) for key in fewer]) for each in varied}) == len(varied):
            keys = fewer
    shown = [{key: value for key, value in each.items() if key in keys} for each in varied]
    labels = [replace(setting, varied=few).label for setting, few in zip(settings, shown, strict=True)]
    return [f"{label} ({place})" if labels.count(label) > 1 else label for place, label in enumerate(labels, start=1)]


def _comparable(run: Run, other: Run) -> bool:
    if evaluated(run) != evaluated(other):
        return False
    if run.config.data.binarize != "none":
        return True  # 0/1 pixels are drawn anew for each seed
    pixels = {dict(r.protocol or ()).get("pixels_crc32") for r in (run, other)} - {None}
    return len(pixels) < 2


def _notes(
    named: Named, losses: Mapping[str, list[float]], silent: Iterable[str] = (), *, complete: bool = True
) -> str:
    """Return sentences about what a picture does not show.

    Args:
        named: the settings.
        losses: what it shows of them, with NaN and what is far above the others.
        silent: labels of settings of which it shows nothing.
        complete: it shows finished runs only.
    """
    sentences = []
    unfinished = sum(len(setting.runs) - len(setting.finished) for setting in named.values())
    if unfinished and complete:
        sentences.append(f"Left out: {_runs(unfinished)} not finished.")
    elif unfinished:
        sentences.append(f"Unfinished so far: {_runs(unfinished)}.")
    gone = [label for label in silent if not complete or named[label].finished]
    if gone:
        sentences.append(f"Nothing to show of: {'; '.join(gone)}.")
    lost = sum(len(values) - len(finite(values)) for values in losses.values())
    if lost:
        sentences.append(f"Left out: {_runs(lost)} whose loss is not finite.")
    means = {label: sum(kept) / len(kept) for label, values in losses.items() if (kept := finite(values))}
    limit = ceiling(list(means.values()))
    beyond = [f"{label} ({mean:.4g} nats)" for label, mean in means.items() if mean > limit]
    if beyond:
        sentences.append(f"Far above the others and outside the picture: {'; '.join(beyond)}.")
    return "".join(f" {sentence}" for sentence in sentences)


def _runs(count: int) -> str:
    return f"{count} run{'s' if count > 1 else ''}"
