"""Data: what is read is what is there; every example exactly once; randomness without state."""

import gzip
import http.server
import itertools
import shutil
import struct
import threading
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets
from torchvision.datasets.utils import calculate_md5
from torchvision.transforms import v2

from tests.helpers import DATA
from tests.helpers.starts import Program
from vae.data import batches as batches_module
from vae.data import mnist as mnist_family
from vae.data import randomness, sources
from vae.data.batches import TrainingBatches, count_steps, share, to_unit_interval
from vae.data.dataset import DataSet, Split
from vae.errors import InputError

RAW = DATA / "MNIST" / "raw"
ARCHIVE = "t10k-images-idx3-ubyte.gz"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data folder with the four archives, nothing unpacked."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for archive in RAW.glob("*.gz"):
        shutil.copy(archive, folder)
    return tmp_path


def idx(path: Path) -> np.ndarray:
    """Read an IDX file by its own description (Y. LeCun), without torchvision."""
    raw = gzip.decompress(path.read_bytes())
    dimensions = struct.unpack(f">{raw[3]}i", raw[4 : 4 + 4 * raw[3]])
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(dimensions)


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write an IDX file; gzip-compressed where the name ends in .gz."""
    header = struct.pack(f">BBBB{array.ndim}i", 0, 0, 8, array.ndim, *array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def test_mnist_is_what_the_archives_hold(mnist: sources.DataSet) -> None:
    assert np.array_equal(mnist.train.images[:, 0].numpy(), idx(RAW / "train-images-idx3-ubyte.gz"))
    assert np.array_equal(mnist.test.images[:, 0].numpy(), idx(RAW / ARCHIVE))
    assert mnist.test.labels is not None
    assert np.array_equal(mnist.test.labels.numpy(), idx(RAW / "t10k-labels-idx1-ubyte.gz"))
    assert mnist.image_shape == (1, 28, 28)


def test_the_archives_are_read_and_nothing_is_written_beside_them(root: Path, mnist: sources.DataSet) -> None:
    half = root / "MNIST" / "raw" / "train-images-idx3-ubyte"
    half.write_bytes(b"\0" * 1000)  # left by an older version that was killed as it unpacked
    before = sorted(root.rglob("*"))
    assert sources.load("MNIST", root).fingerprint == mnist.fingerprint
    assert sorted(root.rglob("*")) == before


def test_jobs_that_start_together_on_one_folder_all_read_the_data(root: Path, mnist: sources.DataSet) -> None:
    code = f"from vae.data.sources import load; print(load('MNIST', {str(root)!r}).fingerprint)"
    jobs = [Program("-c", code) for _ in range(4)]
    assert [job.wait().out.strip() for job in jobs] == [mnist.fingerprint] * 4


@pytest.mark.parametrize("name", mnist_family.MD5)
def test_archives_are_those_that_torchvision_fetches(name: str) -> None:
    files = mnist_family.QMNIST_FILES if name == "QMNIST" else mnist_family.FILES
    ours = [(f"{file}.gz", md5) for file, md5 in zip(files, mnist_family.MD5[name], strict=True)]
    theirs = getattr(datasets, name).resources
    if name == "QMNIST":
        theirs = [(Path(url).name, md5) for part in ("train", "test") for url, md5 in theirs[part]]
    assert ours == theirs
    for file, _ in ours:
        addresses = mnist_family.addresses(name, file)
        assert addresses
        assert all(address.startswith("http") and address.endswith(f"/{file}") for address in addresses)


def test_the_archive_of_emnist_is_torchvisions() -> None:
    assert Path(datasets.EMNIST.url).name == mnist_family.EMNIST_ARCHIVE
    assert datasets.EMNIST.md5 == mnist_family.EMNIST_MD5


def test_emnist_is_read_from_the_files_that_torchvision_unpacks(tmp_path: Path) -> None:
    folder = tmp_path / "EMNIST" / "raw"
    folder.mkdir(parents=True)
    for file, shape in zip(mnist_family.EMNIST_FILES, [(30, 28, 28), (30,)] * 2, strict=True):
        write_idx(folder / file, np.zeros(shape))
    for train in (True, False):
        assert len(datasets.EMNIST(tmp_path, split="balanced", train=train)) == 30


UNREADABLE = {
    "empty": b"",
    "cut short": struct.pack(">IIII", 0x803, 2, 3, 3) + bytes(17),
    "too long": struct.pack(">IIII", 0x803, 2, 3, 3) + bytes(19),
    "labels": struct.pack(">II", 0x801, 100) + bytes(100),
    "other numbers": struct.pack(">IIII", 0xD03, 2, 3, 3) + bytes(72),
}


@pytest.mark.parametrize("content", UNREADABLE)
def test_an_unpacked_file_without_its_archive_is_read_only_if_it_is_whole(root: Path, content: str) -> None:
    archive = root / "MNIST" / "raw" / ARCHIVE
    archive.unlink()
    archive.with_suffix("").write_bytes(UNREADABLE[content])
    with pytest.raises(InputError, match=r"files cannot be read .*t10k-images-idx3-ubyte") as refusal:
        sources.load("MNIST", root)
    assert "\n" not in str(refusal.value)


def test_unpacked_files_do_without_their_archives(root: Path, mnist: sources.DataSet) -> None:
    for archive in (root / "MNIST" / "raw").glob("*.gz"):
        archive.with_suffix("").write_bytes(gzip.decompress(archive.read_bytes()))
        archive.unlink()
    assert sources.load("MNIST", root).fingerprint == mnist.fingerprint


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "missing"])
def test_a_damaged_archive_is_named(root: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])  # nobody answers there
    archive = root / "MNIST" / "raw" / ARCHIVE
    content = bytearray(archive.read_bytes())
    content[1000] ^= 1
    {
        "truncated": lambda: archive.write_bytes(content[:5000]),
        "flipped": lambda: archive.write_bytes(content),
        "empty": lambda: archive.write_bytes(b""),
        "missing": archive.unlink,
    }[damage]()
    with pytest.raises(InputError, match="missing" if damage == "missing" else r"t10k-images.*md5") as refusal:
        sources.load("MNIST", root)
    assert "\n" not in str(refusal.value)
    assert str(root) in str(refusal.value)


def test_unknown_data_sets_are_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"'FashonMNIST'.*did you mean 'FashionMNIST'"):
        sources.load("FashonMNIST", DATA)


def test_fashion_mnist_is_read_from_its_own_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same reader with other archives: stand-ins in the same format, with their own md5 sums."""
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = {"train": rng.integers(0, 256, (50, 28, 28)), "t10k": rng.integers(0, 256, (20, 28, 28))}
    for part, pixels in images.items():
        for kind, array in {"images-idx3": pixels, "labels-idx1": pixels[:, 0, 0] % 10}.items():
            write_idx(folder / f"{part}-{kind}-ubyte.gz", array)
    sums = tuple(calculate_md5(folder / f"{file}.gz") for file in mnist_family.FILES)
    monkeypatch.setitem(mnist_family.MD5, "FashionMNIST", sums)
    data = sources.load("FashionMNIST", tmp_path)
    assert data.class_names == mnist_family.CLASS_NAMES["FashionMNIST"]
    assert np.array_equal(data.train.images[:, 0].numpy(), images["train"])
    assert np.array_equal(data.test.images[:, 0].numpy(), images["t10k"])


