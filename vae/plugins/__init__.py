"""Plugins: a user's own files of Python that add pieces to the tables. Imports no torch until a plugin is loaded.

A plugin adds to a table as the project's own files do: `ENCODERS["PatchEncoder"] = PatchEncoder`. It runs because a
command line, or a caller of `load`, names its file. A configuration, a run or a saved model only says what it needs.
"""

from vae.plugins.loading import Plugin, load, loaded, versions
from vae.plugins.needs import Need, check, needs_of, options, used_by

__all__ = ["Need", "Plugin", "check", "load", "loaded", "needs_of", "options", "used_by", "versions"]
