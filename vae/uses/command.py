"""Commands that use a finished run: `python -m vae encode|sample|interpolate|impute|denoise RUN`."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae.components import InputError

if TYPE_CHECKING:  # torch is imported when a command runs: seconds that `--help` need not wait for
    import numpy as np
    from matplotlib.figure import Figure
    from torch import Tensor

    from vae.data.sources import Split
    from vae.report.loading import Opened

USES = "uses"  # folder of a run that pictures and files go to
SPLITS = ("test", "train", "val")


# --- arguments --------------------------------------------------------------------------------------------------------


def add_encode(parser: argparse.ArgumentParser) -> None:
    """Encode a data set to an .npz: the mean and standard deviation of each image's code, and labels."""
    _add_run(parser)
    _add_images(parser)
    parser.set_defaults(action=run_encode)


def add_sample(parser: argparse.ArgumentParser) -> None:
    """Make new images: means of p(x|z) for z drawn from the prior."""
    _add_run(parser)
    parser.add_argument("--count", type=_positive, default=64, metavar="N", help="images (default: 64)")
    parser.add_argument("--label", type=int, metavar="Y", help="of a model that sees labels: all images of this class")
    parser.set_defaults(action=run_sample)


def add_interpolate(parser: argparse.ArgumentParser) -> None:
    """Decode paths between pairs of images: straight, and along an arc about the origin."""
    _add_run(parser)
    _add_images(parser)
    parser.add_argument("--pairs", type=_positive, default=4, metavar="N", help="pairs of images (default: 4)")
    parser.add_argument("--steps", type=_positive, default=10, metavar="N", help="images on a path (default: 10)")
    parser.set_defaults(action=run_interpolate)


def add_impute(parser: argparse.ArgumentParser) -> None:
    """Fill in missing pixels; reports the error on them, and that of the mean image."""
    _add_run(parser)
    _add_images(parser)
    what = parser.add_mutually_exclusive_group()
    block = "missing rectangle in pixels (default: the lower half)"
    what.add_argument("--block", metavar="TOP,LEFT,HEIGHT,WIDTH", help=block)
    what.add_argument("--mask", type=Path, metavar="FILE.npy", help="array (H, W) or (N, H, W), nonzero where missing")
    parser.add_argument("--sweeps", type=_positive, default=100, metavar="N", help="encodings each (default: 100)")
    parser.add_argument("--mean", action="store_true", help="iterate z = E[z|x] instead of drawing z ~ q(z|x)")
    parser.add_argument("--count", type=_positive, default=1000, metavar="N", help="the first images (default: 1000)")
    parser.set_defaults(action=run_impute)


def add_denoise(parser: argparse.ArgumentParser) -> None:
    """Add noise to images and take it away again; reports the error before and after."""
    _add_run(parser)
    _add_images(parser)
    parser.add_argument("--noise", choices=["gaussian", "salt"], default="gaussian", help="added, or pixels 0 or 1")
    level = "standard deviation, or share of the pixels that are hit (default: 0.3)"
    parser.add_argument("--level", type=float, default=0.3, metavar="X", help=level)
    parser.add_argument("--count", type=_positive, default=1000, metavar="N", help="the first images (default: 1000)")
    parser.set_defaults(action=run_denoise)


COMMANDS = {
    "encode": add_encode,
    "sample": add_sample,
    "interpolate": add_interpolate,
    "impute": add_impute,
    "denoise": add_denoise,
}


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="a finished run's folder, e.g. runs/mnist")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of everything that is drawn (default: 0)")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help=f"where files go (default: RUN/{USES})")


def _add_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="NAME_OR_NPZ", help="other data than the run's, as in data.name")
    parser.add_argument("--split", choices=SPLITS, default="test", help="part of the data (default: test)")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return number


# --- what the commands do ---------------------------------------------------------------------------------------------


