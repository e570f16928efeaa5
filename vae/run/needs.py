"""Plugins that a run needs: plugins.json, and copies of their files. Imports no torch where there are none.

Nothing here runs a plugin: the command line, or whoever calls `vae.plugins.load`, names the file that is run.
"""

import json
import warnings
from pathlib import Path
from typing import Any

from vae import plugins
from vae.config import Config, load
from vae.errors import InputError, PluginWarning
from vae.files import write_text
from vae.run.contents import CONFIG, PLUGINS, PLUGINS_FILE


def read_config(folder: Path) -> Config:
    """Return the configuration of the run in a folder; a plugin that has changed since is a warning.

    Raises:
        InputError: a plugin that the run needs has not been loaded, or the configuration cannot be used.
    """
    for sentence in check(folder):
        warnings.warn(sentence, PluginWarning, stacklevel=2)
    return load(folder / CONFIG)


def check(folder: Path) -> list[str]:
    """Return a sentence for each plugin that has changed since the run in a folder was last trained.

    Raises:
        InputError: a plugin that the run needs has not been loaded; the message names its file, or the run's copy.
    """
    try:
        needs = json.loads((folder / PLUGINS_FILE).read_text(encoding="utf-8"))
    except PermissionError as error:
        raise InputError(f"{folder / PLUGINS_FILE}: cannot be read: {error.strerror}") from None
    except OSError:  # there is none, or no folder of this name can be: then there is no run
        return []
    except ValueError:
        raise InputError(f"{folder / PLUGINS_FILE}: cannot be read; restore it") from None
    return plugins.check(needs, str(folder), lambda need: str(_file_of(need, needs, folder)))


def record(folder: Path, config: Config) -> None:
    """Write plugins.json and copies of the plugins that a run needs; without one, remove plugins.json.

    Raises:
        OSError: a file cannot be written.
    """
    used = plugins.used_by(config)
    needs: list[dict[str, Any]] = []
    for plugin, need in used:
        copy = folder / PLUGINS / plugin.version
        for name, source in plugin.sources.items():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes(source)
        copied = copy.relative_to(folder) / plugin.path.name
        needs.append(need.model_dump() | {"path": str(plugin.path), "copy": str(copied)})
    if needs:
        write_text(folder / PLUGINS_FILE, json.dumps(needs, indent=1) + "\n")
    else:
        (folder / PLUGINS_FILE).unlink(missing_ok=True)


def _file_of(need: plugins.Need, needs: list[dict[str, Any]], folder: Path) -> Path:
    """Return the file of a plugin: where it was, or the run's copy if it is gone or holds the piece no more."""
    noted = next(item for item in needs if item["file"] == need.file and item["sha256"] == need.sha256)
    path, copy = Path(str(noted.get("path"))), folder / str(noted.get("copy"))
    there = path.is_file() and path not in [plugin.path for plugin in plugins.loaded()]
    file = path if there or not copy.is_file() else copy
    return file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
