"""The files that a run has left in its folder."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def rows(folder: Path, *, timeless: bool = False) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics.jsonl.

    `timeless` is for comparisons: without what depends on the clock, each number of a list under a key of its own.
    """
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    if not timeless:
        return lines
    return [_flat({key: value for key, value in row.items() if key != "images_per_second"}) for row in lines]


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    lists = {key: value for key, value in row.items() if isinstance(value, list)}
    each = {f"{key}.{place}": number for key, values in lists.items() for place, number in enumerate(values)}
    return {key: value for key, value in row.items() if key not in lists} | each


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a finished run, by name; where they are averages, the raw ones too."""
    files = {"": folder / "model" / "model.safetensors", "raw ": folder / "model" / "raw" / "model.safetensors"}
    found = {prefix: load_file(file) for prefix, file in files.items() if file.exists()}
    return {prefix + name: weight for prefix, weights in found.items() for name, weight in weights.items()}


def largest_difference(a: Path, b: Path) -> float:
    """Return by how much the weights of two finished runs differ at most."""
    return max((weights(a)[name] - tensor).abs().max().item() for name, tensor in weights(b).items())


def events(folder: Path) -> EventAccumulator:
    """Return the events of a run, as TensorBoard reads them."""
    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    return accumulator.Reload()


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return TensorBoard's scalars, (step, value) by tag, without those that depend on the clock."""
    log = events(folder)
    return {
        tag: [(event.step, event.value) for event in log.Scalars(tag)]
        for tag in log.Tags()["scalars"]
        if tag != "ImagesPerSecond"
    }
