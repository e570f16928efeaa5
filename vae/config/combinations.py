"""Settings that are right one by one and mean nothing together: a rule for each, which says why and what would do."""

from collections.abc import Callable, Iterator

from vae.components import Spec
from vae.config.schema import Config

Rule = Callable[[Config], str | None]
NORMAL_POSTERIORS = ("DiagonalNormal", "FullNormal")


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


def _has_a_gradient_estimate(config: Config) -> str | None:
    gradient, posterior = config.objective.get("gradient"), config.model.posterior["name"]
    if gradient != "doubly_reparameterized" or posterior in NORMAL_POSTERIORS:
        return None
    return (
        f"objective.gradient = {gradient!r}: needs log q(z|x) with fixed parameters, which model.posterior.name = "
        f"{posterior!r} does not give; take standard, or one of {', '.join(NORMAL_POSTERIORS)}"
    )


def _total_correlation_of_independent_dimensions(config: Config) -> str | None:
    name, posterior = config.objective["name"], config.model.posterior["name"]
    if name != "BetaTCVAE" or posterior == "DiagonalNormal":
        return None
    return (
        f"objective.name = {name!r}: estimates q(z_d) by q(z_d|x), which needs independent dimensions, not "
        f"model.posterior.name = {posterior!r}; take DiagonalNormal"
    )


def _compares_with_a_standard_normal(config: Config) -> str | None:
    name, prior = config.objective["name"], config.model.prior["name"]
    if name not in ("BetaTCVAE", "InfoVAE") or prior == "StandardNormal":
        return None
    return (
        f"objective.name = {name!r}: compares q(z) with N(0, I) in closed form, not with model.prior.name = {prior!r}; "
        "take StandardNormal"
    )


def _divergence_has_a_weight(config: Config) -> str | None:
    if config.objective["name"] != "InfoVAE":
        return None
    alpha, lambda_ = config.objective["alpha"], config.objective["lambda_"]
    if (weight := alpha + lambda_ - 1) >= 0:
        return None
    return (
        f"objective.lambda_ = {lambda_}: with objective.alpha = {alpha} the MMD would weigh {weight:g}; "
        f"take {1 - alpha:g} or more"
    )


def _looks_at_one_stochastic_layer(config: Config) -> str | None:
    objective, hierarchy = config.objective, config.model.hierarchy["name"]
    doubly = objective.get("gradient") == "doubly_reparameterized"
    if hierarchy == "Flat" or not (doubly or objective["name"] in ("BetaTCVAE", "InfoVAE")):
        return None
    setting = "objective.gradient = 'doubly_reparameterized'" if doubly else f"objective.name = {objective['name']!r}"
    return f"{setting}: for one stochastic layer, not model.hierarchy.name = {hierarchy!r}; take Flat"


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


FLOW_POSTERIORS = ("SplineFlow", "InverseAutoregressiveFlow")


def _flows_have_dimensions_to_couple(config: Config) -> str | None:
    model = config.model
    *_, top = (model.latent_dim, *model.hierarchy.get("latent_dims", ()))  # the prior is that of the highest layer
    if model.posterior["name"] in FLOW_POSTERIORS and model.latent_dim == 1:
        key, instead = f"model.posterior.name = {model.posterior['name']!r}", "DiagonalNormal"
    elif model.prior["name"] == "Flow" and top == 1:
        key, instead = "model.prior.name = 'Flow'", "GaussianMixture"
    else:
        return None
    return f"{key}: moves latent dimensions by what others are, and there is one alone; take {instead}, or 2 dimensions"


def _layers_share_no_flow(config: Config) -> str | None:
    name, hierarchy = config.model.posterior["name"], config.model.hierarchy["name"]
    if name not in FLOW_POSTERIORS or hierarchy == "Flat":
        return None
    return (
        f"model.posterior.name = {name!r}: a flow has weights, and the layers of model.hierarchy.name = {hierarchy!r} "
        "have posteriors without; take DiagonalNormal, or the hierarchy Flat"
    )


def _pseudo_inputs_can_be_encoded(config: Config) -> str | None:
    model, key = config.model, "model.prior.name = 'VampPrior'"
    if model.prior["name"] == "VampPrior" and model.condition:
        return f"{key}: its pseudo-inputs have no labels for an encoder with model.condition; take GaussianMixture"
    if model.prior["name"] == "VampPrior" and model.hierarchy["name"] != "Flat":
        return (
            f"{key}: mixes q(z|u) of the layer that is decoded, and in model.hierarchy.name = "
            f"{model.hierarchy['name']!r} the prior is that of the highest one; take GaussianMixture"
        )
    return None


