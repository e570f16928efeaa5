"""The model of a finished run, from its folder."""

from pathlib import Path

from vae.assemble import build_model
from vae.checkpoint import WEIGHTS, load_weights
from vae.config import Config
from vae.data.sources import DataSet
from vae.files import MODEL, must_exist
from vae.model import VAE


def load_model(folder: Path, config: Config, data: DataSet) -> VAE:
    """Return the model that a finished run has left in `model/`, on the CPU.

    Args:
        folder: the run folder.
        config: of that run.
        data: what it was trained on, or other images of the same shape.

    Raises:
        InputError: the run is not finished, its weights are damaged, or the images have another shape.
    """
    must_be_finished(folder)
    model = build_model(config, data.image_shape)
    load_weights(folder / MODEL, model)
    return model


def must_be_finished(folder: Path) -> Path:
    """Return the weights that a finished run has left; raises `InputError` if there are none."""
    weights = folder / MODEL / WEIGHTS
    must_exist(weights, f"{folder}: not finished: it holds no {MODEL}/{WEIGHTS}; run the same train command again")
    return weights
