"""The files of Larochelle & Murray's draw, written here from a draw of our own: read by numpy's own reader, too."""

import gzip
import hashlib
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.runs import rows, weights
from tests.helpers.starts import SMALL, launch
from vae import assemble
from vae.config import load
from vae.data import larochelle, sources
from vae.data.reading import Reading
from vae.errors import InputError
from vae.evaluation.log_likelihood.evaluator import Request, prepare
from vae.uses.inputs import open_images

PUBLISHED = {
    "train": "binarized_mnist_train.amat",
    "val": "binarized_mnist_valid.amat",
    "test": "binarized_mnist_test.amat",
}
FEW = {"train": 30, "val": 12, "test": 20}


def lines_of(pixels: np.ndarray) -> bytes:
    """Return images (N, 784), 0 or 1, as the published files have them."""
    stream = io.BytesIO()
    np.savetxt(stream, pixels, fmt="%d")
    return stream.getvalue()


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files of a few lines, which the reader is told to expect."""
    monkeypatch.setattr(larochelle, "LINES", FEW)
    rng = np.random.default_rng(0)
    folder = tmp_path / "data" / "MNIST_static"
    folder.mkdir(parents=True)
    for part, file in PUBLISHED.items():
        (folder / file).write_bytes(lines_of(rng.integers(0, 2, (FEW[part], 784))))
    return folder


def read(root: Path) -> sources.DataSet:
    return sources.load("MNIST", Reading(root, binarize="larochelle"))


REWRITTEN: dict[str, Callable[[bytes], bytes]] = {
    "as published": lambda content: content,
    "line ends of another system": lambda content: content.replace(b"\n", b"\r\n"),
    "a space at each end": lambda content: content.replace(b"\n", b" \n"),
    "tabs": lambda content: content.replace(b" ", b"\t"),
    "no last line end": lambda content: content[:-1],
    "an empty last line": lambda content: content + b"\n",
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("layout", REWRITTEN)
def test_pixels_are_those_that_numpy_reads(few: Path, layout: str, packed: bool) -> None:
    expected = {part: np.loadtxt(few / file) for part, file in PUBLISHED.items()}
    for file in PUBLISHED.values():
        content = REWRITTEN[layout]((few / file).read_bytes())
        (few / file).unlink()
        (few / (f"{file}.gz" if packed else file)).write_bytes(gzip.compress(content) if packed else content)
    data = read(few.parent)
    for part, pixels in expected.items():
        images = getattr(data, part).images
        assert images.dtype == torch.uint8
        assert np.array_equal(images.numpy(), 255 * pixels.reshape(-1, 1, 28, 28))
    assert data.classes == 0


@pytest.mark.parametrize("depth", range(3))
def test_the_files_are_found_below_the_root_and_nothing_is_written(few: Path, depth: int) -> None:
    root = [few, *few.parents][depth]
    (root / "a").mkdir()
    (root / "a" / PUBLISHED["test"]).write_bytes(b"half of another download")
    before = sorted(root.rglob("*"))
    assert len(read(root).train) == FEW["train"]
    assert sorted(root.rglob("*")) == before


def test_the_published_pixels_are_told_from_others(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in few.iterdir():  # the same pixels in another layout are the same draw
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert "other than" in str(read(few).draw)
    assert "not the published pixels" in read(few).summary
    published = {
        part: hashlib.sha256((few / file).read_bytes().replace(b"\r\n", b"\n")).hexdigest()
        for part, file in PUBLISHED.items()
    }
    monkeypatch.setattr(larochelle, "SHA256", published)
    assert read(few).draw == "Larochelle & Murray's draw"
    assert read(few).summary.endswith(": the published pixels")


DAMAGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:16_000]), ["line 11: 160 values", "784"]),
    "a line too few": (lambda path: path.write_bytes(path.read_bytes()[1568:]), ["11 lines", "12"]),
    "a line too many": (lambda path: path.write_bytes(2 * path.read_bytes()), ["24 lines", "12"]),
    "another value": (lambda path: _change(path, 3 * 1568, b"2 "), ["line 4", "'2'", "0 or 1"]),
    "two in one word": (lambda path: _change(path, 5 * 1568, b"011"), ["line 6", "'011'", "0 or 1"]),
    "no text": (lambda path: path.write_bytes(bytes(range(256))), ["line 1", "0 or 1"]),
    "empty": (lambda path: path.write_bytes(b""), ["0 lines", "12"]),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), ["holds binarized_mnist_train.amat", "but not"]),
    "gone": (lambda path: path.unlink(), ["holds binarized_mnist_train.amat", "but not"]),
    "no gzip": (lambda path: path.rename(f"{path}.gz"), [".gz: cannot be read"]),
}


def _change(path: Path, start: int, new: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[start : start + len(new)] = new
    path.write_bytes(content)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_in_one_line_by_file_and_line(few: Path, damage: str) -> None:
    spoil, words = DAMAGES[damage]
    spoil(few / PUBLISHED["val"])
    with pytest.raises(InputError) as refusal:
        read(few)
    for word in [PUBLISHED["val"], *words]:
        assert word in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_missing_files_are_named_with_the_folders_that_were_looked_in(tmp_path: Path) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    with pytest.raises(InputError) as refusal:
        read(tmp_path)
    for word in [*PUBLISHED.values(), f"{tmp_path},", f"{tmp_path / 'a'},", f"{tmp_path / 'a' / 'b'};", "data.root"]:
        assert word in str(refusal.value)
    assert str(tmp_path / "a" / "b" / "c") not in str(refusal.value)
    with pytest.raises(InputError, match=r"no binarized_mnist_train\.amat"):
        read(tmp_path / "nowhere")


REFUSED = {
    "data.name=KMNIST": r"data\.binarize = 'larochelle': a draw of MNIST, not of data\.name = 'KMNIST'; take static",
    "data.val_size=10": r"data\.val_size = 10: .*a validation set of its own.*leave it at 0",
    "model.condition=true": r"model\.condition = True: needs labels.*take static",
    "model.prior=ClassNormal": r"model\.prior\.name = 'ClassNormal': needs labels.*take static",
    "data.labelled=9 model.infer_labels=true model.condition=true objective=SemiSupervised": r"model.* needs labels",
    "model.likelihood=ContinuousBernoulli": r"0/1 pixels \(data\.binarize = 'larochelle'\)",
}


@pytest.mark.parametrize("settings", REFUSED)
def test_what_the_files_do_not_have_is_refused_in_one_line(settings: str) -> None:
    with pytest.raises(InputError, match=REFUSED[settings]) as refusal:
        load(None, ["data.binarize=larochelle", *settings.split()])
    assert "\n" not in str(refusal.value)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, mnist: sources.DataSet) -> Path:
    """A folder with files of all 70,000 images, of our own draw for seed 0 and 10,000 images for validation."""
    drawn = mnist.hold_out(10_000).binarize_evaluation(0).binarize_training(0)
    folder = tmp_path_factory.mktemp("whole")
    assert drawn.val is not None
    for part, file in PUBLISHED.items():
        pixels = getattr(drawn, part).images.flatten(1).numpy() // 255
        text = np.full((len(pixels), 1568), ord(" "), np.uint8)
        text[:, ::2], text[:, -1] = pixels + ord("0"), ord("\n")
        (folder / file).write_bytes(text.tobytes())
    return folder


def test_fifty_thousand_lines_take_about_a_second(whole: Path) -> None:
    """CPU time: other programs on the machine make no difference."""
    started = time.process_time()
    data = read(whole)
    assert time.process_time() - started < 3
    assert (len(data.train), len(data.test)) == (50_000, 10_000)


def test_a_run_on_files_of_our_own_draw_is_the_run_on_that_draw(whole: Path, tmp_path: Path, small: Path) -> None:
    """Two ranks each; validation, test and training pixels are all told from others by the numbers.

    The output bias starts at 0: the mean of a draw is not that of the grey pixels.
    """
    settings = {
        "files": ["data.binarize=larochelle", f"data.root={whole}"],
        "drawn": ["data.binarize=static", "data.val_size=10000"],
    }
    for name, own in settings.items():
        own.append("model.output_bias=zero")
        done = launch(2, f"run.dir={tmp_path / name}", *SMALL[:2], "train.max_steps=6", "run.trackers=[]", *own)
        assert done.code == 0, done.err
    files, drawn = tmp_path / "files", tmp_path / "drawn"
    assert all(torch.equal(weights(files)[key], weight) for key, weight in weights(drawn).items())
    ours, theirs = (json.loads((folder / "summary.json").read_text())["test"] for folder in (files, drawn))
    how, other = ours.pop("protocol"), theirs.pop("protocol")
    assert ours == theirs
    assert [row for row in rows(files, timeless=True) if row["split"] == "val"] == [
        row for row in rows(drawn, timeless=True) if row["split"] == "val"
    ]
    assert how == other | {"pixels": "0/1, a draw other than Larochelle & Murray's"}

    (run,) = prepare([files], Request(samples=2, draw=5))
    assert run.protocol["draw"] is None  # pixels that are read have no seed
    assert run.protocol["pixels"] == how["pixels"]
    assert torch.equal(run.part.images, read(whole).test.images)
    of_training = open_images(files, data=None, data_root=None, split="train")
    assert torch.equal(of_training.part.images, read(whole).train.images)
    elsewhere = open_images(
        files, data=str(small), data_root=None, split="test"
    )  # nobody has published a draw of these
    assert elsewhere.reading.binarize == "static"
    grey = sources.load(str(small), "")
    assert torch.equal(elsewhere.part.images, grey.binarize_evaluation(0).test.images)


def test_statistics_of_pixels_that_are_read_are_those_of_the_draw(whole: Path) -> None:
    config = load(
        None, ["data.binarize=larochelle", f"data.root={whole}", "model.output_bias=data", "model.hidden_dim=8"]
    )
    data = assemble.build_data(config)
    model = assemble.build_model(config, data.image_shape, data.classes, data.train.images)
    mean = (data.train.images == 255).double().mean(0).clamp(0.001, 0.999)
    bias = model.decoder.output_layer.bias
    torch.testing.assert_close(bias, torch.logit(mean).float().flatten(), rtol=1e-6, atol=1e-7)
