"""Describing a configuration: the text of `--help`, made from the schema itself."""

from collections.abc import Iterator
from typing import Any, get_args

import yaml
from pydantic.fields import FieldInfo

from vae.components import piece_of, settings_of
from vae.config.schema import Config, Section


def keys() -> Iterator[tuple[str, FieldInfo]]:
    """Yield each dotted key with its schema, the settings of the default components not included."""
    for section, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            for key, inner in field.annotation.model_fields.items():
                yield f"{section}.{key}", inner
        else:
            yield section, field


def describe() -> str:
    """Return a text that lists every key with its type, range, default and meaning, from the schema itself."""
    lines = []
    defaults = Config().model_dump()
    components: dict[str, type] = {}
    for key, field in keys():
        section, _, name = key.partition(".")
        default = defaults[section][name] if name else defaults[section]
        lines += _entry(key, field, default)
        marker = piece_of(field.metadata)
        components |= marker.table if marker else {}
    for piece in list(components.values()):
        for field in settings_of(piece).model_fields.values():
            marker = piece_of(field.metadata)
            components |= marker.table if marker else {}
    lines += [
        "",
        "settings of the components (e.g. model.posterior.scale=exp, objective.beta='{name: Constant, value: 4}'):",
    ]
    for name, piece in components.items():
        fields = settings_of(piece).model_fields
        lines += [f"  {name}" + ("" if fields else ": none")]
        for key, field in fields.items():
            lines += ["  " + line for line in _entry(key, field, field.default)]
    return "\n".join(lines)


def _entry(key: str, field: FieldInfo, default: Any) -> list[str]:
    marker = piece_of(field.metadata)
    kind = " | ".join(marker.table) if marker else _type_name(field)
    shown = yaml.safe_dump(default, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")
    return [f"  {key}  ({kind}; default {shown})", f"      {field.description}"]


def _type_name(field: FieldInfo) -> str:
    if options := get_args(field.annotation):
        kind = " | ".join("null" if o is type(None) else getattr(o, "__name__", str(o)) for o in options)
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


def known_keys() -> list[str]:
    """Return every dotted key, the settings of components not included."""
    return [key for key, _ in keys()]


def component_keys() -> list[str]:
    """Return the dotted keys whose values are components."""
    return [key for key, field in keys() if piece_of(field.metadata)]
