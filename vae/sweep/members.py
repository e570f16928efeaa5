"""A sweep file -> its members, each a run of train_ddp.py with settings of its own.

    base: ../mnist.yaml                     # a configuration, relative to this file; without it the defaults
    set: {train.epochs: 20}                 # for all members
    points:                                 # some combinations by name
      exp: {model.posterior: {name: DiagonalNormal, scale: exp}}
    zip: {train.batch_size: [128, 512], optim.lr: [1e-3, 2e-3]}     # lists of one length, taken in step
    grid: {model.latent_dim: [2, 8, 32]}    # every combination
    seeds: 3                                # 0, 1, 2; or a list

Members are the product of points, zip, grid and seeds, in this order, the seeds running fastest.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from vae import config
from vae.components import explain
from vae.config.schema import Section
from vae.errors import InputError
from vae.files import expanded
from vae.run.contents import RUNS

PROGRAM = Path(__file__).resolve().parent.parent.parent / "train_ddp.py"
MOST_BYTES = 255 - len(".partial-.failed.json")  # of a member's name, for its folder and the files beside it
OWN_KEYS = ("run.seed", "run.name", "run.dir")  # that the sweep sets

Settings = dict[str, Any]  # dotted key -> value
Values = dict[str, list[Any]]


class SweepFile(Section):
    """The contents of a sweep file."""

    base: str | None = Field(default=None, min_length=1)
    set: Settings = Field(default={})
    points: dict[str, Settings] = Field(default={})
    zip: Values = Field(default={})
    grid: Values = Field(default={})
    seeds: int | list[int] = Field(default=1)


@dataclass(frozen=True, eq=False)
class Member:
    """One run of a sweep.

    Attributes:
        name: its settings in short, e.g. `latent_dim=2,seed=0`; unique within the sweep, and its folder's name.
        folder: of its run.
        base: its configuration file; None: the defaults.
        settings: dotted key -> value, of the keys that differ from `base`, including the seed and the folder.
        plugins: files that add pieces, for its command.
    """

    name: str
    folder: Path
    base: Path | None
    settings: Mapping[str, Any]
    plugins: tuple[Path, ...] = ()

    @property
    def overrides(self) -> list[str]:
        """The settings as `key=value`."""
        return [f"{key}={json.dumps(value)}" for key, value in self.settings.items()]

    @property
    def command(self) -> list[str]:
        """The command that trains it, without the interpreter."""
        return [str(PROGRAM), *self.arguments]

    @property
    def arguments(self) -> list[str]:
        """The arguments of train_ddp.py."""
        plugins = [word for path in self.plugins for word in ("--plugin", str(path))]
        return [*(["--config", str(self.base)] if self.base else []), *plugins, *self.overrides]


@dataclass(frozen=True)
class Sweep:
    """All runs of a sweep file.

    Attributes:
        name: that of the sweep file, without its ending.
        members: in the order of their index; their folders are in `runs/<name>/`.
    """

    name: str
    members: tuple[Member, ...]

    @property
    def folder(self) -> Path:
        """The folder of its members' folders."""
        return RUNS / self.name

    def check(self) -> None:
        """Raise `InputError` for a member that train_ddp.py would refuse; imports torch."""
        for member in self.members:
            try:
                config.load(member.base, member.overrides)
            except InputError as error:
                raise InputError(f"member {member.name}: {error}") from None

    def member(self, index: int) -> Member:
        """Return a member by its index, from 0; raises `InputError`."""
        if not 0 <= index < len(self.members):
            raise InputError(f"{index}: {self.name} has the members 0 to {len(self.members) - 1}")
        return self.members[index]


