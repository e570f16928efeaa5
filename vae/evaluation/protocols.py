"""How a number was made: two numbers may be compared only if this agrees."""

from typing import Any

from vae.data.sources import DataSet, Split
from vae.likelihoods import Likelihood


def part_of(data: DataSet, split: str) -> Split:
    """Return the part of the data called `train`, `val` (which must be there) or `test`."""
    part = {"train": data.train, "val": data.val, "test": data.test}[split]
    assert part is not None
    return part


def protocol(data: DataSet, binarize: str, likelihood: Likelihood, *, seed: int, split: str) -> dict[str, Any]:
    """Return how a number was made: two numbers may be compared only if this agrees.

    Args:
        data: the data set, as it was evaluated.
        binarize: `none`, `dynamic` or `static`; when not `none` one fixed draw of the evaluated split is used.
        likelihood: the family of p(x|z).
        seed, split: of the evaluation noise, and what was evaluated.
    """
    return {
        "data": data.name,
        "pixels_crc32": part_of(data, split).fingerprint,
        "split": split,
        "pixels": "grey in [0, 1]" if binarize == "none" else "0/1, one fixed draw",
        "likelihood": type(likelihood).__name__,
        "normalised": likelihood.normalises(binary=binarize != "none"),
        "bound": "-ELBO at beta = 1, one z ~ q(z|x) for each example",
        "seed": seed,
    }
