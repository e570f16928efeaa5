"""Actions on the model of a finished run that need one process: encode, sample, interpolate, impute, denoise."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vae import figures
from vae.data import randomness
from vae.data.batches import to_unit_interval
from vae.engine.memory import lacks_memory
from vae.errors import Argument, ArgumentError
from vae.evaluation import encoding, evaluating, visible
from vae.evaluation.encoding import Codes
from vae.evaluation.mixture.kept import Fitted, components_of, fitted
from vae.evaluation.passes import chunks
from vae.model import VAE
from vae.run.finished import Loader
from vae.run.outputs import save_arrays, save_figure
from vae.uses import beside, repair
from vae.uses.generation import slerp
from vae.uses.inputs import Block, Images, missing_pixels, open_images
from vae.uses.repair import Repaired

Files = tuple[Path, ...]


@dataclass(frozen=True)
class Encoded:
    """Codes of a data set, and the files that hold them."""

    codes: Codes
    files: Files


@dataclass(frozen=True)
class Sampled:
    """New images, and the files that hold them.

    Attributes:
        images: (N, C, H, W) in [0, 1].
        files: an .npz and pictures.
        mixture: that z was drawn from, in place of the model's prior; then the images are no samples of the model.
    """

    images: Tensor
    files: Files
    mixture: Fitted | None = None


@dataclass(frozen=True)
class Interpolated:
    """Decoded paths between pairs of images.

    Attributes:
        straight, spherical: P paths of S images each, (P, S, C, H, W): along straight lines, and along arcs.
        files: the picture.
    """

    straight: Tensor
    spherical: Tensor
    files: Files


@dataclass(frozen=True)
class Mended:
    """Images of a data set that were damaged and made whole again.

    Attributes:
        original: the whole images, (N, C, H, W) in [0, 1].
        outcome: the damaged images, the repaired ones, and their errors.
        files: the picture.
    """

    original: Tensor
    outcome: Repaired
    files: Files


def encode(
    run: str | Path,
    *,
    data: str | None = None,
    data_root: str | None = None,
    split: str = "test",
    output: Path | None = None,
) -> Encoded:
    """Return the mean and standard deviation of q(z|x) for each image; written are an .npz and a picture of the plane.

    Args:
        run, data, data_root, split, output: as `vae.uses` describes them.

    Raises:
        InputError: the run or the data cannot be used, or a file cannot be written.
    """
    images = open_images(run, data=data, data_root=data_root, split=split)
    codes = encoding.encode(images.model, images.part)
    if output is None:
        return Encoded(codes, ())
    points, shares = codes.plane()
    many = codes.mean.shape[1] > 2
    axes = [f"principal component {i} ({100 * share:.0f} % of the variance)" for i, share in enumerate(shares, start=1)]
    figure = figures.latent_scatter(
        points,
        images.part.labels,
        class_names=images.data.class_names,
        axis_names=axes if many else ("$z_1$", "$z_2$"),
    )
    stem = f"{images.data.name}-{split}"
    arrays, picture = output / f"{stem}.npz", output / f"{stem}.png"
    names = images.data.class_names
    kept = codes.arrays() | ({} if names is None else {"class_names": np.array(names)})
    return Encoded(codes, (save_arrays(arrays, kept), save_figure(picture, figure)))


def sample(
    run: str | Path,
    *,
    count: int = 64,
    label: int | str | None = None,
    prior: Literal["own", "gmm"] = "own",
    components: int | None = None,
    seed: int = 0,
    output: Path | None = None,
) -> Sampled:
    """Return the means of p(x|z) for z drawn from the prior; written are samples.npz and samples.png.

    Args:
        run, seed, output: as `vae.uses` describes them.
        count: images.
        label: of a model that sees labels, the class of all images by its name or number; None: they take turns.
        prior: `gmm` draws z from a mixture of normals that is fitted to codes of the training images, in place of p(z).
            The fit is kept in the run's `uses/`; written are samples-gmm.npz, samples-gmm.png, which has samples of the
            model beside them, and of two latent dimensions a picture of the mixture.
        components: normals in the mixture; None: 10.

    Raises:
        InputError: the run, the label or the mixture cannot be used, or a file cannot be written.
    """
    normals, opened, labels = components_of(prior, components), Loader().open(Path(run)), None
    model = opened.model
    if label is not None:
        if not model.sees_labels:
            raise ArgumentError(Argument("label"), f" {label}: {run} holds a model that sees no labels")
        number = opened.data.class_of(str(label))
        if number is None:
            known = opened.data.shown_names if opened.data.class_names else f"0 to {model.classes - 1}"
            raise ArgumentError(Argument("label"), f" {label}: must be one of {known}")
        labels = torch.full((count,), number)
    mixture = None if normals is None else fitted(Path(run), opened, components=normals, seed=seed)
    images = _samples(model, count, labels, seed, mixture)
    if mixture is not None:
        if output is None:
            return Sampled(images, (), mixture)
        own = _samples(model, count, labels, seed, None)
        return Sampled(images, beside.save(output, images, own, opened, mixture), mixture)
    if output is None:
        return Sampled(images, ())
    arrays = save_arrays(output / "samples.npz", {"images": images.numpy()})
    return Sampled(images, (arrays, save_figure(output / "samples.png", figures.samples(visible(images[:256])))))


def interpolate(
    run: str | Path,
    *,
    data: str | None = None,
    data_root: str | None = None,
    split: str = "test",
    pairs: int = 4,
    steps: int = 10,
    output: Path | None = None,
) -> Interpolated:
    """Return decoded paths between the codes of the first pairs of images; written is interpolation.png.

    Args:
        run, data, data_root, split, output: as `vae.uses` describes them.
        pairs: paths of each kind.
        steps: images on a path, both ends included.

    Raises:
        InputError: the run or the data cannot be used, there are too few images, or the file cannot be written.
    """
    images = open_images(run, data=data, data_root=data_root, split=split)
    if len(images.part) < 2 * pairs:
        problem = f"needs {2 * pairs} images, and there are {len(images.part)}"
        raise ArgumentError(Argument("pairs"), f" {pairs}: {problem}")
    paths: dict[str, list[Tensor]] = {"straight": [], "spherical": []}
    with evaluating(images.model):
        for pair in range(pairs):
            (first, last), labels = images.rows(slice(2 * pair, 2 * pair + 2))
            for name, path in (("straight", torch.lerp), ("spherical", slerp)):
                paths[name].append(images.model.interpolate(first, last, steps=steps, labels=labels, path=path))
    files = () if output is None else (_draw_paths(output / "interpolation.png", paths),)
    return Interpolated(torch.stack(paths["straight"]), torch.stack(paths["spherical"]), files)


def impute(
    run: str | Path,
    *,
    data: str | None = None,
    data_root: str | None = None,
    split: str = "test",
    block: Block | None = None,
    mask: np.ndarray | str | Path | None = None,
    sweeps: int = 100,
    draw: bool = True,
    count: int = 1000,
    seed: int = 0,
    output: Path | None = None,
) -> Mended:
    """Return images whose missing pixels are filled in, see `vae.uses.repair.impute`; written is imputation.png.

    Args:
        run, data, data_root, split, seed, output: as `vae.uses` describes them.
        block, mask: the missing pixels, see `vae.uses.inputs.missing_pixels`.
        sweeps: encodings of each image.
        draw: true: z ~ q(z|x); false: z = E[z|x].
        count: the first images of the data.

    Raises:
        InputError: the run, the data or the mask cannot be used, or the file cannot be written.
    """
    images = open_images(run, data=data, data_root=data_root, split=split)
    x, labels = images.rows(slice(0, count))
    missing = missing_pixels(tuple(x.shape), block, mask)
    mean_image = _mean_image(images)
    how = {"sweeps": sweeps, "draw": draw, "seed": seed}
    done = repair.impute(images.model, x, missing, mean_image, **how, labels=labels)
    rows = {
        "original": x,
        "missing": x.masked_fill(missing.expand_as(x), 0.5),
        "imputed": done.repaired,
        "mean image": done.damaged,
    }
    return _with_picture(done, x, output, "imputation.png", "Missing pixels filled in", rows)


def denoise(
    run: str | Path,
    *,
    data: str | None = None,
    data_root: str | None = None,
    split: str = "test",
    noise: Literal["gaussian", "salt"] = "gaussian",
    level: float = 0.3,
    count: int = 1000,
    seed: int = 0,
    output: Path | None = None,
) -> Mended:
    """Return images with noise added and taken away again, see `vae.uses.repair.denoise`; written is denoising.png.

    Args:
        run, data, data_root, split, seed, output: as `vae.uses` describes them.
        noise: normal noise, or pixels that become 0 or 1.
        level: standard deviation, at most 10; or the share of the pixels that are hit.
        count: the first images of the data.

    Raises:
        InputError: the run, the data or the noise cannot be used, or the file cannot be written.
    """
    if noise not in ("gaussian", "salt"):
        raise ArgumentError(Argument("noise"), f" {noise}: must be gaussian or salt")
    if not 0 < level <= (1 if noise == "salt" else 10):
        raise ArgumentError(Argument("level"), f" {level:g}: must be above 0, and of salt at most 1")
    images = open_images(run, data=data, data_root=data_root, split=split)
    x, labels = images.rows(slice(0, count))
    done = repair.denoise(images.model, x, kind=noise, level=level, seed=seed, labels=labels)
    rows = {"original": x, "noisy": done.damaged, "denoised": done.repaired}
    return _with_picture(done, x, output, "denoising.png", "Noise taken away", rows)


def _samples(model: VAE, count: int, labels: Tensor | None, seed: int, mixture: Fitted | None) -> Tensor:
    """Return means of p(x|z), (count, C, H, W) in [0, 1], for z from the model's prior or from a mixture."""
    prior = model.prior if mixture is None else mixture.prior
    if model.sees_labels and labels is None:
        labels = torch.arange(count) % model.classes
    try:
        noise = randomness.normal(count, model.hierarchy.draw_dim(prior), seed, "samples").to(next(model.parameters()))
        images = noise.new_empty(count, *model.image_shape, dtype=torch.float32)
        with evaluating(model):
            for rows in chunks(slice(0, count), model):
                of_rows = None if labels is None else labels[rows]
                images[rows] = model.sample(noise=noise[rows], labels=of_rows, prior=prior).clamp(0, 1)
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        raise ArgumentError(Argument("count"), f" {count}: so many images do not fit in memory; take fewer") from None
    return images


