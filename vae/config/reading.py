"""Reading a configuration: defaults < launcher < YAML file < `key=value`, strict, one clear line for each mistake."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vae.components import SPECS_AS_GIVEN, explain, nearest
from vae.config.combinations import conflicts
from vae.config.help import component_keys, defaults, known_keys
from vae.config.schema import HARMLESS, Config, ObjectiveSpec
from vae.errors import InputError
from vae.files import expanded
from vae.schedules import ScheduleSpec


def load(
    path: str | Path | None = None,
    overrides: list[str] | tuple[str, ...] = (),
    launcher: Mapping[str, Any] | None = None,
) -> Config:
    """Return the configuration: defaults, changed by the launcher, by the file, by the overrides.

    Args:
        path, overrides, launcher: as for `gather`.

    Raises:
        InputError: a file or value that cannot be used; the message is one line.
    """
    return from_dict(gather(path, overrides, launcher).model_dump())


def gather(
    path: str | Path | None = None,
    overrides: list[str] | tuple[str, ...] = (),
    launcher: Mapping[str, Any] | None = None,
) -> Config:
    """Return the same with specs of components as they are given: neither they nor torch are imported for it.

    Args:
        path: a YAML file that holds only what differs from the defaults.
        overrides: `key=value` each, the value in YAML, e.g. `model.prior={name: StandardNormal}`.
        launcher: keys and values that a launcher asks for, in place of defaults.

    Raises:
        InputError: a file or value that cannot be used; the message is one line.
    """
    raw = defaults()
    _merge(raw, dict(launcher or {}), source="the launcher")
    if path is not None:
        _merge(raw, read_yaml(expanded(path)), source=str(path))
    for override in overrides:
        _merge(raw, _nested(*parse_override(override)), source="the command line")
    return _validate(raw, context=SPECS_AS_GIVEN)


def from_dict(raw: Mapping[str, Any]) -> Config:
    """Return the configuration a nested mapping describes; raises `InputError` with one line."""
    config = _validate(raw)
    if problem := next(conflicts(config), None):
        raise InputError(problem)
    return config


def _validate(raw: Mapping[str, Any], context: Mapping[str, Any] | None = None) -> Config:
    try:
        return Config.model_validate(raw, context=context)
    except ValidationError as error:
        problems = explain(error, known=known_keys())
        raise InputError("; ".join(key + problem for key, problem in problems)) from None


def warnings(config: Config, epochs: float) -> list[str]:
    """Return a line for each setting that is allowed but probably not meant in a run of so many epochs."""
    schedules = ObjectiveSpec.build(config.objective).schedules
    ends = {
        **{f"objective.{name}": schedule.ends_at for name, schedule in schedules.items()},
        "optim.lr_schedule": ScheduleSpec.build(config.optim.lr_schedule).ends_at,
        "optim.lr_scaling_epochs": 0.0 if config.optim.lr_scaling == "none" else config.optim.lr_scaling_epochs,
    }
    settled, patience = max((schedule.ends_at for schedule in schedules.values()), default=0.0), config.train.patience
    futile = f"train.patience = {patience}: never ends a run of {epochs:g} epochs; it counts from epoch {settled:g} on"
    return [
        f"{key}: the schedule lasts {end:g} epochs, longer than the run ({epochs:g} epochs)"
        for key, end in ends.items()
        if end > epochs
    ] + [futile] * (0 < patience >= epochs - settled)


def differences(old: Config, new: Config) -> tuple[list[str], list[str]]:
    """Return `key: old -> new` for each key that differs: those that change what a run computes, and the harmless."""
    before, after = flatten(old), flatten(new)
    altering: list[str] = []
    harmless: list[str] = []
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            (harmless if key in HARMLESS else altering).append(f"{key}: {before.get(key)} -> {after.get(key)}")
    return altering, harmless


def flatten(config: Config) -> dict[str, Any]:
    """Return every key of a configuration with its value: `{"model.prior.name": "StandardNormal", ...}`."""

    def walk(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict):
            for key, item in value.items():
                yield from walk(f"{prefix}.{key}".strip("."), item)
        else:
            yield prefix, value

    return dict(walk("", config.model_dump()))


def to_yaml(config: Config) -> str:
    """Return the configuration as YAML that `load` reads back."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False)


class _Loader(yaml.SafeLoader):
    """Safe YAML with two repairs: `1e-3` is a number (as in YAML 1.2), and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in seen:
            if seen.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_yaml(text: str, source: str) -> Any:
    """Return the value a YAML text holds; raises `InputError` naming `source` and the line."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that there is not
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise InputError(f"{source}{where}: not valid YAML: {problem}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the keys and values of a YAML file; raises `InputError` naming it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise InputError(
            f"{path}: cannot be read: {reason}; give an existing YAML file, e.g. configs/mnist.yaml"
        ) from None
    raw = parse_yaml(text, str(path))
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise InputError(f"{path}: must hold keys and values, e.g. `train: {{epochs: 5}}`, not {type(raw).__name__}")
    return raw


def parse_override(override: str) -> tuple[str, Any]:
    """Return the dotted key and the value of `key=value`; raises `InputError`."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"{override!r}: must be key=value, e.g. train.epochs=5")
    return key, parse_yaml(text, f"{key} = {text!r}")


def _nested(key: str, value: Any) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    inner = nested
    *sections, last = key.split(".")
    for section in sections:
        inner[section] = inner = {}
    inner[last] = value
    return nested


def _merge(base: dict[str, Any], change: dict[Any, Any], source: str, prefix: str = "") -> None:
    """Change `base` in place. A mapping that names a component replaces it; any other mapping is merged into it."""
    for key, value in change.items():
        path = f"{prefix}.{key}".strip(".")
        if key not in base and not _inside_component(path):
            hint = nearest(path, known_keys()) or "; train_ddp.py --help lists them all"
            raise InputError(f"{path}: there is no such key (in {source}){hint}")
        current = base.get(key)
        if isinstance(current, str) and isinstance(value, dict) and _inside_component(path):
            current = base[key] = {"name": current}  # a component's name is short for one with its defaults
        if isinstance(current, dict) and not isinstance(value, dict) and not _inside_component(path):
            raise InputError(f"{path} = {value!r}: must be a section, with keys and values (in {source})")
        replaces = isinstance(value, dict) and "name" in value and _inside_component(path)
        if isinstance(value, dict) and isinstance(current, dict) and not replaces:
            _merge(current, value, source, path)
        else:
            base[key] = value


def _inside_component(path: str) -> bool:
    """Return true for the dotted key of a component or of one of its settings."""
    return any((path + ".").startswith(key + ".") for key in component_keys())
