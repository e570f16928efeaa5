"""Measures of samples as text: in full, and as a table."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vae.evaluation import results_file
from vae.evaluation.log_likelihood.text import aligned
from vae.evaluation.results_file import Kept

UNCERTAIN = 0.5  # nats, of a prediction: e.g. two classes, one of them with a probability of 0.8
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


def note(protocol: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Return the note under the picture."""
    made = f"{protocol['count']:,} {protocol['fed']}, z ~ p(z); {_classifier(protocol)}"
    return f"{made}\nclassifier Frechet distance (squared) {_distances(results, 1)}"


def table(found: Mapping[Path, Kept]) -> Iterator[str]:
    """Yield a table of several runs, best first; or, if their protocols differ, a line with the differences."""
    if different := results_file.differing([each.protocol for each in found.values()]):
        yield f"no table, for these numbers are not to be compared: {'; '.join(different)}"
        return
    order = sorted(found.items(), key=lambda item: item[1].results["classifier_frechet_distance"])
    yield from aligned([HEAD, *((str(folder), *_numbers(each.results)) for folder, each in order)])


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