def test_emnist_is_turned_upright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files hold each image transposed (Cohen et al. 2017); stand-ins in the same format."""
    folder = tmp_path / "EMNIST" / "raw"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (30, 28, 28))
    for part in ("train", "test"):
        write_idx(folder / f"emnist-balanced-{part}-images-idx3-ubyte", images.transpose(0, 2, 1))
        write_idx(folder / f"emnist-balanced-{part}-labels-idx1-ubyte", np.arange(30))
    monkeypatch.setattr("vae.data.downloads.locked", None)  # what is there is read without a lock
    data = sources.load("EMNIST", tmp_path)
    assert np.array_equal(data.test.images[:, 0].numpy(), images)
    assert data.train.labels is not None
    assert data.train.labels.tolist() == list(range(30))


def test_the_names_of_classes_are_torchvisions() -> None:
    ours, theirs = mnist_family.CLASS_NAMES, {name: getattr(datasets, name) for name in mnist_family.CLASS_NAMES}
    assert (ours["FashionMNIST"], ours["KMNIST"]) == (theirs["FashionMNIST"].classes, theirs["KMNIST"].classes)
    assert ours["EMNIST"] == theirs["EMNIST"].classes_split_dict["balanced"]


class Mirror:
    """A server that has the files of a folder; `datasets` are asked for their archives there."""

    def __init__(self, folder: Path):
        handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/"

    def __enter__(self) -> "Mirror":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_what_is_missing_is_downloaded_whole_and_nothing_else_is_left(
    root: Path, tmp_path_factory: pytest.TempPathFactory, mnist: sources.DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path_factory.mktemp("mirror")
    archive = root / "MNIST" / "raw" / ARCHIVE
    shutil.move(archive, there / ARCHIVE)
    (root / ".partial-MNIST").mkdir()  # of a start that was killed as it downloaded
    (root / ".partial-MNIST" / ARCHIVE).write_bytes(b"half")
    with Mirror(there) as mirror:
        monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/", mirror.address])  # none at the first
        assert sources.load("MNIST", root).fingerprint == mnist.fingerprint
    assert sorted(path.name for path in root.rglob("*")) == sorted(
        ["MNIST", "raw", *(path.name for path in RAW.glob("*.gz"))]
    )


def test_a_download_of_something_else_is_refused(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path_factory.mktemp("mirror")
    archive = root / "MNIST" / "raw" / ARCHIVE
    (there / ARCHIVE).write_bytes(archive.read_bytes()[:5000])
    archive.unlink()
    with Mirror(there) as mirror:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [mirror.address])
        with pytest.raises(InputError, match=f"downloading it failed .*corrupted.*{ARCHIVE}"):
            sources.load("MNIST", root)
    assert not archive.exists()


def test_a_failed_download_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.KMNIST, "mirrors", ["http://127.0.0.1:9/"])
    for root in (tmp_path, tmp_path / "not" / "there"):
        with pytest.raises(InputError, match="downloading it failed"):
            sources.load("KMNIST", root)
        assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_receive_a_download_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        InputError, match=r"data\.root = '.*/file/x': holds no KMNIST, and cannot be written"
    ) as refusal:
        sources.load("KMNIST", tmp_path / "file" / "x")
    assert "train-images-idx3-ubyte.gz" in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_qmnist_is_read_from_its_own_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins in the same format, big-endian int32 labels of eight columns; torchvision's reader is the witness."""
    folder = tmp_path / "QMNIST" / "raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for file in mnist_family.QMNIST_FILES:
        if "images" in file:
            write_idx(folder / file, rng.integers(0, 256, (30, 28, 28)))
        else:
            labels = rng.integers(0, 70_000, (30, 8)).astype(">i4")
            labels[:, 0] = rng.integers(0, 10, 30)
            (folder / file).write_bytes(struct.pack(">BBBBii", 0, 0, 0x0C, 2, 30, 8) + labels.tobytes())
    theirs = {train: datasets.QMNIST(tmp_path, train=train) for train in (True, False)}
    for file in mnist_family.QMNIST_FILES:
        (folder / f"{file}.gz").write_bytes(gzip.compress((folder / file).read_bytes()))
        (folder / file).unlink()
    sums = tuple(calculate_md5(folder / f"{file}.gz") for file in mnist_family.QMNIST_FILES)
    monkeypatch.setitem(mnist_family.MD5, "QMNIST", sums)
    data = sources.load("QMNIST", tmp_path)
    for part, train in ((data.train, True), (data.test, False)):
        assert torch.equal(part.images[:, 0], theirs[train].data)
        assert part.labels is not None
        assert torch.equal(part.labels, theirs[train].targets[:, 0])


