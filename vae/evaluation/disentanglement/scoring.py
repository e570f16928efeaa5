"""A finished run whose data have known factors -> its scores, with their protocol."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from vae.assemble import reading_of
from vae.data import randomness
from vae.data.dataset import Split
from vae.data.factors import Factors
from vae.data.reading import Reading
from vae.errors import InputError
from vae.evaluation import ACTIVE, evaluating, images_of, labels_for
from vae.evaluation.disentanglement import dci, mig, sap
from vae.evaluation.encoding import encode
from vae.evaluation.results_file import Kept, checkpoint_of
from vae.families.distributions import marginals
from vae.model import VAE
from vae.run.finished import Opened
from vae.run.versions import versions

MOST_LEARNT, MOST_NEW = 10_000, 5_000  # images that predictors learn from, and others that they are tried on
PROTOCOL = {
    "mig": "I(z_j; v_k) by integration over q(z_j), all images",
    "code": f"E[z|x]; 0 where its variance is not above {ACTIVE}",
    "dci": f"random forest of {dci.TREES} trees with at least {dci.LEAF} images in a leaf; accuracy",
    "sap": "R^2 where the factor has an order, else balanced accuracy of thresholds, 1/C of a dimension that is 0",
}


@dataclass(frozen=True)
class RunWithFactors:
    """A run to score: its unwrapped model on the CPU, the images as the model sees them, their factors, protocol."""

    folder: Path
    model: VAE
    part: Split
    factors: Factors
    protocol: dict[str, Any]
    checkpoint: dict[str, str]


def prepare(folder: Path, opened: Opened, factors_of: Callable[[str, Reading], Factors]) -> RunWithFactors:
    """Return a finished run, ready to be scored.

    Args:
        folder: of the run.
        opened: its model and configuration.
        factors_of: reads data with their factors, see `vae.data.factors.read`.

    Raises:
        InputError: the data have no factors, or q(z|x) no Gaussian marginals.
    """
    config, model = opened.config, opened.model
    factors = factors_of(config.data.name, reading_of(config))
    part = factors.split
    if config.data.is_drawn:
        part = part.binarize(0, "factors")
    must_have_gaussians(folder, model, part[torch.arange(1)])
    learnt, new = parts_of(len(part))
    how = {
        "data": opened.data.name,
        "pixels_crc32": part.fingerprint,
        "factors": list(factors.names),
        "levels": factors.levels,
        "learnt": len(learnt),
        "new": len(new),
    }
    return RunWithFactors(folder, model, part, factors, how | PROTOCOL, checkpoint_of(folder))


def must_have_gaussians(folder: Path, model: VAE, part: Split) -> None:
    """Raise `InputError` unless q(z|x) has normal marginals, which do not depend on other stochastic layers.

    Args:
        folder: of the run.
        model: unwrapped.
        part: one image or more, of the data.
    """
    x = images_of(model, part, slice(None))
    with evaluating(model):
        layer, *others = model.infer(x, x.new_zeros(len(x), model.noise_dim), labels_for(model, part, slice(None)))
    q = marginals(layer.q)
    if others or not (isinstance(q, Independent) and isinstance(q.base_dist, Normal)):
        needed = "one stochastic layer with a normal q(z|x), as model.posterior=DiagonalNormal"
        raise InputError(f"{folder}: the scores need {needed}")


def active_alone(code: np.ndarray) -> np.ndarray:
    """Return a code E[z|x], (N, D), with 0 in dimensions that are not active.

    The mean of such a dimension moves by far less than the noise of z ~ q(z|x), and would yet tell a forest a lot.
    Kumar et al. 2018 leave these dimensions out as well.
    """
    return np.where(code.var(0) > ACTIVE, code, 0)


def score(run: RunWithFactors) -> Kept:
    """Return the scores of a run, see `scores_of`."""
    started, codes = time.perf_counter(), encode(run.model, run.part)
    assert codes.std is not None  # see `must_have_gaussians`
    results = scores_of(codes.mean, codes.std, run.factors)
    seconds = time.perf_counter() - started
    used = versions() | {"scikit-learn": version("scikit-learn")}
    made = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "seconds": seconds, "versions": used}
    return Kept(run.protocol, run.checkpoint, results, made)


def scores_of(mean: Tensor, std: Tensor, factors: Factors) -> dict[str, Any]:
    """Return the scores of Gaussians q(z_j|x), (N, D) each, for images with known factors.

    Returns:
        `mig`, `disentanglement`, `completeness`, `informativeness` and `sap`; under `by_factor` their parts for each
        factor; under `matrices` the numbers of each factor and dimension that they were computed from.
    """
    said = mig.information(mean, std, factors.values)
    learnt, new = parts_of(len(mean))
    code = active_alone(mean.numpy())
    parts = code[learnt], factors.values[learnt], code[new], factors.values[new]
    forests = dci.predict(*parts)
    alone = sap.predictability(*parts, [factor.ordered for factor in factors.factors])
    chance = [0 if each.ordered else 1 / count for each, count in zip(factors.factors, factors.levels, strict=True)]
    gaps = mig.top_gaps(alone, chance)
    by_factor = {"mig": said.gaps, "entropy": said.entropy, "informativeness": forests.accuracy, "sap": gaps}
    matrices = {"information": said.nats, "importance": forests.importance, "predictability": alone}
    return {
        "mig": float(said.gaps.mean()),
        "disentanglement": dci.disentanglement(forests.importance),
        "completeness": dci.completeness(forests.importance),
        "informativeness": float(forests.accuracy.mean()),
        "sap": float(gaps.mean()),
        "by_factor": {name: _by_name(factors, each) for name, each in by_factor.items()},
        "matrices": {name: _by_name(factors, each) for name, each in matrices.items()},
    }


def _by_name(factors: Factors, rows: np.ndarray) -> dict[str, Any]:
    return dict(zip(factors.names, rows.tolist(), strict=True))


def parts_of(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of images for training and for testing predictors: a fixed permutation, three to one."""
    order = randomness.permutation(count, 0, "disentanglement").numpy()
    learnt = min(3 * count // 4, MOST_LEARNT)
    return order[:learnt], order[learnt : learnt + MOST_NEW]
