"""Scores of a trained model: log p(x) of each image, and of two data sets how well it tells them apart."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from vae import figures
from vae.data.dataset import Split
from vae.distributed import launch
from vae.distributed.signals import StopRequest
from vae.errors import Argument, ArgumentError, InputError
from vae.evaluation import images_of, visible
from vae.evaluation.heldout import has_probabilities
from vae.evaluation.log_likelihood.evaluator import Request, estimated, likelihood_results
from vae.evaluation.log_likelihood.importance import COLUMNS, estimate
from vae.evaluation.log_likelihood.progress import CONTINUES, NOTHING_KEPT, Progress
from vae.evaluation.log_likelihood.runs import Resources, start
from vae.evaluation.log_likelihood.text import bounds, effective_draws, title
from vae.evaluation.log_likelihood.unfinished import UnfinishedEvaluation
from vae.evaluation.results_file import checkpoint_of
from vae.model import VAE
from vae.run.outputs import must_be_writable, save_arrays, save_figure
from vae.uses.inputs import Images, open_images, other_images
from vae.uses.scores import Scores, area_under_roc

SHOWN = 10  # images of each kind in the picture


@dataclass(frozen=True)
class Asked:
    """Images that are to be scored: the name of their files, the images, whether there are bits, and the protocol."""

    name: str
    part: Split
    has_bits: bool
    protocol: dict[str, Any]


@dataclass(frozen=True)
class Scored:
    """Scores of one data set or of two.

    Attributes:
        scores: by the name of the data set; that of the run's own, or of `data`, is the first.
        area: under the ROC curve by which log p(x) tells the first data set from the second; None: there is one alone.
        files: an .npz for each data set, and a picture.
    """

    scores: dict[str, Scores]
    area: float | None
    files: tuple[Path, ...]


def score(
    run: str | Path,
    *,
    data: str | None = None,
    data_root: str | None = None,
    split: str = "test",
    against: str | None = None,
    samples: int = 100,
    count: int | None = None,
    seed: int = 0,
    output: Path | None = None,
    resources: Resources | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> Scored:
    """Return log p(x) of each image by importance sampling, and hold two data sets against each other (all ranks).

    Args:
        run, data, data_root, split, seed, output: as `vae.uses` describes them.
        against: the second data set.
        samples: K, draws of z for each image.
        count: the first images of each data set; None: all.
        resources: the launcher's variables, signals, the device, and draws of one pass; None: this process alone.
        say: is given each sentence about the scores as soon as it is known.

    Raises:
        InputError: the run or the data cannot be used, a log p(x) is not finite, or a file cannot be written.
        Stopped: a signal has come; the images that are done are kept in `output`, where the same call continues.
    """
    resources = resources or Resources({}, StopRequest())
    model, asked = _asked(Path(run), data, data_root, against, count, Request(samples, split, seed))
    accelerator, watchdog, progress = start(resources, NOTHING_KEPT if output is None else CONTINUES)
    scores: dict[str, Scores] = {}
    with watchdog.guarding():
        if output is not None:
            launch.on_main(accelerator, partial(must_be_writable, output))
        unfinished = _unfinished(accelerator, output, Path(run), asked)
        model.to(accelerator.device)
        for each, begun in zip(asked, unfinished, strict=True):
            say(title([each.protocol]))
            scores[each.name] = _score(accelerator, model, each, progress, resources.at_once, begun)
            for line in _in_words(scores[each.name]):
                say(line)
    area = _area(scores)
    if area is not None:
        say(_verdict(area, list(scores)))
    files = () if output is None else tuple(_save(accelerator, output, split, model, asked, scores, area))
    for begun in unfinished:
        launch.on_main(accelerator, begun.remove)
    return Scored(scores, area, files)


def _unfinished(
    accelerator: Accelerator, output: Path | None, run: Path, asked: Sequence[Asked]
) -> list[UnfinishedEvaluation]:
    """Return the estimates of earlier attempts for each data set, in the folder of the output (all ranks)."""
    checkpoint = checkpoint_of(run)
    return [UnfinishedEvaluation(accelerator, output, COLUMNS, each.protocol, checkpoint) for each in asked]


def _asked(
    run: Path, data: str | None, data_root: str | None, against: str | None, count: int | None, request: Request
) -> tuple[VAE, list[Asked]]:
    """Return the model and the images that it is to score; raises `InputError`."""
    root = data_root if data is not None or against is None else None  # else it is where `against` is
    own = open_images(run, data=data, data_root=root, split=request.split)
    asked = [_one(own, own.data.name, count, request)]
    if against is not None:
        other = other_images(own.opened, "against", against, data_root, request.split)
        name = other.data.name if other.data.name != own.data.name else f"{other.data.name}-2"
        asked.append(_one(other, name, count, request))
        here, there = (each.protocol["measure"] for each in asked)
        if here != there:
            problem = f"log p(x) is {there} there, and {here} of {own.data.name}"
            raise ArgumentError(Argument("against"), f" {against}: {problem}")
    return own.model, asked


def _one(images: Images, name: str, count: int | None, request: Request) -> Asked:
    part, model, config = images.part, images.model, images.opened.config
    kept = part[torch.arange(min(count or len(part), len(part)))]
    draw = config.run.seed if images.reading.is_drawn else None
    how = estimated(images.data, images.reading.binarize, model, replace(request, draw=draw), kept)
    return Asked(name, kept, has_probabilities(model, part), how)


def _score(
    accelerator: Accelerator,
    model: VAE,
    asked: Asked,
    progress: Progress,
    at_once: int | None,
    unfinished: UnfinishedEvaluation,
) -> Scores:
    """Return the scores (all ranks)."""
    how = {name: asked.protocol[name] for name in ("samples", "seed", "split")}
    with unfinished.writing():
        found = estimate(
            accelerator, model, asked.part, **how, progress=progress, at_once=at_once, unfinished=unfinished
        )
    if lost := int((~found.log_likelihood.isfinite()).sum()):
        unfinished.remove()
        raise InputError(f"{asked.name}: log p(x) of {lost} of {len(asked.part)} images is not finite")
    unfinished.write()  # else a signal within the second data set would lose the first
    return Scores(asked.protocol, found, model.image_shape, asked.has_bits)


def _in_words(scores: Scores) -> Iterator[str]:
    found = likelihood_results(scores.estimates, scores.protocol["samples"])
    yield from bounds(found, scores.protocol)
    yield from effective_draws(found, scores.protocol)


def _area(scores: dict[str, Scores]) -> float | None:
    """Return the area under the ROC curve of two data sets' scores; None for one data set."""
    if len(scores) == 1:
        return None
    return area_under_roc(*(each.estimates.log_likelihood for each in scores.values()))


def _verdict(area: float, names: Sequence[str]) -> str:
    return (
        f"area under the ROC curve {area:.4f}: "
        f"the chance that an image of {names[0]} has a higher log p(x) than one of {names[1]}"
    )


def _save(
    accelerator: Accelerator,
    folder: Path,
    split: str,
    model: VAE,
    asked: Sequence[Asked],
    scores: dict[str, Scores],
    area: float | None,
) -> Iterator[Path]:
    """Write an .npz for each data set, and a picture; yields their paths (all ranks)."""
    for name, each in scores.items():
        file = folder / f"scores-{name}-{split}.npz"
        yield launch.on_main(accelerator, partial(save_arrays, file, each.arrays()))
    picture = folder / f"scores-{'-against-'.join(scores)}-{split}.png"
    verdict = "" if area is None else _verdict(area, list(scores))
    yield launch.on_main(accelerator, partial(_draw, picture, model, asked, list(scores.values()), verdict))


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
