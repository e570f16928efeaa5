"""Plugins: a user's own files of Python that add pieces to the tables. Imports no torch until a plugin is loaded.

A plugin adds to a table as the project's own files do: `ENCODERS["PatchEncoder"] = PatchEncoder`. It runs because a
command line, or a caller of `load`, names its file. A configuration, a run or a saved model only says what it needs.
"""

import hashlib
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import util
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from vae.components import Chosen, PieceOf, Spec, Table, explain, settings_of
from vae.config import Config
from vae.config.combinations import chosen
from vae.errors import InputError

# name -> where it stands; its annotation there, `dict[str, type[Network]]`, has the base class of its pieces
TABLES = {
    "ENCODERS": "vae.networks:ENCODERS",
    "DECODERS": "vae.networks:DECODERS",
    "POSTERIORS": "vae.families.posteriors:POSTERIORS",
    "PRIORS": "vae.families.priors:PRIORS",
    "HIERARCHIES": "vae.families.hierarchy:HIERARCHIES",
    "LIKELIHOODS": "vae.families.likelihoods:LIKELIHOODS",
    "OBJECTIVES": "vae.objectives:OBJECTIVES",
    "SCHEDULES": "vae.schedules:SCHEDULES",
    "SINKS": "vae.training.sinks:SINKS",
    "SOURCES": "vae.data.sources:SOURCES",
}
DIGITS = 12  # of a sha256, where people read it


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
        return _version(self.sha256)


@dataclass(frozen=True)
class Plugin:
    """A plugin that has been loaded.

    Attributes:
        path: of its file.
        sources: name -> contents, of its file and of the modules beside it that it imports.
        pieces: table -> name -> what it has added.
    """

    path: Path
    sources: Mapping[str, bytes]
    pieces: Mapping[str, Mapping[str, object]]

    @cached_property
    def sha256(self) -> dict[str, str]:
        """The sha256 of each of its files."""
        return {name: hashlib.sha256(source).hexdigest() for name, source in self.sources.items()}

    @property
    def version(self) -> str:
        """The beginning of one sha256 over all files."""
        return _version(self.sha256)

    @property
    def names(self) -> str:
        """What it has added, as text: `ENCODERS PatchEncoder, DECODERS PatchDecoder`."""
        return ", ".join(f"{table} {', '.join(added)}" for table, added in self.pieces.items())

    def need_of(self, chosen: Sequence[Chosen]) -> Need | None:
        """Return what is needed of it where these pieces are chosen; None: none of them is the plugin's."""
        used = {
            table: [name for name in added if any(name == other and _table(table) is its for its, other in chosen)]
            for table, added in self.pieces.items()
        }
        used = {table: names for table, names in used.items() if names}
        return Need(file=self.path.name, sha256=self.sha256, pieces=used) if used else None


def load(path: str | Path) -> Plugin:
    """Run a plugin and return it; one that has been loaded already is not run again.

    The file is a module of the name it would have in an `import`; modules beside it can be imported too.

    Args:
        path: of a Python file that adds to `TABLES`.

    Raises:
        InputError: the file cannot be read or run, adds nothing, takes the name of a piece that is there already, or
            adds what is no piece of its table. No table is changed then.
    """
    file = Path(path).expanduser().resolve()
    source = _read(file, path)
    if known := _loaded.get(file):
        if known.sources[file.name] != source:
            raise InputError(f"{path}: has changed since it was loaded; start Python anew")
        return known
    _must_be_a_module(file, path)
    tables = {name: _table(name) for name in TABLES}
    before = {name: dict(table) for name, table in tables.items()}
    modules, search = dict(sys.modules), list(sys.path)
    try:
        _run(file, source, path)
        pieces = dict(_added(before, tables, path))
    except BaseException:
        for name, table in tables.items():
            table.clear()
            table.update(before[name])
        for name in [name for name in _beside(file) if name not in modules]:
            del sys.modules[name]
        sys.path[:] = search
        raise
    others = {str(found.relative_to(file.parent)): _read(found, found) for found in _beside(file).values()}
    _loaded[file] = plugin = Plugin(file, others | {file.name: source}, pieces)
    return plugin


