"""How many latent dimensions a run uses."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from vae.evaluation import evaluating
from vae.report.loading import Loader
from vae.report.pictures import posterior_means

ACTIVE = 0.01  # a dimension is active if its posterior mean varies by more than this: Burda et al. 2016, section 5.1


@dataclass(frozen=True)
class Activity:
    """`variances` (D,) of the posterior mean over the test set, and the number of `active` dimensions."""

    variances: np.ndarray

    @property
    def active(self) -> int:
        """How many dimensions vary by more than `ACTIVE`."""
        return int((self.variances > ACTIVE).sum())


def of_means(means: Tensor) -> Activity:
    """Return the activity for posterior means E[z|x] (N, D)."""
    return Activity(means.double().var(0, correction=0).numpy())


def measure(run_folder: Path, loader: Loader | None = None) -> Activity:
    """Return the activity of a finished run on its test set; raises `InputError`."""
    opened = (loader or Loader()).open(run_folder)
    with evaluating(opened.model):
        return of_means(posterior_means(opened.model, opened.data.test.images))
