"""One optimiser update after another, until somebody asks what happened."""

from vae.engine.base import Engine
from vae.engine.ledger import Interval, NonFiniteError

__all__ = ["Engine", "Interval", "NonFiniteError"]
