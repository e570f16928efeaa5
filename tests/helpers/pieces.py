"""Small models of every piece and combination of pieces, with images, labels and noise for them."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from vae.components import Table
from vae.config import load
from vae.data import randomness
from vae.errors import InputError
from vae.families.hierarchy import HIERARCHIES
from vae.families.likelihoods import LIKELIHOODS
from vae.families.posteriors import POSTERIORS
from vae.families.priors import PRIORS, Given
from vae.model import VAE
from vae.networks import DECODERS, ENCODERS, Sizes

SHAPES = [(1, 28, 28), (3, 8, 6)]
D = 3
CLASSES = 4
SIZES = Sizes(image_shape=(1, 6, 6), latent_dim=D, classes=CLASSES)
SCALES = [{"scale": "softplus"}, {"scale": "exp"}]
FLOWS = ("SplineFlow", "InverseAutoregressiveFlow")  # no moments, no KL in closed form: see test_posteriors.py
DENSE_POSTERIORS = [name for name in POSTERIORS if name != "VectorQuantized"]  # those of codes: see test_vq.py
DENSE_PRIORS = [name for name in PRIORS if not PRIORS[name].of_codes]


def images(count: int, shape: tuple[int, int, int], dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.from_numpy(randomness.generator(7, "test").random((count, *shape))).to(dtype)


def noise(count: int, dim: int = D, dtype: torch.dtype = torch.float32) -> Tensor:
    return randomness.normal(count, dim, 7, "test noise").to(dtype)


def given(like: Tensor, count: int) -> Given:
    return Given(like, VAE(image_shape=(1, 6, 6), latent_dim=D, hidden_dim=16).encode, labels(count))


def labels(count: int) -> Tensor:
    return torch.arange(count) % CLASSES


def build_model(pieces: dict[str, Any], shape: tuple[int, int, int] = (1, 6, 6), **sizes: Any) -> VAE:
    settings: dict[str, Any] = {"latent_dim": D, "hidden_dim": 16, "classes": CLASSES}
    return VAE(image_shape=shape, **(settings | sizes | pieces))


TABLES: dict[str, Table] = {
    "posterior": POSTERIORS,
    "prior": PRIORS,
    "likelihood": LIKELIHOODS,
    "hierarchy": HIERARCHIES,
    "encoder": ENCODERS,
    "decoder": DECODERS,
}


def combinations(*tables: str) -> list[dict[str, Any]]:
    """Return all combinations of the pieces of some tables that a configuration may have."""
    products = itertools.product(*(TABLES[table] for table in tables))
    found = [dict(zip(tables, names, strict=True)) for names in products]
    return [pieces for pieces in found if not refused(pieces)]


def refused(pieces: dict[str, Any], objective: str = "ELBO") -> bool:
    """Return true if a configuration may not have these pieces together."""
    settings = [f"model.latent_dim={D}", f"objective={objective}"]
    try:
        load(None, [*settings, *(f"model.{key}={name}" for key, name in pieces.items())])
    except InputError:
        return True
    return False


def named(pieces: dict[str, Any]) -> str:
    return "-".join(pieces.values())


# each piece with the defaults of the others
every_piece = pytest.mark.parametrize("pieces", [one for table in TABLES for one in combinations(table)], ids=named)
every_combination = pytest.mark.parametrize(
    "pieces",
    [
        *combinations("posterior", "prior", "likelihood"),
        *combinations("posterior", "prior", "hierarchy"),
        *combinations("encoder", "decoder"),
    ],
    ids=named,
)
every_posterior = pytest.mark.parametrize("name", DENSE_POSTERIORS)
every_normal = pytest.mark.parametrize("name", [name for name in DENSE_POSTERIORS if name not in FLOWS])
every_scale = pytest.mark.parametrize("settings", SCALES, ids=lambda settings: settings["scale"])
