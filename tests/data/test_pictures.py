"""Folders of pictures: each format and layout becomes what Pillow and torchvision make of it; read once."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets
from torchvision.transforms import v2

from tests.helpers.starts import Job, Program
from vae import uses
from vae.data import cache, decoding
from vae.data.reading import Reading
from vae.data.sources import DataSet, load
from vae.errors import InputError

RANDOM = np.random.default_rng(0)


def pixels(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, image: np.ndarray | Image.Image, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **how)
    return path


def read(folder: Path, image_size: int | None = None) -> DataSet:
    return load(str(folder), Reading(folder.parent / "root", image_size=image_size))


def pictures(data: DataSet) -> torch.Tensor:
    return torch.cat([data.train.images, data.test.images])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "photos"


def test_classes_and_pictures_are_those_of_torchvisions_image_folder(folder: Path) -> None:
    for number in range(40):
        kind = ("png", "bmp", "tif", "webp", "PNG")[number % 5]
        how = {"lossless": True} if kind == "webp" else {}
        save(folder / f"class {number % 3}" / f"{number}.{kind}", pixels(6, 7, 3), **how)
    save(folder / "class 0" / "deeper" / "x.png", pixels(6, 7, 3))
    save(folder / "class 0" / ".hidden.png", pixels(9, 9, 3))
    save(folder / ".cache" / "x.png", pixels(9, 9, 3))
    (folder / "class 1" / "notes.txt").write_text("no picture")
    (folder / "empty").mkdir()
    data = read(folder)
    assert data.class_names == ["class 0", "class 1", "class 2"]
    assert data.image_shape == (3, 6, 7)
    assert (len(data.train), len(data.test)) == (37, 4)
    shutil.rmtree(folder / "empty")  # which torchvision refuses, and hidden files it takes
    shutil.rmtree(folder / ".cache")
    (folder / "class 0" / ".hidden.png").unlink()
    theirs = {
        (np.asarray(image).transpose(2, 0, 1).tobytes(), label) for image, label in datasets.ImageFolder(str(folder))
    }
    assert data.train.labels is not None
    assert data.test.labels is not None
    parts = ((data.train.images, data.train.labels), (data.test.images, data.test.labels))
    ours = {
        (image.numpy().tobytes(), int(label))
        for images, labels in parts
        for image, label in zip(images, labels, strict=True)
    }
    assert ours == theirs


def test_a_tenth_is_held_out_as_of_an_array(folder: Path, tmp_path: Path) -> None:
    images = pixels(50, 4, 4)
    for number, image in enumerate(images):
        save(folder / f"{number:02}.png", image)
    np.savez(tmp_path / "x.npz", images=images)
    data, same = read(folder), load(str(tmp_path / "x.npz"), tmp_path)
    assert data.class_names is None
    assert data.train.labels is None
    assert data.fingerprint == same.fingerprint


def test_folders_named_after_parts_are_parts(folder: Path) -> None:
    for part, count in {"Train": 12, "valid": 5, "test": 3}.items():
        for label in ("9", "10"):
            for number in range(count):
                save(folder / part / label / f"{number}.png", pixels(4, 4))
    data = read(folder)
    assert data.val is not None
    assert [len(part) for part in (data.train, data.val, data.test)] == [24, 10, 6]
    assert data.class_names == ["9", "10"]  # as numbers are sorted
    assert data.test.labels is not None
    assert data.test.labels.tolist() == [1, 1, 1, 0, 0, 0]
    shutil.rmtree(folder / "test")
    again = read(folder)
    assert [len(part) for part in (again.train, again.val or [], again.test)] == [22, 10, 2]
    save(folder / "other" / "0.png", pixels(4, 4))
    assert read(folder).class_names == ["Train", "other", "valid"]


SIXTEEN = np.array([[0, 128, 129, 385, 65535, 32768]], np.uint16)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bits_become_the_nearest_eight(folder: Path, ending: str) -> None:
    for number in range(2):
        save(folder / f"{number}.{ending}", SIXTEEN + np.array([number], np.uint16) * 0)
    data = read(folder)
    assert data.image_shape == (1, 1, 6)
    assert data.train.images.flatten().tolist() == [round(value * 255 / 65535) for value in SIXTEEN[0].tolist()]


def test_black_and_white_and_grey_stay_one_channel_and_one_colour_makes_three(folder: Path) -> None:
    checks = np.indices((4, 6)).sum(0) % 2 * 255
    grey, alpha = pixels(4, 6), pixels(4, 6)
    over_white = (grey.astype(int) * alpha + 255 * (255 - alpha.astype(int)) + 127) // 255
    save(folder / "0.png", Image.fromarray(checks.astype(np.uint8)).convert("1"))
    save(folder / "1.png", grey)
    save(folder / "2.png", Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]))
    data = read(folder)
    assert data.image_shape == (1, 4, 6)
    found = [image.numpy().astype(int) for image in pictures(data)[:, 0]]
    for expected in (checks, grey, over_white):
        assert min(np.abs(image - expected).max() for image in found) <= 1
    save(folder / "3.png", pixels(4, 6, 3))
    data = read(folder)
    assert data.image_shape == (3, 4, 6)
    assert any((image == torch.from_numpy(grey)).all() for image in pictures(data))


def test_palettes_transparency_and_other_colour_spaces_become_rgb(folder: Path) -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 20, 30]]], np.uint8)
    rgb = Image.fromarray(colours)
    clear = rgb.convert("RGBA")
    clear.putalpha(Image.fromarray(np.array([[255, 0, 128, 255]], np.uint8)))
    paletted = rgb.quantize(4)
    save(folder / "palette.png", paletted)
    save(folder / "see-through palette.png", paletted, transparency=paletted.getpixel((1, 0)))
    save(folder / "alpha.png", clear)
    save(folder / "cmyk.tif", rgb.convert("CMYK"))
    data = read(folder)
    found = {tuple(map(tuple, image.movedim(0, -1)[0].tolist())) for image in pictures(data)}
    red, green, blue, dark, white = (255, 0, 0), (0, 255, 0), (0, 0, 255), (10, 20, 30), (255, 255, 255)
    assert found == {(red, green, blue, dark), (red, white, blue, dark), (red, white, (127, 127, 255), dark)}


def test_a_photograph_is_turned_as_its_camera_says(folder: Path) -> None:
    image = Image.fromarray(np.repeat(np.arange(0, 240, 30).astype(np.uint8)[None], 4, 0))  # brighter to the right
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the right side is the bottom
    for number in range(2):
        save(folder / f"{number}.jpg", image, exif=exif, quality=95)
    data = read(folder)
    assert data.image_shape == (1, 8, 4)
    column = data.train.images[0, 0, :, 0].int()
    assert (column.diff() > 0).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_size_is_torchvisions_resize_and_crop(folder: Path, channels: int) -> None:
    shapes = [(20, 31), (33, 20), (8, 8), (9, 50), (16, 16), (41, 40)]
    images = [pixels(*shape, 3) if channels == 3 else pixels(*shape) for shape in shapes]
    for number, image in enumerate(images):
        save(folder / f"{number}.png", image)
    ours = read(folder, 16)
    assert ours.image_shape == (channels, 16, 16)
    prepare = v2.Compose([v2.Resize(16), v2.CenterCrop(16), v2.PILToTensor()])
    theirs = {prepare(Image.fromarray(image)).numpy().tobytes() for image in images}
    assert {image.numpy().tobytes() for image in pictures(ours)} == theirs


def test_pictures_of_several_sizes_are_refused_with_the_sizes(folder: Path) -> None:
    for number in range(12):
        save(folder / f"{number}.png", pixels(20 + number % 5, 30))
    with pytest.raises(
        InputError, match=r"5 sizes \(height x width\): 20x30 \(3\), 21x30 \(3\), .* and 2 more; "
    ) as refusal:
        read(folder)
    assert str(refusal.value).endswith("set data.image_size, e.g. data.image_size=20")
    assert sorted(path.name for path in folder.parent.iterdir()) == ["photos"]
    assert read(folder, 20).image_shape == (1, 20, 20)


def broken(folder: Path) -> None:
    save(folder / "bad.png", pixels(40, 40)).write_bytes((folder / "0.png").read_bytes()[:900])


def text(folder: Path) -> None:
    (folder / "bad.png").write_text("no picture")


def floats(folder: Path) -> None:
    save(folder / "bad.tif", np.zeros((40, 40), np.float32))


def beside(folder: Path) -> None:
    save(folder / "class" / "bad.png", pixels(40, 40))


BAD = {
    broken: r"bad\.png: cannot be read as a picture \(.*truncated.*\); repair or remove it",
    text: r"bad\.png: cannot be read as a picture \(no picture\)",
    floats: r"bad\.tif: .*mode F have no range",
    beside: r"photos: holds pictures \(0\.png, \.\.\.\) beside folders of pictures \(class, \.\.\.\)",
}


@pytest.mark.parametrize("spoil", BAD)
def test_what_cannot_be_used_is_refused_by_name(folder: Path, spoil: object) -> None:
    for number in range(3):
        save(folder / f"{number}.png", pixels(40, 40))
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(InputError, match=BAD[spoil]) as refusal:  # type: ignore[index]
        read(folder)
    assert "\n" not in str(refusal.value)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["photos"]


def test_a_folder_without_two_pictures_is_refused(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.txt").touch()
    with pytest.raises(InputError, match="photos: holds no pictures; must hold files that end in"):
        read(folder)
    save(folder / "a.png", pixels(4, 4))
    with pytest.raises(InputError, match="holds a single picture"):
        read(folder)
    with pytest.raises(InputError, match=r"data\.channels = 'last': .* has no use for it"):
        load(str(folder), Reading(folder, channels="last"))


# --- the cache --------------------------------------------------------------------------------------------------------


def few(folder: Path, count: int = 5) -> None:
    for number in range(count):
        save(folder / f"{number}.png", np.full((4, 4), number, np.uint8))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of pictures of each reading."""
    made: list[int] = []
    plain = decoding.decode

    def counting(pictures: list[decoding.Picture], *others: object) -> np.ndarray:
        made.append(len(pictures))
        return plain(pictures, *others)  # type: ignore[arg-type]

    monkeypatch.setattr("vae.data.pictures.decode", counting)
    return made