def test_emnist_is_read_from_the_archive_that_torchvision_fetches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "EMNIST" / "raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 28, 28))
    with zipfile.ZipFile(folder / mnist_family.EMNIST_ARCHIVE, "w") as archive:
        for file in mnist_family.EMNIST_FILES:
            write_idx(tmp_path / "x.gz", images.transpose(0, 2, 1) if "images" in file else np.arange(20))
            archive.write(tmp_path / "x.gz", f"gzip/{file}.gz")
    with pytest.raises(InputError, match=r"gzip\.zip: damaged or not the original"):
        sources.load("EMNIST", tmp_path)
    md5 = calculate_md5(folder / mnist_family.EMNIST_ARCHIVE)
    monkeypatch.setattr(mnist_family, "EMNIST_MD5", md5)
    data = sources.load("EMNIST", tmp_path)
    assert np.array_equal(data.test.images[:, 0].numpy(), images)
    assert sorted(path.name for path in folder.iterdir()) == [mnist_family.EMNIST_ARCHIVE]


def test_validation_is_the_same_part_of_the_training_set_for_everyone(mnist: sources.DataSet) -> None:
    held = mnist.hold_out(5000)
    assert held.val is not None
    assert (len(held.train), len(held.val), len(held.test)) == (55_000, 5_000, 10_000)
    assert held.fingerprint != mnist.fingerprint
    order = randomness.permutation(60_000, 0, "validation")
    assert torch.equal(held.val.images, mnist.train.images[order[-5000:]])
    everything = torch.cat([held.train.images, held.val.images]).flatten(1).sum(1, dtype=torch.int64).sort().values
    assert torch.equal(everything, mnist.train.images.flatten(1).sum(1, dtype=torch.int64).sort().values)
    with pytest.raises(InputError, match=r"data\.val_size = 60000"):
        mnist.hold_out(60_000)


