"""Arrays as people have them: what a file holds is what is read, in each layout; or one line says what to do."""

import io
import itertools
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vae.config import load as load_config
from vae.data.dataset import HIDDEN, DataSet
from vae.data.layout import layout_of
from vae.data.naming import split_name
from vae.data.reading import Reading
from vae.data.sources import load
from vae.errors import InputError

RANDOM = np.random.default_rng(0)
COUNT, SIDE = 30, 8
GREY = RANDOM.integers(0, 256, (COUNT, SIDE, SIDE), dtype=np.uint8)
COLOUR = RANDOM.integers(0, 256, (COUNT, 3, SIDE, SIDE), dtype=np.uint8)
CLASS = np.arange(COUNT) % 3
OTHERS = RANDOM.integers(0, 256, (2, 12, SIDE, SIDE), dtype=np.uint8)  # of validation and test


class Trap:
    """An object whose unpickling is noticed."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a pickled object was opened",)


def read(folder: Path, *nameless: np.ndarray, reading: dict[str, Any] | None = None, **arrays: Any) -> DataSet:
    np.savez(folder / "x.npz", *nameless, **arrays)
    return load(str(folder / "x.npz"), Reading(folder, **(reading or {})))


def refusal(folder: Path, *nameless: np.ndarray, reading: dict[str, Any] | None = None, **arrays: Any) -> str:
    with pytest.raises(InputError) as refused:
        read(folder, *nameless, reading=reading, **arrays)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def whole(data: DataSet) -> np.ndarray:
    """Return all images but those of a validation part, in the file's order: each has been put into its labels."""
    assert data.train.labels is not None
    assert data.test.labels is not None
    images, labels = (
        torch.cat([getattr(part, name) for part in (data.train, data.test)]) for name in ("images", "labels")
    )
    return images[labels.argsort()].numpy()


# --- layouts ----------------------------------------------------------------------------------------------------------

