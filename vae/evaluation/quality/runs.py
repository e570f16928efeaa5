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
from vae.data.batches import to_unit_interval
from vae.data.dataset import DataSet, Split
from vae.data.sources import load
from vae.errors import InputError
from vae.evaluation import results_file, visible
from vae.evaluation.mixture.kept import Fitted, components_of, fitted, must_suit
from vae.evaluation.mixture.text import description, in_words
from vae.evaluation.quality import text
from vae.evaluation.quality.classifier import FEATURES
from vae.evaluation.quality.measures import Seen, entropy, see
from vae.evaluation.quality.samples import prior_samples, reconstructions
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
    """A run, the classifier of its data, and the real images that its samples are compared with.

    Attributes:
        folder: of the run.
        opened: the run.
        trained: the classifier.
        test, train: real images.
        encoded: the test images as the encoder sees them.
        draws: whether samples are drawn from p(x|z), and not its means.
    """

    folder: Path
    opened: Opened
    trained: Trained
    test: Split
    train: Split
    encoded: Split
    draws: bool


@dataclass(frozen=True)
class Looked:
    """Images (N, C, H, W) in [0, 1], and how the classifier sees them."""

    images: Tensor
    seen: Seen


@dataclass(frozen=True)
class Real:
    """Test images and as many training images, as the classifier sees them."""

    test: Seen
    train: Seen


def quality_lines(
    paths: Sequence[Path], *, count: int | None, seed: int, feed: str, prior: str = "own", components: int | None = None
) -> Iterator[str]:
    """Measure the samples of runs, one after another, and yield the lines to print.

    Args:
        paths: run folders, or folders of runs.
        count: number of samples; None: 10,000, or that of the test images if it is smaller.
        seed: of the samples, and of a mixture.
        feed: `means` or `draws` of p(x|z).
        prior: `own`, or `gmm` for images by a mixture of normals, fitted to the codes afterwards, beside the samples.
        components: normals in the mixture; None: 10.

    Raises:
        InputError: a run is not finished, its data have no labels, or `count` or a mixture does not suit them.
    """
    normals, loader, folders = components_of(prior, components), Loader(), find(paths)
    if normals is not None:
        for folder in folders:
            must_suit(loader.open(folder), folder, normals)
    found, by_mixture = dict[Path, Kept](), dict[Path, Kept]()
    for folder in folders:
        run = _prepare(loader, folder, count, draws=feed == "draws")
        yield f"{folder}: {text.title(_protocol(run, seed))}"
        mixture = None if normals is None else fitted(folder, run.opened, components=normals, seed=seed)
        real = Real(*(see(run.trained.classifier, part.images) for part in (run.test, run.train)))
        looked, found[folder] = _measure(run, seed, real)
        picture = _draw(run, looked, real, text.note(found[folder].protocol, found[folder].results))
        if mixture is None:
            yield from text.in_full(found[folder].results)
            yield f"  in {folder / QUALITY}"
        else:
            yield from in_words(mixture)
            others, by_mixture[folder] = _measure_mixture(run, seed, real, mixture)
            yield from text.side_by_side(found[folder].results, by_mixture[folder].results)
            yield f"  in {folder / QUALITY}"
            beside = {text.OWN: looked, **others}
            note = text.note_of_both(found[folder], by_mixture[folder])
            yield f"  {_draw_side_by_side(run, beside, real, note)}"
        yield f"  {picture}"
    if len(found) > 1:
        yield from text.table(found) if normals is None else text.table_of_both(found, by_mixture)


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
    if draws and opened.config.data.is_drawn:
        seed = opened.config.run.seed
        real = whole.binarize_evaluation(seed).binarize_training(seed)
    test, train = (
        part[_rows_of(name, len(part), chosen)] for name, part in (("test", real.test), ("train", real.train))
    )
    encoded = opened.data.test[_rows_of("test", len(opened.data.test), chosen)]
    return RunWithClassifier(folder, opened, trained, test, train, encoded, draws)


def _rows_of(name: str, available: int, count: int) -> Tensor:
    """Return the images of a part that are looked at, (count,)."""
    return randomness.permutation(available, 0, f"quality/{name}")[:count]


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


