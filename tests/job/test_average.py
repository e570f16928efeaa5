"""A run with averaged weights: they are the model, and the raw ones are those of a run without an average."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.runs import rows, scalars
from tests.helpers.starts import SMALL, Job
from vae.data import sources
from vae.distributed import launch
from vae.evaluation import evaluate
from vae.model import VAE
from vae.run import checkpoint
from vae.run.finished import Loader

CHECKPOINT = Path("averaged/checkpoints/step-00000030")


def of_split(folder: str, split: str) -> list[dict[str, Any]]:
    return [{**row, "split": ""} for row in rows(Path(folder), timeless=True) if row["split"] == split]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return VAE.from_pretrained(folder).state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], weight) for name, weight in other.items())


def test_the_average_is_the_model_and_beside_it_stand_the_raw_weights_of_a_run_without(job: Job, small: Path) -> None:
    settings = [f"data.name={small}", *SMALL, "data.val_size=100", "train.checkpoint_every=epoch", "objective.beta=1"]
    assert job(*settings, "run.dir=plain").code == 0
    done = job(*settings, "run.dir=averaged", "optim.ema=0.95")
    assert done.code == 0, done.err
    assert "weights averaged (optim.ema = 0.95)" in done.out
    plain, averaged = (json.loads(Path(run, "summary.json").read_text()) for run in ("plain", "averaged"))

    # the raw weights and their numbers are those of the run without
    assert same(weights_of(Path("averaged/model/raw")), weights_of(Path("plain/model")))
    assert not same(weights_of(Path("averaged/model")), weights_of(Path("plain/model")))
    for split in ("test", "val"):
        assert of_split("averaged", f"{split}_raw") == of_split("plain", split)
    assert of_split("averaged", "train") == of_split("plain", "train")
    assert averaged["test_raw"] == plain["test"]
    assert plain["test_raw"] is None

    # the average is the model wherever there is one
    assert same(weights_of(CHECKPOINT), weights_of(Path("averaged/model")))
    assert same(weights_of(CHECKPOINT / "raw"), weights_of(Path("plain/model")))
    assert same(Loader().open(Path("averaged")).model.state_dict(), weights_of(Path("averaged/model")))
    accelerator = launch.make_accelerator("cpu", "no", {})
    model, test = VAE.from_pretrained("averaged/model"), sources.load(str(small), "").test
    found = evaluate(accelerator, model, test, seed=0, split="test")
    launch.leave()
    assert averaged["test"]["loss"] == found.loss != averaged["test_raw"]["loss"]
    validation = {row["step"]: row["loss"] for row in of_split("averaged", "val")}
    assert averaged["best"]["val_loss"] == min(validation.values())
    curves = scalars(Path("averaged"))
    assert [value for _, value in curves["Loss/TestRaw"]] == [value for _, value in scalars(Path("plain"))["Loss/Test"]]


@pytest.mark.parametrize("name", ["raw/model.safetensors", "raw/config.json"])
def test_a_checkpoint_whose_raw_weights_are_damaged_is_passed_over(tmp_path: Path, name: str) -> None:
    model, raw = (VAE(image_shape=(1, 4, 4), hidden_dim=4, depth=1) for _ in range(2))
    for step in (10, 20):
        checkpoint.save(tmp_path, step, model, {}, raw=raw)
    newest = tmp_path / "step-00000020"
    assert checkpoint.newest_valid(tmp_path) == (newest, [])
    assert same(weights_of(newest), model.state_dict())
    assert same(weights_of(newest / "raw"), raw.state_dict())
    (newest / name).write_bytes(b"")
    path, warnings = checkpoint.newest_valid(tmp_path)
    assert path == tmp_path / "step-00000010"
    assert f"step-00000020: skipped: {name} has 0 bytes" in warnings[0]
