"""Versions that the numbers of a run may depend on."""

import platform
from importlib import metadata

import accelerate
import numpy
import torch

from vae import __version__, plugins


def versions() -> dict[str, str]:
    """Return the versions that a run's numbers may depend on, those of plugins among them."""
    packages = {module.__name__: module.__version__ for module in (torch, accelerate, numpy)}
    packages["torchvision"] = metadata.version("torchvision")  # not imported by most runs
    return {"vae": __version__, "python": platform.python_version(), **packages, **plugins.versions()}
