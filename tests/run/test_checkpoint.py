"""Checkpoints: whole or not there, the newest whole one found, whatever happened to the files."""

import contextlib
import errno
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vae.errors import InputError
from vae.files import write_text
from vae.model import VAE
from vae.run import checkpoint
from vae.run.state import restore


@pytest.fixture
def model() -> VAE:
    return VAE(image_shape=(1, 4, 4), hidden_dim=4, depth=1)


@pytest.fixture
def folder(tmp_path: Path, model: VAE) -> Path:
    """Two checkpoints, after 10 and 20 steps."""
    for step in (10, 20):
        checkpoint.save(tmp_path / "checkpoints", step, model, {"step": step, "tensor": torch.arange(3)})
    return tmp_path / "checkpoints"


def test_what_is_saved_is_loaded(folder: Path, model: VAE) -> None:
    newest, warnings = checkpoint.newest_valid(folder)
    assert newest is not None
    assert (newest.name, warnings) == ("step-00000020", [])
    assert checkpoint.load_state(newest)["step"] == 20
    assert torch.equal(checkpoint.load_state(newest)["tensor"], torch.arange(3))
    other = VAE(image_shape=(1, 4, 4), hidden_dim=4, depth=1)
    checkpoint.load_weights(newest, other)
    assert all(torch.equal(other.state_dict()[name], weight) for name, weight in model.state_dict().items())
    assert VAE.from_pretrained(newest).image_shape == (1, 4, 4)


def test_a_state_of_another_format_is_refused_in_one_line(folder: Path) -> None:
    with pytest.raises(InputError, match=r"step-00000020: written by another version of this program; use that one"):
        restore(folder / "step-00000020", total_steps=100, fingerprint="")


def test_the_manifest_lists_every_file_with_size_and_sha256(folder: Path) -> None:
    newest = folder / "step-00000020"
    manifest = json.loads((newest / "manifest.json").read_text())
    files = {path.name for path in newest.iterdir()} - {"manifest.json"}
    assert files == manifest["files"].keys() == {"config.json", "model.safetensors", "state.pt"}
    for name, entry in manifest["files"].items():
        content = (newest / name).read_bytes()
        assert entry == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_the_newest_two_stay_and_the_best(folder: Path, model: VAE) -> None:
    for step in (30, 40, 50):
        checkpoint.save(folder, step, model, {}, keep=["step-00000010"])
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000010", "step-00000040", "step-00000050"]


def test_a_damaged_later_checkpoint_does_not_push_out_a_good_one(folder: Path, model: VAE) -> None:
    flip(folder / "step-00000020" / "state.pt")
    checkpoint.save(folder, 15, model, {})
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000010", "step-00000015"]


def test_a_model_with_weights_missing_is_not_loaded(folder: Path) -> None:
    save_file({}, folder / "step-00000020" / "model.safetensors")
    with pytest.raises(RuntimeError, match="Missing key"):
        VAE.from_pretrained(folder / "step-00000020")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "state.pt is damaged": lambda path: flip(path / "state.pt"),
    "model.safetensors is damaged": lambda path: flip(path / "model.safetensors"),
    "state.pt has 100 bytes": lambda path: os.truncate(path / "state.pt", 100),
    "config.json is missing": lambda path: (path / "config.json").unlink(),
    "manifest.json is missing or damaged": lambda path: (path / "manifest.json").unlink(),
    "manifest.json is missing": lambda path: (path / "manifest.json").write_text("{"),
    "manifest.json does not list state.pt": lambda path: _forget(path / "manifest.json", "state.pt"),
}


def _forget(manifest: Path, name: str) -> None:
    content = json.loads(manifest.read_text())
    del content["files"][name]
    manifest.write_text(json.dumps(content))


