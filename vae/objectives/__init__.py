"""Objectives: VAEOutput -> terms in nats, per example. Nothing is averaged here: sums are reduced last."""

from vae.objectives.base import Objective, Scheduled, Terms, negative_elbo
from vae.objectives.elbo import ELBO

__all__ = ["ELBO", "OBJECTIVES", "Objective", "Scheduled", "Terms", "negative_elbo"]

OBJECTIVES: dict[str, type[Objective]] = {"ELBO": ELBO}
