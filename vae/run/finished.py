"""A finished run's folder -> its model and its data."""

from dataclasses import dataclass
from pathlib import Path

from vae.assemble import build_data, build_model
from vae.config import Config
from vae.data.dataset import DataSet
from vae.model import VAE
from vae.run.checkpoint import WEIGHTS, load_weights
from vae.run.contents import MODEL, must_exist, must_hold_a_run
from vae.run.needs import read_config


@dataclass(frozen=True)
class Opened:
    """A run's configuration, its unwrapped model on the CPU with its final weights, and its data set."""

    config: Config
    model: VAE
    data: DataSet


class Loader:
    """Opens runs one after another, with a cache of the last data set, which the runs of a sweep have in common."""

    def __init__(self) -> None:
        self._last: tuple[str, DataSet] | None = None

    def open(self, folder: Path) -> Opened:
        """Return the model and the data of a run.

        Args:
            folder: of the run, as training wrote it.

        Raises:
            InputError: not a run folder, an unfinished or damaged run, or its data are not there.
        """
        must_hold_a_run(folder)
        config = read_config(folder)
        weights = must_be_finished(folder)
        data = self.data(config)
        model = build_model(config, data.image_shape, data.classes)
        load_weights(weights.parent, model)
        return Opened(config, model, data)

    def data(self, config: Config, draw: int | None = None) -> DataSet:
        """Return the data that a run is trained and evaluated on; raises `InputError` if they are not there.

        Each image is there once, however often `data.repeat_labelled` has those with a label in an epoch.

        Args:
            config: the run's configuration.
            draw: the seed of the 0/1 pixels, where pixels are drawn; None: the run's own.
        """
        own, data = config.run.seed, config.data.model_copy(update={"repeat_labelled": 1})
        pixels = (own if draw is None else draw) if data.is_drawn else None
        key = repr((data.model_dump(), pixels, own if data.labelled else None))
        if self._last is None or self._last[0] != key:
            self._last = key, build_data(config.model_copy(update={"data": data}), pixels)
        return self._last[1]


def has_weights(folder: Path) -> bool:
    """Return True if a run folder holds final weights."""
    return (folder / MODEL / WEIGHTS).is_file()


def must_be_finished(folder: Path) -> Path:
    """Return the weights that a finished run has left; raises `InputError` if there are none."""
    weights = folder / MODEL / WEIGHTS
    must_exist(weights, f"{folder}: not finished: it holds no {MODEL}/{WEIGHTS}; run the same train command again")
    return weights
