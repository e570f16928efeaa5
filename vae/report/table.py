"""Settings -> tables of results, one for each protocol; the same cells as HTML and as Markdown."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vae.families.likelihoods import LIKELIHOODS, NOT_NORMALISED
from vae.run.settings import MISSING, Run, Setting, Spread, duration, number, whole

DRAWN = "0/1, one fixed draw"  # a protocol's pixels
HEAD = (
    "setting", "parameters", "seeds", "test loss", "reconstruction", "KL", "active dimensions", "images/s", "wall time",
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Results that may be compared with each other.

    Attributes:
        title: data and protocol in a few words.
        protocol: how the numbers were made and what they may be compared with, in sentences.
        head: the columns' names.
        rows: of cells, each as long as `head`.
        best: the index of the row with the lowest test loss; None: no two rows have one.
    """

    title: str
    protocol: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: int | None = None

    def to_markdown(self) -> str:
        """Return the table alone; the lowest test loss is bold."""
        lines = [self.head, ["---"] + ["---:"] * (len(self.head) - 1)]
        for index, row in enumerate(self.rows):
            cells = [escape_markdown(cell) for cell in row]
            if index == self.best:
                cells[self.head.index("test loss")] = f"**{cells[self.head.index('test loss')]}**"
            lines.append(cells)
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


Weighted = Mapping[Path, Mapping[int, float]]  # run folder -> K -> log p(x), nats


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
        settings: what is compared, in the order of the rows.
        active: the number of active latent dimensions by run folder, where it is known.
        weighted: importance-weighted estimates of log p(x), where runs have been evaluated; a table shows those of the
            largest K that all its runs have in common.
        alone: what a setting is called that has no other to differ from.
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
    """Return what a finished run's numbers must have in common with others' to stand in one table with them.

    That is its protocol, but for the fingerprint of pixels that were drawn 0 or 1 (each seed has its own draw), and for
    the family of a normalised likelihood: what its numbers measure decides.
    """
    assert run.protocol is not None
    protocol = dict(run.protocol)
    free = {"pixels_crc32": protocol.get("pixels") == DRAWN}
    free["likelihood"] = protocol.get("measure", NOT_NORMALISED) != NOT_NORMALISED
    return tuple((key, value) for key, value in protocol.items() if not free.get(key))


def evaluated(run: Run) -> tuple[str, ...]:
    """Return what follows from a run's settings, finished or not, of what its numbers must have in common with others'.

    That is its data, how they are binarised, the measure, and the likelihood if that is not a normalised one.
    """
    data, name = run.config.data, run.config.model.likelihood["name"]
    measure = LIKELIHOODS[name].measure(binary=data.binarize != "none")
    return data.name, data.binarize, measure, name if measure == NOT_NORMALISED else ""


def protocol_title(protocol: Mapping[str, Any], likelihoods: Iterable[str]) -> str:
    """Return a protocol in a few words, e.g. `MNIST, test set, grey in [0, 1], Bernoulli`.

    Args:
        protocol: what the numbers have in common.
        likelihoods: the families that they are of.
    """
    words = [protocol.get("data"), f"{protocol.get('split', '?')} set", protocol.get("pixels")]
    return ", ".join(str(word) for word in [*words, " or ".join(likelihoods)] if word)


def protocol_words(protocol: Mapping[str, Any]) -> str:
    """Return what numbers of a protocol mean and what they may be compared with, in sentences."""
    measure, pixels = str(protocol.get("measure")), str(protocol.get("pixels"))
    if measure == NOT_NORMALISED:
        kind = "Grey" if pixels.startswith("grey") else "0/1"
        meaning = (
            f"{kind} pixels under {protocol.get('likelihood')}: not a normalised likelihood, not to be compared with "
            "NLL tables or with other families"
        )
    elif measure == "probability of 0/1 pixels":
        kind = "Pixels binarised by one fixed draw for each seed" if pixels == DRAWN else "0/1 pixels"
        meaning = f"{kind}: log-probabilities, to be compared only with numbers for pixels binarised in the same way"
    elif measure.startswith("probability"):
        meaning = "Log-probabilities of 256 grey values, to be compared with any others of the same 8-bit pixels"
    else:
        meaning = (
            "Log-densities of pixels in [0, 1], to be compared only with densities of the same pixels on the same "
            "scale; a loss is below zero where they exceed 1"
        )
    return f"{meaning}. The loss is {protocol.get('bound', '-ELBO')}; lower is better."