def test_pictures_are_read_once_and_anew_after_each_change(folder: Path, reads: list[int]) -> None:
    few(folder)
    first = read(folder)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["photos", "photos.cache"]
    assert read(folder).fingerprint == first.fingerprint
    assert reads == [5]
    read(folder, 2)  # another size has a cache of its own
    assert (folder.parent / "photos.2.cache").exists()
    assert read(folder).fingerprint == first.fingerprint
    assert reads == [5, 5]
    save(folder / "5.png", pixels(4, 4))
    read(folder)
    stamp = (folder / "0.png").stat()
    save(folder / "0.png", np.full((4, 4), 99, np.uint8))  # of the same size, at another time
    os.utime(folder / "0.png", ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1_000_000))
    assert (pictures(read(folder)) == 99).all((1, 2, 3)).any()
    (folder / "1.png").rename(folder / "11.png")
    read(folder)
    assert reads == [5, 5, 6, 6, 6]


@pytest.mark.parametrize("damage", ["cut short", "flipped", "empty", "other"])
def test_a_damaged_cache_is_read_anew(folder: Path, damage: str, reads: list[int]) -> None:
    few(folder)
    first, place = read(folder), folder.parent / "photos.cache"
    content = bytearray(place.read_bytes())
    if damage == "flipped":
        content[content.index(b"\x03" * 16)] ^= 1
    place.write_bytes({"cut short": content[:-200], "flipped": content, "empty": b"", "other": b"text"}[damage])
    assert read(folder).fingerprint == first.fingerprint
    assert read(folder).fingerprint == first.fingerprint
    assert reads == [5, 5]


