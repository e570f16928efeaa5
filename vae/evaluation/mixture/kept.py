"""uses/mixture-K-SEED.npz in a run's folder: the mixture that was fitted to its codes, by the weights' sha256."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from vae.data.dataset import Split
from vae.errors import Argument, ArgumentError, InputError
from vae.evaluation.mixture.drawing import Drawn, draw
from vae.evaluation.mixture.fitting import MOST_ITERATIONS, RIDGE, TOLERANCE, FitError, Normals, fit
from vae.evaluation.passes import chunks, mean_and_error
from vae.evaluation.results_file import checkpoint_of
from vae.families.priors import FittedMixture
from vae.model import VAE
from vae.networks import Sizes
from vae.run.contents import USES
from vae.run.finished import Opened
from vae.run.outputs import save_arrays
from vae.run.versions import versions

FORMAT = 1
COMPONENTS = 10  # as in the article
CHOICES = ("own", "gmm")
METHOD = "ex-post density estimation (Ghosh et al. 2020, From Variational to Deterministic Autoencoders, section 4)"
FITTED_TO = "one z ~ q(z|x) for each image"
NOTE = "z is not drawn from the model's p(z): images are no samples of the model, and its log p(x) is not about them"


@dataclass(frozen=True)
class Fitted:
    """A mixture of normals that was fitted to the aggregate posterior of a run.

    Attributes:
        prior: takes the place of p(z) where images are made.
        protocol: data, images, seed, components, sha256 of the weights.
        results: iterations, and mean log-densities of z ~ q(z|x) of training and test images, nats.
        file: that keeps it; None: the folder cannot be written.
    """

    prior: FittedMixture
    protocol: Mapping[str, Any]
    results: Mapping[str, Any]
    file: Path | None


def components_of(prior: str, components: int | None) -> int | None:
    """Return the normals of the mixture that arguments ask for; None: they ask for the model's own prior.

    Args:
        prior: `own` or `gmm`.
        components: of a mixture; None: 10.

    Raises:
        InputError: there is no such prior, or components of none are given.
    """
    if prior not in CHOICES:
        raise ArgumentError(Argument("prior"), f" {prior}: must be {' or '.join(CHOICES)}")
    if prior == "gmm":
        return COMPONENTS if components is None else components
    if components is not None:
        raise ArgumentError(Argument("components"), f" {components}: goes with ", Argument("prior"), " gmm")
    return None


def must_suit(opened: Opened, folder: Path, components: int) -> None:
    """Raise `InputError` if no mixture of so many components can be fitted to the codes of a run."""
    if components < 1:
        raise ArgumentError(Argument("components"), f" {components}: must be at least 1")
    if opened.model.posterior.codes:
        problem = f"{folder}: its z is a sequence of codes, which has no density to fit; use the model's own prior"
        raise ArgumentError(Argument("prior"), f" gmm: {problem}")
    part, model = opened.data.train, opened.model
    _must_be_enough(components, len(part), "the training set")
    if model.needs_labels and part.labels is not None:
        _classes_must_be_enough(components, part.labels, model.classes)


def fitted(folder: Path, opened: Opened, *, components: int, seed: int) -> Fitted:
    """Return the mixture that a run's folder keeps; if it is of other weights or there is none, fit it and keep it.

    Args:
        folder: of the run; if it cannot be written, nothing is kept.
        opened: the run.
        components: K.
        seed: of z ~ q(z|x) and of the first cluster centres.

    Raises:
        InputError: no such mixture can be fitted.
    """
    must_suit(opened, folder, components)
    part, model = _training(opened), opened.model
    file = folder / USES / f"mixture-{components}-{seed}.npz"
    protocol = _protocol(folder, opened, part, components, seed)
    sizes = Sizes(model.image_shape, model.hierarchy.top_dim, classes=model.classes)
    if found := _read(file, protocol):
        arrays, results = found
        return Fitted(FittedMixture(sizes, **arrays), protocol, results, file)
    drawn = _draw(folder, model, part, seed, "train")
    try:
        normals = [fit(z, components, seed=seed, of_what=words) for z, words in _sets(drawn, model.classes, components)]
    except FitError as error:
        raise ArgumentError(Argument("components"), f" {components}: {folder}: cannot be fitted: {error}") from None
    arrays = _together(normals, by_class=drawn.labels is not None)
    prior = FittedMixture(sizes, **arrays)
    results = _results(prior, normals, drawn, _draw(folder, model, opened.data.test, seed, "test"))
    return Fitted(prior, protocol, results, _keep(file, arrays, protocol, results))


def _draw(folder: Path, model: VAE, part: Split, seed: int, split: str) -> Drawn:
    """Return one z ~ q(z|x) for each image; raises `InputError` if there is one without a density."""
    drawn = draw(model, part, seed=seed, split=split)
    if not bool((drawn.z.isfinite().all(1) & drawn.log_prior.isfinite()).all()):
        raise InputError(f"{folder}: codes, or their density under the prior, are not finite; train it again")
    return drawn


def _keep(file: Path, arrays: Mapping[str, Tensor], protocol: Mapping[str, Any], results: Any) -> Path | None:
    """Write a mixture to its file; returns the file, or None if it cannot be written."""
    made = versions() | {"scikit-learn": version("scikit-learn")}
    words = {"protocol": protocol, "results": results, "made": made}
    numbers = {name: part.numpy() for name, part in arrays.items()}
    try:
        return save_arrays(file, numbers | {name: np.array(json.dumps(each)) for name, each in words.items()})
    except InputError:  # somebody else's run, read-only; or a full disk
        return None


def _training(opened: Opened) -> Split:
    """Return the images that a run is trained on, with 0/1 pixels drawn where the run draws them."""
    config, train = opened.config, opened.data.train
    return train.binarize(config.run.seed, "train") if config.data.is_drawn else train


def _must_be_enough(components: int, count: int, whose: str) -> None:
    if count < max(2, components):
        problem = f"must be at most the number of images, two or more, but {whose} has {count:,}"
        raise ArgumentError(Argument("components"), f" {components}: {problem}")


def _classes_must_be_enough(components: int, labels: Tensor, classes: int) -> None:
    for label, count in enumerate(labels.bincount(minlength=classes).tolist()):
        _must_be_enough(components, count, f"class {label}, which has a mixture of its own,")


def _protocol(folder: Path, opened: Opened, part: Split, components: int, seed: int) -> dict[str, Any]:
    model = opened.model
    return {
        "format": FORMAT,
        "method": METHOD,
        "note": NOTE,
        "weights_sha256": checkpoint_of(folder)["sha256"],
        "data": opened.data.name,
        "split": "train",
        "pixels_crc32": part.fingerprint,
        "images": len(part),
        "fitted_to": FITTED_TO,
        "held_out": {"split": "test", "pixels_crc32": opened.data.test.fingerprint, "images": len(opened.data.test)},
        "dimensions": model.hierarchy.top_dim,
        "prior": type(model.prior).__name__,
        "components": components,
        "covariance": "full",
        "classes": model.classes if model.sees_labels else None,
        "seed": seed,
        "tolerance": TOLERANCE,
        "most_iterations": MOST_ITERATIONS,
        "ridge": RIDGE,
    }


def _read(file: Path, protocol: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return the arrays and the results in a file; None: no file, a damaged one, or one by another protocol."""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as found:
            if json.loads(str(found["protocol"])) != protocol:
                return None
            arrays = {name: torch.from_numpy(found[name]) for name in ("weights", "means", "covariances")}
            return arrays, json.loads(str(found["results"]))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None


