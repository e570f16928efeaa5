"""Settings that are compared, each with its runs of several seeds, and numbers over them as text; imports no torch."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from vae.config import Config, flatten
from vae.config.schema import NOT_A_SETTING
from vae.errors import InputError
from vae.run.contents import CONFIG, HINT, METRICS, SUMMARY, failure_of, must_hold_a_run, read_metrics, read_summary
from vae.run.needs import read_config

NOT_COMPARED = {"seed"}  # of a protocol: the seed of the evaluation noise varies with the run's
MISSING = "–"
COMPARED_BY = ("data", "split", "pixels", "likelihood", "measure", "bound")  # a protocol must name them


@dataclass(frozen=True)
class Run:
    """One run, finished or not.

    Attributes:
        folder: its folder.
        config: as saved with it.
        rows: of its metrics.jsonl, none if it has not logged yet.
        summary: of its summary.json; None: not finished.
        failure: the last line of a sweep's run that failed; else empty.
    """

    folder: Path
    config: Config
    rows: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any] | None
    failure: str = ""

    @cached_property
    def setting(self) -> dict[str, Any]:
        """Dotted key -> value, without the seed and the keys that change no result."""
        return {key: value for key, value in flatten(self.config).items() if key not in NOT_A_SETTING | {"run.seed"}}

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.config.run.seed

    @property
    def epoch(self) -> float:
        """Newest epoch of its records; 0 without records."""
        return self.rows[-1]["epoch"] if self.rows else 0.0

    @property
    def protocol(self) -> tuple[tuple[str, Any], ...] | None:
        """Protocol of the test numbers, which only numbers of the same protocol compare with; None: not finished."""
        if self.summary is None:
            return None
        protocol = self.summary["test"]["protocol"]
        return tuple((key, value) for key, value in sorted(protocol.items()) if key not in NOT_COMPARED)

    def of_split(self, split: str) -> list[Mapping[str, Any]]:
        """Return its records of `train`, `test` or `val`, oldest first."""
        return [row for row in self.rows if row["split"] == split]


@dataclass(frozen=True)
class Spread:
    """A number over the runs of a setting: `mean` and, of two runs or more, the standard deviation (else NaN)."""

    mean: float
    deviation: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        """Return the spread of the values of single runs; None: there are none."""
        if not values:
            return None
        return cls(fmean(values), stdev(values) if len(values) > 1 else math.nan, len(values))


@dataclass(frozen=True)
class Setting:
    """Runs that differ in their seed alone.

    Attributes:
        varied: dotted key -> value, of the keys in which the compared settings differ.
        runs: by seed.
    """

    varied: Mapping[str, Any]
    runs: tuple[Run, ...]

    @property
    def label(self) -> str:
        """Its varied keys in short, e.g. `latent_dim = 2, beta = 4`."""
        return ", ".join(f"{short(key)} = {word(value)}" for key, value in self.varied.items()) or "all runs"

    @property
    def finished(self) -> list[Run]:
        """The runs that have a summary."""
        return [run for run in self.runs if run.summary is not None]

    @property
    def protocol(self) -> tuple[tuple[str, Any], ...] | None:
        """Protocol of its finished runs, which follows from the setting; None: none is finished."""
        return self.finished[0].protocol if self.finished else None

    def spread(self, *path: str) -> Spread | None:
        """Return mean and standard deviation over seeds of a number in summary.json, e.g. `spread("test", "loss")`."""
        values = []
        for run in self.finished:
            value: Any = run.summary
            for key in path:
                value = value.get(key) if isinstance(value, Mapping) else None
            if isinstance(value, (int, float)) and math.isfinite(value):
                values.append(float(value))
        return Spread.of(values)


def find(paths: Iterable[Path]) -> list[Path]:
    """Return the run folders among `paths` and in them (a sweep's folder holds those of its members), each once.

    Raises:
        InputError: a path is no run and holds none.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        inside = [path] if (path / CONFIG).is_file() else sorted(file.parent for file in path.glob(f"*/{CONFIG}"))
        if not inside:
            raise InputError(f"{path}: neither a run nor a folder of runs; {HINT} or runs/bottleneck")
        for folder in inside:
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def read(folder: Path) -> Run:
    """Return a run, finished or not; raises `InputError` for a folder that is no run's or holds damaged records."""
    must_hold_a_run(folder)
    metrics = folder / METRICS
    rows = read_metrics(metrics) if metrics.exists() else []
    summary = _checked(read_summary(folder / SUMMARY), folder / SUMMARY)
    failure = (failure_of(folder) or {}).get("problem", "").strip().rpartition("\n")[2]
    return Run(folder, read_config(folder), rows, summary, "" if summary else failure)


def _checked(summary: Any, path: Path) -> dict[str, Any] | None:
    """Return a summary that holds all a report reads, or None for None; raises `InputError`."""
    if summary is None:
        return None
    test = summary.get("test") if isinstance(summary, dict) else None
    protocol = test.get("protocol") if isinstance(test, dict) else None
    missing = "protocol"
    if isinstance(protocol, dict):
        missing = next((f"protocol.{key}" for key in COMPARED_BY if not isinstance(protocol.get(key), str)), "")
    if missing:
        raise InputError(f"{path}: not a run's summary: test.{missing} is missing; delete it and repeat the run's end")
    return summary


def compare(runs: Iterable[Run]) -> list[Setting]:
    """Return the settings among `runs`, in the order of their varied values."""
    groups: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple((key, repr(value)) for key, value in sorted(run.setting.items())), []).append(run)
    members = list(groups.values())
    keys = dict.fromkeys(key for group in members for key in group[0].setting)  # of components: not the same everywhere
    varied = [key for key in keys if len({repr(group[0].setting.get(key)) for group in members}) > 1]
    settings = [
        Setting(
            {key: group[0].setting[key] for key in varied if key in group[0].setting},
            tuple(sorted(group, key=lambda run: (run.seed, str(run.folder)))),
        )
        for group in members
    ]
    return sorted(settings, key=lambda setting: [_order(setting.varied.get(key)) for key in varied])


