"""Results of a finished run: the model, measures of its latent dimensions, pictures, and last of all the summary."""

import json
import resource
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vae import plugins
from vae.config import Config
from vae.data.dataset import DataSet
from vae.errors import Stopped
from vae.evaluation import LatentMeasures, embedding, measure_latents, protocol
from vae.evaluation.latents_file import kept
from vae.files import write_text
from vae.model import VAE
from vae.run import checkpoint
from vae.run.contents import MODEL, SUMMARY
from vae.run.state import RunState
from vae.run.versions import versions
from vae.sharing.card import card_files
from vae.training.saving import SaveError
from vae.training.tracking import Tracker


def peak_memory() -> float:
    """Return the peak memory of this process so far, in MB (2^20 bytes)."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage on Linux begins with what the process that started this one held
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def summarise(
    config: Config,
    state: RunState,
    model: VAE,
    data: DataSet,
    *,
    epochs: float,
    world_size: int,
    device: str,
    engine: str,
    startup_seconds: float,
    checkpoints: dict[str, float],
) -> dict[str, Any]:
    """Return the contents of summary.json: what ran, how fast, and the final numbers with their protocol."""
    assert state.test is not None
    tf32 = config.train.tf32 and device == "cuda"
    how = protocol(data, config.data.binarize, model.likelihood, seed=config.run.seed, split="test", tf32=tf32)
    return {
        "parameters": model.count_parameters(),
        "world_size": world_size,
        "device": device,
        "precision": config.train.precision,
        "engine": engine,
        "epochs": epochs,
        "steps": state.step,
        "skipped": state.skipped,
        "train_seconds": state.train_seconds,  # evaluation not included, the next two are
        "evaluation_seconds": state.spent.get("evaluation", 0.0),
        "checkpoint_seconds": state.spent.get("checkpoints", 0.0),
        "logging_seconds": state.spent.get("logging", 0.0),
        "images_per_second": epochs * len(data.train) / state.train_seconds,
        "startup_seconds": startup_seconds,  # of this start, until its first update
        "checkpoints": checkpoints,  # what they cost in this start
        "peak_memory_mb": peak_memory(),
        "device_memory_mb": torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else None,
        "versions": versions(),
        "test": {**state.test, "protocol": how},
        "test_raw": None if state.test_raw is None else {**state.test_raw, "protocol": how},
        "best": state.best,
        "stopped_early": _early_stop(state, epochs, config.train.patience),
    }


def _early_stop(state: RunState, epochs: float, patience: int) -> dict[str, float] | None:
    """Return the epoch of an early stop, that of the lowest validation loss, and the patience; None: there was none."""
    if not state.is_out_of_patience(patience):
        return None
    return {"epoch": epochs, "lowest_epoch": epochs - state.waited, "patience": patience}


def write_results(
    folder: Path,
    config: Config,
    summary: dict[str, Any],
    vae: VAE,
    raw: VAE | None,
    data: DataSet,
    tracker: Tracker,
    draw: Callable[[LatentMeasures], object],
) -> None:
    """Write what a finished run leaves beside its records and checkpoints (main process only); the summary is last.

    Args:
        folder: of the run.
        config: of the run.
        summary: the contents of summary.json.
        vae: the unwrapped model that is reported.
        raw: the same with its raw weights, where those of `vae` are averages.
        data: the data it was trained and evaluated on.
        tracker: where settings and results are recorded.
        draw: draws the run's pictures from the measures of its model; raises `Stopped` if a signal has come.

    Raises:
        SaveError: something could not be written.
    """
    try:
        beside = _card(folder, config, summary, vae, data, tracker)
        checkpoint.save_model(folder / MODEL, vae, raw, beside=beside)
        measures = kept(folder, lambda: measure_latents(vae, data.test, seed=config.run.seed))
        tracker.log_results(summary["test"], measures.active, step=summary["steps"])
        tracker.log_embedding(*embedding(vae, data), step=summary["steps"])
        if config.run.figures:
            _draw(folder, config, measures, tracker, draw)
        write_text(folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
    except OSError as error:
        raise SaveError(
            f"{folder}: results not written ({error}); make room, then run the same command again"
        ) from None


def _card(
    folder: Path, config: Config, summary: dict[str, Any], vae: VAE, data: DataSet, tracker: Tracker
) -> dict[str, bytes]:
    try:
        return card_files(folder.resolve().name, config, summary, vae, data)
    except Exception as error:  # as for the pictures
        tracker.warn(f"model card not written ({error}); again: python -m vae card {folder}")
        return {}


def _draw(
    folder: Path,
    config: Config,
    measures: LatentMeasures,
    tracker: Tracker,
    draw: Callable[[LatentMeasures], object],
) -> None:
    tracker.say("drawing figures")
    try:
        draw(measures)
    except Stopped:
        raise
    except Exception as error:  # the numbers do not depend on the pictures
        again = shlex.join(["python", "-m", "vae", "report", str(folder), *plugins.options([config])])
        tracker.warn(f"figures not drawn ({error}); again: {again}")
