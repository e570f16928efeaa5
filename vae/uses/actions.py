"""What the commands do: each yields what there is to say, last the files that it has written."""

import argparse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from vae import figures
from vae.data import randomness
from vae.data.batches import to_unit_interval
from vae.data.dataset import Split
from vae.errors import InputError
from vae.evaluation import evaluating, images_of, labels_for, visible
from vae.evaluation.encoding import encode
from vae.run.contents import USES
from vae.run.finished import Loader, Opened
from vae.run.outputs import save_arrays, save_figure
from vae.uses import inputs
from vae.uses.generation import slerp
from vae.uses.repair import denoise, impute

Lines = Iterator[object]


def run_encode(args: argparse.Namespace) -> Lines:
    """Write codes and a picture of them."""
    opened, data, part = inputs.images(args)
    codes = encode(opened.model, part)
    points, shares = codes.plane()
    many = codes.mean.shape[1] > 2
    axes = [f"principal component {i} ({100 * share:.0f} % of the variance)" for i, share in enumerate(shares, start=1)]
    figure = figures.latent_scatter(
        points, part.labels, class_names=data.class_names, axis_names=axes if many else ("$z_1$", "$z_2$")
    )
    file = f"{data.name}-{args.split}"
    yield save_arrays(_file(args, f"{file}.npz"), codes.arrays())
    yield save_figure(_file(args, f"{file}.png"), figure)


def run_sample(args: argparse.Namespace) -> Lines:
    """Write samples.npz and samples.png."""
    model, labels = Loader().open(args.run).model, None
    if args.label is not None:
        if not model.sees_labels:
            raise InputError(f"--label {args.label}: {args.run} holds a model that sees no labels")
        if not 0 <= args.label < model.classes:
            raise InputError(f"--label {args.label}: must be one of 0 to {model.classes - 1}")
        labels = torch.full((args.count,), args.label)
    noise = randomness.normal(args.count, model.draw_dim, args.seed, "samples").to(next(model.parameters()))
    with evaluating(model):
        images = model.sample(noise=noise, labels=labels)
    yield save_arrays(_file(args, "samples.npz"), {"images": images.float().clamp(0, 1).numpy()})
    yield save_figure(_file(args, "samples.png"), figures.samples(visible(images[:256])))


def run_interpolate(args: argparse.Namespace) -> Lines:
    """Write interpolation.png."""
    opened, _, part = inputs.images(args)
    if len(part) < 2 * args.pairs:
        raise InputError(f"--pairs {args.pairs}: needs {2 * args.pairs} images, and there are {len(part)}")
    rows: dict[str, Tensor] = {}
    with evaluating(opened.model):
        for pair in range(args.pairs):
            own = slice(2 * pair, 2 * pair + 2)
            ends, labels = images_of(opened.model, part, own), labels_for(opened.model, part, own)
            for name, path in (("straight", torch.lerp), ("spherical", slerp)):
                images = opened.model.interpolate(*ends, steps=args.steps, labels=labels, path=path)
                rows[f"pair {pair + 1}, {name}"] = visible(images)
    figure = figures.images_by_setting("Interpolation", "mean of p(x|z) between the codes of two images", rows)
    yield save_figure(_file(args, "interpolation.png"), figure)


def run_impute(args: argparse.Namespace) -> Lines:
    """Write imputation.png; says the errors."""
    opened, _, part = inputs.images(args)
    x, labels = _first(args, opened, part)
    missing = inputs.missing_pixels(args, tuple(x.shape))
    mean_image = _mean_image(opened.data.train.images, x.dtype)
    how = {"sweeps": args.sweeps, "draw": not args.mean, "seed": args.seed, "labels": labels}
    done = impute(opened.model, x, missing, mean_image, **how)  # pyright: ignore[reportArgumentType]
    grey = missing.expand_as(x)
    shown = {"original": x, "missing": x.masked_fill(grey, 0.5), "imputed": done.repaired, "mean image": done.damaged}
    path = _save_rows(args, "imputation.png", "Missing pixels filled in", shown)
    kind = "E[z|x] iterated" if args.mean else "z ~ q(z|x), averaged over the second half"
    yield f"root mean squared error of the missing pixels of {len(x):,} images ({args.sweeps} sweeps, {kind}):"
    yield f"  imputed {done.error:.4f}, mean image {done.baseline:.4f}"
    yield path


def run_denoise(args: argparse.Namespace) -> Lines:
    """Write denoising.png; says the errors."""
    if not 0 < args.level <= (1 if args.noise == "salt" else 10):
        raise InputError(f"--level {args.level:g}: must be above 0, and of salt at most 1")
    opened, _, part = inputs.images(args)
    x, labels = _first(args, opened, part)
    done = denoise(opened.model, x, kind=args.noise, level=args.level, seed=args.seed, labels=labels)
    shown = {"original": x, "noisy": done.damaged, "denoised": done.repaired}
    path = _save_rows(args, "denoising.png", "Noise taken away", shown)
    yield f"root mean squared error of the pixels of {len(x):,} images ({args.noise} noise, level {args.level:g}):"
    yield f"  denoised {done.error:.4f}, noisy {done.baseline:.4f}"
    yield path


ACTIONS: Mapping[str, Callable[[argparse.Namespace], Lines]] = {
    "encode": run_encode,
    "sample": run_sample,
    "interpolate": run_interpolate,
    "impute": run_impute,
    "denoise": run_denoise,
}


def _file(args: argparse.Namespace, name: str) -> Path:
    return (args.output or args.run / USES) / name


def _first(args: argparse.Namespace, opened: Opened, part: Split) -> tuple[Tensor, Tensor | None]:
    """Return the first images that are asked for, and their labels if the model needs them."""
    rows = slice(0, args.count)
    return images_of(opened.model, part, rows), labels_for(opened.model, part, rows)


def _mean_image(images: Tensor, dtype: torch.dtype) -> Tensor:
    return sum((to_unit_interval(c, dtype).sum(0) for c in images.split(10_000)), torch.zeros(())) / len(images)


def _save_rows(args: argparse.Namespace, name: str, title: str, rows: Mapping[str, Tensor]) -> Path:
    """Draw the first ten of several rows of images."""
    shown = {label: visible(images[:10]) for label, images in rows.items()}
    note = f"the first {max(len(images) for images in shown.values())} images"
    return save_figure(_file(args, name), figures.images_by_setting(title, note, shown))
