"""`python -m vae score`: log p(x) of each image, and of two data sets how well it tells them apart."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from vae import figures
from vae.data.dataset import DataSet, Split
from vae.distributed import launch
from vae.errors import InputError
from vae.evaluation import images_of, visible
from vae.evaluation.heldout import has_probabilities
from vae.evaluation.log_likelihood.evaluator import Request, estimated
from vae.evaluation.log_likelihood.importance import estimate
from vae.evaluation.log_likelihood.progress import Progress
from vae.evaluation.log_likelihood.runs import Resources
from vae.evaluation.log_likelihood.text import title
from vae.evaluation.passes import mean_and_error
from vae.model import VAE
from vae.run.contents import USES
from vae.run.finished import Opened
from vae.run.outputs import must_be_writable, save_arrays, save_figure
from vae.uses import inputs
from vae.uses.scores import Scores, area_under_roc

SHOWN = 10  # images of each kind in the picture


@dataclass(frozen=True)
class Asked:
    """Images that are to be scored: what their files are called, the images, whether there are bits, the protocol."""

    name: str
    part: Split
    has_bits: bool
    protocol: dict[str, Any]


def score_lines(args: argparse.Namespace, resources: Resources) -> Iterator[str]:
    """Score one data set or two, and yield what there is to say, last the files written (all ranks).

    Args:
        args: `run`, `data`, `data_root`, `split`, `against`, `samples`, `count`, `seed`, `output`.
        resources: device, signals, batch size.

    Raises:
        InputError: the run, the data or an option cannot be used, or a log p(x) is not finite.
        Stopped: a signal has come.
    """
    model, asked = _asked(args)
    accelerator = launch.make_accelerator(resources.device, "no", resources.environment)
    launch.set_threads(0, resources.environment)
    folder = args.output or args.run / USES
    launch.on_main(accelerator, partial(must_be_writable, folder))
    model.to(accelerator.device)
    scored = []
    for each in asked:
        yield title([each.protocol])
        scored.append(scores := _score(accelerator, model, each, args, resources))
        yield from _in_words(scores)
    names = [each.name for each in asked]
    verdict = _verdict(names, scored)
    yield from [verdict] if verdict else []
    for name, scores in zip(names, scored, strict=True):
        file = folder / f"scores-{name}-{args.split}.npz"
        yield str(launch.on_main(accelerator, partial(save_arrays, file, scores.arrays())))
    picture = folder / f"scores-{'-against-'.join(names)}-{args.split}.png"
    yield str(launch.on_main(accelerator, partial(_draw, picture, model, asked, scored, verdict)))


def _asked(args: argparse.Namespace) -> tuple[VAE, list[Asked]]:
    """Return the model and what it is to score; raises `InputError`."""
    opened, data, part = inputs.images(args)
    asked = [_one(args, opened, data, part, data.name)]
    if args.against is not None:
        other = inputs.other_data(opened, "--against", args.against, args.data_root)
        other, part = inputs.part_for(opened, other, args.split, args.against)
        name = other.name if other.name != data.name else f"{other.name}-2"
        asked.append(_one(args, opened, other, part, name))
        here, there = (each.protocol["measure"] for each in asked)
        if here != there:
            raise InputError(f"--against {args.against}: log p(x) is {there} there, and {here} of {data.name}")
    return opened.model, asked


def _one(args: argparse.Namespace, opened: Opened, data: DataSet, part: Split, name: str) -> Asked:
    kept = part[torch.arange(min(args.count or len(part), len(part)))]
    binarize = opened.config.data.binarize
    draw = None if binarize == "none" else opened.config.run.seed
    request = Request(args.samples, args.split, args.seed, draw)
    how = estimated(data, binarize, opened.model, request, len(kept))
    return Asked(name, kept, has_probabilities(opened.model, part), how)


def _score(
    accelerator: Accelerator, model: VAE, asked: Asked, args: argparse.Namespace, resources: Resources
) -> Scores:
    """Return the scores (all ranks)."""
    progress = Progress(accelerator, resources.stop)
    how: dict[str, Any] = {"samples": args.samples, "seed": args.seed, "split": args.split}
    found = estimate(accelerator, model, asked.part, progress=progress, at_once=resources.at_once, **how)
    if lost := int((~found.log_likelihood.isfinite()).sum()):
        raise InputError(f"{asked.name}: log p(x) of {lost} of {len(asked.part)} images is not finite")
    return Scores(asked.protocol, found, model.image_shape, asked.has_bits)


def _in_words(scores: Scores) -> Iterator[str]:
    for name, values in (("log p(x)", scores.estimates.log_likelihood), ("ELBO", scores.estimates.elbo)):
        mean, error = mean_and_error(values)
        yield f"  {name:<22} {mean:.3f}" + ("" if error is None else f" ± {error:.3f}")
    size = scores.estimates.effective_sample_size
    yield f"  effective sample size  mean {size.mean():.1f} of {scores.protocol['samples']:,}; least {size.min():.1f}"


def _verdict(names: Sequence[str], scored: Sequence[Scores]) -> str:
    if len(scored) == 1:
        return ""
    area = area_under_roc(*(each.estimates.log_likelihood for each in scored))
    return (
        f"area under the ROC curve {area:.4f}: "
        f"the chance that an image of {names[0]} has a higher log p(x) than one of {names[1]}"
    )


def _draw(path: Path, model: VAE, asked: Sequence[Asked], scored: Sequence[Scores], verdict: str) -> Path:
    """Draw histograms of log p(x), and the least and most likely images."""
    rows: dict[str, Tensor] = {}
    for each, scores in zip(asked, scored, strict=True):
        for which, places in zip(("least", "most"), scores.extremes(SHOWN), strict=True):
            rows[f"{each.name}, {which}\N{NO-BREAK SPACE}likely"] = visible(images_of(model, each.part, places.cpu()))
    values = {each.name: scores.estimates.log_likelihood for each, scores in zip(asked, scored, strict=True)}
    how = asked[0].protocol
    unit = f"log p(x) in nats, {how['likelihood']} ({how['measure']}), K = {how['samples']:,}"
    return save_figure(path, figures.scores(values, rows, unit, verdict))
