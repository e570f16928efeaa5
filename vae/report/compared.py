"""Settings whose runs can be compared with each other, and the runs and settings that a picture of them omits."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from vae.figures.sweeps import ceiling, finite
from vae.report.table import evaluated
from vae.run.settings import Run, Setting


@dataclass(frozen=True)
class Omitted:
    """Runs and settings that a picture does not show.

    Attributes:
        others: number of runs on other data or with another likelihood.
        unfinished: number of runs that are missing because they are not finished.
        so_far: number of runs that are shown although they are not finished.
        absent: labels of settings of which nothing is shown.
        losses: by label, of the runs that the picture is drawn from, also those outside it.
    """

    others: int
    unfinished: int = 0
    so_far: int = 0
    absent: Sequence[str] = ()
    losses: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def not_finite(self) -> int:
        """Number of runs whose loss is not finite."""
        return sum(len(values) - len(finite(values)) for values in self.losses.values())

    @property
    def beyond(self) -> dict[str, float]:
        """Label -> mean loss of settings far above the others, outside the picture."""
        means = {label: fmean(kept) for label, values in self.losses.items() if (kept := finite(values))}
        limit = ceiling(list(means.values()))
        return {label: mean for label, mean in means.items() if mean > limit}


@dataclass(frozen=True)
class Compared:
    """Settings whose runs can be compared.

    Attributes:
        settings: by label, no two alike, without runs that cannot be compared with the first finished one.
        others: number of runs that were left out for this.
    """

    settings: Mapping[str, Setting]
    others: int

    @classmethod
    def of(cls, settings: Sequence[Setting]) -> "Compared":
        """Return the settings, at least one, as far as their runs can be compared with the first finished run."""
        runs = [run for setting in settings for run in setting.runs]
        first = next((run for run in runs if run.summary is not None), runs[0])
        named: dict[str, Setting] = {}
        for label, setting in zip(_labels(settings), settings, strict=True):
            kept = tuple(run for run in setting.runs if _comparable(run, first))
            if kept:
                named[label] = replace(setting, runs=kept)
        return cls(named, len(runs) - sum(len(setting.runs) for setting in named.values()))

    def results(self, key: str) -> dict[str, list[float]]:
        """Return by label a number of `test` in summary.json, of each finished run; NaN where there is none."""
        return {
            label: [float(run.summary["test"].get(key, math.nan)) for run in setting.finished if run.summary]
            for label, setting in self.settings.items()
        }

    def omitted(self, losses: Mapping[str, Sequence[float]], absent: Iterable[str] = ()) -> Omitted:
        """Return the omissions of a picture of finished runs.

        Args:
            losses: shown in the picture, by label, with NaN and values far above the others.
            absent: labels of settings of which the picture shows nothing; named if they have finished runs.
        """
        gone = [label for label in absent if self.settings[label].finished]
        return Omitted(self.others, unfinished=self._unfinished, absent=gone, losses=losses)

    def omitted_so_far(self, losses: Mapping[str, Sequence[float]], absent: Iterable[str]) -> Omitted:
        """Return the omissions of a picture of all runs, finished or not; arguments as of `omitted`."""
        return Omitted(self.others, so_far=self._unfinished, absent=list(absent), losses=losses)

    @property
    def _unfinished(self) -> int:
        return sum(len(setting.runs) - len(setting.finished) for setting in self.settings.values())


def _labels(settings: Sequence[Setting]) -> list[str]:
    """Return a label for each setting, no two alike, without values that follow from a component's name."""
    varied = [setting.varied for setting in settings]
    keys = list(dict.fromkeys(key for each in varied for key in each))
    for detail in [key for key in keys if f"{key.rpartition('.')[0]}.name" in keys and not key.endswith(".name")]:
        fewer = [key for key in keys if key != detail]
        if len({repr([each.get(key) for key in fewer]) for each in varied}) == len(varied):
            keys = fewer
    shown = [{key: value for key, value in each.items() if key in keys} for each in varied]
    labels = [replace(setting, varied=few).label for setting, few in zip(settings, shown, strict=True)]
    return [f"{label} ({place})" if labels.count(label) > 1 else label for place, label in enumerate(labels, start=1)]


def _comparable(run: Run, other: Run) -> bool:
    if evaluated(run) != evaluated(other):
        return False
    if run.config.data.is_drawn:
        return True  # 0/1 pixels are drawn anew for each seed
    pixels = {dict(r.protocol or ()).get("pixels_crc32") for r in (run, other)} - {None}
    return len(pixels) < 2