def run_encode(args: argparse.Namespace) -> int:
    """Write codes.npz and a picture of the codes; returns the exit code."""
    from vae import figures
    from vae.data.sources import class_names
    from vae.uses.encoding import encode

    opened = _open(args.run)
    name, part = _images(args, opened)
    codes = encode(opened.model, part)
    points, shares = codes.plane()
    many = codes.mean.shape[1] > 2
    axes = [f"principal component {i} ({100 * share:.0f} % of the variance)" for i, share in enumerate(shares, start=1)]
    figure = figures.latent_scatter(
        points, part.labels, class_names=class_names(name), axis_names=axes if many else ("$z_1$", "$z_2$")
    )
    file = f"{Path(name).stem}-{args.split}"
    return _report([_save_arrays(args, f"{file}.npz", codes.arrays()), _save_figure(args, f"{file}.png", figure)])


def run_sample(args: argparse.Namespace) -> int:
    """Write samples.npz and samples.png; returns the exit code."""
    import torch

    from vae import figures
    from vae.data import randomness
    from vae.evaluation import evaluating, visible

    model = _open(args.run).model
    labels = None
    if args.label is not None:
        if not model.sees_labels:
            raise InputError(f"--label {args.label}: {args.run} holds a model that sees no labels")
        if not 0 <= args.label < model.classes:
            raise InputError(f"--label {args.label}: must be one of 0 to {model.classes - 1}")
        labels = torch.full((args.count,), args.label)
    noise = randomness.normal(args.count, model.draw_dim, args.seed, "samples").to(next(model.parameters()))
    with evaluating(model):
        images = model.sample(noise=noise, labels=labels)
    arrays = _save_arrays(args, "samples.npz", {"images": images.float().clamp(0, 1).numpy()})
    return _report([arrays, _save_figure(args, "samples.png", figures.samples(visible(images[:256])))])


def run_interpolate(args: argparse.Namespace) -> int:
    """Write interpolation.png; returns the exit code."""
    from vae import figures
    from vae.evaluation import images_of, labels_for, visible
    from vae.uses.generation import interpolate

    opened = _open(args.run)
    _, part = _images(args, opened)
    if len(part) < 2 * args.pairs:
        raise InputError(f"--pairs {args.pairs}: needs {2 * args.pairs} images, and there are {len(part)}")
    chosen = slice(0, 2 * args.pairs)
    x, labels = images_of(opened.model, part, chosen), labels_for(opened.model, part, chosen)
    pairs = None if labels is None else labels.view(-1, 2).T
    rows: dict[str, Tensor] = {}
    for pair in range(args.pairs):
        for name, spherical in (("straight", False), ("spherical", True)):
            own = slice(pair, pair + 1)
            ends = x[0::2][own], x[1::2][own]
            chosen = None if pairs is None else pairs[:, own]
            path = interpolate(opened.model, *ends, steps=args.steps, spherical=spherical, labels=chosen)[0]
            rows[f"pair {pair + 1}, {name}"] = visible(path)
    figure = figures.images_by_setting("Interpolation", "mean of p(x|z) between the codes of two images", rows)
    return _report([_save_figure(args, "interpolation.png", figure)])


def run_impute(args: argparse.Namespace) -> int:
    """Write imputation.png and print the errors; returns the exit code."""
    from vae.data.batches import to_unit_interval
    from vae.evaluation import images_of, labels_for
    from vae.uses.repair import impute

    opened = _open(args.run)
    _, part = _images(args, opened)
    x = images_of(opened.model, part, slice(0, args.count))
    missing = _missing(args, tuple(x.shape))
    labels = labels_for(opened.model, part, slice(0, len(x)))
    train = opened.data.train.images
    mean_image = sum(to_unit_interval(c, x.dtype).sum(0) for c in train.split(10_000)) / len(train)
    how = {"sweeps": args.sweeps, "draw": not args.mean, "seed": args.seed, "labels": labels}
    done = impute(opened.model, x, missing, mean_image, **how)  # pyright: ignore[reportArgumentType]
    grey = missing.expand_as(x)
    shown = {"original": x, "missing": x.masked_fill(grey, 0.5), "imputed": done.repaired, "mean image": done.damaged}
    path = _save_rows(args, "imputation.png", "Missing pixels filled in", shown)
    kind = "E[z|x] iterated" if args.mean else "z ~ q(z|x), averaged over the second half"
    print(f"root mean squared error of the missing pixels of {len(x):,} images ({args.sweeps} sweeps, {kind}):")
    print(f"  imputed {done.error:.4f}, mean image {done.baseline:.4f}")
    return _report([path])


