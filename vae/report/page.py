"""Facts that a report states, as its templates read them; report.html is one file that needs nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vae.report.gallery import Picture
from vae.report.rendering import render
from vae.report.table import Table
from vae.run.finished import Loader
from vae.run.settings import Run, Setting


@dataclass(frozen=True)
class Report:
    """Subject of a report.

    Attributes:
        paths: as they were given.
        settings: all their runs.
        loader: opens finished runs.
    """

    paths: Sequence[Path]
    settings: Sequence[Setting]
    loader: Loader = field(default_factory=Loader)

    @property
    def title(self) -> str:
        """Name of the first path, and the number of the others."""
        names = [path.resolve().name for path in self.paths]
        return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"

    @property
    def runs(self) -> list[Run]:
        """All runs, setting after setting."""
        return [run for setting in self.settings for run in setting.runs]

    @property
    def finished(self) -> list[Run]:
        """The runs that have a summary."""
        return [run for run in self.runs if run.summary is not None]

    @property
    def datasets(self) -> list[str]:
        """Names of the data sets, without the folders of files."""
        return [Path(name).name for name in sorted({run.config.data.name for run in self.runs})]

    @property
    def varied(self) -> list[str]:
        """Dotted keys in which the settings differ."""
        return list(dict.fromkeys(key for setting in self.settings for key in setting.varied))

    def name(self, run: Run) -> str:
        """Return a run's setting and seed, or its folder's name where that says more."""
        setting = next(setting for setting in self.settings if run in setting.runs)
        if len(self.runs) == 1 or (not setting.varied and len(setting.runs) == 1):
            return run.folder.resolve().name
        return ", ".join([setting.label] * bool(setting.varied) + [f"seed {run.seed}"])


@dataclass(frozen=True)
class Live:
    """An explorer of the latent space of one run.

    Attributes:
        run: which is explored.
        loss: of the run on the test set, nats per example.
        model: data for explorer.js, see `explorer.pack`.
    """

    run: Run
    loss: float
    model: Mapping[str, Any]


@dataclass(frozen=True)
class Pictured:
    """A run with its pictures, and, as a few words, its progress if it is not finished."""

    run: Run
    progress: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Page:
    """Facts that a report states; the sentences around them stand in the templates.

    Attributes:
        report: the runs and settings.
        summary: of the runs, a paragraph.
        tables: the results.
        unfinished: run, seed, progress and newest losses of each run that is not finished, as cells.
        compared: figures that compare settings; empty for one run.
        pictured: the run whose own figures are shown, if there is one.
        explorers: of the latent spaces of runs; the first one is shown first.
        obstacles: name of a run -> the reason why the page cannot explore it.
        no_room: True if the page leaves out runs that could be explored, to stay small.
        members: folder, seed, state, machine and parameters of each run, as cells.
        config: the configuration of the first run as YAML.
        config_file: the file that holds this configuration.
        versions: package -> version, of each environment in which runs were made.
        train_command: trains the first run again.
        page_command: writes the page again.
    """

    report: Report
    summary: str
    tables: Sequence[Table]
    unfinished: Sequence[Sequence[str]]
    compared: Sequence[Picture]
    pictured: Pictured | None
    explorers: Sequence[Live]
    obstacles: Mapping[str, str]
    no_room: bool
    members: Sequence[Sequence[str]]
    config: str
    config_file: Path
    versions: Sequence[Mapping[str, str]]
    train_command: str
    page_command: str

    @property
    def title(self) -> str:
        """Heading of the page."""
        return self.report.title

    def to_html(self) -> str:
        """Return the page with all it needs: style, program, figures and weights; everything from runs is escaped."""
        return render("page.html", page=self)

    def to_markdown(self) -> str:
        """Return title, summary and tables as Markdown."""
        return render("report.md", page=self)