ORDER = np.arange(COUNT)  # as labels: they tell each image's place in the file
PLAIN = GREY[:, None]
LAYOUTS: dict[str, tuple[np.ndarray, np.ndarray]] = {
    "no axis of channels": (GREY, PLAIN),
    "channels first, grey": (PLAIN, PLAIN),
    "channels first": (COLOUR, COLOUR),
    "channels last, grey": (GREY[..., None], PLAIN),
    "channels last": (COLOUR.transpose(0, 2, 3, 1), COLOUR),
    "channels last, stored as Fortran does": (np.asfortranarray(COLOUR.transpose(0, 2, 3, 1)), COLOUR),
    "flat": (GREY.reshape(COUNT, -1), PLAIN),
    "truth values": (GREY > 127, 255 * (PLAIN > 127).astype(np.uint8)),
    "0 and 1": (GREY // 128, 255 * (PLAIN // 128)),
    "large integers": (GREY.astype(np.int64), PLAIN),
    "integers of a foreign machine": (GREY.astype(">u2"), PLAIN),
    "float64": (GREY / 255, (PLAIN / 255).astype(np.float32)),
    "float32 of a foreign machine": ((GREY / 255).astype(">f4"), (PLAIN / 255).astype(np.float32)),
    "float16": ((GREY / 255).astype(np.float16), (PLAIN / 255).astype(np.float16).astype(np.float32)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_the_pixels_that_it_holds(layout: str, tmp_path: Path) -> None:
    stored, expected = LAYOUTS[layout]
    data = read(tmp_path, images=stored, labels=ORDER)
    found = whole(data)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
    assert data.image_shape == expected.shape[1:]
    assert (len(data.train), len(data.test)) == (27, 3)
    assert ("channels last" in data.remarks) == layout.startswith("channels last")
    assert ("pixels 0 and 1 are black and white" in data.remarks) == (layout in ("truth values", "0 and 1"))


def test_the_order_of_channels_is_asked_for_where_it_cannot_be_told(tmp_path: Path) -> None:
    both, neither, flat = np.zeros((4, 3, 9, 3)), np.zeros((4, 9, 8, 2)), COLOUR.reshape(COUNT, -1)
    for images, shape in ((both, "(4, 3, 9, 3)"), (neither, "(4, 9, 8, 2)"), (flat, f"({COUNT}, 192)")):
        assert f"{shape}" in (line := refusal(tmp_path, images=images))
        assert "say data.channels=first or data.channels=last" in line
    first, last = {"channels": "first"}, {"channels": "last"}
    assert read(tmp_path, images=both, reading=first).image_shape == (3, 9, 3)
    assert read(tmp_path, images=both, reading=last).image_shape == (3, 3, 9)
    assert read(tmp_path, images=neither, reading=last).image_shape == (2, 9, 8)
    assert np.array_equal(whole(read(tmp_path, images=flat, labels=ORDER, reading=first)), COLOUR)
    flat_last = COLOUR.transpose(0, 2, 3, 1).reshape(COUNT, -1)
    assert np.array_equal(whole(read(tmp_path, images=flat_last, labels=ORDER, reading=last)), COLOUR)
    assert "data.channels = 'last'" in refusal(tmp_path, images=GREY, reading=last)


@pytest.mark.parametrize(("C", "H", "W"), list(itertools.product([1, 2, 3, 4, 5], [3, 9], [1, 2, 3, 4, 5])))
def test_channels_are_the_axis_of_1_3_or_4_if_the_other_one_has_another_length(C: int, H: int, W: int) -> None:
    shape, colours = (6, C, H, W), {1, 3, 4}
    assert layout_of(shape, "first", "x").image_shape == (C, H, W)
    assert layout_of(shape, "last", "x").image_shape == (W, C, H)
    if (C in colours) == (W in colours):
        with pytest.raises(InputError, match=r"data\.channels=first"):
            layout_of(shape, "auto", "x")
    else:
        assert layout_of(shape, "auto", "x").image_shape == ((C, H, W) if C in colours else (W, C, H))


def test_channels_of_another_number_are_those_beside_a_square() -> None:
    assert layout_of((6, 2, 9, 9), "auto", "x").image_shape == (2, 9, 9)
    assert layout_of((6, 9, 9, 2), "auto", "x").image_shape == (2, 9, 9)
    assert layout_of((6, 9, 9, 2), "first", "x").image_shape == (9, 9, 2)
    for shape in ((6, 9, 9, 9), (6, 2, 9, 8)):
        with pytest.raises(InputError, match=r"data\.channels=first"):
            layout_of(shape, "auto", "x")


@pytest.mark.parametrize("shape", [(COUNT, 700), (COUNT, 49), (5, 1, 8, 8, 8), (COUNT,), (1, 8, 8), (5, 0, 8), ()])
def test_what_are_no_images_is_refused_with_the_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    assert f"`images` has shape {shape}; must be (N, H, W)" in refusal(
        tmp_path, images=np.zeros(shape), y=np.zeros(shape[:1])
    )


# --- pixels -----------------------------------------------------------------------------------------------------------

RANGES = {
    "-1 to 1": (GREY.astype(np.float32) / np.float32(127.5) - 1, (-1, 1)),
    "0 to 255": (GREY.astype(np.float32), (0, 255)),
    "standardised": ((GREY / np.float32(255) - np.float32(0.1307)) / np.float32(0.3081), (-0.4242129, 2.821486)),
    "signed bytes": (GREY.astype(np.int16) - 128, (-128, 127)),
    "white is less": ((GREY // 17).astype(np.uint8), (0, 15)),
}


@pytest.mark.parametrize("name", RANGES)
def test_pixels_in_a_range_of_their_own_become_the_grey_levels_they_are(name: str, tmp_path: Path) -> None:
    stored, limits = RANGES[name]
    expected = PLAIN // 17 * 17 if name == "white is less" else PLAIN
    data = read(tmp_path, images=stored, labels=ORDER, reading={"range": limits})
    assert np.array_equal(whole(data), expected)
    assert whole(data).dtype == np.uint8


def test_pixels_between_grey_levels_are_mapped_linearly(tmp_path: Path) -> None:
    stored = RANDOM.integers(0, 65536, (COUNT, SIDE, SIDE), dtype=np.uint16)
    found = whole(read(tmp_path, images=stored, labels=ORDER, reading={"range": (0, 65535)}))
    assert np.array_equal(found, (stored[:, None] / 65535).astype(np.float32))


def test_all_parts_have_one_scale(tmp_path: Path) -> None:
    """A part whose pixels are 0 and 1 alone is nearly black beside one with grey levels, as both are stored."""
    data = read(tmp_path, images=GREY, test_images=GREY // 128)
    assert int(data.test.images.max()) == 1
    exact, between = GREY.astype(float), GREY + 0.5 * (GREY == 9)
    data = read(tmp_path, images=exact, test_images=between, reading={"range": (0, 255)})
    assert data.train.images.dtype == data.test.images.dtype == torch.float32


OUT_OF_RANGE = {
    "floating point of bytes": (
        GREY.astype(float),
        None,
        "from 0 to 255; floating point must be in [0, 1]",
        "[0, 255]",
    ),
    "centred": (GREY / 127.5 - 1, None, "from -1 to 1", "[-1, 1]"),
    "half": (GREY / 255 - 0.5, None, "from -0.5 to 0.5", "[-0.5, 0.5]"),
    "signed": (GREY.astype(int) - 128, None, "from -128 to 127; integers must be in [0, 255]", "[-128, 127]"),
    "twelve bits": (16 * GREY.astype(int), None, "from 0 to 4080", "[0, 4095]"),
    "beyond the given": (GREY, (0, 254), "data.range = [0, 254]", "from 0 to 255; must be within"),
    "not a number": (np.full((4, 8, 8), np.nan), None, "NaN or infinite", "finite"),
    "infinite": (np.full((4, 8, 8), np.inf), (0, 1), "NaN or infinite", "finite"),
    "complex": (np.zeros((4, 8, 8), complex), None, "holds complex128", "must be integers"),
    "text": (np.zeros((4, 8, 8), "U1"), None, "holds <U1", "must be integers"),
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_pixels_out_of_range_are_refused_with_the_way_out(name: str, tmp_path: Path) -> None:
    images, limits, found, way_out = OUT_OF_RANGE[name]
    line = refusal(tmp_path, images=images, reading={"range": limits})
    assert "x.npz: `images`" in line
    assert found in line
    assert way_out in line
    if way_out.startswith("["):  # what is suggested works
        assert f"data.range={way_out}" in line
        low, high = map(float, way_out.strip("[]").split(","))
        read(tmp_path, images=images, reading={"range": (low, high)})


def test_dark_images_are_remarked_on(tmp_path: Path) -> None:
    assert any("data.range=[0, 16]" in each for each in read(tmp_path, images=np.minimum(GREY, 16)).remarks)
    assert read(tmp_path, images=GREY).remarks == ("a tenth is held out for testing",)


# --- names and parts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", ["images", "image", "imgs", "img", "x", "X", "data", "Images"])
def test_usual_names_are_known_whatever_stands_beside_them(images: str, tmp_path: Path) -> None:
    others = {"note": np.array("text"), "means": RANDOM.random((COUNT, 64)), "ids": np.arange(4), "trap": objects()}
    data = read(tmp_path, **{images: GREY, "y": CLASS}, **others)
    assert data.image_shape == (1, SIDE, SIDE)
    assert data.classes == 3
    assert f"images `{images}`, labels `y`" in data.remarks


def objects() -> np.ndarray:
    return np.array([Trap(), None], object)


NAMES = {
    "medmnist": "{}_images {}_labels",
    "keras": "x_{} y_{}",
    "capitals": "X_{} Y_{}",
    "suffix": "images_{} labels_{}",
    "in one word": "x{} y{}",
    "camel": "{}X {}Y",
    "dashes": "{}-imgs {}-targets",
}


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("val", ["val", "valid", "validation", None])
def test_parts_are_told_by_prefix_or_suffix(names: str, val: str | None, tmp_path: Path) -> None:
    arrays: dict[str, Any] = {}
    pixels = {"train": GREY, "test": OTHERS[1]} | ({} if val is None else {val: OTHERS[0]})
    for number, (part, images) in enumerate(pixels.items()):
        of_images, of_labels = NAMES[names].format(part, part).split()
        arrays |= {of_images: images, of_labels: (np.arange(len(images)) + number) % 3}
    data = read(tmp_path, **arrays)
    assert np.array_equal(data.train.images[:, 0].numpy(), GREY)
    assert np.array_equal(data.test.images[:, 0].numpy(), OTHERS[1])
    assert data.test.labels is not None
    assert data.test.labels[:3].tolist() == [1, 2, 0]
    assert (data.val is None) == (val is None)
    if data.val is not None:
        assert np.array_equal(data.val.images[:, 0].numpy(), OTHERS[0])
        with pytest.raises(InputError, match=r"data.val_size = 5: x has a validation set of its own"):
            data.hold_out(5)
    assert data.hold_out(0) is data


def test_without_a_test_part_a_tenth_is_held_out_and_a_validation_part_stays(tmp_path: Path) -> None:
    data = read(tmp_path, x_train=GREY, x_val=OTHERS[0])
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (27, 12, 3)
    assert np.array_equal(data.val.images[:, 0].numpy(), OTHERS[0])
    both = torch.cat([data.train.images, data.test.images]).flatten(1).sum(1, dtype=torch.int64)
    assert sorted(both.tolist()) == sorted(GREY.reshape(COUNT, -1).sum(1, dtype=np.int64).tolist())


def test_names_of_parts_inside_other_words_are_no_parts() -> None:
    for name in ("latest", "contest_x", "trainer", "values", "interval", "devices", "pretrained", "test_train"):
        assert split_name(name)[0] == "train"
    assert split_name("k49-train-imgs") == ("train", "k49_imgs")
    assert split_name("t10k_images") == ("test", "images")


def test_nameless_arrays(tmp_path: Path) -> None:
    assert np.array_equal(whole(read(tmp_path, GREY, ORDER)), PLAIN)  # the second is one label for each
    for number, stored in enumerate((GREY, GREY.reshape(COUNT, -1), GREY[..., None])):
        np.save(tmp_path / f"{number}.npy", stored)
        alone, single = read(tmp_path, stored), load(str(tmp_path / f"{number}.npy"), tmp_path)
        assert alone.image_shape == single.image_shape == (1, SIDE, SIDE)
        assert alone.fingerprint == single.fingerprint
        assert alone.train.labels is None
        assert single.name == str(number)
    assert "several arrays may be the images; it holds arr_0 (30, 8, 8) uint8, " in refusal(tmp_path, GREY, ORDER, GREY)
    named = {"images": "arr_2", "labels": "arr_1"}
    assert np.array_equal(whole(read(tmp_path, GREY, ORDER, GREY[::-1], reading=named)), PLAIN[::-1])


def test_the_only_array_of_the_shape_of_images_is_taken_whatever_its_name(tmp_path: Path) -> None:
    assert "images `faces`" in read(tmp_path, faces=GREY, ids=ORDER, trap=objects()).remarks
    line = refusal(tmp_path, faces=GREY, masks=GREY, rows=np.zeros((9, 64)), trap=objects())
    assert "it holds faces (30, 8, 8) uint8, masks (30, 8, 8) uint8, rows (9, 64) float64, trap (2,) pickled" in line
    assert "data.images=NAME" in line
    assert "no array can be told to be the images; it holds rows" in refusal(tmp_path, rows=np.zeros((9, 64)))
    assert "it holds nothing" in refusal(tmp_path)


def test_arrays_can_be_named(tmp_path: Path) -> None:
    parts = {"train_faces": GREY, "train_who": CLASS, "test_faces": OTHERS[0], "test_who": np.arange(12) % 3}
    others = {"images": np.zeros((9, 5, 5)), "labels": np.zeros(9)}
    data = read(tmp_path, **parts, **others, reading={"images": "train_faces", "labels": "train_who"})
    assert (len(data.train), len(data.test), data.classes) == (COUNT, 12, 3)
    one = read(tmp_path, x_train=GREY, x_test=OTHERS[0], y_test=np.arange(12) % 3, reading={"images": "x_test"})
    assert (len(one.train), len(one.test), one.classes) == (11, 1, 3)  # a user may train on the test set, alone
    for key in ("images", "labels"):
        line = refusal(tmp_path, faces=GREY, who=CLASS, reading={key: "face"})
        assert f"data.{key} = 'face': {tmp_path / 'x.npz'} holds no such array; it holds faces (30, 8, 8) uint8" in line
    line = refusal(tmp_path, X=GREY, x=GREY)
    assert "holds `X` and `x`; say which of them is meant with data.images=X" in line
    assert read(tmp_path, X=GREY, x=GREY, reading={"images": "x"}).image_shape == (1, SIDE, SIDE)


def test_parts_must_have_one_size_and_one_type(tmp_path: Path) -> None:
    assert "all images must have one size" in refusal(tmp_path, images=GREY, test_images=np.zeros((4, 6, 8), np.uint8))
    assert "one type of pixels" in refusal(tmp_path, images=GREY, test_images=GREY / 255)


# --- labels -----------------------------------------------------------------------------------------------------------

WORDS = np.array(["cat", "dog", "eel"])
LABELS: dict[str, tuple[np.ndarray, list[str] | None]] = {
    "(N,)": (CLASS, None),
    "(N, 1)": (CLASS[:, None], None),
    "bytes": (CLASS.astype(np.uint8), None),
    "one-hot": (np.eye(3)[CLASS], None),
    "one-hot, truth values": (np.eye(3, dtype=bool)[CLASS], None),
    "whole floating point": (CLASS.astype(np.float32), None),
    "far apart": (CLASS * 100_000 + 7, ["7", "100007", "200007"]),
    "from 1": ((CLASS + 1)[:, None].astype(float), ["1", "2", "3"]),
    "below 0": (CLASS * 2 - 4, ["-4", "-2", "0"]),
    "beyond 63 bits": (CLASS.astype(np.uint64) + np.uint64(2**63), [str(2**63 + number) for number in range(3)]),
    "text": (WORDS[CLASS], ["cat", "dog", "eel"]),
    "text of bytes": (WORDS.astype("S")[CLASS], ["cat", "dog", "eel"]),
}


@pytest.mark.parametrize("kind", LABELS)
def test_classes_are_the_distinct_labels_in_their_order(kind: str, tmp_path: Path) -> None:
    labels, names = LABELS[kind]
    data = read(tmp_path, images=GREY, labels=labels, test_images=GREY[:9], test_labels=labels[:9])
    assert data.train.labels is not None
    assert data.test.labels is not None
    assert data.train.labels.tolist() == CLASS.tolist()
    assert data.test.labels.tolist() == CLASS[:9].tolist()
    assert data.classes == 3
    assert data.class_names == names
    assert ("3 classes (" in data.summary) == (names is not None)


def test_classes_are_those_of_all_parts_together(tmp_path: Path) -> None:
    """A class that one part lacks keeps its number in both."""
    data = read(tmp_path, images=GREY[:4], labels=WORDS[[0, 2, 0, 2]], test_images=GREY[:2], test_labels=WORDS[[1, 2]])
    assert data.train.labels is not None
    assert data.test.labels is not None
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 2, 0, 2], [1, 2])
    assert data.class_names == ["cat", "dog", "eel"]
    assert data.classes == 3


def test_truth_values_and_two_signs_are_two_classes(tmp_path: Path) -> None:
    for labels, names in (
        (CLASS > 0, ["False", "True"]),
        (2 * (CLASS > 0) - 1, ["-1", "1"]),
        ((CLASS > 0) - 1, ["-1", "0"]),
    ):
        data = read(tmp_path, images=GREY, labels=labels)
        assert data.class_names == names
        assert data.classes == 2


def test_minus_one_beside_classes_from_0_hides_a_label(tmp_path: Path) -> None:
    data = read(tmp_path, images=GREY, labels=CLASS - 1, test_images=GREY[:9], test_labels=CLASS[:9] % 2)
    assert data.classes == 2
    assert data.class_names is None
    assert data.train.labels is not None
    assert int((data.train.labels == HIDDEN).sum()) == 10
    assert "10 labels are -1: hidden" in data.remarks
    assert data.hides_labels


def test_names_of_classes_may_stand_beside_their_numbers(tmp_path: Path) -> None:
    assert read(tmp_path, images=GREY, labels=CLASS, class_names=WORDS).class_names == list(WORDS)
    assert read(tmp_path, images=GREY, labels=CLASS, class_names=WORDS[:2]).class_names is None


NO_CLASSES = {
    "fractions": (CLASS / 7, "are not whole numbers"),
    "missing": (np.where(CLASS == 1, np.nan, CLASS), "are not whole numbers"),
    "several for each": (RANDOM.integers(0, 2, (COUNT, 14)), "are neither one for each image nor one-hot"),
    "masks": (GREY, "are neither one for each image nor one-hot"),
    "dates": (ORDER.astype("datetime64[D]"), "have type datetime64[D]"),
    "pickled": (np.array([Trap()] * COUNT, object), "pickled objects"),
}


@pytest.mark.parametrize("kind", NO_CLASSES)
def test_labels_that_name_no_classes_are_left_out_with_a_remark_unless_they_were_named(
    kind: str, tmp_path: Path
) -> None:
    labels, reason = NO_CLASSES[kind]
    data = read(tmp_path, images=GREY, labels=labels)
    assert data.train.labels is None
    assert data.classes == 0
    assert any(reason in remark and "`labels`" in remark for remark in data.remarks)
    line = refusal(tmp_path, images=GREY, labels=labels, reading={"labels": "labels"})
    assert "x.npz: `labels`" in line
    assert reason in line


@pytest.mark.parametrize("shape", [(3,), (), (COUNT + 1, 3)])
def test_labels_of_another_length_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    expected = f"`labels` has shape {shape} for {COUNT} images (`images`)"
    assert expected in refusal(tmp_path, images=GREY, labels=np.zeros(shape, int))


def test_other_data_are_numbered_by_the_names_of_classes(tmp_path: Path) -> None:
    data = read(tmp_path, images=GREY, labels=WORDS[1:][CLASS % 2])
    assert data.class_names == ["dog", "eel"]
    more, fewer = (
        read(tmp_path, images=GREY, labels=WORDS[kinds][CLASS % len(kinds)]) for kinds in ([0, 1, 2], [0, 2])
    )
    changed = data.numbered_as(more)
    for before, after in ((data.train.labels, changed.train.labels), (data.test.labels, changed.test.labels)):
        assert before is not None
        assert after is not None
        assert torch.equal(after, before + 1)
    with pytest.raises(InputError, match="its class 'dog' is none of x's: cat, eel"):
        data.numbered_as(fewer)
    hidden = read(tmp_path, images=GREY, labels=CLASS - 1).numbered_as(read(tmp_path, images=GREY, labels=CLASS))
    assert hidden.train.labels is not None
    assert hidden.train.labels.unique().tolist() == [HIDDEN, 0, 1]


def test_a_class_is_found_by_its_name_or_where_names_are_words_by_its_number(tmp_path: Path) -> None:
    words, far = (read(tmp_path, images=GREY, labels=labels) for labels in (WORDS[CLASS], CLASS + 1))
    assert [words.class_of(each) for each in ("eel", "2", "3", "fox")] == [2, 2, None, None]
    assert [far.class_of(each) for each in ("1", "3", "0")] == [0, 2, None]


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [None, b"", b"no zip", "truncated", "damaged", "a pickle"])
@pytest.mark.parametrize("ending", ["npz", "npy"])
def test_an_unreadable_file_is_named(content: bytes | str | None, ending: str, tmp_path: Path) -> None:
    path, buffer = tmp_path / f"x.{ending}", io.BytesIO()
    (np.savez if ending == "npz" else np.save)(buffer, GREY)
    raw = buffer.getvalue()
    if content == "truncated":
        path.write_bytes(raw[:1500])
    elif content == "damaged":
        path.write_bytes(raw.replace(b"descr", b"d\0scr"))
    elif content == "a pickle":
        path.write_bytes(pickle.dumps(Trap()))
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"x\.{ending}: not a readable \.npz or \.npy") as refusal:
        load(str(path), tmp_path)
    assert "\n" not in str(refusal.value)


def test_a_file_is_told_by_its_content_and_other_members_are_left_alone(tmp_path: Path) -> None:
    with (tmp_path / "x.npz").open("wb") as stream:
        np.save(stream, GREY)
    assert load(str(tmp_path / "x.npz"), tmp_path).image_shape == (1, SIDE, SIDE)
    np.savez_compressed(tmp_path / "y.npz", images=GREY)
    with zipfile.ZipFile(tmp_path / "y.npz", "a") as file:
        file.writestr("README.txt", "hello")
    assert load(str(tmp_path / "y.npz"), tmp_path).image_shape == (1, SIDE, SIDE)


def test_pickled_images_are_not_opened(tmp_path: Path) -> None:
    assert "`images` holds pickled objects, which are never opened" in refusal(tmp_path, images=objects())


def test_the_images_of_a_large_file_are_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The array that was read is the tensor, where neither pixels nor axes have to change."""
    made: list[np.ndarray] = []
    original = np.lib.format.read_array

    def noting(*args: Any, **settings: Any) -> np.ndarray:
        made.append(original(*args, **settings))
        return made[-1]

    monkeypatch.setattr("vae.data.archive.npy.read_array", noting)
    data = read(tmp_path, x_train=GREY, x_test=GREY[..., None][:9].squeeze(-1))
    assert [array.ctypes.data for array in made] == [part.images.data_ptr() for part in (data.train, data.test)]


# --- settings ---------------------------------------------------------------------------------------------------------


def test_settings_without_a_use_are_refused_by_name(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", GREY)
    unused = {
        "MNIST": ("images", "labels", "channels", "range", "image_size"),
        str(tmp_path / "x.npy"): ("image_size",),
    }
    values = {"images": "x", "labels": "y", "channels": "last", "range": (0, 1), "image_size": 8}
    for name, keys in unused.items():
        for key in keys:
            with pytest.raises(InputError, match=rf"^data\.{key} = .*: data\.name = '{name}' has no use for it"):
                load(name, Reading(tmp_path, **{key: values[key]}))
    assert list(tmp_path.iterdir()) == [tmp_path / "x.npy"]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("data.range=[1, 0]", "data.range = [1.0, 0.0]: must be [low, high], low < high"),
        ("data.range=[1]", "data.range = [1.0]: must be [low, high]"),
        ("data.range=[a, b]", "data.range.0 = 'a': must be a valid number"),
        ("data.channels=middle", "data.channels = 'middle'"),
        ("data.image_size=0", "data.image_size = 0"),
        ("data.images=''", "data.images = ''"),
    ],
)
def test_wrong_settings_are_refused(override: str, problem: str) -> None:
    with pytest.raises(InputError) as refused:
        load_config(None, [override])
    assert str(refused.value).startswith(problem)
    assert load_config(None, ["data.range=[-1, 1]"]).data.range == [-1, 1]
