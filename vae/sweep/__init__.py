"""Sweeps: one file describes many runs."""

from vae.sweep.members import Member, Sweep, load

__all__ = ["Member", "Sweep", "load"]