def loaded() -> list[Plugin]:
    """Return the plugins of this process, in the order in which they were loaded."""
    return list(_loaded.values())


def versions() -> dict[str, str]:
    """Return the name of each plugin of this process, and the beginning of its sha256."""
    return {plugin.path.name: f"sha256 {plugin.version}" for plugin in loaded()}


def used_by(config: Config) -> list[tuple[Plugin, Need]]:
    """Return the plugins of this process that a complete configuration needs, and what it needs of each."""
    if not _loaded:
        return []
    sources, name = _table("SOURCES"), config.data.name
    keys = [name] if name in sources else [key for key in sources if key.startswith(".") and name.endswith(key)][:1]
    pieces = [*chosen(config), *((sources, key) for key in keys)]
    return [(plugin, need) for plugin in loaded() if (need := plugin.need_of(pieces))]


def options(configs: Iterable[Config]) -> list[str]:
    """Return the options of a command line that names the plugins that complete configurations need, each once."""
    paths = dict.fromkeys(str(plugin.path) for config in configs for plugin, _ in used_by(config))
    return [word for path in paths for word in ("--plugin", path)]


def needs_of(specs: Sequence[tuple[Table, str | Spec]]) -> list[dict[str, Any]]:
    """Return what is needed of the plugins of this process by specs from tables, as plain data for `check`."""
    if not _loaded:
        return []
    markers = [(PieceOf(table), spec) for table, spec in specs]
    pieces = [found for marker, spec in markers for found in marker.chosen(marker.complete(spec))]
    return [need.model_dump() for plugin in loaded() if (need := plugin.need_of(pieces))]


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


def _check(need: Need, whose: str, file_of: Callable[[Need], str]) -> Iterator[str]:
    order = [*TABLES, *sorted(need.pieces.keys() - TABLES.keys())]  # JSON may have sorted them
    named = [(table, name) for table in order for name in need.pieces.get(table, ())]
    missing = [name for table, name in named if table not in TABLES or name not in _table(table)]
    if missing:
        problem = f"{whose}: needs {', '.join(missing)} of the plugin {need.file}"
        raise InputError(f"{problem}: give --plugin {file_of(need)} (in Python: vae.plugins.load)")
    for plugin in loaded():
        here = [name for table, name in named if name in plugin.pieces.get(table, {})]
        if here and plugin.sha256 != need.sha256:
            was, now = f"{need.file} (sha256 {need.version})", f"{plugin.path.name} (sha256 {plugin.version})"
            yield f"{whose}: made with the plugin {was}, here it is {now}: {', '.join(here)} may compute something else"