def test_without_a_place_beside_it_the_cache_lies_below_the_root_or_nowhere(
    folder: Path, tmp_path: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    few(folder)
    monkeypatch.setattr("vae.data.places.USERS_CACHE", str(tmp_path / "file" / "cache"))
    (tmp_path / "file").touch()  # no folder can be made below it
    (tmp_path / "photos.cache").mkdir()  # and here no file
    (tmp_path / ".photos.cache.lock").mkdir()
    first = read(folder)
    (kept,) = (tmp_path / "root" / "pictures").iterdir()
    assert kept.name.startswith("photos-")
    assert kept.suffix == ".cache"
    assert read(folder).fingerprint == first.fingerprint
    assert reads == [5]
    shutil.rmtree(tmp_path / "root")
    (tmp_path / "root").touch()
    assert read(folder).fingerprint == first.fingerprint
    assert reads == [5, 5]


def test_a_full_disk_keeps_nobody_from_training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few(folder)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.np, "savez", full)
    assert len(read(folder).train) == 4
    assert sorted(path.name for path in folder.parent.iterdir()) == ["photos"]


READING = """
import json, sys
from vae.data import pictures
from vae.data.sources import load
plain, count = pictures.decode, []
pictures.decode = lambda *args: count.append(1) or plain(*args)
data = load({folder!r}, {root!r})
print(json.dumps([len(count), data.fingerprint]))
"""


