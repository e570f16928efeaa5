"""Objectives: VAEOutput -> terms in nats, per example. Nothing is averaged here: sums are reduced last."""

from vae.objectives.across import BetaTCVAE, CapacityVAE, InfoVAE
from vae.objectives.base import Objective, Scheduled, Terms, negative_elbo
from vae.objectives.elbo import ELBO
from vae.objectives.iwae import IWAE
from vae.objectives.quantization import VectorQuantization
from vae.objectives.semi_supervised import SemiSupervised

__all__ = [
    "ELBO", "IWAE", "OBJECTIVES", "BetaTCVAE", "CapacityVAE", "InfoVAE", "Objective", "Scheduled", "SemiSupervised",
    "Terms", "VectorQuantization", "negative_elbo",
]  # fmt: skip

OBJECTIVES: dict[str, type[Objective]] = {
    "ELBO": ELBO,
    "IWAE": IWAE,
    "BetaTCVAE": BetaTCVAE,
    "CapacityVAE": CapacityVAE,
    "InfoVAE": InfoVAE,
    "VectorQuantization": VectorQuantization,
    "SemiSupervised": SemiSupervised,
}