def _read(file: Path, shown: str | Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        problem = f"{shown}: cannot be read: {error.strerror}"
        raise InputError(f"--plugin {problem}; give a Python file that adds to the tables") from None


def _must_be_a_module(file: Path, shown: str | Path) -> None:
    """Refuse a file whose name no module can have, or another one has already."""
    if file.suffix != ".py" or not file.stem.isidentifier():
        raise InputError(f"--plugin {shown}: must be a file of Python with a module's name, e.g. my_pieces.py")
    installed = [entry for entry in sys.path if Path(entry).resolve() not in (Path.cwd(), file.parent)]
    known = file.stem in sys.modules or file.stem in sys.stdlib_module_names
    if known or PathFinder.find_spec(file.stem, installed):
        raise InputError(f"--plugin {shown}: there is a module {file.stem} already; give the file another name")


def _run(file: Path, source: bytes, shown: str | Path) -> None:
    """Run a plugin as the module of its name; an `InputError` has the file and the line at which it fails."""
    spec = util.spec_from_file_location(file.stem, file)
    assert spec is not None
    module = sys.modules[file.stem] = util.module_from_spec(spec)
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))  # last: a module beside the plugin hides no other
    try:
        exec(compile(source, str(file), "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        at, line = _place(error, file)
        problem = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
        raise InputError(f"{Path(shown).with_name(at)} line {line}: {type(error).__name__}: {problem}") from error


def _place(error: BaseException, file: Path) -> tuple[str, int | None]:
    """Return the name of the file in the plugin's folder, and the line, at which an error came up."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).parent == file.parent:
        return Path(error.filename).name, error.lineno
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).parent == file.parent
    ]
    return (Path(frames[-1].filename).name, frames[-1].lineno) if frames else (file.name, 1)


def _beside(file: Path) -> dict[str, Path]:
    """Return the modules that have been imported from the folder of a plugin, other plugins aside, and their files."""
    found: dict[str, Path] = {}
    for name, module in list(sys.modules.items()):
        origin = getattr(getattr(module, "__spec__", None), "origin", None)
        place = file.parent.joinpath(*name.split("."))
        if origin in (f"{place}.py", str(place / "__init__.py")) and name.partition(".")[0] != "vae":
            found[name] = Path(origin)
    return {name: path for name, path in found.items() if path not in _loaded}


def _added(
    before: Mapping[str, Mapping[str, Any]], tables: Mapping[str, Mapping[str, Any]], shown: str | Path
) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield each table that a plugin has added to, and what it has added; raises `InputError`."""
    changed = False
    for table, now in tables.items():
        old = before[table]
        for name in old:
            if now.get(name) is not old[name]:
                raise InputError(f"{shown}: {table}[{name!r}] is there already; give your piece another name")
        new = {name: piece for name, piece in now.items() if name not in old}
        for name, piece in new.items():
            if problem := next(_problems(table, name, piece, next(iter(old.values()))), None):
                raise InputError(f"{shown}: {table}[{name!r}]: {problem}")
        if new:
            changed = True
            yield table, new
    if not changed:
        example = 'ENCODERS["MyEncoder"] = MyEncoder'
        raise InputError(f"{shown}: adds nothing to a table; add each piece to its table, e.g. {example}")


def _problems(table: str, name: object, piece: Any, other: Any) -> Iterator[str]:
    """Yield what keeps something from being a piece of a table, of which `other` is a piece."""
    base, called = _base(table), getattr(piece, "__name__", repr(piece))
    if not isinstance(name, str) or not name:
        yield "the name must be a text"
    if base is not None and not (inspect.isclass(piece) and issubclass(piece, base)):
        yield f"{called} must be a class derived from {base.__name__} ({base.__module__})"
    if not callable(piece):
        yield f"{called} must be a function"
    if lacking := getattr(piece, "__abstractmethods__", None):
        yield f"{called} has no {', '.join(sorted(lacking))}"
    parameters, others = inspect.signature(piece).parameters.values(), inspect.signature(other).parameters.values()
    mine, theirs = _operands(parameters), _operands(others)
    if len(mine) != len(theirs) and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        yield f"{called} takes ({', '.join(mine)}), must take ({', '.join(theirs)}), and settings behind a *"
    for p in parameters:
        if p.kind is p.KEYWORD_ONLY and p.annotation is p.empty:
            example = f'{p.name}: Annotated[int, Field(ge=1, description="...")] = 1'
            yield f"the setting {p.name} of {called} has no type; write it as {example}"
    if inspect.isclass(piece):
        yield from _wrong_settings(piece)


def _wrong_settings(piece: type) -> Iterator[str]:
    """Yield what is wrong with the types and defaults of a piece's settings."""
    try:
        schema = settings_of(piece)
    except Exception as error:  # of pydantic, or of a name that is not there when the annotation is evaluated
        yield f"the settings of {piece.__name__}: {' '.join(str(error).split())}"
        return
    try:
        schema.model_validate({})
    except ValidationError as error:
        for key, problem in explain(error):
            if not schema.model_fields[key.partition(".")[0]].is_required():
                yield f"the default of a setting of {piece.__name__}: {key}{problem}"


def _operands(parameters: Iterable[inspect.Parameter]) -> list[str]:
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _table(name: str) -> dict[str, Any]:
    return pkgutil.resolve_name(TABLES[name])


def _base(table: str) -> type | None:
    """Return the class that the pieces of a table are derived from; None: they are functions."""
    module, _, name = TABLES[table].partition(":")
    _, piece = get_args(sys.modules[module].__annotations__[name])
    return get_args(piece)[0] if getattr(piece, "__origin__", None) is type else None


def _version(sha256: Mapping[str, str]) -> str:
    if len(sha256) == 1:
        return next(iter(sha256.values()))[:DIGITS]
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(sha256.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:DIGITS]


_loaded: dict[Path, Plugin] = {}
