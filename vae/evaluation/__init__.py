"""Numbers on held-out data, each with its protocol, and views of a model: images and codes."""

from vae.evaluation.collapse import CollapseWatch
from vae.evaluation.heldout import Evaluation, HeldOut, evaluate, measure_latents
from vae.evaluation.latents import ACTIVE, LatentMeasures
from vae.evaluation.passes import chunks, evaluating, images_of, labels_for
from vae.evaluation.protocols import protocol
from vae.evaluation.views import embedding, pictures, visible

__all__ = [
    "ACTIVE",
    "CollapseWatch",
    "Evaluation",
    "HeldOut",
    "LatentMeasures",
    "chunks",
    "embedding",
    "evaluate",
    "evaluating",
    "images_of",
    "labels_for",
    "measure_latents",
    "pictures",
    "protocol",
    "visible",
]
