"""Likelihood families: the decoder's numbers -> p(x|z), for pixels in [0, 1]."""

from vae.families.likelihoods.base import NOT_NORMALISED, Likelihood, bits_per_dim
from vae.families.likelihoods.bernoulli import Bernoulli, ContinuousBernoulli
from vae.families.likelihoods.levels import Categorical, DiscretizedLogistic, DiscretizedLogisticMixture
from vae.families.likelihoods.normal import Normal, NormalLearnedStd, NormalPixelStd, OptimalNormal

__all__ = [
    "LIKELIHOODS", "NOT_NORMALISED", "Bernoulli", "Categorical", "ContinuousBernoulli", "DiscretizedLogistic",
    "DiscretizedLogisticMixture", "Likelihood", "Normal", "NormalLearnedStd", "NormalPixelStd", "OptimalNormal",
    "bits_per_dim",
]  # fmt: skip

LIKELIHOODS: dict[str, type[Likelihood]] = {
    "Bernoulli": Bernoulli,
    "ContinuousBernoulli": ContinuousBernoulli,
    "Normal": Normal,
    "NormalLearnedStd": NormalLearnedStd,
    "NormalPixelStd": NormalPixelStd,
    "OptimalNormal": OptimalNormal,
    "Categorical": Categorical,
    "DiscretizedLogistic": DiscretizedLogistic,
    "DiscretizedLogisticMixture": DiscretizedLogisticMixture,
}
