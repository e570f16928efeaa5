"""Running a plugin: once, as a module of its own; what it adds is found by comparing the tables before and after."""

import hashlib
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import util
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from vae.errors import InputError
from vae.files import expanded
from vae.plugins.tables import TABLES, problems, table_of

DIGITS = 12  # of a sha256, where people read it

Tables = Mapping[str, Mapping[str, Any]]  # by name


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
        return version_of(self.sha256)

    @property
    def names(self) -> str:
        """What it has added, as text: `ENCODERS PatchEncoder, DECODERS PatchDecoder`."""
        return ", ".join(f"{table} {', '.join(added)}" for table, added in self.pieces.items())


def load(path: str | Path) -> Plugin:
    """Run a plugin and return it; one that has been loaded already is not run again.

    The file is a module of the name it would have in an `import`; modules beside it can be imported too.

    Args:
        path: of a Python file that adds to `TABLES`.

    Raises:
        InputError: the file cannot be read or run, adds nothing, takes the name of a piece that is there already, or
            adds what is no piece of its table. No table is changed then.
    """
    file = expanded(path).resolve()
    source = _read(file, path)
    if known := _loaded.get(file):
        if known.sources[file.name] != source:
            raise InputError(f"{path}: has changed since it was loaded; start Python anew")
        return known
    _must_be_a_module(file, path)
    with _undone_if_refused(file) as before:
        _run(file, source, path)
        pieces = dict(_added(before, path))
    others = {str(found.relative_to(file.parent)): _read(found, found) for found in _beside(file).values()}
    _loaded[file] = plugin = Plugin(file, others | {file.name: source}, pieces)
    return plugin


def loaded() -> list[Plugin]:
    """Return the plugins of this process, in the order in which they were loaded."""
    return list(_loaded.values())


def versions() -> dict[str, str]:
    """Return the name of each plugin of this process, and the beginning of its sha256."""
    return {plugin.path.name: f"sha256 {plugin.version}" for plugin in loaded()}


def version_of(sha256: Mapping[str, str]) -> str:
    """Return the beginning of one sha256 over files, of a single file its own; `sha256` has that of each file."""
    if len(sha256) == 1:
        return next(iter(sha256.values()))[:DIGITS]
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(sha256.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:DIGITS]


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


@contextmanager
def _undone_if_refused(file: Path) -> Iterator[Tables]:
    """Yield copies of the tables; where the block raises, tables, modules and the path of imports are as before."""
    before = {name: dict(table_of(name)) for name in TABLES}
    modules, search = set(sys.modules), list(sys.path)
    try:
        yield before
    except BaseException:
        for name, pieces in before.items():
            table = table_of(name)
            table.clear()
            table.update(pieces)
        for name in _beside(file).keys() - modules:
            del sys.modules[name]
        sys.path[:] = search
        raise


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


def _added(before: Tables, shown: str | Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield each table that a plugin has added to, and what it has added; raises `InputError`."""
    changed = False
    for table, old in before.items():
        now = table_of(table)
        for name in old:
            if now.get(name) is not old[name]:
                raise InputError(f"{shown}: {table}[{name!r}] is there already; give your piece another name")
        new = {name: piece for name, piece in now.items() if name not in old}
        for name, piece in new.items():
            if problem := next(problems(table, name, piece, next(iter(old.values()))), None):
                raise InputError(f"{shown}: {table}[{name!r}]: {problem}")
        if new:
            changed = True
            yield table, new
    if not changed:
        example = 'ENCODERS["MyEncoder"] = MyEncoder'
        raise InputError(f"{shown}: adds nothing to a table; add each piece to its table, e.g. {example}")


_loaded: dict[Path, Plugin] = {}
