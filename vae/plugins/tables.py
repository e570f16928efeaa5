"""The tables that a plugin may add to, and what keeps something from being a piece of one of them."""

import inspect
import pkgutil
import sys
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from pydantic import ValidationError

from vae.components import explain, settings_of

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


def table_of(name: str) -> dict[str, Any]:
    """Return a table by its name; imports torch."""
    return pkgutil.resolve_name(TABLES[name])


def base_of(table: str) -> type | None:
    """Return the class that the pieces of a table are derived from; None: they are functions."""
    module, _, name = TABLES[table].partition(":")
    _, piece = get_args(sys.modules[module].__annotations__[name])
    return get_args(piece)[0] if getattr(piece, "__origin__", None) is type else None


def problems(table: str, name: object, piece: Any, other: Any) -> Iterator[str]:
    """Yield what keeps something from being a piece of a table, of which `other` is a piece."""
    base, called = base_of(table), getattr(piece, "__name__", repr(piece))
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
