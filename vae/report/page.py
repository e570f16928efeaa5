"""What a report says -> report.html, one file that needs nothing else, and report.md."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vae.report.gallery import Picture
from vae.report.table import Table, escape_markdown


@dataclass(frozen=True)
class Live:
    """An explorer: what it shows in a few words and in a sentence, and its data, see `explorer.pack`."""

    label: str
    sentence: str
    model: Mapping[str, Any]


@dataclass(frozen=True)
class Group:
    """Pictures under one heading, with a sentence on what they are of."""

    heading: str
    sentence: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Page:
    """All that a report says.

    Attributes:
        title: the heading of the page.
        summary: what was run, a paragraph.
        tables: the results.
        unfinished: run, seed, progress and newest losses of each run that is not finished, as cells.
        groups: the figures.
        explorers: the first one is shown first.
        explorer_notes: which runs can be explored, why others cannot; sentences.
        members: folder, seed, state, machine of each run, as cells.
        settings: the configuration as YAML.
        settings_note: whose configuration it is, and in what the others differ.
        versions: what the runs were made with.
        commands: what was done, and how to do it again: a sentence and the command.
    """

    title: str
    summary: str
    tables: Sequence[Table]
    unfinished: Sequence[Sequence[str]]
    groups: Sequence[Group]
    explorers: Sequence[Live]
    explorer_notes: Sequence[str]
    members: Sequence[Sequence[str]]
    settings: str
    settings_note: str
    versions: str
    commands: Sequence[tuple[str, str]] = field(default_factory=list)

    def to_html(self) -> str:
        """Return the page with all it needs: style, program, figures and weights; everything from runs is escaped."""
        return _templates(html=True).get_template("page.html").render(page=self)

    def to_markdown(self) -> str:
        """Return title, summary and tables as Markdown."""
        return _templates(html=False).get_template("report.md").render(page=self)


def _templates(*, html: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("vae.report", "assets"),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["plain"] = escape_markdown
    environment.globals["asset"] = lambda name: Markup((files("vae.report") / "assets" / name).read_text("utf-8"))
    return environment
