"""Checkpoints: whole or not there, the newest whole one found, whatever happened to the files."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vae import checkpoint
from vae.components import InputError
from vae.model import VAE


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


def test_the_manifest_lists_every_file_with_size_and_sha256(folder: Path) -> None:
    import hashlib

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


@pytest.mark.parametrize("crash", ["save_pretrained", "torch.save", "manifest", "rename"])
def test_a_crash_at_any_point_leaves_the_older_ones_and_is_tidied_up(
    folder: Path, model: VAE, monkeypatch: pytest.MonkeyPatch, crash: str
) -> None:
    class Crash(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        place, name = {
            "save_pretrained": (VAE, "save_pretrained"),
            "torch.save": (torch, "save"),
            "manifest": (checkpoint, "_sha256"),
            "rename": (Path, "rename"),
        }[crash]
        patch.setattr(place, name, die)
        with pytest.raises(Crash):
            checkpoint.save(folder, 30, model, {"step": 30})
    assert checkpoint.newest_valid(folder) == (folder / "step-00000020", [])
    checkpoint.save(folder, 30, model, {"step": 30})
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000020", "step-00000030"]
    assert checkpoint.find_problem(folder / "step-00000030") is None


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
    checkpoint.write_text(tmp_path / "a", "old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