def _measure(run: RunWithClassifier, seed: int, real: Real) -> tuple[Looked, Kept]:
    """Return samples of the model, as the classifier sees them, and the results, which are kept."""
    started = time.perf_counter()
    looked = _look(run, prior_samples(run.opened.model, len(run.test), seed=seed, draws=run.draws))
    return looked, _keep(run, _protocol(run, seed), results_of(looked.seen, real), started)


def _measure_mixture(run: RunWithClassifier, seed: int, real: Real, mixture: Fitted) -> tuple[dict[str, Looked], Kept]:
    """Return images by a mixture and reconstructions, as the classifier sees them, and the results, which are kept."""
    started, how = time.perf_counter(), {"seed": seed, "draws": run.draws}
    looked = {
        text.MIXTURE: _look(run, prior_samples(run.opened.model, len(run.test), **how, prior=mixture.prior)),
        text.POSTERIOR: _look(run, reconstructions(run.opened.model, run.encoded, **how)),
    }
    protocol = _protocol(run, seed) | {"z": f"{description(mixture.protocol)}; not the model's p(z)"}
    results = results_of(looked[text.MIXTURE].seen, real)
    results["reconstructions"] = results_of(looked[text.POSTERIOR].seen, real)
    results["mixture"] = {"file": None if mixture.file is None else f"{USES}/{mixture.file.name}", **mixture.results}
    return looked, _keep(run, protocol, results, started)


def _look(run: RunWithClassifier, images: Tensor) -> Looked:
    if not bool(images.isfinite().all()):
        raise InputError(f"{run.folder}: its samples are not finite; train it again")
    return Looked(images, see(run.trained.classifier, images))


def results_of(own: Seen, real: Real) -> dict[str, Any]:
    """Return how images look beside real ones."""
    test, train = real.test, real.train
    return {
        "classifier_frechet_distance": own.distance(test),
        "classifier_frechet_distance_of_training_images": train.distance(test),
        "class_shares": own.shares.tolist(),
        "class_shares_of_test_images": test.shares.tolist(),
        "entropy_of_class_shares": entropy(own.shares).item(),
        "entropy_of_class_shares_of_test_images": entropy(test.shares).item(),
        "mean_entropy": own.entropies.mean().item(),
        "mean_entropy_of_test_images": test.entropies.mean().item(),
        "uncertain_share": (own.entropies > text.UNCERTAIN).double().mean().item(),
        "uncertain_share_of_test_images": (test.entropies > text.UNCERTAIN).double().mean().item(),
        "highest_entropy": entropy(own.shares.new_full((len(own.shares),), 1 / len(own.shares))).item(),
    }


def _keep(run: RunWithClassifier, protocol: dict[str, Any], results: dict[str, Any], started: float) -> Kept:
    """Add results to the run's quality.json, and return them."""
    made = {"seconds": time.perf_counter() - started, "versions": versions()}
    kept = Kept(protocol, results_file.checkpoint_of(run.folder), results, made)
    results_file.keep(run.folder, kept, QUALITY)
    return kept


def _draw(run: RunWithClassifier, samples: Looked, real: Real, note: str) -> Path:
    """Draw classes, entropies and some samples of the model, and return the picture's path."""
    seen = {"samples": samples.seen, "test images": real.test}
    return _save(run, "quality.png", seen, _rows(samples.images, samples.seen), note)


def _draw_side_by_side(run: RunWithClassifier, looked: Mapping[str, Looked], real: Real, note: str) -> Path:
    """Draw classes, entropies and some of each kind of images, and return the picture's path."""
    seen = {name: looked[name].seen for name in (text.OWN, text.MIXTURE)} | {"test images": real.test}
    rows = {name: each.images[:SHOWN] for name, each in looked.items()}
    rows["test images"] = to_unit_interval(run.test.images[:SHOWN], torch.float32)
    return _save(run, "quality-gmm.png", seen, {name: visible(images) for name, images in rows.items()}, note)


def _save(run: RunWithClassifier, name: str, seen: Mapping[str, Seen], rows: Mapping[str, Tensor], note: str) -> Path:
    data = run.opened.data
    figure = figures.sample_quality(
        {name: each.shares for name, each in seen.items()},
        {name: each.entropies for name, each in seen.items()},
        rows,
        class_names=data.class_names or [str(label) for label in range(data.classes)],
        note=note,
    )
    return save_figure(run.folder / USES / name, figure)


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