def _sets(drawn: Drawn, classes: int, components: int) -> Iterator[tuple[np.ndarray, str]]:
    """Yield all z, or those of each class, (N, D), and words for the bar."""
    if drawn.labels is None:
        yield drawn.z.numpy(), ""
        return
    _classes_must_be_enough(components, drawn.labels, classes)  # inferred ones are not known before
    for label in range(classes):
        yield drawn.z[drawn.labels == label].numpy(), f" to class {label}"


def _together(normals: list[Normals], *, by_class: bool) -> dict[str, Tensor]:
    """Return the arrays of the only mixture, or those of the mixtures of all classes, the class in front."""
    names = ("weights", "means", "covariances")
    stacked = {name: torch.from_numpy(np.stack([getattr(each, name) for each in normals])) for name in names}
    return stacked if by_class else {name: numbers[0] for name, numbers in stacked.items()}


def _results(prior: FittedMixture, normals: list[Normals], train: Drawn, test: Drawn) -> dict[str, Any]:
    """Return how the fit ended, and how well mixture and prior describe draws of q(z|x)."""
    results: dict[str, Any] = {
        "iterations": max(each.iterations for each in normals),
        "converged": all(each.converged for each in normals),
    }
    for name, drawn in (("train", train), ("test", test)):
        mixture = _log_density(prior, drawn)
        numbers = {"log_mixture": mixture, "log_prior": drawn.log_prior, "gain": mixture - drawn.log_prior}
        pairs = {key: mean_and_error(values) for key, values in numbers.items()}
        results[name] = {key: mean for key, (mean, _) in pairs.items()}
        results[name] |= {f"{key}_error": error for key, (_, error) in pairs.items()}
    return results


def _log_density(prior: FittedMixture, drawn: Drawn) -> Tensor:
    """Return the log-density of z under a mixture, (N,), nats."""
    labels = drawn.labels
    every = chunks(slice(0, len(drawn.z)))
    return torch.cat([prior.log_prob(drawn.z[rows], None if labels is None else labels[rows]) for rows in every])
