"""What a command is given: a finished run, images, missing pixels."""

import argparse

import numpy as np
import torch
from torch import Tensor

from vae.assemble import build_data
from vae.config import Config
from vae.data.dataset import DataSet, Split
from vae.errors import InputError
from vae.evaluation.protocols import part_of
from vae.run.finished import Loader, Opened


def images(args: argparse.Namespace) -> tuple[Opened, DataSet, Split]:
    """Return the run, the data that are asked for, its own or others, and the part of them.

    Args:
        args: with `run`, `data`, `data_root`, `split`.

    Raises:
        InputError: the run is not finished, or there are no such data, or the model cannot take them.
    """
    opened = Loader().open(args.run)
    if args.data_root is not None and not any((args.data, getattr(args, "against", None))):
        raise InputError(f"--data-root {args.data_root}: goes with --data")
    data = opened.data if args.data is None else other_data(opened, "--data", args.data, args.data_root)
    return opened, *part_for(opened, data, args.split, args.data or args.run)


def other_data(opened: Opened, option: str, name: str, root: str | None) -> DataSet:
    """Return data other than a run's, made 0/1 as the run's own are.

    Args:
        opened: the run.
        option: that names them.
        name, root: as `data.name` and `data.root`; without a root, the run's.

    Raises:
        InputError: there are no such data, or their images have another shape.
    """
    settings = opened.config
    whole = {"val_size": 0, "labelled": 0, "repeat_labelled": 1}
    changed = {"name": name} | whole | ({} if root is None else {"root": root})
    data = build_data(Config.model_validate(settings.model_dump() | {"data": settings.data.model_dump() | changed}))
    if data.image_shape != opened.model.image_shape:
        wanted = opened.model.image_shape
        raise InputError(f"{option} {name}: its images have shape {data.image_shape}, the model's {wanted}")
    return data


def part_for(opened: Opened, data: DataSet, split: str, whose: object) -> tuple[DataSet, Split]:
    """Return data as a run's model takes them, and a part of them; raises `InputError` if something is missing.

    Args:
        opened: the run.
        data: its own, or others.
        split: the part. Of the training set 0/1 pixels are drawn where the run draws them.
        whose: as for `part_of`.
    """
    if split == "train" and opened.config.data.binarize != "none":
        data = data.binarize_training(opened.config.run.seed)
    part = part_of(data, split, whose)
    if opened.model.needs_labels and part.labels is None:
        raise InputError(f"{data.name}: has no labels, and the model needs them")
    return data, part


def missing_pixels(args: argparse.Namespace, shape: tuple[int, ...]) -> Tensor:
    """Return which pixels of images (N, C, H, W) are missing, to be expanded to that shape.

    Args:
        args: with `mask`, `block`.
        shape: (N, C, H, W).

    Raises:
        InputError: a mask cannot be read or has another shape, a block is none, or no pixel is missing.
    """
    count, _, height, width = shape
    if args.mask is not None:
        try:
            mask = np.load(args.mask, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"--mask {args.mask}: cannot be read: {error}") from None
        if mask.shape not in ((height, width), (count, height, width)):
            wanted = f"({height}, {width}) or ({count}, {height}, {width})"
            raise InputError(f"--mask {args.mask}: shape {mask.shape}: must be {wanted}")
        missing = torch.from_numpy(mask != 0)
        missing = missing[:, None] if missing.dim() == 3 else missing
    else:
        top, left, high, wide = _block(args.block, height, width)
        missing = torch.zeros(height, width, dtype=torch.bool)
        missing[top : top + high, left : left + wide] = True
    if not missing.any():
        raise InputError("no pixel is missing: give a --mask or a --block that holds some")
    return missing


def _block(text: str | None, height: int, width: int) -> tuple[int, ...]:
    if text is None:
        return height // 2, 0, height - height // 2, width
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
        raise InputError(f"--block {text}: must be TOP,LEFT,HEIGHT,WIDTH in pixels, e.g. 14,0,14,28")
    return tuple(int(part) for part in parts)
