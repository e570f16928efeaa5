"""A finished run's folder -> its model and its data."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vae.assemble import build_data, build_model
from vae.checkpoint import WEIGHTS, load_weights
from vae.config import Config, load
from vae.data.sources import DataSet
from vae.files import CONFIG, MODEL, must_exist, must_hold_a_run
from vae.model import VAE


@dataclass(frozen=True)
class Opened:
    """A run's configuration, its unwrapped model on the CPU with its final weights, and what it was trained on."""

    config: Config
    model: VAE
    data: DataSet


class Loader:
    """Opens runs one after another; runs of a sweep have their data in common, so the last data set is kept."""

    def __init__(self) -> None:
        self._last: tuple[str, DataSet] | None = None

    def open(self, run_dir: Path) -> Opened:
        """Return the model and the data of a run.

        Args:
            run_dir: the folder that a training run has written.

        Raises:
            InputError: not a run folder, an unfinished or damaged run, or its data are not there.
        """
        must_hold_a_run(run_dir)
        config = load(run_dir / CONFIG)
        weights = run_dir / MODEL / WEIGHTS
        must_exist(weights, f"{run_dir}: not finished: it holds no {MODEL}/{WEIGHTS}; run the same train command again")
        data = self._data(config)
        model = build_model(config, data.image_shape)
        load_weights(weights.parent, model)
        return Opened(config, model, data)

    def _data(self, config: Config) -> DataSet:
        settings: Mapping[str, object] = config.data.model_dump()
        draw = config.run.seed if config.data.binarize != "none" else None  # of 0/1 pixels: the run's own
        key = repr((settings, draw))
        if self._last is None or self._last[0] != key:
            self._last = key, build_data(config)
        return self._last[1]


def has_weights(run_dir: Path) -> bool:
    """Whether the folder holds final weights."""
    return (run_dir / MODEL / WEIGHTS).is_file()
