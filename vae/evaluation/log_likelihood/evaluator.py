"""Evaluation of a finished run: log p(x), ELBO, KL and the rest, by one protocol for all runs."""

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from vae.config import Config
from vae.data.dataset import DataSet, Split
from vae.errors import InputError
from vae.evaluation.heldout import Evaluation, evaluate, has_probabilities
from vae.evaluation.latents import ACTIVE
from vae.evaluation.log_likelihood.aggregate import aggregate
from vae.evaluation.log_likelihood.importance import Estimates, estimate
from vae.evaluation.log_likelihood.progress import Progress
from vae.evaluation.log_likelihood.unfinished import UnfinishedEvaluation
from vae.evaluation.passes import mean_and_error
from vae.evaluation.protocols import part_of, protocol
from vae.evaluation.results_file import Kept, checkpoint_of
from vae.families.likelihoods import bits_per_dim
from vae.model import VAE
from vae.run.finished import Loader
from vae.run.versions import versions

BOUND = "log of the mean importance weight (Burda et al. 2016, eq. 8), K = samples draws z ~ q(z|x) for each example"
QUANTILES = (0.01, 0.1, 0.5)  # of the effective sample size
LOW = 10  # draws that count: with fewer, an estimate of the bias from the same draws says too little


@dataclass(frozen=True)
class Request:
    """Options of an evaluation that the numbers depend on.

    Attributes:
        samples: K, draws of z for each image.
        split: `test`, `val` or `train`.
        seed: of the noise, the same for all runs.
        draw: the seed of the 0/1 pixels, where pixels are drawn; None: the run's own.
    """

    samples: int = 1000
    split: str = "test"
    seed: int = 0
    draw: int | None = None


@dataclass(frozen=True)
class PreparedRun:
    """A run to evaluate: its unwrapped model on the CPU, its part of the data, and the protocol."""

    folder: Path
    config: Config
    model: VAE
    part: Split
    protocol: dict[str, Any]
    checkpoint: dict[str, str]


def prepare(folders: Iterable[Path], request: Request) -> list[PreparedRun]:
    """Return the runs in these folders, ready to be evaluated.

    Raises:
        InputError: a folder holds no finished run, its data are not there, or there is no such split.
    """
    loader = Loader()
    return [_prepare(loader, folder, request) for folder in folders]


def _prepare(loader: Loader, folder: Path, request: Request) -> PreparedRun:
    opened = loader.open(folder)
    config, model, binarize = opened.config, opened.model, opened.config.data.binarize
    own = config.run.seed if request.draw is None else request.draw
    draw = own if config.data.is_drawn else None
    data = loader.data(config, draw)
    if request.split == "train" and draw is not None:
        data = data.binarize_training(draw)
    part = part_of(data, request.split, folder)
    how = estimated(data, binarize, model, replace(request, draw=draw), part)
    return PreparedRun(folder, config, model, part, how, checkpoint_of(folder))


def estimated(data: DataSet, binarize: str, model: VAE, request: Request, part: Split) -> dict[str, Any]:
    """Return the protocol of log p(x) by importance sampling.

    Args:
        data: the data set, as it is evaluated.
        binarize: as `vae.evaluation.protocol` takes it.
        model: the likelihood and the use of labels are its own.
        request: the options; `draw` is the seed of the 0/1 pixels, None where pixels are not drawn.
        part: the images that are evaluated, and their labels.
    """
    how = protocol(data, binarize, model.likelihood, seed=request.seed, split=request.split)
    given = "label" if model.needs_labels else None  # then it is log p(x|y)
    bound = BOUND if model.classifier is None else f"{BOUND}, each with every label y, over which w is summed"
    more = {"bound": bound, "samples": request.samples, "examples": len(part), "draw": request.draw, "given": given}
    labels = {"labels_crc32": part.labels_fingerprint} if model.sees_labels else {}
    return how | more | labels


