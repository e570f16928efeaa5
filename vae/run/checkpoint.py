"""Checkpoints that are whole or not there: written aside, synced, sealed by a manifest, renamed; verified when read.

A checkpoint is a folder, e.g. `step-00000469/`. `model.safetensors` and `config.json` hold the model, in the layout of
`from_pretrained`; `state.pt` holds everything else; `manifest.json` has the size and sha256 of each file. Where the
weights are averages, `raw/` holds the model with its raw weights, in the same layout.
"""

import hashlib
import io
import json
import pickle
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from vae.errors import InputError
from vae.files import PARTIAL, sync
from vae.model import CARD, VAE, WEIGHTS

MANIFEST, STATE, MODEL = "manifest.json", "state.pt", "config.json"
RAW = "raw"  # in a model's folder


def name_of(step: int) -> str:
    """Return the folder name of the checkpoint after `step` updates."""
    return f"step-{step:08d}"


def step_of(path: Path) -> int:
    """Return the updates made at a checkpoint, by its name."""
    return int(path.name.removeprefix("step-"))


def save(
    folder: Path, step: int, model: VAE, state: dict[str, Any], keep: Iterable[str] = (), *, raw: VAE | None = None
) -> Path:
    """Write a checkpoint (main process only) and prune: this one, the one before and those named in `keep` stay.

    Args:
        folder: holds all checkpoints of a run.
        step: updates made.
        model: the unwrapped model.
        state: tensors and plain data, which `torch.load(weights_only=True)` can read.
        keep: folder names never pruned, e.g. the best.
        raw: the model with its raw weights, if those of `model` are averages.

    Returns:
        The checkpoint's folder.

    Raises:
        OSError: the checkpoint cannot be written; older ones stay, and nothing of this one.
    """
    final, partial = folder / name_of(step), folder / (PARTIAL + name_of(step))
    try:
        _write_model(partial, model, raw)
        buffer = io.BytesIO()  # torch.save hides what is wrong with a disk
        torch.save(state, buffer)
        (partial / STATE).write_bytes(buffer.getbuffer())
        files = {
            file.relative_to(partial).as_posix(): {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
            for file in sorted(partial.rglob("*"))
            if file.is_file()
        }
        (partial / MANIFEST).write_text(json.dumps({"step": step, "files": files}, indent=1) + "\n")
        _move_into_place(partial, final)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _prune(folder, step, set(keep))
    return final


def save_model(folder: Path, model: VAE, raw: VAE | None = None, *, beside: Mapping[str, bytes] | None = None) -> None:
    """Write `model` for `VAE.from_pretrained(folder)`, in place of the folder's old contents (main process only).

    Args:
        folder: the model's.
        model: as it is reported.
        raw: if the weights of `model` are averages, has its raw ones; `from_pretrained(folder / RAW)` loads it.
        beside: contents of other files by name: the model's card, and the picture in it.
    """
    partial = folder.with_name(PARTIAL + folder.name)
    _write_model(partial, model, raw)
    for name, content in (beside or {}).items():
        (partial / name).write_bytes(content)
    _move_into_place(partial, folder)


def newest_valid(folder: Path) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint that is whole, or None, and a warning for each newer one that is not."""
    warnings = []
    for path in reversed(_all(folder).values()):
        problem = find_problem(path)
        if problem is None:
            return path, warnings
        warnings.append(f"{path}: skipped: {problem}")
    return None, warnings


def find_problem(path: Path) -> str | None:
    """Return the problem of a checkpoint, or None if every file has the size and sha256 of its manifest."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        step, files = manifest["step"], {name: (e["bytes"], e["sha256"]) for name, e in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is missing or damaged"
    if path.name != name_of(step):
        return f"{MANIFEST} belongs to step {step}"
    if missing := {STATE, WEIGHTS, MODEL} - files.keys():
        return f"{MANIFEST} does not list {', '.join(sorted(missing))}"
    for name, (size, sha256) in files.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes, must have {size}"
        if sha256_of(file) != sha256:
            return f"{name} is damaged (sha256 differs)"
    return None


def load_state(path: Path) -> dict[str, Any]:
    """Return the `state` that `save` was given, on the CPU; only plain data and tensors are unpickled.

    Raises:
        InputError: the file holds something else, such as code.
    """
    try:
        return torch.load(path / STATE, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError):
        raise InputError(f"{path / STATE}: not written by this program; delete the folder, or do not use it") from None


def load_weights(path: Path, model: VAE) -> None:
    """Load the weights of a checkpoint into the unwrapped model.

    Raises:
        InputError: the weights belong to a different model; the line lists the tensors that differ.
    """
    try:
        weights = load_file(path / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path / WEIGHTS}: cannot be read ({error})") from None
    expected = model.state_dict()
    differing = [
        f"{name} {_shape(weights.get(name))}, here {_shape(expected.get(name))}"
        for name in sorted(weights.keys() | expected.keys())
        if _shape(weights.get(name)) != _shape(expected.get(name))
    ]
    if differing:
        shown = "; ".join(differing[:4]) + (f"; and {len(differing) - 4} more" if len(differing) > 4 else "")
        raise InputError(f"{path}: the checkpoint holds a different model: {shown}")
    model.load_state_dict(weights)


def _write_model(folder: Path, model: VAE, raw: VAE | None = None) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # left by a crash
    folder.mkdir(parents=True)
    (folder / CARD).touch()  # else the hub mixin writes its model card
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:
        raise OSError(str(error)) from None
    (folder / CARD).unlink()
    (folder / WEIGHTS).chmod((folder / MODEL).stat().st_mode)  # safetensors leaves it to the owner alone
    if raw is not None:
        _write_model(folder / RAW, raw)


def _move_into_place(partial: Path, final: Path) -> None:
    """Sync a finished folder and rename it; a folder that stands in its place is older or damaged."""
    for path in [*partial.rglob("*"), partial]:
        sync(path)
    aside = final.with_name(f"{PARTIAL}old-{final.name}")
    shutil.rmtree(aside, ignore_errors=True)
    if final.exists():
        final.rename(aside)
    try:
        partial.rename(final)
    except OSError:
        if aside.exists():
            aside.rename(final)
        raise
    sync(final.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _shape(tensor: torch.Tensor | None) -> str:
    return "is missing" if tensor is None else f"{tuple(tensor.shape)} {tensor.dtype}".replace("torch.", "")


def _all(folder: Path) -> dict[int, Path]:
    """Return the checkpoints by step, oldest first, whole or not; any other file in the folder is left out."""
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name) and path.is_dir()]
    return dict(sorted((step_of(path), path) for path in found))


def _prune(folder: Path, newest: int, keep: set[str]) -> None:
    """Remove all but the newest, the one before it and those in `keep`.

    Later ones are damaged, or the run would have continued from them; crashes leave partial ones.
    """
    paths = _all(folder)
    kept = {newest, *[step for step in paths if step < newest][-1:]}
    leftovers = folder.glob(f"{PARTIAL}*")
    for path in [*leftovers, *[path for step, path in paths.items() if step not in kept and path.name not in keep]]:
        shutil.rmtree(path, ignore_errors=True)


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file's contents, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
