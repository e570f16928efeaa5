"""`python -m vae quality`: measures the samples of finished runs, and keeps and prints the results."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vae import figures
from vae.assemble import reading_of
from vae.data import randomness
from vae.data.dataset import DataSet, Split
from vae.data.sources import load
from vae.errors import InputError
from vae.evaluation import results_file, visible
from vae.evaluation.quality import text
from vae.evaluation.quality.classifier import FEATURES
from vae.evaluation.quality.measures import Seen, entropy, see
from vae.evaluation.quality.samples import prior_samples
from vae.evaluation.quality.shelf import CLASSIFIERS, Trained, classifier_for
from vae.evaluation.results_file import Kept
from vae.run.contents import QUALITY, USES
from vae.run.finished import Loader, Opened
from vae.run.outputs import save_figure
from vae.run.settings import find
from vae.run.versions import versions

COUNT = 10_000
MEASURE = "classifier Frechet distance, squared (Dowson & Landau 1982, eq. 4)"
SHOWN = 10  # classes in the picture


@dataclass(frozen=True)
class RunWithClassifier:
    """A run, the classifier of its data, and the real images that its samples are compared with."""

    folder: Path
    opened: Opened
    trained: Trained
    test: Split
    train: Split
    draws: bool


def quality_lines(paths: Sequence[Path], *, count: int | None, seed: int, feed: str) -> Iterator[str]:
    """Measure the samples of runs, one after another, and yield the lines to print.

    Args:
        paths: run folders, or folders of runs.
        count: number of samples; None: 10,000, or that of the test images if it is smaller.
        seed: of the samples.
        feed: `means` or `draws` of p(x|z).

    Raises:
        InputError: a run is not finished, its data have no labels, or `count` does not suit them.
    """
    loader, found = Loader(), dict[Path, Kept]()
    for folder in find(paths):
        run = _prepare(loader, folder, count, draws=feed == "draws")
        protocol, started = _protocol(run, seed), time.perf_counter()
        yield f"{folder}: {text.title(protocol)}"
        samples, seen, results = _measure(run, seed)
        made = {"seconds": time.perf_counter() - started, "versions": versions()}
        found[folder] = Kept(protocol, results_file.checkpoint_of(folder), results, made)
        results_file.keep(folder, found[folder], QUALITY)
        yield from text.in_full(results)
        yield f"  in {folder / QUALITY}"
        yield f"  {_draw(run, samples, seen, text.note(protocol, results))}"
    if len(found) > 1:
        yield from text.table(found)


def _suitable(count: int | None, whole: DataSet) -> int:
    """Return the number of samples and real images; raises `InputError` if it is too small for a covariance."""
    available = min(len(whole.test), len(whole.train))
    chosen = min(COUNT, available) if count is None else count
    if chosen > available:
        raise InputError(f"--count {chosen}: {whole.name} has {available} test images to hold them against")
    if chosen <= FEATURES:
        least = f"the covariance of {FEATURES} features needs at least {FEATURES + 1} images"
        raise InputError(f"--count {chosen}: {least}, and {whole.name} has {available} for testing")
    return chosen


def _prepare(loader: Loader, folder: Path, count: int | None, *, draws: bool) -> RunWithClassifier:
    """Return a run with its real images: grey for means of p(x|z), with 0/1 pixels drawn as the run's for draws."""
    opened = loader.open(folder)
    results_file.must_be_writable(folder, QUALITY)
    whole = load(opened.config.data.name, reading_of(opened.config))
    chosen = _suitable(count, whole)
    trained = classifier_for(whole, folder.parent / CLASSIFIERS)
    real = whole
    if draws and opened.config.data.binarize != "none":
        seed = opened.config.run.seed
        real = whole.binarize_evaluation(seed).binarize_training(seed)
    test, train = (
        part[randomness.permutation(len(part), 0, f"quality/{name}")[:chosen]]
        for name, part in (("test", real.test), ("train", real.train))
    )
    return RunWithClassifier(folder, opened, trained, test, train, draws)


def _protocol(run: RunWithClassifier, seed: int) -> dict[str, Any]:
    return {
        "measure": MEASURE,
        "features": FEATURES,
        "classifier": {"file": run.trained.file.name, "sha256": run.trained.sha256},
        "classifier_accuracy": run.trained.accuracy,
        "data": run.opened.data.name,
        "pixels_crc32": run.test.fingerprint,
        "split": "test",
        "fed": "draws of p(x|z)" if run.draws else "means of p(x|z)",
        "count": len(run.test),
        "seed": seed,
    }


def _measure(run: RunWithClassifier, seed: int) -> tuple[Tensor, dict[str, Seen], dict[str, Any]]:
    """Return samples, their features and predictions with those of test images, and the results."""
    classifier = run.trained.classifier
    samples = prior_samples(run.opened.model, len(run.test), seed=seed, draws=run.draws)
    if not bool(samples.isfinite().all()):
        raise InputError(f"{run.folder}: its samples are not finite; train it again")
    seen = {"samples": see(classifier, samples), "test images": see(classifier, run.test.images)}
    own, real = seen["samples"], seen["test images"]
    results = {
        "classifier_frechet_distance": own.distance(real),
        "classifier_frechet_distance_of_training_images": see(classifier, run.train.images).distance(real),
        "class_shares": own.shares.tolist(),
        "class_shares_of_test_images": real.shares.tolist(),
        "entropy_of_class_shares": entropy(own.shares).item(),
        "mean_entropy": own.entropies.mean().item(),
        "mean_entropy_of_test_images": real.entropies.mean().item(),
        "uncertain_share": (own.entropies > text.UNCERTAIN).double().mean().item(),
        "uncertain_share_of_test_images": (real.entropies > text.UNCERTAIN).double().mean().item(),
        "highest_entropy": entropy(own.shares.new_full((len(own.shares),), 1 / len(own.shares))).item(),
    }
    return samples, seen, results


def _draw(run: RunWithClassifier, samples: Tensor, seen: Mapping[str, Seen], note: str) -> Path:
    """Draw classes, entropies and some samples, and return the picture's path."""
    data = run.opened.data
    figure = figures.sample_quality(
        {name: each.shares for name, each in seen.items()},
        {name: each.entropies for name, each in seen.items()},
        _rows(samples, seen["samples"]),
        class_names=data.class_names or [str(label) for label in range(data.classes)],
        note=note,
    )
    return save_figure(run.folder / USES / "quality.png", figure)


def _rows(samples: Tensor, seen: Seen) -> dict[str, Tensor]:
    """Return the first samples, and for each predicted class the most and the least certain sample."""
    order, classes = seen.entropies.argsort(stable=True), seen.probabilities.argmax(1)
    of_each = [order[classes[order] == label] for label in classes.unique()[:SHOWN]]
    chosen = {
        "first samples": torch.arange(min(len(of_each), len(samples))),
        "most certain of each class": torch.stack([places[0] for places in of_each]),
        "least certain of each class": torch.stack([places[-1] for places in of_each]),
    }
    return {name: visible(samples[places]) for name, places in chosen.items()}