def test_a_batch_is_preprocessed_as_transforms_v2_does_to_single_pictures(mnist: sources.DataSet) -> None:
    single = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    expected = torch.stack([single(Image.fromarray(image.numpy())) for image in mnist.train.images[:20, 0]])
    assert torch.equal(to_unit_interval(mnist.train.images[:20], torch.float32), expected.as_subclass(Tensor))
    assert to_unit_interval(mnist.train.images[:20], torch.float64).max() == 1.0


# --- sharding ---------------------------------------------------------------------------------------------------------


def marked(count: int) -> Tensor:
    """Images whose single pixel says which example they are."""
    return (torch.arange(count, dtype=torch.float32) / count).reshape(count, 1, 1, 1)


def epoch(batches: list[TrainingBatches], steps: range) -> tuple[Tensor, Tensor]:
    """Return the images and noise that all ranks see in `steps`, in rank order within each step."""
    parts = [batch for step in steps for batch in (rank(step) for rank in batches)]
    return torch.cat([b.x[: b.count] for b in parts]).flatten(), torch.cat([b.noise[: b.count] for b in parts])


def ranks(world_size: int, count: int = 103, batch_size: int = 10, **settings: Any) -> list[TrainingBatches]:
    every: dict[str, Any] = {"batch_size": batch_size, "noise_dim": 2, "seed": 5} | settings
    return [TrainingBatches(marked(count), rank=rank, world_size=world_size, **every) for rank in range(world_size)]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("count", "batch_size"), [(103, 10), (100, 10), (7, 10), (31, 3), (64, 128)])
