"""What a finished run's latent dimensions are used for, kept in its folder."""

import contextlib
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vae.evaluation import LatentMeasures, measure_latents
from vae.files import LATENTS, must_hold_a_run, write_text
from vae.report.loading import Loader, must_be_finished

FORMAT = 1  # of latents.json


def measure(folder: Path, loader: Loader | None = None) -> LatentMeasures:
    """Return the measures of a finished run, kept in its latents.json for as long as its weights stay the same.

    In float32 (float64 for such a run), also where training ran in half precision.

    Args:
        folder: the run folder; if it cannot be written, nothing is kept.
        loader: opens the run, if there is one that may have its data already.

    Raises:
        InputError: not a run folder, an unfinished or damaged run, or its data are not there.
    """
    must_hold_a_run(folder)
    with must_be_finished(folder).open("rb") as stream:
        key = {"format": FORMAT, "weights_sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
    kept = _read(folder / LATENTS, key)
    if kept is not None:
        return kept
    opened = (loader or Loader()).open(folder)
    measures = measure_latents(opened.model, opened.data.test, seed=opened.config.run.seed)
    with contextlib.suppress(OSError):  # somebody else's run, read-only
        write_text(folder / LATENTS, json.dumps(key | asdict(measures), indent=1) + "\n")
    return measures


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
