"""The plugins that a configuration, a run or a saved model needs, as plain data; whether they are there."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from vae.components import Chosen, PieceOf, Spec, Table
from vae.config import Config
from vae.config.combinations import chosen
from vae.errors import InputError
from vae.plugins.loading import Plugin, loaded, version_of
from vae.plugins.tables import TABLES, table_of


class Need(BaseModel):
    """The pieces of a plugin that a run or a saved model needs, and the plugin's version.

    Attributes:
        file: the plugin's name, without its folder.
        sha256: of the plugin's file, and of the modules beside it that it imports.
        pieces: table -> names of pieces.
    """

    file: str
    sha256: dict[str, str]
    pieces: dict[str, list[str]]

    @property
    def version(self) -> str:
        """The beginning of one sha256 over all files."""
        return version_of(self.sha256)


def used_by(config: Config) -> list[tuple[Plugin, Need]]:
    """Return the plugins of this process that a complete configuration needs, and what it needs of each."""
    if not loaded():
        return []
    from vae.data.sources import SOURCES, kind_of  # imports torch

    kind = kind_of(config.data.name)
    pieces = [*chosen(config), *([] if kind is None else [(SOURCES, kind)])]
    return [(plugin, need) for plugin in loaded() if (need := _need(plugin, pieces))]


def options(configs: Iterable[Config]) -> list[str]:
    """Return the options of a command line that names the plugins that complete configurations need, each once."""
    paths = dict.fromkeys(str(plugin.path) for config in configs for plugin, _ in used_by(config))
    return [word for path in paths for word in ("--plugin", path)]


def needs_of(specs: Sequence[tuple[Table, str | Spec]]) -> list[dict[str, Any]]:
    """Return what is needed of the plugins of this process by specs from tables, as plain data for `check`."""
    if not loaded():
        return []
    markers = [(PieceOf(table), spec) for table, spec in specs]
    pieces = [found for marker, spec in markers for found in marker.chosen(marker.complete(spec))]
    return [need.model_dump() for plugin in loaded() if (need := _need(plugin, pieces))]


def check(needs: Any, whose: str, file_of: Callable[[Need], str] = lambda need: need.file) -> list[str]:
    """Return a sentence for each plugin that is another version than the one that is needed.

    Args:
        needs: as `needs_of` gives them, or whatever was read in their place.
        whose: needs them: a run's folder, a saved model.
        file_of: gives the file that a user should name.

    Raises:
        InputError: a piece is not there, or `needs` is nothing that `needs_of` gives.
    """
    try:
        checked = [Need.model_validate(need) for need in needs or ()]
    except (ValidationError, TypeError):
        raise InputError(f"{whose}: what it says about plugins cannot be read: {needs!r}; restore it") from None
    return [sentence for need in checked for sentence in _check(need, whose, file_of)]


def _need(plugin: Plugin, pieces: Sequence[Chosen]) -> Need | None:
    """Return what is needed of a plugin where these pieces are chosen; None: none of them is the plugin's."""
    used = {
        table: [name for name in added if any(name == other and table_of(table) is its for its, other in pieces)]
        for table, added in plugin.pieces.items()
    }
    used = {table: names for table, names in used.items() if names}
    return Need(file=plugin.path.name, sha256=plugin.sha256, pieces=used) if used else None


def _check(need: Need, whose: str, file_of: Callable[[Need], str]) -> Iterator[str]:
    order = [*TABLES, *sorted(need.pieces.keys() - TABLES.keys())]  # JSON may have sorted them
    named = [(table, name) for table in order for name in need.pieces.get(table, ())]
    missing = [name for table, name in named if table not in TABLES or name not in table_of(table)]
    if missing:
        problem = f"{whose}: needs {', '.join(missing)} of the plugin {need.file}"
        raise InputError(f"{problem}: give --plugin {file_of(need)} (in Python: vae.plugins.load)")
    for plugin in loaded():
        here = [name for table, name in named if name in plugin.pieces.get(table, {})]
        if here and plugin.sha256 != need.sha256:
            was, now = f"{need.file} (sha256 {need.version})", f"{plugin.path.name} (sha256 {plugin.version})"
            yield f"{whose}: made with the plugin {was}, here it is {now}: {', '.join(here)} may compute something else"
