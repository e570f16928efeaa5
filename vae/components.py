"""A piece is a class whose constructor signature is its configuration schema.

A *table* maps names to classes (`PRIORS = {"StandardNormal": StandardNormal}`) and stands at the foot of the file that
defines them. A *spec* is plain data that names one of them: `{"name": "LinearWarmup", "epochs": 10}`. Positional
parameters of a constructor are its operands, supplied by the code that builds it; keyword-only parameters are its
settings, supplied by the user and described, with their ranges, by `Annotated[type, Field(gt=0, description="...")]`.
A piece's `conflicts` are the configurations in which the piece means nothing.
"""

import difflib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic_core import core_schema

if TYPE_CHECKING:
    from vae.config import Config  # a layer above


class Piece:
    """Base class of everything that a configuration chooses from a table."""

    @classmethod
    def conflicts(cls, config: "Config") -> Iterator[str]:
        """Yield one line for each reason why this piece has no meaning in a configuration that chooses the piece.

        A line names the key, its value and the way out. Every setting of `config` is complete and valid by itself.
        """
        yield from ()


Spec = dict[str, Any]
Table = Mapping[str, type[Piece]]
Chosen = tuple[Table, str]  # a table, and the name of a piece in it

# A pydantic context: specs stay as they are given, so that the modules of the pieces need not be imported.
SPECS_AS_GIVEN = {"specs": "as given"}


class SpecError(ValueError):
    """Problems of a spec: (key below the spec's own, the problem), one for each of them."""

    def __init__(self, problems: list[tuple[str, str]]):
        super().__init__("; ".join(f"{key}{problem}" for key, problem in problems))
        self.problems = problems


class PieceOf:
    """Annotation that marks a value as a spec from a table; pydantic checks it and fills in the defaults.

    Args:
        table: the classes to choose from, by name; or `"module:TABLE"`, which is imported when it is needed.
        shorthand: name and setting that a bare number stands for, e.g. `("Constant", "value")`.
    """

    def __init__(self, table: Table | str, shorthand: tuple[str, str] | None = None):
        self._table = table
        self.shorthand = shorthand

    @cached_property
    def table(self) -> Table:
        """The classes to choose from, by name."""
        return pkgutil.resolve_name(self._table) if isinstance(self._table, str) else self._table

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Let pydantic call `complete` on the raw value, unless its context is `SPECS_AS_GIVEN`."""
        return core_schema.with_info_plain_validator_function(
            lambda value, info: value if info.context is SPECS_AS_GIVEN else self.complete(value)
        )

    def complete(self, value: Any) -> Spec:
        """Return the full spec, every setting present; raises `SpecError` saying what is wrong with `value`."""
        if isinstance(value, str):
            value = {"name": value}
        elif self.shorthand and isinstance(value, (int, float)) and not isinstance(value, bool):
            value = {"name": self.shorthand[0], self.shorthand[1]: value}
        names = ", ".join(self.table)
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            raise SpecError([("", f" = {value!r}: must be a name or {{name: ..., settings}}; names: {names}")])
        name = value["name"]
        if name not in self.table:
            unknown = f" = {name!r}: there is no such component{nearest(name, self.table)}"
            raise SpecError([(".name", f"{unknown}; known: {names} (--plugin FILE adds your own)")])
        settings = {str(key): item for key, item in value.items() if key != "name"}
        return {"name": name, **_complete_settings(self.table[name], settings)}

    def chosen(self, spec: Spec) -> Iterator[Chosen]:
        """Yield table and name of the piece that a complete spec names, and of the pieces that its settings name."""
        yield self.table, spec["name"]
        for name, field in settings_of(self.table[spec["name"]]).model_fields.items():
            if marker := piece_of(field.metadata):
                yield from marker.chosen(spec[name])

    def build(self, value: Any, *operands: Any) -> Any:
        """Construct the piece that `value` names, or return `value` if it is one already.

        Args:
            value: a spec; settings it leaves out take their defaults.
            operands: the constructor's positional arguments.

        Raises:
            ValueError: the name or a setting is unknown, or a value is of the wrong type or out of range.
        """
        if isinstance(value, tuple(self.table.values())):
            return value
        spec = self.complete(value)
        return self.table[spec.pop("name")](*operands, **spec)


def build(table: Table, spec: Any, *operands: Any) -> Any:
    """Construct the piece that `spec` names; see `PieceOf.build`."""
    return PieceOf(table).build(spec, *operands)


@cache
def settings_of(piece: type) -> type[BaseModel]:
    """Return the pydantic model of a piece's settings: its keyword-only parameters."""
    parameters = inspect.signature(piece, eval_str=True).parameters.values()
    fields: dict[str, Any] = {
        p.name: (p.annotation, ... if p.default is p.empty else p.default)
        for p in parameters
        if p.kind is p.KEYWORD_ONLY
    }
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)
    return create_model(piece.__name__, __config__=config, **fields)


def piece_of(metadata: list[Any]) -> PieceOf | None:
    """Return the `PieceOf` among a field's annotations, if there is one."""
    return next((item for item in metadata if isinstance(item, PieceOf)), None)


def pieces_of(annotation: Any) -> PieceOf | None:
    """Return the `PieceOf` of the items of a list of specs, `list[Annotated[Spec, PieceOf(...)]]`, else None."""
    items = get_args(annotation) if get_origin(annotation) is list else ()
    return piece_of(list(getattr(items[0], "__metadata__", ()))) if items else None


def nearest(word: str, known: Mapping[str, Any] | list[str]) -> str:
    """Return `; did you mean ...?` for the closest known word, or nothing."""
    same_ending = [key for key in known if key.rpartition(".")[2] == word.rpartition(".")[2]]
    close = same_ending or difflib.get_close_matches(word, list(known), n=1, cutoff=0.65)
    return f"; did you mean {close[0]!r}?" if close else ""


def explain(error: ValidationError, known: list[str] | None = None) -> list[tuple[str, str]]:
    """Return (key, what is wrong with it) for each problem of a validation error.

    Args:
        error: pydantic's report.
        known: the keys there are, to name the nearest to an unknown one.
    """
    problems = []
    for item in error.errors(include_url=False):
        key = ".".join(map(str, item["loc"]))
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, SpecError):
            problems += [(key + inner, problem) for inner, problem in cause.problems]
        elif item["type"] == "extra_forbidden":
            problems.append((key, f": there is no such key{nearest(key, known or [])}"))
        elif item["type"] == "missing":
            problems.append((key, ": must be given"))
        elif item["type"] in ("model_type", "dict_type"):
            problems.append((key, f" = {item['input']!r}: must hold keys and values"))
        else:
            problems.append((key, f" = {item['input']!r}: {item['msg'].replace('Input should be', 'must be')}"))
    return problems


def _complete_settings(piece: type, settings: Spec) -> Spec:
    schema = settings_of(piece)
    try:
        return schema.model_validate(settings).model_dump()
    except ValidationError as error:
        problems = explain(error, known=list(schema.model_fields))
        raise SpecError([(f".{key}", f"{problem} ({piece.__name__})") for key, problem in problems]) from None