def _mean_image(images: Images) -> Tensor:
    """Return the mean of the run's training images, (C, H, W), in the precision of the model."""
    pixels, dtype = images.opened.data.train.images, next(images.model.parameters()).dtype
    return sum((to_unit_interval(c, dtype).sum(0) for c in pixels.split(10_000)), torch.zeros(())) / len(pixels)


def _draw_paths(path: Path, paths: Mapping[str, list[Tensor]]) -> Path:
    pairs = range(len(paths["straight"]))
    rows = {f"pair {pair + 1}, {name}": visible(found[pair]) for pair in pairs for name, found in paths.items()}
    note = "mean of p(x|z) between the codes of two images"
    return save_figure(path, figures.images_by_setting("Interpolation", note, rows))


def _with_picture(
    done: Repaired, original: Tensor, output: Path | None, name: str, title: str, rows: Mapping[str, Tensor]
) -> Mended:
    """Return repaired images; the first ten of each row of images are drawn where there is a folder for the picture."""
    files: Files = ()
    if output is not None:
        shown = {label: visible(images[:10]) for label, images in rows.items()}
        note = f"the first {max(len(images) for images in shown.values())} images"
        files = (save_figure(output / name, figures.images_by_setting(title, note, shown)),)
    return Mended(original, done, files)
