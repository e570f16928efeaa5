"""`python -m vae disentangle`: scores finished runs, keeps the scores, and compares settings over their seeds."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from vae import figures
from vae.data import factors
from vae.data.factors import Factors
from vae.errors import InputError
from vae.evaluation import ACTIVE, results_file, visible
from vae.evaluation.disentanglement.scoring import RunWithFactors, prepare, score
from vae.evaluation.disentanglement.traversal import PLACES, traverse
from vae.evaluation.encoding import encode
from vae.evaluation.log_likelihood.text import aligned
from vae.evaluation.results_file import Kept
from vae.figures.factors import LEAST, by_factor
from vae.run.contents import DISENTANGLEMENT, FIGURES
from vae.run.finished import Loader
from vae.run.outputs import save_figure
from vae.run.settings import Run, Setting, Spread, compare, find, number, read

SCORES = ("mig", "disentanglement", "completeness", "informativeness", "sap")
HEAD = ("MIG", "disentanglement", "completeness", "informativeness", "SAP", "reconstruction", "KL")


def score_runs(paths: Sequence[Path], *, again: bool = False) -> Iterator[str]:
    """Score finished runs, one after another, and yield the lines to print.

    Args:
        paths: run folders, or folders of runs.
        again: whether to repeat scores that a run keeps already.

    Raises:
        InputError: a run cannot be scored, or several not on the same images: found before any is scored.
    """
    loader, factors_of = Loader(), functools.cache(factors.read)
    prepared = [prepare(folder, loader.open(folder), factors_of) for folder in find(paths)]
    if different := results_file.differing([run.protocol for run in prepared]):
        raise InputError(
            f"{', '.join(map(str, paths))}: not one protocol: {'; '.join(different)}; give what belongs together"
        )
    for run in prepared:
        results_file.must_be_writable(run.folder, DISENTANGLEMENT)
    yield _title(prepared[0])
    found: dict[Path, Kept] = {}
    for run in prepared:
        how = run.protocol, run.checkpoint
        known = None if again else results_file.known(run.folder, *how, DISENTANGLEMENT)
        yield f"{run.folder}: {'scored already' if known else 'scoring'}"
        found[run.folder] = known or score(run)
        if not known:
            results_file.keep(run.folder, found[run.folder], DISENTANGLEMENT)
        drawn = _draw(run, found[run.folder])
        pictures = [save_figure(run.folder / FIGURES / f"{name}.png", figure) for name, figure in drawn.items()]
        yield f"  in {run.folder / DISENTANGLEMENT}; {', '.join(map(str, pictures))}"
    yield from _tables(found)


def _title(run: RunWithFactors) -> str:
    how = run.protocol
    levels = " x ".join(f"{count} {name}" for name, count in zip(how["factors"], how["levels"], strict=True))
    return f"{how['data']}: {len(run.part):,} images of {levels}; higher is better, 1 is best"


# --- tables -----------------------------------------------------------------------------------------------------------


def _tables(found: Mapping[Path, Kept]) -> Iterator[str]:
    """Yield a table of settings (or the single run) with their scores, and one with the MIG of each factor."""
    settings = compare(read(folder) for folder in found)
    if len(found) == 1:
        settings = [Setting({}, settings[0].runs)]
    label = "run" if len(found) == 1 else "setting"
    yield from aligned([(label, "seeds", *HEAD), *(_row(setting, found) for setting in settings)])
    names = next(iter(found.values())).protocol["factors"]
    rows = [(f"MIG of a factor ({label})", *names)]
    for setting in settings:
        each = [found[run.folder].results["by_factor"]["mig"] for run in setting.runs]
        rows.append((_label(setting), *(_cell([one[name] for one in each]) for name in names)))
    yield from aligned(rows)


def _label(setting: Setting) -> str:
    alone = len(setting.runs) == 1 and not setting.varied
    return str(setting.runs[0].folder) if alone else setting.label


def _row(setting: Setting, found: Mapping[Path, Kept]) -> tuple[str, ...]:
    scores = (_cell([found[run.folder].results[name] for run in setting.runs]) for name in SCORES)
    nats = (number(setting.spread("test", name)) for name in ("reconstruction", "kl"))
    return (_label(setting), _seeds(setting.runs), *scores, *nats)


def _seeds(runs: Sequence[Run]) -> str:
    return ", ".join(str(run.seed) for run in runs)


def _cell(values: Sequence[float]) -> str:
    return number(Spread.of(values), "{:.3f}".format)


# --- pictures ---------------------------------------------------------------------------------------------------------


def _draw(run: RunWithFactors, scores: Kept) -> dict[str, Figure]:
    """Return the pictures of a run, by file name: the information of factors in dimensions, and a latent traversal."""
    names, found = run.factors.names, scores.results
    shares = np.array(
        [np.array(found["matrices"]["information"][name]) / found["by_factor"]["entropy"][name] for name in names]
    )
    note = f"I($z_d$; factor) / H(factor); MIG {found['mig']:.3f}"
    drawn = {"factor_information": figures.factor_information(shares, names, note)}
    variance = encode(run.model, run.part).mean.var(0)
    active = [dimension for dimension in by_factor(shares) if variance[dimension] > ACTIVE]
    if active:
        labels = [f"$z_{{{dim + 1}}}$: {_said(shares[:, dim], names)}" for dim in active]
        rows = traverse(run.model, run.part, middle_of(run.factors), active)
        shown = {label: visible(images) for label, images in zip(labels, rows, strict=True)}
        note = "mean of p(x|z); one dimension moves, the others stay at E[z|x] of one image\n"
        note += "rows: active dimensions, with the factor that each says most of and its share I / H"
        places = [f"{place:g}" for place in PLACES.tolist()]
        drawn["latent_traversal"] = figures.images_by_setting(
            "Latent traversal", note, shown, columns=places, below="$z_d$"
        )
    return drawn


def _said(shares: np.ndarray, names: Sequence[str]) -> str:
    """Return the factor of which a dimension has the largest share, and that share, in words; of shares (F,)."""
    return f"{names[int(shares.argmax())]} {shares.max():.2f}" if shares.max() >= LEAST else "no factor"


def middle_of(known: Factors) -> int:
    """Return the index of the image whose factors are nearest to the middle of their values."""
    middle = (np.array(known.levels) - 1) / 2
    return int(np.abs((known.values - middle) / (middle + 0.5)).sum(1).argmin())