def short(key: str) -> str:
    """Return a dotted key in short for people: `latent_dim`, `posterior scale`, `beta` for `objective.beta.value`."""
    section, *parts = key.split(".")
    if parts and parts[-1] in ("name", "value"):
        parts.pop()
    return " ".join(parts) or section


def word(value: Any) -> str:
    """Return a value as text for people."""
    if isinstance(value, Mapping):
        inside = ", ".join(f"{key} {word(setting)}" for key, setting in value.items() if key != "name")
        return " ".join(filter(None, [str(value.get("name", "")), f"({inside})" if inside else ""]))
    return f"{value:g}" if isinstance(value, float) else str(value)


def number(spread: Spread | None, write: Callable[[float], str] = "{:.2f}".format, *, of: int | None = None) -> str:
    """Return mean ± standard deviation as text, with the number of runs if it is not `of`, the number of all."""
    if spread is None:
        return MISSING
    known = not math.isnan(spread.deviation)
    text = write(spread.mean) + (f" ± {write(spread.deviation)}" if known else "")
    return text if of in (None, spread.count) else f"{text} ({spread.count} of {of} runs)"


def seconds(value: float) -> str:
    """Return a duration as text: `12.3 s`, `3 min 12 s`, `2 h 05 min`."""
    if value < 100:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def duration(spread: Spread | None) -> str:
    """Return mean ± standard deviation of durations in one unit: `6.5 ± 0.6 min`; alone as `seconds` has it."""
    if spread is None or math.isnan(spread.deviation):
        return MISSING if spread is None else seconds(spread.mean)
    size, unit = next(
        (size, unit) for size, unit in ((3600, "h"), (60, "min"), (1, "s")) if spread.mean >= size or size == 1
    )
    return f"{spread.mean / size:.1f} ± {spread.deviation / size:.1f} {unit}"


def whole(value: float) -> str:
    """Return a number without decimals: `15,623`."""
    return f"{value:,.0f}"


def _order(value: Any) -> tuple[int, float, str]:
    """Return the sort key of a value: numbers by size, before words."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (0, float(value), "") if is_number else (1, 0.0, word(value))
