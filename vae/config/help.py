"""Describing a configuration: the text of `--help` and of `python -m vae components`, made from the schema itself."""

import inspect
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from vae.components import SPECS_AS_GIVEN, Table, piece_of, pieces_of, settings_of
from vae.config.schema import Config, Section


def keys() -> Iterator[tuple[str, FieldInfo]]:
    """Yield each dotted key with its schema, the settings of components not included."""
    for section, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            for key, inner in field.annotation.model_fields.items():
                yield f"{section}.{key}", inner
        else:
            yield section, field


def known_keys() -> list[str]:
    """Return every dotted key, the settings of components not included."""
    return [key for key, _ in keys()]


def component_keys() -> list[str]:
    """Return the dotted keys whose values are components."""
    return [key for key, field in keys() if piece_of(field.metadata)]


def defaults() -> dict[str, Any]:
    """Return the defaults as the schema has them: of a component, the settings that the schema gives."""
    return Config.model_validate({}, context=SPECS_AS_GIVEN).model_dump()


def describe() -> str:
    """Return a text that lists every key with its type, range, default and meaning; torch is not imported for it."""
    values, lines = defaults(), []
    for key, field in keys():
        section, _, name = key.partition(".")
        kind = "component" if piece_of(field.metadata) else _type_name(field)
        kind = "components" if pieces_of(field.annotation) else kind
        lines += _entry(key, kind, values[section][name] if name else values[section], field)
    return "\n".join([*lines, "", "components, with their settings: python -m vae components"])


def describe_components() -> str:
    """Return a text that lists every component under the keys that choose it, with its settings."""
    lines = [
        "A component is a name, or {name: ..., settings}; a number where a schedule is wanted is a constant one:",
        "  model.posterior=FullNormal",
        "  model.posterior.scale=exp",
        "  objective.beta='{name: LinearWarmup, epochs: 5}'",
        "  objective.beta=4",
    ]
    for places, table in _tables():
        lines += ["", f"{', '.join(places)}:"]
        for name, piece in table.items():
            lines += [f"  {name}: {(inspect.getdoc(piece) or '').partition(chr(10))[0]}"]
            for key, field in settings_of(piece).model_fields.items():
                marker = piece_of(field.metadata)
                kind = " | ".join(marker.table) if marker else _type_name(field)
                lines += ["  " + line for line in _entry(key, kind, field.default, field)]
    return "\n".join(lines)


def _tables() -> list[tuple[list[str], Table]]:
    """Return each table of components with the dotted keys that choose from it, `objective.beta` among them."""
    found: list[tuple[list[str], Table]] = []
    fields = list(keys())
    for key, field in fields:  # which grows
        if marker := piece_of(field.metadata) or pieces_of(field.annotation):
            known = next((places for places, table in found if table is marker.table), None)
            if known is None:
                found.append(([key], marker.table))
                settings = [settings_of(piece).model_fields.items() for piece in marker.table.values()]
                fields += [(f"{key}.{name}", inner) for items in settings for name, inner in items]
            elif key not in known:  # several objectives have a beta
                known.append(key)
    return found


def _entry(key: str, kind: str, default: Any, field: FieldInfo) -> list[str]:
    if field.is_required():
        return [f"  {key}  ({kind}; must be given)", *_description(field)]
    shown = yaml.safe_dump(default, default_flow_style=True, sort_keys=False, width=1000)
    shown = shown.removesuffix("\n").removesuffix("\n...")
    return [f"  {key}  ({kind}; default {shown})", *_description(field)]


def _description(field: FieldInfo) -> list[str]:
    return [f"      {field.description}"] if field.description else []


def _type_name(field: FieldInfo) -> str:
    if get_origin(field.annotation) is list:
        return f"list of {_type_name(FieldInfo.from_annotation(get_args(field.annotation)[0]))}"
    if options := get_args(field.annotation):
        words = [word for o in options for word in (get_args(o) if get_origin(o) is Literal else [o])]
        kind = " | ".join("null" if o is type(None) else getattr(o, "__name__", str(o)) for o in words)
    else:
        kind = getattr(field.annotation, "__name__", str(field.annotation))
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    bounds = [
        f"{sign} {getattr(item, name):g}"
        for item in field.metadata
        for name, sign in signs.items()
        if hasattr(item, name)
    ]
    return " ".join([kind, *bounds])
