"""latents.json, a cache in the run folder: the measures of the latent dimensions, by the weights' sha256."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vae.evaluation.heldout import measure_latents
from vae.evaluation.latents import LatentMeasures
from vae.files import write_text
from vae.run.checkpoint import WEIGHTS, sha256_of
from vae.run.contents import LATENTS, MODEL, must_hold_a_run
from vae.run.finished import Loader, must_be_finished

FORMAT = 1  # of latents.json


def kept(folder: Path, measure: Callable[[], LatentMeasures]) -> LatentMeasures:
    """Return the measures in a run's latents.json; if they are not of the run's weights, measure and keep them.

    Args:
        folder: the run folder, which holds final weights; if it cannot be written, nothing is kept.
        measure: measures these weights in float32 (float64 for such a run), also after training in half precision.
    """
    key = {"format": FORMAT, "weights_sha256": sha256_of(folder / MODEL / WEIGHTS)}
    measures = _read(folder / LATENTS, key)
    if measures is None:
        measures = measure()
        with contextlib.suppress(OSError):  # somebody else's run, read-only; or a full disk
            write_text(folder / LATENTS, json.dumps(key | asdict(measures), indent=1) + "\n")
    return measures


def measure(folder: Path, loader: Loader | None = None) -> LatentMeasures:
    """Return the measures of a finished run, from its latents.json if that holds them.

    Args:
        folder: the run folder.
        loader: opens the run, and may have its data in memory; None: a new one.

    Raises:
        InputError: not a run folder, an unfinished or damaged run, or its data are not there.
    """

    def now() -> LatentMeasures:
        opened = (loader or Loader()).open(folder)
        return measure_latents(opened.model, opened.data.test, seed=opened.config.run.seed)

    must_hold_a_run(folder)
    must_be_finished(folder)
    return kept(folder, now)


def _read(path: Path, key: dict[str, Any]) -> LatentMeasures | None:
    """Return the measures in a file; None: no file, a damaged one, or one of other weights."""
    try:
        found = json.loads(path.read_text())
        if {name: found.pop(name) for name in key} != key:
            return None
        each = found.pop("kl")
        return LatentMeasures(kl=None if each is None else tuple(each), variance=tuple(found.pop("variance")), **found)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
