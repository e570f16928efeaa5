"""Pictures: arrays in, a matplotlib `Figure` out. Nothing is read, written or shown here, and pyplot is not used."""

from vae.figures.curves import gradient_norm, loss_curves
from vae.figures.factors import factor_information
from vae.figures.images import (
    images_by_setting,
    interpolation,
    latent_plane,
    reconstructions,
    samples,
    samples_side_by_side,
)
from vae.figures.latents import ShownPrior, latent_histogram, latent_marginals, latent_mixture, latent_scatter
from vae.figures.quality import sample_quality
from vae.figures.scores import scores
from vae.figures.sweeps import loss_against, loss_by_setting, loss_curves_by_setting, rate_distortion
from vae.figures.usage import latent_use, latent_use_by_setting

__all__ = [
    "ShownPrior",
    "factor_information",
    "gradient_norm",
    "images_by_setting",
    "interpolation",
    "latent_histogram",
    "latent_marginals",
    "latent_mixture",
    "latent_plane",
    "latent_scatter",
    "latent_use",
    "latent_use_by_setting",
    "loss_against",
    "loss_by_setting",
    "loss_curves",
    "loss_curves_by_setting",
    "rate_distortion",
    "reconstructions",
    "sample_quality",
    "samples",
    "samples_side_by_side",
    "scores",
]
