"""The configuration: a schema, read from YAML and `key=value`, with one clear line for each mistake."""

from vae.config.help import describe, describe_components
from vae.config.reading import (
    differences,
    flatten,
    from_dict,
    gather,
    load,
    parse_override,
    read_yaml,
    to_yaml,
    warnings,
)
from vae.config.schema import Config, TrainConfig

__all__ = [
    "Config",
    "TrainConfig",
    "describe",
    "describe_components",
    "differences",
    "flatten",
    "from_dict",
    "gather",
    "load",
    "parse_override",
    "read_yaml",
    "to_yaml",
    "warnings",
]
