"""Inputs of actions on a trained model: images that suit the model of a run, and masks of missing pixels."""

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from vae.assemble import build_data
from vae.components import explain
from vae.config.reading import parse_yaml
from vae.config.schema import DataConfig
from vae.data.dataset import HIDDEN, DataSet, Split
from vae.data.sources import takes
from vae.errors import Argument, ArgumentError, InputError
from vae.evaluation import images_of, labels_for
from vae.evaluation.protocols import part_of
from vae.model import VAE
from vae.run.finished import Loader, Opened

Block = tuple[int, int, int, int]  # top, left, height, width, pixels
SPLITS = ("test", "train", "val")
READING = ("name", "root", "images", "labels", "channels", "range", "image_size")  # settings that other data may have


@dataclass(frozen=True)
class Images:
    """Images that suit the model of a run.

    Attributes:
        opened: the run.
        reading: how the data set is read that holds the images.
        data: that data set.
        part: the images, and their labels.
    """

    opened: Opened
    reading: DataConfig
    data: DataSet
    part: Split

    @property
    def model(self) -> VAE:
        """The run's unwrapped model."""
        return self.opened.model

    def rows(self, rows: slice) -> tuple[Tensor, Tensor | None]:
        """Return some images (N, C, H, W) in [0, 1], and their labels (N,) if the model sees labels."""
        return images_of(self.model, self.part, rows), labels_for(self.model, self.part, rows)


def open_images(run: str | Path, *, data: str | None, data_root: str | None, split: str) -> Images:
    """Return images of a run's own data set, or of another one where `data` names it.

    Args:
        run, data, data_root, split: as `vae.uses` describes them.

    Raises:
        InputError: the run is not finished, there are no such data, or the model cannot take them.
    """
    folder = Path(run)
    opened = Loader().open(folder)
    if data is not None:
        return other_images(opened, "data", data, data_root, split)
    if data_root is not None:
        raise ArgumentError(Argument("data_root"), f" {data_root}: goes with ", Argument("data"))
    return _suitable(opened, opened.config.data, opened.data, split, folder)


def other_images(opened: Opened, argument: str, name: str, root: str | None, split: str) -> Images:
    """Return images of another data set than a run's; pixels are made 0/1 as the run's own are.

    Args:
        opened: the run.
        argument: the argument that names the data set.
        name: as `data.name`; or settings of `data` by which images are read, `{name: x.npz, range: [-1, 1]}`.
        root: as `data.root`; None: the run's.
        split: the part of the data.

    Raises:
        InputError: there are no such data, or their images have another shape.
    """
    reading = _reading_of(opened, argument, name, root)
    try:
        data = build_data(opened.config.model_copy(update={"data": reading}))
    except InputError as error:
        if not any(f"data.{setting}=" in str(error) for setting in READING):
            raise
        shown = f" '{{name: {reading.name}, SETTING: VALUE}}'"
        raise ArgumentError(f"{error}; given as ", Argument(argument), shown) from None
    if data.image_shape != opened.model.image_shape:
        problem = f"its images have shape {data.image_shape}, the model's {opened.model.image_shape}"
        raise ArgumentError(Argument(argument), f" {name}: {problem}")
    data = data.numbered_as(opened.data) if opened.model.needs_labels else data
    return _suitable(opened, reading, data, split, name)


def _reading_of(opened: Opened, argument: str, name: str, root: str | None) -> DataConfig:
    """Return how another data set than a run's is read: by itself, but of pictures with the size of the model's images.

    Raises:
        InputError: settings are unknown or wrong.
    """
    given = parse_yaml(name, name) if name.lstrip().startswith("{") else {"name": name}
    if "name" not in given:
        raise ArgumentError(Argument(argument), f" {name}: no name; must be a name, or '{{name: NAME, settings}}'")
    if unknown := next((key for key in given if key not in READING), None):
        raise ArgumentError(Argument(argument), f" {name}: no setting {unknown!r}; there are {', '.join(READING)}")
    own, (_, height, width) = opened.config.data, opened.model.image_shape
    size = {"image_size": height} if height == width and takes(str(given["name"]), "image_size") else {}
    has_draw = own.is_drawn or not own.is_binary or takes(str(given["name"]), "binarize")
    pixels = {"binarize": own.binarize if has_draw else "static"}  # nobody has published a draw of other data
    where = {"root": own.root if root is None else root}
    try:
        return DataConfig.model_validate(pixels | size | where | given)
    except ValidationError as error:
        problems = "; ".join(key + problem for key, problem in explain(error, list(READING)))
        raise ArgumentError(Argument(argument), f" {name}: {problems}") from None


def missing_pixels(shape: tuple[int, ...], block: Block | None, mask: np.ndarray | str | Path | None) -> Tensor:
    """Return the missing pixels of images, bool, (H, W) or (N, 1, H, W).

    Args:
        shape: of the images, (N, C, H, W).
        block: the missing rectangle; None: the lower half.
        mask: in place of a rectangle an array (H, W) or (N, H, W), nonzero where pixels are missing, or its .npy.

    Raises:
        InputError: a mask cannot be read or has another shape, or no pixel is missing.
    """
    height, width = shape[-2:]
    if mask is not None:
        missing = _masked(shape, mask)
    else:
        top, left, high, wide = block or (height // 2, 0, height - height // 2, width)
        missing = torch.zeros(height, width, dtype=torch.bool)
        missing[top : top + high, left : left + wide] = True
    if not missing.any():
        give = (Argument("mask"), " or a ", Argument("block"))
        raise ArgumentError("no pixel is missing: give a ", *give, " that holds some")
    return missing


def _masked(shape: tuple[int, ...], mask: np.ndarray | str | Path) -> Tensor:
    count, _, height, width = shape
    named = "" if isinstance(mask, np.ndarray) else f" {mask}"
    try:
        array = mask if isinstance(mask, np.ndarray) else _loaded(Path(mask))
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise ArgumentError(Argument("mask"), f"{named}: cannot be read: {error}") from None
    if not isinstance(array, np.ndarray):
        raise ArgumentError(Argument("mask"), f"{named}: cannot be read: must be a .npy, which holds one array")
    if array.shape not in ((height, width), (count, height, width)):
        wanted = f"({height}, {width}) or ({count}, {height}, {width})"
        raise ArgumentError(Argument("mask"), f"{named}: shape {array.shape}: must be {wanted}")
    missing = torch.from_numpy(array != 0)
    return missing[:, None] if missing.dim() == 3 else missing


def _loaded(path: Path) -> object:
    """Return what a file of NumPy holds; NumPy itself would leave a damaged one open."""
    with path.open("rb") as file:
        return np.load(file, allow_pickle=False)


def _suitable(opened: Opened, reading: DataConfig, data: DataSet, split: str, whose: object) -> Images:
    """Return a part of a data set as the run's model takes it; raises `InputError` if something is missing.

    In the training set 0/1 pixels are drawn where the run draws them. `whose` is as for `part_of`.
    """
    if split not in SPLITS:
        raise ArgumentError(Argument("split"), f" {split}: must be one of {', '.join(SPLITS)}")
    if split == "train" and reading.is_drawn:
        data = data.binarize_training(opened.config.run.seed)
    part = part_of(data, split, whose)
    if opened.model.needs_labels and part.hides_labels:
        what = "no labels" if part.labels is None else f"images without a label ({HIDDEN})"
        raise InputError(f"{data.name}: has {what}, and the model needs them")
    return Images(opened, reading, data, part)