def assess(
    accelerator: Accelerator,
    run: PreparedRun,
    request: Request,
    progress: Progress,
    unfinished: UnfinishedEvaluation,
    at_once: int | None = None,
) -> Kept:
    """Evaluate a run (all ranks); the model is brought to the device.

    Args:
        accelerator: the process group, without autocast: numbers are in float32, or float64 for such a run.
        run: prepared by `prepare`.
        request: the options that the protocol holds.
        progress: is advanced after each pass.
        unfinished: the images that earlier attempts have evaluated; those of this one are added.
        at_once: draws in one pass; None: as many as fit in memory.

    Raises:
        InputError: log p(x) is not finite.
        Stopped: a signal has come.
    """
    started, model, part = time.perf_counter(), run.model.to(accelerator.device), run.part
    how: dict[str, Any] = {"seed": request.seed, "split": request.split}
    held_out = evaluate(accelerator, model, part, **how)
    options: dict[str, Any] = {"samples": request.samples, "at_once": at_once}
    with unfinished.writing():
        each = estimate(accelerator, model, part, progress=progress, unfinished=unfinished, **options, **how)
        if lost := int((~each.log_likelihood.isfinite()).sum()):
            unfinished.remove()
            raise InputError(f"{run.folder}: log p(x) of {lost} of {len(part)} images is not finite; train it again")
        whole = aggregate(accelerator, model, part, progress=progress, **how)
    results = likelihood_results(each, request.samples)
    nats = -results["log_likelihood"]
    if held_out.accuracy is not None:
        results["accuracy"] = held_out.accuracy
    results["bits_per_dim"] = bits_per_dim(nats, model.image_shape) if has_probabilities(model, part) else None
    results |= _held_out_results(held_out) | {"aggregate": None if whole is None else asdict(whole)}
    made = {"seconds": time.perf_counter() - started, "taken_over": len(unfinished.places)}
    return Kept(run.protocol, run.checkpoint, results, _circumstances(accelerator, model) | made)


def _held_out_results(held_out: Evaluation) -> dict[str, Any]:
    """Return the KL, the use of the latent dimensions and the reconstruction at z = E[z|x], nats per image."""
    return {
        "kl": held_out.kl,
        "kl_by_dimension": held_out.latents.kl,
        "variance_by_dimension": held_out.latents.variance,
        "active_units": held_out.latents.active,
        "active_above": ACTIVE,
        "latent_dimensions": len(held_out.latents.variance),
        **held_out.latents.of_codes,
        "reconstruction_mean_z": held_out.reconstruction_mean_z,
    }


def _circumstances(accelerator: Accelerator, model: VAE) -> dict[str, Any]:
    """Return the time, number of processes, device, precision and versions of an evaluation."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "world_size": accelerator.num_processes,
        "device": accelerator.device.type,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "versions": versions(),
    }


def likelihood_results(each: Estimates, samples: int) -> dict[str, Any]:
    """Return the means over images, nats per image.

    Returns:
        `log_likelihood`, `elbo`: with `_error`, the standard error over images; `log_likelihood_draw_error`: the
        standard error over sets of draws, and `log_likelihood_bias`: how far the mean lies below log p(x) for want of
        draws, or less, both by the jackknife (None for one draw);
        `reconstruction`: of z ~ q(z|x); `effective_sample_size`: `mean`, `min` and `quantiles` over images, `low`: the
        share of images below `low_below`;
        `squared_error_mean_z`: of a pixel, at z = E[z|x].
    """
    size = each.effective_sample_size
    likelihood, likelihood_error = mean_and_error(each.log_likelihood)
    elbo, elbo_error = mean_and_error(each.elbo)
    draw_error = each.variance.sum().sqrt().item() / len(size) if samples > 1 else None
    bias = each.bias.mean().item() if samples > 1 else None
    few = (size < LOW).double().mean().item() if samples > 1 else 0.0
    quantiles = {str(share): value.item() for share, value in zip(QUANTILES, _quantiles(size), strict=True)}
    return {
        "log_likelihood": likelihood,
        "log_likelihood_error": likelihood_error,
        "log_likelihood_draw_error": draw_error,
        "log_likelihood_bias": bias,
        "elbo": elbo,
        "elbo_error": elbo_error,
        "reconstruction": each.reconstruction.mean().item(),
        "squared_error_mean_z": each.squared_error.mean().item(),
        "effective_sample_size": {
            "mean": size.mean().item(),
            "min": size.min().item(),
            "quantiles": quantiles,
            "low": few,
            "low_below": LOW,
        },
    }


def _quantiles(values: Tensor) -> Tensor:
    return torch.quantile(values, values.new_tensor(QUANTILES))
