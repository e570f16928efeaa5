"""A finished run's folder -> what its latent dimensions are used for."""

from pathlib import Path

from vae.evaluation import LatentMeasures, measure_latents
from vae.measures import kept
from vae.run.contents import must_hold_a_run
from vae.run.finished import Loader, must_be_finished


def measure(folder: Path, loader: Loader | None = None) -> LatentMeasures:
    """Return the measures of a finished run: those that it kept, or, where it has none, new ones.

    Args:
        folder: the run folder.
        loader: opens the run, if there is one that may have its data already.

    Raises:
        InputError: not a run folder, an unfinished or damaged run, or its data are not there.
    """

    def now() -> LatentMeasures:
        opened = (loader or Loader()).open(folder)
        return measure_latents(opened.model, opened.data.test, seed=opened.config.run.seed)

    must_hold_a_run(folder)
    must_be_finished(folder)
    return kept(folder, now)