CODE_PRIORS = ("UniformCodes", "AutoregressiveCodes")


def _codes_have_their_prior_and_objective(config: Config) -> str | None:
    model, objective = config.model, config.objective["name"]
    posterior, prior, hierarchy = model.posterior["name"], model.prior["name"], model.hierarchy["name"]
    if posterior != "VectorQuantized":
        if prior in CODE_PRIORS:
            return f"model.prior.name = {prior!r}: of codes, which only model.posterior=VectorQuantized gives"
        if objective == "VectorQuantization":
            return f"objective.name = {objective!r}: of codes, which only model.posterior=VectorQuantized gives"
        return None
    key = f"model.posterior.name = {posterior!r}"
    if hierarchy != "Flat":
        return f"{key}: for one stochastic layer, not model.hierarchy.name = {hierarchy!r}; take Flat"
    if prior not in CODE_PRIORS:
        return (
            f"{key}: its codes need a prior of codes, not model.prior.name = {prior!r}; take {' or '.join(CODE_PRIORS)}"
        )
    if objective != "VectorQuantization":
        keeps = f"objective.name = {objective!r} does not keep the encoder near the codes; take VectorQuantization"
        return f"{key}: {keeps}"
    return None


def _z_is_made_of_whole_codes(config: Config) -> str | None:
    model = config.model
    if model.posterior["name"] != "VectorQuantized":
        return None
    positions, rest = divmod(model.latent_dim, model.posterior["code_dim"])
    if rest:
        return (
            f"model.latent_dim = {model.latent_dim}: must be a multiple of model.posterior.code_dim = "
            f"{model.posterior['code_dim']}"
        )
    if positions == 1 and model.prior["name"] == "AutoregressiveCodes":
        return (
            "model.prior.name = 'AutoregressiveCodes': has a code follow from others, and z is one; take UniformCodes"
        )
    return None


def _inferred_labels_are_seen(config: Config) -> str | None:
    model = config.model
    if not model.infer_labels or model.condition or model.prior["name"] == "ClassNormal":
        return None
    return "model.infer_labels = True: nothing sees a label; set model.condition=true, or infer_labels=false"


def _inferred_labels_have_a_bound(config: Config) -> str | None:
    name, infers = config.objective["name"], config.model.infer_labels
    if name == "SemiSupervised" and not infers:
        return f"objective.name = {name!r}: needs q(y|x); set model.infer_labels=true model.condition=true"
    if infers and name not in ("SemiSupervised", "ELBO"):
        return (
            f"model.infer_labels = True: objective.name = {name!r} has no rule for labels that are marginalised; take "
            "SemiSupervised or ELBO"
        )
    return None


def _hidden_labels_are_inferred(config: Config) -> str | None:
    data = config.data
    if data.labelled and not config.model.infer_labels:
        return (
            f"data.labelled = {data.labelled}: the model does nothing with images whose label is hidden; set "
            "model.infer_labels=true model.condition=true objective=SemiSupervised, or labelled=0"
        )
    if data.repeat_labelled > 1 and not data.labelled:
        return f"data.repeat_labelled = {data.repeat_labelled}: no label is hidden; set data.labelled, or 1"
    if data.repeat_labelled > 1 and data.binarize == "static":
        return (
            f"data.repeat_labelled = {data.repeat_labelled}: each repeat would have 0/1 pixels of its own, with "
            "data.binarize = 'static' they are drawn once; take dynamic, or 1"
        )
    return None


# each returns one line that names the key, its value and the way out, or None
RULES: list[Rule] = [
    _layers_have_a_width,
    _normalised_layers_have_more_than_two_numbers,
    _layers_that_multiply_are_normal,
    _has_a_gradient_estimate,
    _total_correlation_of_independent_dimensions,
    _compares_with_a_standard_normal,
    _divergence_has_a_weight,
    _looks_at_one_stochastic_layer,
    _densities_are_of_grey_pixels,
    _flows_have_dimensions_to_couple,
    _layers_share_no_flow,
    _pseudo_inputs_can_be_encoded,
    _codes_have_their_prior_and_objective,
    _z_is_made_of_whole_codes,
    _inferred_labels_are_seen,
    _inferred_labels_have_a_bound,
    _hidden_labels_are_inferred,
]
