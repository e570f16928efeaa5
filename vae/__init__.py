"""Variational autoencoders: networks make numbers, families make distributions, objectives make nats."""

__version__ = "0.1.0"
