"""Pictures: arrays in, a matplotlib `Figure` out. Nothing is read, written or shown here, and pyplot is not used."""

from vae.figures.curves import gradient_norm, loss_curves
from vae.figures.images import interpolation, latent_plane, reconstructions, samples
from vae.figures.latents import latent_histogram, latent_marginals, latent_scatter

__all__ = [
    "gradient_norm",
    "interpolation",
    "latent_histogram",
    "latent_marginals",
    "latent_plane",
    "latent_scatter",
    "loss_curves",
    "reconstructions",
    "samples",
]
