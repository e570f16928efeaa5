"""Prior families p(z), of a latent variable or of a sequence of codes."""

from vae.families.priors.base import Given, Prior
from vae.families.priors.codes import AutoregressiveCodes, UniformCodes
from vae.families.priors.flow import Flow
from vae.families.priors.mixture import FittedMixture, GaussianMixture, VampPrior
from vae.families.priors.normal import ClassNormal, StandardNormal

__all__ = [
    "PRIORS", "AutoregressiveCodes", "ClassNormal", "FittedMixture", "Flow", "GaussianMixture", "Given", "Prior",
    "StandardNormal", "UniformCodes", "VampPrior",
]  # fmt: skip

PRIORS: dict[str, type[Prior]] = {
    "StandardNormal": StandardNormal,
    "GaussianMixture": GaussianMixture,
    "VampPrior": VampPrior,
    "Flow": Flow,
    "ClassNormal": ClassNormal,
    "UniformCodes": UniformCodes,
    "AutoregressiveCodes": AutoregressiveCodes,
}
