"""Data sets of torchvision, from small files in the originals' formats: what torchvision's own readers give."""

import io
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from torchvision import datasets
from torchvision.datasets.utils import calculate_md5

from vae.data.reading import Reading
from vae.data.sources import load
from vae.errors import InputError

RANDOM = np.random.default_rng(0)
NOWHERE = "http://127.0.0.1:9/"  # nobody answers there


def pixels(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


# --- CIFAR ------------------------------------------------------------------------------------------------------------

LABELS = {"CIFAR10": "labels", "CIFAR100": "fine_labels"}


@pytest.fixture(params=LABELS)
def cifar(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Batches of 20 random images each, with md5 sums of their own, in the folder and in the archive."""
    name, kind = request.param, getattr(datasets, request.param)
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    for key in ("train_list", "test_list"):
        files = []
        for file, _ in getattr(kind, key):
            batch = {"data": pixels(20, 3072), LABELS[name]: RANDOM.integers(0, 10, 20).tolist()}
            (folder / file).write_bytes(pickle.dumps(batch))
            files.append([file, calculate_md5(folder / file)])
        monkeypatch.setattr(kind, key, files)
    meta = folder / kind.meta["filename"]
    meta.write_bytes(pickle.dumps({kind.meta["key"]: [f"kind {number}" for number in range(10)]}))
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": calculate_md5(meta)})
    with tarfile.open(tmp_path / kind.filename, "w:gz") as archive:
        archive.add(folder, kind.base_folder)
    monkeypatch.setattr(kind, "tgz_md5", calculate_md5(tmp_path / kind.filename))
    monkeypatch.setattr(kind, "url", NOWHERE + kind.filename)
    return name


def is_torchvisions(name: str, root: Path) -> None:
    data, kind = load(name, root), getattr(datasets, name)
    assert data.class_names == [f"kind {number}" for number in range(10)]
    for part, theirs in ((data.train, kind(root, train=True)), (data.test, kind(root, train=False))):
        assert np.array_equal(part.images.numpy(), theirs.data.transpose(0, 3, 1, 2))
        assert part.labels is not None
        assert part.labels.tolist() == theirs.targets
    assert data.image_shape == (3, 32, 32)


def test_cifar_is_read_from_batches_or_from_the_archive(cifar: str, tmp_path: Path) -> None:
    kind = getattr(datasets, cifar)
    before = names(tmp_path)
    is_torchvisions(cifar, tmp_path)
    batch = tmp_path / kind.base_folder / kind.train_list[0][0]
    batch.write_bytes(batch.read_bytes()[:-5])  # an unpacking that was cut short
    is_torchvisions(cifar, tmp_path)
    shutil.rmtree(tmp_path / kind.base_folder)
    is_torchvisions(cifar, tmp_path)
    assert names(tmp_path) == before
    shutil.rmtree(tmp_path / kind.base_folder)
    archive = tmp_path / kind.filename
    archive.write_bytes(archive.read_bytes()[:-5])
    with pytest.raises(InputError, match=rf"{kind.filename}: damaged or not the original: md5"):
        load(cifar, tmp_path)
    archive.unlink()
    with pytest.raises(
        InputError, match=rf"downloading it failed .*put the original archives there \({kind.filename}\)"
    ):
        load(cifar, tmp_path)
    assert names(tmp_path) == []


def test_an_archive_that_cannot_be_unpacked_beside_itself_is_read_all_the_same(cifar: str, tmp_path: Path) -> None:
    kind = getattr(datasets, cifar)
    batches = tmp_path / kind.base_folder
    expected = load(cifar, tmp_path)
    shutil.rmtree(batches)
    (tmp_path / ".lock").mkdir()  # so that no lock can be had there, as in a folder that may not be written
    assert load(cifar, tmp_path).fingerprint == expected.fingerprint
    assert not batches.exists()


# --- SVHN -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    listed = {}
    for part, (_, file, _) in datasets.SVHN.split_list.items():
        labels = RANDOM.integers(1, 11, (20, 1)).astype(np.uint8)  # in the files 10 is the digit 0
        scipy.io.savemat(tmp_path / file, {"X": pixels(32, 32, 3, 20), "y": labels}, do_compression=True)
        listed[part] = [NOWHERE + file, file, calculate_md5(tmp_path / file)]
    monkeypatch.setattr(datasets.SVHN, "split_list", listed)
    return tmp_path


def test_svhn_is_what_torchvision_reads_and_is_cached(svhn: Path) -> None:
    theirs = {part: datasets.SVHN(svhn, split=part) for part in ("train", "test")}
    first = load("SVHN", svhn)
    for part, split in (("train", first.train), ("test", first.test)):
        assert np.array_equal(split.images.numpy(), theirs[part].data)
        assert split.labels is not None
        assert split.labels.tolist() == theirs[part].labels.tolist()
    assert "SVHN.cache" in names(svhn)
    (svhn / "train_32x32.mat").unlink()  # the cache has it all
    again = load("SVHN", svhn)
    assert again.fingerprint == first.fingerprint
    assert torch.equal(again.train.labels, first.train.labels)  # type: ignore[arg-type]
    (svhn / "SVHN.cache").unlink()
    with pytest.raises(InputError, match=r"downloading it failed .*\(train_32x32\.mat, test_32x32\.mat\)"):
        load("SVHN", svhn)
    with pytest.raises(InputError, match=r"data\.image_size = 32: data\.name = 'SVHN' has no use for it"):
        load("SVHN", Reading(svhn, image_size=32))


# --- Omniglot ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def omniglot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / datasets.Omniglot.folder
    folder.mkdir()
    sums = {}
    for part, alphabets in {"images_background": ("Greek", "Latin"), "images_evaluation": ("Tengwar",)}.items():
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
            for alphabet in alphabets:
                for character in ("character01", "character02"):
                    for number in range(3):
                        stream = io.BytesIO()
                        Image.fromarray(pixels(105, 105)).convert("1").save(stream, "png")
                        archive.writestr(f"{part}/{alphabet}/{character}/{number}.png", stream.getvalue())
        sums[part] = calculate_md5(folder / f"{part}.zip")
    monkeypatch.setattr(datasets.Omniglot, "zips_md5", sums)
    monkeypatch.setattr(datasets.Omniglot, "download_url_prefix", NOWHERE)
    return tmp_path


def test_omniglot_is_what_torchvision_reads_in_a_fixed_order(omniglot: Path, tmp_path: Path) -> None:
    data = load("Omniglot", omniglot)
    assert names(omniglot / "omniglot-py") == ["images_background.zip", "images_evaluation.zip"]  # nothing is unpacked
    assert data.class_names is not None
    assert data.class_names[3:] == ["Latin/character02", "Tengwar/character01", "Tengwar/character02"]
    assert data.image_shape == (1, 105, 105)
    for part, background in ((data.train, True), (data.test, False)):
        with zipfile.ZipFile(
            omniglot / "omniglot-py" / f"images_{'background' if background else 'evaluation'}.zip"
        ) as all_:
            all_.extractall(omniglot / "omniglot-py")
        theirs = datasets.Omniglot(omniglot, background=background)
        expected = {(np.asarray(image).tobytes(), theirs._characters[label]) for image, label in theirs}
        assert part.labels is not None
        found = zip(part.images, part.labels.tolist(), strict=True)
        assert {(image.numpy().tobytes(), data.class_names[label]) for image, label in found} == expected
    (omniglot / "omniglot-py" / "images_background.zip").unlink()
    assert load("Omniglot", omniglot).fingerprint == data.fingerprint  # from the cache
    with pytest.raises(InputError, match=r"downloading it failed .*\(images_background\.zip, images_evaluation\.zip\)"):
        load("Omniglot", Reading(omniglot, image_size=28))


# --- CelebA -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def celeba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    files = [f"{number:06}.jpg" for number in range(1, 13)]
    for file in files:
        Image.fromarray(pixels(218, 178, 3)).save(folder / "img_align_celeba" / file)
    for name, header, row in (
        ("list_attr_celeba.txt", "12\nSmiling Young\n", " 1 -1"),
        ("identity_CelebA.txt", "", " 7"),
        ("list_bbox_celeba.txt", "12\nimage_id x_1 y_1 width height\n", " 1 2 3 4"),
        ("list_landmarks_align_celeba.txt", "12\nlefteye_x lefteye_y\n", " 1 2"),
    ):
        (folder / name).write_text(header + "".join(f"{file}{row}\n" for file in files))
    parts = [0] * 6 + [1] * 2 + [2] * 4
    rows = [f"{file} {part}\n" for file, part in zip(files, parts, strict=True)]
    (folder / "list_eval_partition.txt").write_text("".join(rows))
    listed: list[Any] = [
        (id_, calculate_md5(folder / file) if (folder / file).exists() else md5, file)
        for id_, md5, file in datasets.CelebA.file_list
    ]
    monkeypatch.setattr(datasets.CelebA, "file_list", listed)
    return tmp_path


def test_celeba_has_torchvisions_three_parts_at_the_size_asked_for(celeba: Path) -> None:
    with pytest.raises(InputError, match=r"data\.image_size = null: CelebA.* 218x178 .*e\.g\. data\.image_size=64"):
        load("CelebA", celeba)
    data = load("CelebA", Reading(celeba, image_size=178))  # cropped alone
    assert data.val is not None
    assert (data.classes, data.image_shape) == (0, (3, 178, 178))
    for part, name in ((data.train, "train"), (data.val, "valid"), (data.test, "test")):
        theirs = datasets.CelebA(celeba, split=name)
        expected = [np.asarray(image)[20:198].transpose(2, 0, 1) for image, _ in theirs]
        assert np.array_equal(part.images.numpy(), np.stack(expected))
    shutil.rmtree(celeba / "celeba" / "img_align_celeba")
    assert load("CelebA", Reading(celeba, image_size=178)).fingerprint == data.fingerprint  # from the cache
    with pytest.raises(InputError, match=r"celeba: does not hold CelebA's original files; put list_attr_celeba\.txt, "):
        load("CelebA", Reading(celeba, image_size=64))
    assert names(celeba) == ["CelebA.178.cache", "celeba"]


# --- all --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100", "SVHN", "Omniglot", "CelebA"])
def test_what_is_not_there_is_refused_in_one_line_and_leaves_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda *_, **__: NOWHERE)
    kept = Reading(tmp_path / "data", image_size=32 if name == "CelebA" else None)
    with pytest.raises(InputError, match=r"put .* there.* or set data\.root") as refusal:
        load(name, kept)
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []
