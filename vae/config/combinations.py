"""Settings that are right one by one and mean nothing together: a rule for each, which says why and what would do."""

from collections.abc import Callable, Iterator

from vae.components import Spec
from vae.config.schema import Config

Rule = Callable[[Config], str | None]


def _layers_have_a_width(config: Config) -> str | None:
    depth, hidden_dim = config.model.depth, config.model.hidden_dim
    for key, network in _networks(config):
        if network.get("widths") == "halving" and hidden_dim // 2 ** (depth - 1) < 1:
            return (
                f"model.depth = {depth}: in the {network['name']} each layer is half as wide as the one before, which "
                f"leaves none of model.hidden_dim = {hidden_dim} for the last; take a smaller depth, a larger "
                f"hidden_dim or {key}.widths=constant"
            )
    return None


def _normalised_layers_have_more_than_two_numbers(config: Config) -> str | None:
    for key, network in _networks(config):
        width = config.model.hidden_dim
        if network.get("widths") == "halving":
            width //= 2 ** (config.model.depth - 1)
        if network.get("normalization", "none") != "none" and (width := min(width, network.get("channels", width))) < 3:
            return (
                f"{key}.normalization = {network['normalization']!r}: the narrowest layer has a width of {width}, and "
                "whatever comes in, one number normalised is 0, and two are 1 and -1; take a larger model.hidden_dim "
                "(or channels), a smaller model.depth or normalization=none"
            )
    return None


def _networks(config: Config) -> Iterator[tuple[str, Spec]]:
    """Yield encoder and decoder with their keys."""
    yield "model.encoder", config.model.encoder
    yield "model.decoder", config.model.decoder


def _layers_that_multiply_are_normal(config: Config) -> str | None:
    name = config.model.posterior["name"]
    if config.model.hierarchy["name"] != "Ladder" or name == "DiagonalNormal":
        return None
    return f"model.posterior.name = {name!r}: a Ladder multiplies diagonal normals; use DiagonalNormal"


# each returns one line that names the key, its value and the way out, or None
RULES: list[Rule] = [
    _layers_have_a_width,
    _normalised_layers_have_more_than_two_numbers,
    _layers_that_multiply_are_normal,
]
