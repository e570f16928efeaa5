"""Axis of a sweep: the number that its settings are drawn against."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vae.run.settings import short, word


@dataclass(frozen=True)
class Axis:
    """The number that settings are drawn against.

    Attributes:
        key: dotted key of the number.
        in_step: keys whose values follow from the number.
        rest: keys whose values tell lines apart.
    """

    key: str
    in_step: tuple[str, ...]
    rest: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the axis, for people."""
        names = " and ".join(short(key) for key in self.in_step)
        return short(self.key) + (f" (with {names} in step)" if names else "")

    def line_of(self, varied: Mapping[str, Any]) -> str:
        """Return the label of a setting's line."""
        return ", ".join(f"{short(key)} = {word(varied[key])}" for key in self.rest if key in varied)


def find_axis(varied: Sequence[Mapping[str, Any]]) -> Axis | None:
    """Return the axis that settings are drawn against; None: they have no order.

    The axis is the number with the most values among those that all settings have. On average each line must have two
    settings or more.

    Args:
        varied: of each setting, dotted key -> value; no two alike.
    """
    keys = list(dict.fromkeys(key for setting in varied for key in setting))
    numeric = [key for key in keys if all(_is_number(setting.get(key)) for setting in varied)]
    for key in sorted(numeric, key=lambda key: -len({setting[key] for setting in varied})):
        values = {setting[key] for setting in varied}
        in_step = [k for k in keys if k != key and len({(s[key], repr(s.get(k))) for s in varied}) == len(values)]
        rest = [k for k in keys if k != key and k not in in_step]
        lines = {repr([setting.get(k) for k in rest]) for setting in varied}
        if len(lines) * 2 <= len(varied):
            return Axis(key, tuple(in_step), tuple(rest))
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