@pytest.mark.parametrize("reason", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_and_named(folder: Path, reason: str) -> None:
    DAMAGE[reason](folder / "step-00000020")
    newest, warnings = checkpoint.newest_valid(folder)
    assert newest == folder / "step-00000010"
    assert len(warnings) == 1
    assert f"step-00000020: skipped: {reason}" in warnings[0]


def test_without_a_whole_checkpoint_there_is_none(tmp_path: Path, folder: Path) -> None:
    assert checkpoint.newest_valid(tmp_path / "nowhere") == (None, [])
    for path in folder.iterdir():
        (path / "state.pt").unlink()
    newest, warnings = checkpoint.newest_valid(folder)
    assert newest is None
    assert len(warnings) == 2


class Crash(BaseException):
    """The process ends here: nothing that follows is run, no cleaning up either."""


OPERATIONS: list[tuple[Any, str]] = [
    (VAE, "save_pretrained"),
    (torch, "save"),
    (os, "fsync"),
    (shutil, "rmtree"),
    *[(Path, name) for name in ("mkdir", "touch", "unlink", "chmod", "write_bytes", "write_text", "rename")],
]


def count_operations(patch: pytest.MonkeyPatch, crash_at: int, error: type[BaseException]) -> list[str]:
    """Let the n-th operation on the disk fail with `error`; returns a list that grows with each one."""
    seen: list[str] = []

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            if len(seen) == crash_at:
                raise error(errno.ENOSPC, "No space left on device")
            return function(*args, **kwargs)

        return wrapped

    for place, name in OPERATIONS:
        patch.setattr(place, name, counted(name, getattr(place, name)))
    return seen


@pytest.mark.parametrize("error", [Crash, OSError])
@pytest.mark.parametrize("damaged", [False, True])
def test_a_crash_or_an_error_at_any_point_leaves_a_whole_checkpoint_and_is_tidied_up(
    tmp_path: Path, model: VAE, error: type[BaseException], damaged: bool
) -> None:
    """Every operation on the disk in turn, of a new checkpoint and of one that takes the place of a damaged one."""
    crash_at, operations = 0, [""]
    while len(operations) >= crash_at:  # until a save came to its end without
        crash_at += 1
        folder = tmp_path / str(crash_at)
        for step in (10, 20, 30) if damaged else (10, 20):
            checkpoint.save(folder, step, model, {"step": step})
        if damaged:
            flip(folder / "step-00000030" / "state.pt")
        with pytest.MonkeyPatch.context() as patch:
            operations = count_operations(patch, crash_at, error)
            with contextlib.suppress(Crash, OSError):
                checkpoint.save(folder, 30, model, {"step": 30})
        newest, _ = checkpoint.newest_valid(folder)
        assert newest is not None, operations
        assert newest.name in ("step-00000020", "step-00000030"), operations
        checkpoint.save(folder, 30, model, {"step": 30})
        left = sorted(path.name for path in folder.iterdir())
        assert left == ["step-00000020", "step-00000030"], operations
        assert checkpoint.find_problem(folder / "step-00000030") is None
    assert crash_at > 15, "operations are no longer counted"


def test_what_others_put_among_the_checkpoints_is_neither_used_nor_removed(folder: Path, model: VAE) -> None:
    shutil.copytree(folder / "step-00000020", folder / "step-00000020-backup")
    shutil.copytree(folder / "step-00000020", folder / "step-00000099")  # a copy under another step's name
    (folder / "step-00000500").write_text("a file")
    (folder / "notes.txt").write_text("mine")
    (folder / "step-00000020" / "stray").write_text("mine")
    newest, warnings = checkpoint.newest_valid(folder)
    assert newest == folder / "step-00000020"
    assert [warning.rpartition(": ")[2] for warning in warnings] == ["manifest.json belongs to step 20"]
    checkpoint.save(folder, 30, model, {})
    for name in ("step-00000020-backup", "step-00000500", "notes.txt"):
        assert (folder / name).exists()


def test_a_hundred_million_steps_sort_after_one_less(tmp_path: Path, model: VAE) -> None:
    for step in (99_999_999, 100_000_000):
        checkpoint.save(tmp_path, step, model, {})
    assert checkpoint.newest_valid(tmp_path)[0] == tmp_path / "step-100000000"


class Payload:
    """An attacker's pickle: loading it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["state.pt", "model.safetensors"])
@pytest.mark.parametrize("writer", ["torch.save", "pickle"])
def test_a_crafted_pickle_is_refused_and_does_not_run(folder: Path, tmp_path: Path, name: str, writer: str) -> None:
    newest, trap = folder / "step-00000020", tmp_path / "executed"
    if writer == "torch.save":
        torch.save({"engine": Payload(trap)}, newest / name)
    else:
        (newest / name).write_bytes(pickle.dumps(Payload(trap), protocol=2))
    content = (newest / name).read_bytes()
    manifest = json.loads((newest / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (newest / "manifest.json").write_text(json.dumps(manifest))
    assert checkpoint.newest_valid(folder)[0] == newest, "the attacker has sealed it anew"
    other = VAE(image_shape=(1, 4, 4), hidden_dim=4, depth=1)
    load = {"state.pt": checkpoint.load_state, "model.safetensors": lambda path: checkpoint.load_weights(path, other)}
    with pytest.raises(InputError, match=name):
        load[name](newest)
    assert not trap.exists()
    pickle.loads(pickle.dumps(Payload(trap)))
    assert trap.exists(), "the payload would have run"


def test_a_different_model_is_refused_with_what_differs(folder: Path) -> None:
    wider = VAE(image_shape=(1, 4, 4), hidden_dim=8, depth=1)
    with pytest.raises(InputError, match=r"decoder\.layers\.0\.bias \(4,\) float32, here \(8,\) float32") as refusal:
        checkpoint.load_weights(folder / "step-00000020", wider)
    assert "\n" not in str(refusal.value)
    deeper = VAE(image_shape=(1, 4, 4), hidden_dim=4, depth=2)
    with pytest.raises(InputError, match="and 6 more"):
        checkpoint.load_weights(folder / "step-00000020", deeper)
    double = VAE(image_shape=(1, 4, 4), hidden_dim=4, depth=1).double()
    with pytest.raises(InputError, match=r"float32, here .* float64"):
        checkpoint.load_weights(folder / "step-00000020", double)


def test_a_saved_model_replaces_the_old_one_whole(tmp_path: Path, model: VAE) -> None:
    checkpoint.save_model(tmp_path / "model", model)
    (tmp_path / "model" / "stray").write_text("old")
    with torch.no_grad():
        next(model.parameters()).add_(1)
    checkpoint.save_model(tmp_path / "model", model)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    weights = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_replacing_a_file_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "a", "old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
