"""Templates of a report, filled in: whole pages, and single sentences as plain text.

Only page.html escapes by itself, as its name ends in .html; report.md applies the filter `plain` to each text of a run.
"""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from vae.markdown import escape_markdown
from vae.run.settings import seconds, whole


def render(template: str, **facts: Any) -> str:
    """Return a page: the file of `templates/` with this name, filled in."""
    return _environment().get_template(template).render(**facts)


def sentence(macro: str, **facts: Any) -> str:
    """Return plain text on one line: the macro of `templates/sentences.txt` with this name, filled in."""
    return " ".join(getattr(_sentences(), macro)(**facts).split())


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("vae.report"),
        autoescape=select_autoescape(("html",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "count": _count, "listed": _listed, "plain": escape_markdown, "seconds": seconds, "whole": whole,
    }  # fmt: skip
    environment.globals["asset"] = lambda name: Markup((files("vae.report") / "assets" / name).read_text("utf-8"))
    return environment


@cache
def _sentences() -> Any:
    return _environment().get_template("sentences.txt").module


def _count(number_of: int, noun: str) -> str:
    """Return `1 run`, `2 runs`."""
    return f"{number_of} {noun}" + ("" if number_of == 1 else "s")


def _listed(words: Sequence[str]) -> str:
    """Return `a, b and c`."""
    return ", ".join(words[:-1]) + f" and {words[-1]}" if len(words) > 1 else "".join(words)
