"""The model card: what it says is what the run says, its code runs, and it goes where its weights go."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from PIL import Image

from tests.helpers import ROOT
from tests.helpers.folders import write_data, write_run
from tests.helpers.starts import Outcome
from vae import __main__ as cli
from vae.evaluation.results_file import read
from vae.model import CARD, PICTURE, VAE
from vae.sharing.card import write_card
from vae.training import results


def code_of(text: str) -> list[str]:
    """Return the blocks of Python in Markdown."""
    return [block.partition("```")[0] for block in text.split("```python\n")[1:]]


def run_block(block: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(block, "block", "exec"), names)
    return names


def metadata(card: Path) -> dict[str, Any]:
    """Return the first lines of a card, as the Hub reads them."""
    return ModelCard.load(card).data.to_dict()


def metrics(card: Path) -> dict[str, float]:
    (model,) = metadata(card)["model-index"]
    return {metric["type"]: metric["value"] for result in model["results"] for metric in result["metrics"]}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that stands for the Hub: what is uploaded to `me/name` is copied to `me/name` there."""
    there = tmp_path / "hub"

    def create_repo(self: HfApi, repo_id: str, **options: Any) -> SimpleNamespace:
        (there / repo_id).mkdir(parents=True, exist_ok=True)
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self: HfApi, *, repo_id: str, folder_path: str | Path, **options: Any) -> None:
        shutil.copytree(folder_path, there / repo_id, dirs_exist_ok=True)

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return there


