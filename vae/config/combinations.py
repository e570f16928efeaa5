"""Settings that are right one by one and mean nothing together: a rule for each, which says why and what would do."""

from collections.abc import Callable

from vae.config.schema import Config

Rule = Callable[[Config], str | None]


def _layers_have_a_width(config: Config) -> str | None:
    depth, hidden_dim = config.model.depth, config.model.hidden_dim
    if hidden_dim // 2 ** (depth - 1) >= 1:
        return None
    return (
        f"model.depth = {depth}: each layer is half as wide as the one before, which leaves none of "
        f"model.hidden_dim = {hidden_dim} for the last; take a smaller depth or a larger hidden_dim"
    )


def _layers_that_multiply_are_normal(config: Config) -> str | None:
    name = config.model.posterior["name"]
    if config.model.hierarchy["name"] != "Ladder" or name == "DiagonalNormal":
        return None
    return f"model.posterior.name = {name!r}: a Ladder multiplies diagonal normals; use DiagonalNormal"


# densities whose width is learned
DENSITIES = ("ContinuousBernoulli", "NormalLearnedStd", "NormalPixelStd", "OptimalNormal")


def _densities_are_of_grey_pixels(config: Config) -> str | None:
    binarize, name = config.data.binarize, config.model.likelihood["name"]
    if binarize == "none" or name not in DENSITIES:
        return None
    return (
        f"model.likelihood = {name!r}: 0/1 pixels (data.binarize = {binarize!r}) have no density, it would grow as far "
        "as it is let; take Bernoulli, or data.binarize=none"
    )


# each returns one line that names the key, its value and the way out, or None
RULES: list[Rule] = [_layers_have_a_width, _layers_that_multiply_are_normal, _densities_are_of_grey_pixels]
