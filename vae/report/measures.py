"""What a finished run's latent dimensions are used for: the KL of each, and how many are active."""

import contextlib
import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vae.assemble import build_data
from vae.checkpoint import write_text
from vae.config import load
from vae.data import randomness
from vae.data.batches import to_unit_interval
from vae.data.sources import DataSet
from vae.distributions import kl, kl_by_group, marginals
from vae.evaluation import CHUNK, evaluating
from vae.files import CONFIG, LATENTS, must_hold_a_run
from vae.model import VAE
from vae.report.models import load_model, must_be_finished

ACTIVE = 0.01  # variance of E[z_d|x] above which dimension d counts as active (Burda et al. 2016, section 5)
FORMAT = 1  # of latents.json


@dataclass(frozen=True)
class LatentMeasures:
    """Means and variances over a test set, dimension by dimension.

    Attributes:
        variance: Var_x(E[z_d|x]) of each dimension d, over the examples (divided by their number).
        kl: mean of KL(q(z_d|x) || p(z_d)) for each dimension, nats. A diagonal posterior's sum to `total_kl`; those of
            a full-covariance one are its marginals', see `shared_kl`. None: there is no closed form.
        total_kl: mean of KL(q(z|x) || p(z)), nats: the `kl` of summary.json.
        examples: how many.
    """

    variance: tuple[float, ...]
    kl: tuple[float, ...] | None
    total_kl: float
    examples: int

    @property
    def active(self) -> int:
        """Dimensions whose posterior mean varies over the data by more than 0.01 (Burda et al. 2016, section 5)."""
        return sum(variance > ACTIVE for variance in self.variance)

    @property
    def shared_kl(self) -> float | None:
        """What no dimension has alone: `total_kl` less the sum of `kl`, nats.

        Under a factorised prior it is the total correlation of q(z|x), 0 for a diagonal posterior.
        """
        return None if self.kl is None else self.total_kl - math.fsum(self.kl)


def measure(folder: Path, data: DataSet | None = None) -> LatentMeasures:
    """Return the measures of a finished run, kept in its latents.json for as long as its weights stay the same.

    In float32 (float64 for such a run), also where training ran in half precision.

    Args:
        folder: the run folder; if it cannot be written, nothing is kept.
        data: what the run was evaluated on, if it has been read already.

    Raises:
        InputError: not a run folder, an unfinished or damaged run, or its data are not there.
    """
    must_hold_a_run(folder)
    with must_be_finished(folder).open("rb") as stream:
        key = {"format": FORMAT, "weights_sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
    kept = _read(folder / LATENTS, key)
    if kept is not None:
        return kept
    config = load(folder / CONFIG)
    data = data or build_data(config)
    measures = measure_model(load_model(folder, config, data), data.test.images, seed=config.run.seed)
    with contextlib.suppress(OSError):  # somebody else's run, read-only
        write_text(folder / LATENTS, json.dumps(key | asdict(measures), indent=1) + "\n")
    return measures


def measure_model(model: VAE, images: Tensor, *, seed: int) -> LatentMeasures:
    """Return the measures of a model on `images`.

    Args:
        model: the unwrapped model, on any device.
        images: (N, C, H, W), uint8 or floating point in [0, 1].
        seed: of the noise that `evaluate` draws z with; used by a KL that is estimated, not by one in closed form.
    """
    weights = next(model.parameters())
    noise = randomness.normal(len(images), model.latent_dim, seed, "evaluate/test")
    means, totals, groups = [], [], []
    with evaluating(model):
        for chunk, eps in zip(images.split(CHUNK), noise.split(CHUNK), strict=True):
            q = model.encode(to_unit_interval(chunk.to(weights.device), weights.dtype))
            z = model.posterior.transform(q, eps.to(weights))
            p = model.prior(z)
            means.append(q.mean)
            totals.append(kl(q, p, z))
            groups.append(kl_by_group(marginals(q), p, z))
    variance = torch.cat(means).double().var(0, correction=0)
    total, by_group = torch.cat(totals).double().mean(), torch.cat(groups).double().mean(0)
    kl_of_each = tuple(by_group.tolist()) if len(by_group) == model.latent_dim else None
    return LatentMeasures(tuple(variance.tolist()), kl_of_each, total.item(), len(images))


def _read(path: Path, key: dict[str, Any]) -> LatentMeasures | None:
    """Return what a file keeps, or None if there is none, or it is damaged or of other weights."""
    try:
        kept = json.loads(path.read_text())
        if {name: kept.pop(name) for name in key} != key:
            return None
        each = kept.pop("kl")
        return LatentMeasures(kl=None if each is None else tuple(each), variance=tuple(kept.pop("variance")), **kept)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
