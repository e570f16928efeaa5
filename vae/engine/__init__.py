"""Engines: one optimiser update after another, with measurements that stay on the device until a logging point."""

from vae.engine.base import Engine
from vae.engine.ledger import Interval, NonFiniteError

__all__ = ["Engine", "Interval", "NonFiniteError"]
