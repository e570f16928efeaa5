"""Settings -> tables of results, one for each protocol, with cells as plain text."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vae.families.likelihoods import LIKELIHOODS, NOT_NORMALISED
from vae.report.rendering import sentence
from vae.run.settings import MISSING, Run, Setting, Spread, duration, number, whole

DRAWN = "0/1, one fixed draw"  # a protocol's pixels
READ = ("images", "channels", "range", "image_size")  # settings of `data` by which a file's images are read
# columns that are left out where no row has a value
OPTIONAL = {"test loss, raw weights", "log p(x)", "accuracy", "bits per dimension"}

Weighted = Mapping[Path, Mapping[int, float]]  # run folder -> K -> log p(x), nats


@dataclass(frozen=True)
class Table:
    """Results that may be compared with each other.

    Attributes:
        title: data and protocol in a few words.
        protocol: the meaning of the numbers and which others they may be compared with, in sentences.
        head: the columns' names.
        rows: of cells, each as long as `head`.
        best: the index of the row with the lowest test loss; None: no two rows have one.
    """

    title: str
    protocol: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: int | None = None


def result_tables(
    settings: Sequence[Setting],
    active: Mapping[Path, int],
    weighted: Weighted | None = None,
    *,
    alone: str = "all runs",
) -> list[Table]:
    """Return the results of finished runs, one table for each protocol.

    A setting whose runs have failed without one that is finished has a row too, in the table of settings like it.

    Args:
        settings: of the runs, in the order of the rows.
        active: the number of active latent dimensions by run folder, where it is known.
        weighted: importance-weighted estimates of log p(x), where runs have been evaluated; a table shows those of the
            largest K that all its runs have in common.
        alone: label of a setting that has no other to differ from.
    """
    tables: dict[tuple[Any, ...], list[tuple[Setting, int]]] = {}
    homes: dict[tuple[Any, ...], tuple[Any, ...]] = {}  # of runs evaluated alike: the first table
    for run in (run for setting in settings for run in setting.finished):
        homes.setdefault(evaluated(run), comparable(run))
    for setting in settings:
        parts: dict[tuple[Any, ...], list[Run]] = {}
        for run in setting.finished:
            parts.setdefault(comparable(run), []).append(run)
        home = homes.get(evaluated(setting.runs[0]))
        if not parts and home and any(run.failure for run in setting.runs):
            parts[home] = []
        unfinished = len(setting.runs) - len(setting.finished)
        for key, runs in parts.items():
            tables.setdefault(key, []).append((replace(setting, runs=tuple(runs)), len(runs) + unfinished))
    return [_table(dict(key), members, active, weighted or {}, alone) for key, members in tables.items()]


def comparable(run: Run) -> tuple[tuple[str, Any], ...]:
    """Return the part of a finished run's protocol that all runs of one table share.

    Of pixels that were drawn 0 or 1 the way in which images are read takes the place of the fingerprint, as each seed
    has its own draw. The family of a normalised likelihood is left out too, as the measure alone decides.
    """
    assert run.protocol is not None
    protocol = dict(run.protocol)
    is_drawn = protocol["pixels"] == DRAWN
    free = {"pixels_crc32": is_drawn, "likelihood": protocol["measure"] != NOT_NORMALISED}
    reading = (("read", _read(run)),) if is_drawn else ()
    return (*((key, value) for key, value in protocol.items() if not free.get(key)), *reading)


def evaluated(run: Run) -> tuple[str, ...]:
    """Return the part of the protocol that follows from the settings of a run, finished or not.

    That is the data set, how its images are read, its binarisation, the measure, and the likelihood if it is not a
    normalised one.
    """
    data, name = run.config.data, run.config.model.likelihood["name"]
    measure = LIKELIHOODS[name].measure(binary=data.is_binary)
    return data.name, _read(run), data.binarize, measure, name if measure == NOT_NORMALISED else ""


def _read(run: Run) -> str:
    """Return how a run reads its images."""
    return repr([getattr(run.config.data, setting) for setting in READ])


def _table(
    protocol: Mapping[str, Any],
    members: Sequence[tuple[Setting, int]],
    active: Mapping[Path, int],
    weighted: Weighted,
    alone: str,
) -> Table:
    """Return the table of settings, each with its finished runs alone and the number of runs that were begun."""
    settings = [setting for setting, _ in members]
    runs = [run for setting in settings for run in setting.runs]
    samples = _samples_in_common(runs, weighted)
    estimates = {run.folder: weighted[run.folder][samples] for run in runs} if samples else {}

    def of_each(write: Callable[[Setting], str]) -> list[str]:
        return [write(setting) for setting in settings]

    columns = {
        "setting": of_each(lambda setting: setting.label if setting.varied else alone),
        "parameters": of_each(_parameters),
        "seeds": [_seeds(setting, begun) for setting, begun in members],
        "test loss": of_each(lambda setting: _of_test(setting, "loss")),
        "test loss, raw weights": of_each(lambda setting: number(setting.spread("test_raw", "loss"))),
        "reconstruction": of_each(lambda setting: _of_test(setting, "reconstruction")),
        "KL": of_each(lambda setting: _of_test(setting, "kl")),
        "log p(x)": of_each(lambda setting: number(_over(setting, estimates))),
        "accuracy": of_each(lambda setting: number(setting.spread("test", "accuracy"), "{:.2%}".format)),
        "bits per dimension": of_each(lambda setting: number(setting.spread("test", "bits_per_dim"), "{:.4f}".format)),
        "active dimensions": of_each(lambda setting: _active(setting, active)),
        "images/s": of_each(lambda setting: number(setting.spread("images_per_second"), whole)),
        "wall time": of_each(lambda setting: duration(setting.spread("train_seconds"))),
    }
    shown = {name: cells for name, cells in columns.items() if name not in OPTIONAL or set(cells) != {MISSING}}
    likelihoods = list(dict.fromkeys(run.config.model.likelihood["name"] for run in runs))
    return Table(
        title=sentence("protocol_title", protocol=protocol, likelihoods=likelihoods),
        protocol=sentence("protocol", protocol=protocol, drawn=protocol["pixels"] == DRAWN, samples=samples),
        head=tuple(shown),
        rows=tuple(zip(*shown.values(), strict=True)),
        best=_lowest([setting.spread("test", "loss") for setting in settings]),
    )


def _samples_in_common(runs: Sequence[Run], weighted: Weighted) -> int | None:
    """Return the largest K that all runs have been evaluated with; None: there is none."""
    known = [set(weighted.get(run.folder, {})) for run in runs]
    return max(set.intersection(*known), default=None) if known else None


def _lowest(losses: Sequence[Spread | None]) -> int | None:
    """Return the index of the lowest mean; None: fewer than two are known."""
    known = {index: loss.mean for index, loss in enumerate(losses) if loss is not None}
    return min(known, key=known.__getitem__) if len(known) > 1 else None


# --- cells ------------------------------------------------------------------------------------------------------------


def _parameters(setting: Setting) -> str:
    spread = setting.spread("parameters")
    return whole(spread.mean) if spread else MISSING


def _seeds(setting: Setting, begun: int) -> str:
    """Return the seeds of the finished runs, and the number of runs begun if there are more: `0, 1 (2 of 3)`."""
    finished = len(setting.runs)
    if not finished:
        return f"none of {begun}"
    return ", ".join(str(run.seed) for run in setting.runs) + (f" ({finished} of {begun})" if begun > finished else "")


def _of_test(setting: Setting, key: str) -> str:
    return number(setting.spread("test", key), of=len(setting.runs))


def _active(setting: Setting, active: Mapping[Path, int]) -> str:
    """Return the number of active dimensions, of all: `2 of 2`, `11.5 ± 0.71 of 16`."""
    spread = _over(setting, active)
    if spread is None:
        return MISSING
    alike = spread.deviation == 0 or math.isnan(spread.deviation)
    text = whole(spread.mean) if alike else number(spread, "{:.2g}".format)
    model = setting.runs[0].config.model
    return f"{text} of {model.latent_dim + sum(model.hierarchy.get('latent_dims', []))}"


def _over(setting: Setting, numbers: Mapping[Path, float]) -> Spread | None:
    """Return the spread of numbers by run folder over the runs of a setting that have one."""
    return Spread.of([numbers[run.folder] for run in setting.runs if run.folder in numbers])
