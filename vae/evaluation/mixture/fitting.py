"""Expectation maximisation: draws of z -> a mixture of normals with full covariances, by scikit-learn."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from vae.bars import Bar
from vae.data import randomness

MOST_ITERATIONS = 200  # digits take 10 to 40
ROUND = 10  # iterations between two looks at the clock
TOLERANCE = 1e-3  # nats: the mean log-likelihood grows by less in the last iteration
RIDGE = 1e-6  # added to each variance: a component that a single z is left with keeps a width


class FitError(ValueError):
    """Draws of z that no mixture can be fitted to; the message is scikit-learn's."""


@dataclass(frozen=True)
class Normals:
    """A mixture of K normals in D dimensions, float64, and how it was found.

    Attributes:
        weights: (K,), which sum to 1.
        means: (K, D).
        covariances: (K, D, D).
        iterations: of expectation maximisation.
        converged: whether the mean log-likelihood had stopped growing.
    """

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    iterations: int
    converged: bool


def fit(z: np.ndarray, components: int, *, seed: int, of_what: str = "") -> Normals:
    """Return the mixture that expectation maximisation finds from the clusters of k-means; the same for one machine.

    Args:
        z: (N, D), float64; N is at least 2 and at least K.
        components: K.
        seed: of the first cluster centres.
        of_what: for the bar, e.g. ` to class 3`.

    Raises:
        FitError: a covariance has no inverse.
    """
    from sklearn.exceptions import ConvergenceWarning  # a second, that only mixtures and scores need
    from sklearn.mixture import GaussianMixture

    first = int(randomness.generator(seed, "mixture/fit").integers(2**32))
    settings: dict[str, Any] = {"max_iter": ROUND, "tol": TOLERANCE, "reg_covar": RIDGE, "random_state": first}
    model, iterations = GaussianMixture(components, covariance_type="full", warm_start=True, **settings), 0
    name = f"fitting {components} normals{of_what}, which may end earlier"
    with Bar(name, MOST_ITERATIONS, "iteration", delay=1) as bar:
        while iterations < MOST_ITERATIONS:
            with warnings.catch_warnings():  # of a round that ends before the fit converges, and of equal z
                warnings.simplefilter("ignore", ConvergenceWarning)
                try:
                    model.fit(z)
                except ValueError as error:
                    raise FitError(" ".join(str(error).split())) from None
            iterations += model.n_iter_
            bar.advance(model.n_iter_)
            if model.converged_:
                break
    weights, means, covariances = (np.asarray(part) for part in (model.weights_, model.means_, model.covariances_))
    return Normals(weights, means, covariances, iterations, bool(model.converged_))
