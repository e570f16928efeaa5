"""The protocol of a number: two numbers may be compared only if their protocols agree."""

from typing import Any

from vae.data.dataset import DataSet, Split
from vae.errors import Argument, ArgumentError
from vae.families.likelihoods import Likelihood


def part_of(data: DataSet, split: str, whose: object = "the run") -> Split:
    """Return the part of the data called `train`, `val` or `test`; raises `InputError` where nothing was held out.

    Args:
        data: the data set.
        split: name of the part.
        whose: the run's folder or the file that the message names.
    """
    part = {"train": data.train, "val": data.val, "test": data.test}[split]
    if part is None:
        problem = f"{whose} has held out nothing (data.val_size = 0); use test or train"
        raise ArgumentError(Argument("split"), f" {split}: {problem}")
    return part


def protocol(
    data: DataSet, binarize: str, likelihood: Likelihood, *, seed: int, split: str, tf32: bool = False
) -> dict[str, Any]:
    """Return the protocol of a number: two numbers may be compared only if their protocols agree.

    Args:
        data: the data set, as it was evaluated.
        binarize: as `data.binarize`; of pixels that are drawn one fixed draw of the evaluated split is used.
        likelihood: the family of p(x|z).
        seed: of the evaluation noise.
        split: the part that was evaluated.
        tf32: whether products of float32 numbers were rounded to TF32.
    """
    part = part_of(data, split)
    binary = part.levels == 2
    return {
        "data": data.name,
        "pixels_crc32": part.fingerprint,
        "split": split,
        "pixels": _pixels(data, binarize, binary=binary),
        "likelihood": type(likelihood).__name__,
        "normalised": likelihood.normalises(binary=binary),
        "measure": likelihood.measure(binary=binary),
        "bound": "-ELBO at beta = 1, one z ~ q(z|x) for each example",
        "seed": seed,
        "tf32": tf32,
    }


def _pixels(data: DataSet, binarize: str, *, binary: bool) -> str:
    """Return the kind of the pixels, and whose draw they are."""
    if data.draw is not None:
        return f"0/1, {data.draw}"
    if binarize != "none":
        return "0/1, one fixed draw"
    return "0/1" if binary else "grey in [0, 1]"