def run_denoise(args: argparse.Namespace) -> int:
    """Write denoising.png and print the errors; returns the exit code."""
    from vae.evaluation import images_of, labels_for
    from vae.uses.repair import denoise

    if not 0 < args.level <= (1 if args.noise == "salt" else 10):
        raise InputError(f"--level {args.level:g}: must be above 0, and of salt at most 1")
    opened = _open(args.run)
    _, part = _images(args, opened)
    x = images_of(opened.model, part, slice(0, args.count))
    labels = labels_for(opened.model, part, slice(0, len(x)))
    done = denoise(opened.model, x, kind=args.noise, level=args.level, seed=args.seed, labels=labels)
    shown = {"original": x, "noisy": done.damaged, "denoised": done.repaired}
    path = _save_rows(args, "denoising.png", "Noise taken away", shown)
    print(f"root mean squared error of the pixels of {len(x):,} images ({args.noise} noise, level {args.level:g}):")
    print(f"  denoised {done.error:.4f}, noisy {done.baseline:.4f}")
    return _report([path])


def _open(folder: Path) -> "Opened":
    from vae.report.loading import Loader

    return Loader().open(folder)


def _images(args: argparse.Namespace, opened: "Opened") -> "tuple[str, Split]":
    """Return the name of the data and the part that is asked for; raises `InputError` if there is none."""
    from vae.assemble import build_data
    from vae.config import Config

    data, settings = opened.data, opened.config
    if args.data is not None:
        whole = {"name": args.data, "val_size": 0, "labelled": 0, "repeat_labelled": 1}
        settings = Config.model_validate(settings.model_dump() | {"data": settings.data.model_dump() | whole})
        data = build_data(settings)
        if data.image_shape != opened.model.image_shape:
            wanted = opened.model.image_shape
            raise InputError(f"--data {args.data}: its images have shape {data.image_shape}, the model's {wanted}")
    part = {"test": data.test, "train": data.train, "val": data.val}[args.split]
    if part is None:
        raise InputError(f"--split {args.split}: data.val_size is 0, so that nothing was held out")
    if opened.model.needs_labels and part.labels is None:
        raise InputError(f"{data.name}: has no labels, and the model needs them")
    return data.name, part


def _missing(args: argparse.Namespace, shape: tuple[int, ...]) -> "Tensor":
    """Return which pixels of images (N, C, H, W) are missing, to be expanded to that shape."""
    import numpy as np
    import torch

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


# --- files ------------------------------------------------------------------------------------------------------------


def _save(args: argparse.Namespace, name: str, write: Callable[[Path], Any]) -> Path:
    """Write a file whole; raises `InputError` if it cannot be written."""
    from vae.files import replacing

    path = (args.output or args.run / USES) / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            write(partial)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    return path


def _save_arrays(args: argparse.Namespace, name: str, arrays: "dict[str, np.ndarray]") -> Path:
    import numpy as np

    def write(path: Path) -> None:
        with path.open("wb") as file:  # given a name, NumPy would add a suffix
            np.savez(file, allow_pickle=False, **arrays)

    return _save(args, name, write)


def _save_figure(args: argparse.Namespace, name: str, figure: "Figure") -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    return _save(args, name, FigureCanvasAgg(figure).print_png)


def _save_rows(args: argparse.Namespace, name: str, title: str, rows: "Mapping[str, Tensor]") -> Path:
    """Draw the first ten of several rows of images."""
    from vae import figures
    from vae.evaluation import visible

    shown = {label: visible(images[:10]) for label, images in rows.items()}
    note = f"the first {max(len(images) for images in shown.values())} images"
    return _save_figure(args, name, figures.images_by_setting(title, note, shown))


def _report(paths: list[Path]) -> int:
    for path in paths:
        print(path)
    return 0