def test_a_finished_run_has_a_card_of_its_numbers_whose_code_runs(
    job: Callable[..., Outcome], small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = (f"data.name={small}", "run.figures=false", "train.max_steps=2", "run.seed=3")
    assert job(*how, "run.name=one").code == 0
    assert job(*how, "run.dir=elsewhere/one").code == 0
    folder = Path("runs/one/model")
    card, text = folder / CARD, (folder / CARD).read_text()
    assert metadata(card)["library_name"] == "vae"
    assert metadata(card)["model-index"][0]["name"] == "one"
    test = json.loads(Path("runs/one/summary.json").read_text())["test"]
    assert metrics(card)["negative_elbo"] == test["loss"]
    assert metrics(card)["kl"] == test["kl"]
    assert f"{test['loss']:.2f}" in text
    assert test["protocol"]["pixels_crc32"] in text
    assert "not to be compared with tables of log p(x)" in text
    assert "train.max_steps: 2" in text
    assert str(small.parent) not in text  # nor any other path
    for name in (CARD, PICTURE):  # the same run, the same bytes
        assert (folder / name).read_bytes() == Path("elsewhere/one/model", name).read_bytes()
    before = (folder / CARD).read_bytes(), (folder / PICTURE).read_bytes()
    assert cli.main(["card", "runs/one"]) == 0
    assert ((folder / CARD).read_bytes(), (folder / PICTURE).read_bytes()) == before

    assert cli.main(["evaluate", "runs/one", "--samples", "3"]) == 0
    assert (folder / CARD).read_bytes() == before[0]
    assert cli.main(["card", "runs/one"]) == 0
    (kept,) = read(Path("runs/one"))
    assert metrics(card)["log_likelihood_3"] == kept.results["log_likelihood"]

    monkeypatch.chdir(folder)
    (block,) = code_of(text)
    names = run_block(block)
    assert names["images"].shape == names["again"].shape == (64, 1, 28, 28)
    assert names["codes"].shape == (64, 2)
    assert not list(Path("..", "checkpoints").glob(f"*/{CARD}"))


def test_a_card_that_fails_does_not_end_a_run(
    job: Callable[..., Outcome], small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> dict[str, bytes]:
        raise ZeroDivisionError("no card")

    with monkeypatch.context() as patched:
        patched.setattr(results, "card_files", fail)
        done = job(f"data.name={small}", "run.figures=false", "train.max_steps=1", "run.name=one")
    assert done.code == 0
    assert "model card not written (no card); again: python -m vae card runs/one" in done.err
    assert not Path("runs/one/model", CARD).exists()
    assert write_card("runs/one")[0].is_file()


KINDS = {
    "conditional": ["model.condition=true"],
    "labels of the prior": ["model.prior=ClassNormal"],
    "labels inferred": ["model.condition=true", "model.infer_labels=true", "objective=SemiSupervised"],
    "codes": [
        "model.posterior={name: VectorQuantized, codes: 6}",
        "model.prior=UniformCodes",
        "model.latent_dim=8",
        "objective=VectorQuantization",
    ],
    "layers": ["model.hierarchy=Ladder"],
    "one dimension": ["model.latent_dim=1", "model.likelihood=Normal"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_code_of_each_kind_of_card_runs(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    channels = 3 if kind == "layers" else 1
    archive = write_data(tmp_path, channels).rename(tmp_path / "a|b_*c*.npz")
    folder = write_run(tmp_path / "run", archive, *KINDS[kind], shape=(channels, 8, 8), classes=4)
    card, picture = write_card(folder)
    assert "a\\|b\\_\\*c\\*" in card.read_text()
    assert metrics(card)["negative_elbo"] == 100.0
    with Image.open(picture) as image:
        labelled = kind in ("conditional", "labels of the prior", "labels inferred")
        assert image.mode == ("RGB" if channels == 3 else "L")
        assert image.width == (4 if labelled else 8) * (16 + 2) - 2  # drawn twice as large; a column for each class
    monkeypatch.chdir(card.parent)
    names = run_block(code_of(card.read_text())[0])
    assert names["images"].shape == names["again"].shape == (64, channels, 8, 8)
    assert len(names["codes"]) == 64


def test_the_picture_is_of_the_models_own_samples(tmp_path: Path) -> None:
    """The pixels of the first image, read back, are those of the mean of p(x|z) at the first draw."""
    from vae.data import randomness

    folder = write_run(tmp_path / "run", write_data(tmp_path))
    _, picture = write_card(folder)
    with Image.open(picture) as image:
        drawn = np.asarray(image)[:16:2, :16:2]
    noise = randomness.normal(64, 2, 0, "samples")[:1]
    wanted = VAE.from_pretrained(folder / "model").decode(noise).mean[0, 0].detach()
    np.testing.assert_array_equal(drawn, (255 * wanted).round().to(torch.uint8).numpy())


def test_a_card_goes_with_its_weights_and_not_with_others(tmp_path: Path, hub: Path) -> None:
    folder = write_run(tmp_path / "run", write_data(tmp_path)) / "model"
    write_card(folder.parent)
    model = VAE.from_pretrained(folder)
    model.push_to_hub("me/vae")
    for name in (CARD, PICTURE, "model.safetensors", "config.json"):
        assert (hub / "me/vae" / name).read_bytes() == (folder / name).read_bytes()
    again = VAE.from_pretrained(hub / "me/vae")
    noise = torch.zeros(3, 2)
    assert torch.equal(again.sample(noise=noise), model.sample(noise=noise))

    with torch.no_grad():
        next(model.parameters()).add_(1)
    model.save_pretrained(tmp_path / "changed")
    assert not (tmp_path / "changed" / PICTURE).exists()
    assert "negative_elbo" not in (tmp_path / "changed" / CARD).read_text()


def test_the_code_of_the_document_runs(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of docs/sharing.md, in its order, with a run in place of runs/mnist."""
    archive = tmp_path / "data.npz"
    np.savez(archive, images=np.random.default_rng(0).random((20, 28, 28), dtype=np.float32))
    folder = write_run(tmp_path / "runs" / "mnist", archive, shape=(1, 28, 28))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["card", "runs/mnist"]) == 0
    assert cli.main(["export", "runs/mnist"]) == 0
    blocks = code_of((ROOT / "docs/sharing.md").read_text())
    assert len(blocks) == 4
    found = [run_block(block) for block in blocks]
    assert (hub / "me/vae-mnist" / CARD).read_bytes() == (folder / "model" / CARD).read_bytes()
    np.testing.assert_allclose(found[2]["images"], found[3]["images"].detach(), atol=1e-5)
    q = VAE.from_pretrained(folder / "model").encode(torch.zeros(5, 1, 28, 28))
    np.testing.assert_allclose(found[2]["mean"], q.mean.detach(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[2]["std"], q.stddev.detach(), rtol=1e-5, atol=1e-5)


def test_a_run_that_is_not_finished_has_no_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run", write_data(tmp_path), finished=False)
    assert cli.main(["card", str(folder)]) == 2
    assert "not finished" in capsys.readouterr().err
    assert not (folder / "model").exists()