def test_of_processes_that_start_together_one_reads(folder: Path, tmp_path: Path) -> None:
    for number in range(60):
        save(folder / f"{number}.png", pixels(300, 300, 3))
    code = READING.format(folder=str(folder), root=str(tmp_path / "root"))
    started = [Program("-c", code) for _ in range(4)]
    found = [json.loads(program.wait().out) for program in started]
    assert sum(count for count, _ in found) == 1
    assert len({fingerprint for _, fingerprint in found}) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "photos.cache"]


# --- from the command line --------------------------------------------------------------------------------------------


def test_a_folder_is_trained_on_and_others_are_encoded(job: Job, folder: Path, tmp_path: Path) -> None:
    for part, count in {"train": 20, "val": 5, "test": 5}.items():
        for label in ("cats", "dogs"):
            for number in range(count):
                save(folder / part / label / f"{number}.jpg", pixels(12, 9, 3))
                save(tmp_path / "others" / f"{number}.png", pixels(20, 30 + number, 3))
    short = ["run.dir=r", "model.hidden_dim=8", "model.condition=true", "train.max_steps=2", "train.batch_size=8"]
    done = job(f"data.name={folder}", "data.image_size=6", *short)
    assert done.code == 0, done.err
    assert done.out.startswith(
        "data: 40 training, 10 validation and 10 test images, 3x6x6, uint8, 2 classes (cats, dogs)\n"
    )
    again = job(f"data.name={folder}", "data.image_size=6", *short, "train.max_steps=4")
    assert "from step 2" in again.out
    other = job(f"data.name={folder}", "data.image_size=8", *short)
    assert (other.code, "data.image_size: 6 -> 8" in other.line) == (2, True)
    whole = job(f"data.name={folder}", "run.dir=whole", "train.max_steps=2", "model.hidden_dim=8")
    assert whole.code == 0
    assert "3x12x9" in whole.out
    with pytest.raises(InputError, match="others: has no labels, and the model needs them"):
        uses.encode(Path("r"), data=str(tmp_path / "others"))
    assert len(uses.encode(Path("r"), data=str(folder), split="val").codes.mean) == 10
    caches = {path.name for path in tmp_path.glob("*.cache")}
    assert caches == {"others.6.cache", "photos.6.cache", "photos.8.cache", "photos.cache"}