def progress(run: Run) -> str:
    """Return how far an unfinished run is, and why it goes no further if it failed."""
    if run.failure:
        return f"failed after epoch {run.epoch:.1f}: {run.failure}"
    if not run.rows:
        return "has logged nothing yet"
    limit = f", at most {run.config.train.max_steps:,} steps" if run.config.train.max_steps else ""
    return f"epoch {run.epoch:.1f} of {run.config.train.epochs}{limit}"


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it is, in a table's cell or a line."""
    escaped = "".join(f"\\{character}" if character in "\\`*_[]<>|#" else character for character in text)
    return " ".join(escaped.split())


def _table(
    protocol: Mapping[str, Any],
    settings: Sequence[tuple[Setting, int]],
    active: Mapping[Path, int],
    weighted: Weighted,
    alone: str,
) -> Table:
    losses = [setting.spread("test", "loss") for setting, _ in settings]
    known = [index for index, loss in enumerate(losses) if loss is not None]
    best = min(known, key=lambda index: _mean(losses[index])) if len(known) > 1 else None
    rows = [_row(setting, begun, active, alone) for setting, begun in settings]
    words, head, place = protocol_words(protocol), HEAD, HEAD.index("KL") + 1
    bits = [setting.spread("test", "bits_per_dim") for setting, _ in settings]
    if any(bits):
        head = _inserted(head, place, "bits per dimension")
        rows = [_inserted(row, place, number(spread, "{:.4f}".format)) for row, spread in zip(rows, bits, strict=True)]
    accuracy = [setting.spread("test", "accuracy") for setting, _ in settings]
    if any(accuracy):
        head = _inserted(head, place, "accuracy")
        cells = [number(spread, "{:.2%}".format) for spread in accuracy]
        rows = [_inserted(row, place, cell) for row, cell in zip(rows, cells, strict=True)]
    if samples := _in_common([run for setting, _ in settings for run in setting.runs], weighted):
        head = _inserted(head, place, "log p(x)")
        rows = [
            _inserted(row, place, number(Spread.of([weighted[run.folder][samples] for run in setting.runs])))
            for row, (setting, _) in zip(rows, settings, strict=True)
        ]
        words += f" log p(x) is the importance-weighted estimate with K = {samples:,} draws; higher is better."
    likelihoods = dict.fromkeys(run.config.model.likelihood["name"] for setting, _ in settings for run in setting.runs)
    return Table(protocol_title(protocol, likelihoods), words, head, tuple(rows), best)


def _in_common(runs: Sequence[Run], weighted: Weighted) -> int | None:
    """Return the largest K that all runs have been evaluated with, if there is one."""
    known = [set(weighted.get(run.folder, {})) for run in runs]
    return max(set.intersection(*known), default=None) if known else None


def _inserted(cells: Sequence[str], place: int, cell: str) -> tuple[str, ...]:
    return (*cells[:place], cell, *cells[place:])


def _mean(spread: Spread | None) -> float:
    return spread.mean if spread else math.inf


def _row(setting: Setting, begun: int, active: Mapping[Path, int], alone: str) -> tuple[str, ...]:
    """Return the cells of a setting, of which so many runs were begun and those it holds are finished."""
    runs, parameters = len(setting.runs), setting.spread("parameters")
    seeds = ", ".join(str(run.seed) for run in setting.runs) + (f" ({runs} of {begun})" if begun > runs else "")
    return (
        setting.label if setting.varied else alone,
        whole(parameters.mean) if parameters else MISSING,
        seeds if runs else f"none of {begun}",
        *(number(setting.spread("test", key), of=runs) for key in ("loss", "reconstruction", "kl")),
        _active(setting, active),
        number(setting.spread("images_per_second"), whole),
        duration(setting.spread("train_seconds")),
    )


def _active(setting: Setting, active: Mapping[Path, int]) -> str:
    """Return the active dimensions of so many: `2 of 2`, `11.5 ± 0.71 of 16`."""
    spread = Spread.of([active[run.folder] for run in setting.runs if run.folder in active])
    if spread is None:
        return MISSING
    alike = spread.deviation == 0 or math.isnan(spread.deviation)
    text = whole(spread.mean) if alike else number(spread, "{:.2g}".format)
    model = setting.runs[0].config.model
    return f"{text} of {model.latent_dim + sum(model.hierarchy.get('latent_dims', []))}"
