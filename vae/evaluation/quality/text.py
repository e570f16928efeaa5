"""Measures of samples as text: in full, and as a table."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vae.evaluation import results_file
from vae.evaluation.log_likelihood.text import MISSING, aligned
from vae.evaluation.results_file import Kept

UNCERTAIN = 0.5  # nats, of a prediction: e.g. two classes, one of them with a probability of 0.8
OWN, MIXTURE, POSTERIOR = "z ~ p(z)", "z ~ mixture", "z ~ q(z|x)"  # kinds of images
NUMBERS = ("classifier Frechet distance (squared)", "entropy of the classes, nats", "entropy of a prediction, nats")
HEAD = ("run", "classifier Frechet distance (squared)", "entropy of the classes", "of a prediction")


def title(protocol: Mapping[str, Any]) -> str:
    """Return a protocol in a line."""
    fed = f"{protocol['count']:,} {protocol['fed']}, z ~ p(z), seed {protocol['seed']}"
    against = f"against as many test images of {protocol['data']}"
    return f"{fed}, {against}; seen by a {_classifier(protocol)}"


def in_full(results: Mapping[str, Any]) -> Iterator[str]:
    """Yield the results of a run, a line for each number."""
    yield f"  classifier Frechet distance (squared)  {_distances(results, 3)}"
    top = results["highest_entropy"]
    yield f"  entropy of the classes                 {results['entropy_of_class_shares']:.3f} nats, at most {top:.3f}"
    own, real = _pair(results, "mean_entropy")
    yield f"  entropy of a prediction, mean          {own:.4f} nats; of test images {real:.4f}"
    own, real = _pair(results, "uncertain_share")
    yield f"  predictions above {UNCERTAIN:g} nats             {100 * own:.1f} %; of test images {100 * real:.1f} %"


def side_by_side(own: Mapping[str, Any], by_mixture: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table of the results of a run: samples, images by a mixture, reconstructions, real images."""
    kinds = {OWN: own, MIXTURE: by_mixture, POSTERIOR: by_mixture["reconstructions"]}
    name = "classifier_frechet_distance"
    rows = [
        ("", *kinds, "test images", "training images"),
        (NUMBERS[0], *_each(kinds, name, "{:.3f}".format), MISSING, f"{own[f'{name}_of_training_images']:.3f}"),
        (NUMBERS[1], *_with_real(kinds, "entropy_of_class_shares", "{:.3f}".format), MISSING),
        (NUMBERS[2], *_with_real(kinds, "mean_entropy", "{:.4f}".format), MISSING),
        (f"predictions above {UNCERTAIN:g} nats", *_with_real(kinds, "uncertain_share", _percent), MISSING),
    ]
    yield from (f"  {line}" for line in aligned(rows))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _each(kinds: Mapping[str, Mapping[str, Any]], name: str, write: Callable[[float], str]) -> list[str]:
    return [write(each[name]) for each in kinds.values()]


def _with_real(kinds: Mapping[str, Mapping[str, Any]], name: str, write: Callable[[float], str]) -> list[str]:
    return [*_each(kinds, name, write), write(kinds[OWN][f"{name}_of_test_images"])]


def note(protocol: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Return the note under the picture."""
    made = f"{protocol['count']:,} {protocol['fed']}, z ~ p(z); {_classifier(protocol)}"
    return f"{made}\nclassifier Frechet distance (squared) {_distances(results, 1)}"


def note_of_both(own: Kept, by_mixture: Kept) -> str:
    """Return the note under the picture of samples and images by a mixture."""
    protocol, name = own.protocol, "classifier_frechet_distance"
    results = (own.results, by_mixture.results, by_mixture.results["reconstructions"])
    kinds = (f"{kind} {each[name]:.1f}" for kind, each in zip((OWN, MIXTURE, POSTERIOR), results, strict=True))
    training = own.results[f"{name}_of_training_images"]
    return (
        f"{protocol['count']:,} {protocol['fed']} of each kind; {_classifier(protocol)}\n"
        f"classifier Frechet distance (squared): {', '.join(kinds)}\n"
        f"of as many training images {training:.1f}; the mixture is fitted to q(z), and not the model's p(z)"
    )


def table(found: Mapping[Path, Kept]) -> Iterator[str]:
    """Yield a table of several runs, best first; or, if their protocols differ, a line with the differences."""
    if different := results_file.differing([each.protocol for each in found.values()]):
        yield f"no table, for these numbers are not to be compared: {'; '.join(different)}"
        return
    order = sorted(found.items(), key=lambda item: item[1].results["classifier_frechet_distance"])
    yield from aligned([HEAD, *((str(folder), *_numbers(each.results)) for folder, each in order)])


def table_of_both(own: Mapping[Path, Kept], by_mixture: Mapping[Path, Kept]) -> Iterator[str]:
    """Yield a table of several runs, best mixture first; or, if their protocols differ, a line with the differences."""
    if different := results_file.differing([each.protocol for each in by_mixture.values()]):
        yield f"no table, for these numbers are not to be compared: {'; '.join(different)}"
        return
    name = "classifier_frechet_distance"
    order = sorted(by_mixture, key=lambda folder: by_mixture[folder].results[name])
    rows: list[tuple[str, ...]] = [(f"{NUMBERS[0]} of", OWN, MIXTURE, POSTERIOR, "training images")]
    for folder in order:
        found, other = own[folder].results, by_mixture[folder].results
        numbers = (found[name], other[name], other["reconstructions"][name], found[f"{name}_of_training_images"])
        rows.append((str(folder), *(f"{number:.3f}" for number in numbers)))
    yield from aligned(rows)


def _numbers(results: Mapping[str, Any]) -> tuple[str, ...]:
    distance, classes = results["classifier_frechet_distance"], results["entropy_of_class_shares"]
    return f"{distance:.3f}", f"{classes:.3f}", f"{results['mean_entropy']:.4f}"


def _classifier(protocol: Mapping[str, Any]) -> str:
    return f"classifier with {100 * protocol['classifier_accuracy']:.2f} % of the test set right"


def _distances(results: Mapping[str, Any], digits: int) -> str:
    own, real = (results[f"classifier_frechet_distance{of}"] for of in ("", "_of_training_images"))
    return f"{own:.{digits}f}; of as many training images {real:.{digits}f}"


def _pair(results: Mapping[str, Any], name: str) -> tuple[float, float]:
    return results[name], results[f"{name}_of_test_images"]