def load(path: str | Path, overrides: list[str] | tuple[str, ...] = (), plugins: Sequence[Path] = ()) -> Sweep:
    """Return the sweep that a file describes.

    Args:
        path: the sweep file.
        overrides: `key=value` each, for all members; they replace values that the file gives to the same keys.
        plugins: files that add pieces, for the command of each member.

    Raises:
        InputError: the file cannot be used; the message is one line.
    """
    path = expanded(path)
    try:
        file = SweepFile.model_validate(config.read_yaml(path))
    except ValidationError as error:
        known = list(SweepFile.model_fields)
        raise InputError(f"{path}: " + "; ".join(key + what for key, what in explain(error, known))) from None
    overridden = _settings_of(overrides)
    _check(file, overridden, path)
    base = path.parent / file.base if file.base else None
    members = []
    for label, settings in _combinations(file):
        folder = RUNS / path.stem / label
        members.append(
            Member(label, folder, base, file.set | settings | overridden | {"run.dir": str(folder)}, tuple(plugins))
        )
    longest = max(members, key=lambda member: len(member.name.encode()))
    if len(longest.name.encode()) > MOST_BYTES:
        hint = f"at most {MOST_BYTES} bytes name a folder; give what varies short names under `points`"
        raise InputError(f"{path}: a member is called {longest.name}: {hint}")
    twice = next((one.name for one, other in itertools.combinations(members, 2) if one.name == other.name), None)
    if twice:
        raise InputError(f"{path}: two members are called {twice}; give points of their own names under `points`")
    return Sweep(path.stem, tuple(members))


def _check(file: SweepFile, overridden: Settings, path: Path) -> None:
    """Raise `InputError` where parts of a file do not fit together."""
    parts: list[tuple[str, Mapping[str, Any]]] = [("set", file.set), ("zip", file.zip), ("grid", file.grid)]
    parts += [(f"points.{name}", settings) for name, settings in file.points.items()]
    for part, settings in parts:
        for key in set(settings) & set(OWN_KEYS):
            raise InputError(f"{path}: {part}.{key}: is the sweep's own; give `seeds`, and no folder")
    for key in set(file.zip) & set(file.grid):
        raise InputError(f"{path}: {key}: stands in `zip` and in `grid`; it can vary in one of them")
    varied = {*file.zip, *file.grid, *itertools.chain(*file.points.values())}
    for key in file.set:
        if piece := next((each for each in varied if key.startswith(f"{each}.")), None):
            raise InputError(f"{path}: set.{key}: is lost where {piece} varies; give it there, as {{name: ..., ...}}")
    for part, values in (("zip", file.zip), ("grid", file.grid)):
        for key, choices in values.items():
            if not choices:
                raise InputError(f"{path}: {part}.{key} = []: must have at least one value")
    for key in varied & overridden.keys():
        raise InputError(f"{key}: is what {path} varies; change it there")
    try:
        json.dumps(file.model_dump())
    except TypeError as error:
        raise InputError(f"{path}: {error}: put the value in quotes") from None
    lengths = {key: len(values) for key, values in file.zip.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        raise InputError(f"{path}: zip: its lists must have one length, but {listed}")
    if not _seeds(file):
        raise InputError(f"{path}: seeds = {file.seeds!r}: must be a number from 1 or a list of seeds")


def _combinations(file: SweepFile) -> Iterator[tuple[str, Settings]]:
    """Yield (label, settings) of each member."""
    points = list(file.points.items()) or [("", {})]
    steps = [dict(zip(file.zip, values, strict=True)) for values in zip(*file.zip.values(), strict=True)] or [{}]
    grid = [dict(zip(file.grid, values, strict=True)) for values in itertools.product(*file.grid.values())]
    for (name, point), step, cell, seed in itertools.product(points, steps, grid, _seeds(file)):
        varied = step | cell
        words = [
            _short(name),
            *(f"{key.rpartition('.')[2]}={_short(value)}" for key, value in varied.items()),
            f"seed={seed}",
        ]
        yield ",".join(filter(None, words)), {**point, **varied, "run.seed": seed}


def _seeds(file: SweepFile) -> list[int]:
    return list(range(file.seeds)) if isinstance(file.seeds, int) else file.seeds


def _short(value: Any) -> str:
    """Return a value as a word for the name of a folder."""
    if isinstance(value, dict):
        settings = [f"{key}-{_short(setting)}" for key, setting in value.items() if key != "name"]
        return "-".join([str(value.get("name", "")), *settings]).strip("-")
    return str(value).replace("/", "-")


def _settings_of(overrides: list[str] | tuple[str, ...]) -> Settings:
    settings: Settings = {}
    for override in overrides:
        key, value = config.parse_override(override)
        if key in OWN_KEYS:
            raise InputError(f"{key}: is the sweep's own; say `seeds` in its file for seeds, and nothing for folders")
        settings[key] = value
    return settings