def test_each_example_exactly_once_an_epoch_and_alike_at_any_world_size(
    world_size: int, count: int, batch_size: int
) -> None:
    alone, together = ranks(1, count, batch_size), ranks(world_size, count, batch_size)
    steps = alone[0].steps_per_epoch
    for number in range(2):
        x, noise = epoch(together, range(number * steps, (number + 1) * steps))
        assert torch.equal(x.sort().values, marked(count).flatten())
        expected_x, expected_noise = epoch(alone, range(number * steps, (number + 1) * steps))
        assert torch.equal(x, expected_x)
        assert torch.equal(noise, expected_noise)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_a_step_knows_the_size_of_its_global_batch(world_size: int) -> None:
    together = ranks(world_size)
    for step in range(11):
        parts = [rank(step) for rank in together]
        assert sum(part.count for part in parts) == (10 if step < 10 else 3)
        assert {part.global_count for part in parts} == {10 if step < 10 else 3}
        assert max(p.count for p in parts) - min(p.count for p in parts) <= 1
        assert all(len(part.x) == max(part.count, 1) for part in parts)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_the_table_of_an_epoch_holds_its_batches_padded_to_one_length(world_size: int) -> None:
    """103 examples in batches of 20; of the last three, some of seven ranks have none."""
    images = torch.randint(0, 256, (103, 1, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    for rank in range(world_size):
        batches = TrainingBatches(images, batch_size=20, noise_dim=3, seed=5, rank=rank, world_size=world_size)
        for epoch in (0, 4):
            table = batches.table(epoch)
            for position in range(batches.steps_per_epoch):
                batch = batches(epoch * batches.steps_per_epoch + position)
                x, filled = to_unit_interval(images[table.index[position]], torch.float32), len(batch.x)
                assert torch.equal(x[:filled], batch.x)
                assert torch.equal(x[filled:], batch.x[-1:].expand_as(x[filled:]))
                assert torch.equal(table.noise[position][:filled], batch.noise)
                assert torch.equal(table.noise[position][filled:], batch.noise[-1:].expand(len(x) - filled, 3))
                counted = torch.arange(len(x)) < batch.count
                assert torch.equal(table.weight[position], counted.double() / batch.global_count)
                assert table.count[position] == batch.count


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("numbers", [1, 100, 10_000])
def test_noise_that_is_drawn_in_blocks_is_alike_at_any_world_size_and_in_a_table(
    world_size: int, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four draws of two numbers: blocks of one position, of twelve (across batches of ten), of an epoch."""
    monkeypatch.setattr(batches_module, "NUMBERS_AT_ONCE", numbers)
    alone, together = ranks(1, samples=4), ranks(world_size, samples=4)
    _, expected = epoch(alone, range(11))
    assert expected.shape == (103, 4, 2)
    assert len(expected.flatten().unique()) == expected.numel()  # no block is another one's
    _, noise = epoch(together, range(11))
    assert torch.equal(noise, expected)
    tables = [rank.table(0) for rank in together]
    rows = [t.noise[s][: int(t.count[s])] for s in range(11) for t in tables]
    assert torch.equal(torch.cat(rows), expected)


@pytest.mark.parametrize("world_size", [1, 3])
def test_labels_go_with_their_images(world_size: int) -> None:
    labels = torch.arange(103)
    for rank in ranks(world_size, labels=labels):
        for step in range(22):
            batch = rank(step)
            assert batch.labels is not None
            assert torch.equal(marked(103)[batch.labels], batch.x)
    assert ranks(1)[0](0).labels is None


def test_steps_can_be_asked_for_in_any_order() -> None:
    forward, backward = ranks(1)[0], ranks(1)[0]
    for step in reversed(range(30)):
        assert torch.equal(backward(step).x, ranks(1)[0](step).x)
    assert torch.equal(forward(25).noise, backward(25).noise)


def test_epochs_and_seeds_differ() -> None:
    first, second = epoch(ranks(1), range(11)), epoch(ranks(1), range(11, 22))
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])
    assert not torch.equal(first[0], epoch(ranks(1, seed=6), range(11))[0])


def test_progress_counts_examples_not_steps() -> None:
    for batch_size in (10, 50):
        batches = ranks(1, 100, batch_size)[0]
        assert batches.progress(batches.steps_per_epoch) == 1
        assert batches.progress(3 * batches.steps_per_epoch // 2) == 1.5
    ragged = ranks(1, 100, 30)[0]  # 30, 30, 30 and 10
    assert [ragged.progress(step) for step in range(6)] == pytest.approx([0, 0.3, 0.6, 0.9, 1, 1.3])
    steps = ranks(1)[0].steps_per_epoch
    examples, batch_size = len(ranks(1)[0].images), ranks(1)[0].batch_size
    assert count_steps(examples, batch_size, epochs=3, max_steps=0) == (steps, 33)
    assert count_steps(examples, batch_size, epochs=3, max_steps=20) == (steps, 20)


@pytest.mark.parametrize("world_size", range(1, 7))
def test_shares_cover_everything_once(world_size: int) -> None:
    for count in range(20):
        covered = [i for rank in range(world_size) for i in range(count)[share(count, rank, world_size)]]
        assert covered == list(range(count))


# --- randomness -------------------------------------------------------------------------------------------------------


def test_noise_is_standard_normal_and_streams_are_independent() -> None:
    a, b = (randomness.normal(50_000, 2, 0, stream).double() for stream in ("noise", "samples"))
    bound = 5 / 50_000**0.5
    assert a.mean(0).abs().max() < bound
    assert (a.var(0) - 1).abs().max() < bound * 2**0.5
    assert torch.corrcoef(torch.cat([a, b], 1).T).fill_diagonal_(0).abs().max() < bound
    assert torch.equal(a, randomness.normal(50_000, 2, 0, "noise").double())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_binarised_pixels_are_one_with_probability_equal_to_the_grey_value(dtype: torch.dtype) -> None:
    levels = torch.arange(0, 256, 15, dtype=torch.uint8)
    images = levels.repeat(40_000, 1).reshape(40_000, 1, 1, -1)
    drawn = randomness.binarize(images if dtype == torch.uint8 else images.float() / 255, 3, "test")
    ones = to_unit_interval(drawn, torch.float64)
    assert set(ones.unique().tolist()) == {0.0, 1.0}
    p = levels.double() / 255
    assert ((ones.mean((0, 1, 2)) - p).abs() <= 5 * (p * (1 - p) / 40_000).sqrt()).all()


def test_each_part_has_a_draw_of_its_own_and_grey_training_images_stay() -> None:
    """Of equal images, whose pixels would be equal if two parts shared their numbers."""
    grey = Split(torch.full((20, 1, 4, 4), 128, dtype=torch.uint8))
    data = DataSet("grey", grey, grey, grey)
    drawn = data.binarize_evaluation(3)
    assert drawn.val is not None
    parts = [drawn.val.images, drawn.test.images, data.binarize_training(3).train.images]
    assert all(set(part.unique().tolist()) == {0, 255} for part in parts)
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(parts, 2))
    assert drawn.train is grey
    assert not torch.equal(data.binarize_evaluation(4).test.images, drawn.test.images)


def test_dynamic_binarisation_changes_each_epoch_and_static_never() -> None:
    grey = torch.full((20, 1, 4, 4), 128, dtype=torch.uint8)

    def pixels(mode: str, number: int) -> Tensor:
        batches = TrainingBatches(grey, batch_size=20, noise_dim=1, seed=0, binarize=mode)
        x = batches(number).x.flatten(1)
        return x[torch.argsort(batches._order)]  # by example, not by position

    assert torch.equal(pixels("static", 0), pixels("static", 1))
    assert not torch.equal(pixels("dynamic", 0), pixels("dynamic", 1))
    assert torch.equal(pixels("dynamic", 1), pixels("dynamic", 1))
    assert set(pixels("dynamic", 0).unique().tolist()) == {0.0, 1.0}
