"""Run folders as training leaves them, written without training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vae.config import load, to_yaml
from vae.model import VAE
from vae.run import checkpoint

SIZE = 8  # height and width of the images
PROTOCOL = {
    "data": "data", "pixels_crc32": "00000000", "split": "test", "pixels": "grey in [0, 1]",
    "likelihood": "Bernoulli", "normalised": False, "measure": "not normalised",
    "bound": "-ELBO at beta = 1, one z", "seed": 0,
}  # fmt: skip


def write_data(folder: Path, channels: int = 1) -> Path:
    """Write 80 random images of 4 classes for training, 70 of them also for testing; returns the archive."""
    generator = np.random.default_rng(0)
    pixels = generator.random((80, channels, SIZE, SIZE), dtype=np.float32)
    archive = folder / "data.npz"
    labels = np.arange(80) % 4
    np.savez(archive, images=pixels, labels=labels, test_images=pixels[:70], test_labels=labels[:70])
    return archive


def write_run(
    folder: Path,
    archive: Path,
    *overrides: str,
    shape: tuple[int, int, int] = (1, SIZE, SIZE),
    classes: int = 0,
    finished: bool = True,
    test: dict[str, Any] | None = None,
    protocol: dict[str, Any] | None = None,
) -> Path:
    """Write a run of a small net whose weights are large, so that images depend on z; returns its folder."""
    folder.mkdir(parents=True)
    config = load(overrides=[f"data.name={archive}", "model.hidden_dim=32", "train.epochs=4", *overrides])
    (folder / "config.yaml").write_text(to_yaml(config))
    write_metrics(folder, 4 if finished else 2)
    if not finished:
        return folder
    torch.manual_seed(config.run.seed)
    vae = VAE(image_shape=shape, classes=classes, **config.model.model_dump())
    with torch.no_grad():
        for weight in vae.parameters():
            weight.mul_(3)
    checkpoint.save_model(folder / "model", vae)
    summary = {
        "parameters": vae.count_parameters(), "world_size": 2, "device": "cpu", "precision": "fp32", "engine": "eager",
        "epochs": 4.0, "train_seconds": 192.0, "images_per_second": 15000.0, "versions": {"torch": "0.0"},
        "test": {"loss": 100.0, "reconstruction": 90.0, "kl": 10.0} | (test or {})
        | {"protocol": PROTOCOL | {"seed": config.run.seed} | (protocol or {})},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def write_metrics(folder: Path, epochs: int) -> None:
    """Write the records of so many epochs."""
    rows = []
    for epoch in range(1, epochs + 1):
        row = {"step": epoch, "epoch": float(epoch), "loss": 200.0 / epoch, "reconstruction": 190.0 / epoch, "kl": 9.0}
        rows += [{"split": "train", **row, "beta": 1.0, "grad_norm": 2.0}, {"split": "test", **row}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
