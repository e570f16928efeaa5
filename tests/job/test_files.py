"""The job on files as users have them: the line at the start, training on them, and input that is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.starts import SMALL, Outcome

Job = Callable[..., Outcome]
PIXELS = np.random.default_rng(0).integers(0, 256, (90, 12, 10, 3), dtype=np.uint8)
PARTS = {"train": PIXELS, "val": PIXELS[:20], "test": PIXELS[:30]}
WORDS = np.array(["cat", "dog", "eel"])


def test_the_start_says_how_a_file_was_understood_and_its_validation_part_chooses_the_best(
    job: Job, tmp_path: Path
) -> None:
    arrays: dict[str, Any] = {f"{part}_images": images for part, images in PARTS.items()}
    arrays |= {f"{part}_labels": WORDS[np.arange(len(images)) % 3][:, None] for part, images in PARTS.items()}
    np.savez(tmp_path / "med.npz", **arrays)
    done = job(f"data.name={tmp_path / 'med.npz'}", *SMALL, "model.condition=true", "run.dir=r")
    assert done.code == 0, done.err
    data, training = done.out.splitlines()[:2]
    assert data == (
        "data: 90 training, 20 validation and 30 test images, 3x12x10, uint8, 3 classes (cat, dog, eel); "
        "images `train_images`, labels `train_labels`; channels last"
    )
    assert training.startswith("training in r: ")
    rows = [json.loads(line) for line in Path("r/metrics.jsonl").read_text().splitlines()]
    assert {row["split"] for row in rows} == {"train", "val", "test"}


REFUSED: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "no images": (
        {"rows": np.zeros((9, 64))},
        [],
        "no array can be told to be the images; it holds rows (9, 64) float64",
    ),
    "out of range": ({"x": PIXELS / 127.5 - 1}, [], "say which are black and white, e.g. data.range=[-1, 1]"),
    "wrong range": ({"x": PIXELS}, ["data.range=[0, 100]"], "data.range = [0.0, 100.0]: "),
    "channels": ({"x": np.zeros((9, 9, 8, 2))}, [], "say data.channels=first or data.channels=last"),
    "no such array": ({"x": PIXELS}, ["data.images=y"], "data.images = 'y': "),
    "picture size": ({"x": PIXELS}, ["data.image_size=8"], "data.image_size = 8: "),
    "two validation sets": ({"x": PIXELS, "x_val": PIXELS}, ["data.val_size=5"], "has a validation set of its own"),
    "hidden labels": (
        {"x": PIXELS, "y": np.arange(90) % 3 - 1},
        ["model.condition=true"],
        "some images have no label (or -1, hidden), and the model needs all",
    ),
    "a part without labels": (
        {"x": PIXELS, "y": np.arange(90) % 3, "x_test": PIXELS},
        ["model.prior=ClassNormal"],
        "some images have no label (or -1, hidden), and the model needs all",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line_with_code_2_and_nothing_left(case: str, job: Job, tmp_path: Path) -> None:
    arrays, settings, problem = REFUSED[case]
    np.savez(tmp_path / "x.npz", **arrays)
    refused = job(f"data.name={tmp_path / 'x.npz'}", *settings, "run.dir=r")
    assert refused.code == 2
    assert problem in refused.line
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]
