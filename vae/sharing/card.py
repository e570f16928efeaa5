"""The card of a finished run's model, in the format of the Hugging Face Hub, and the picture in it.

All of it is of the model and its numbers: no image of the data, no path of this machine, no time of day.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from huggingface_hub import EvalResult, ModelCardData

from vae.canvas import png, tile
from vae.config import Config, flatten
from vae.config.schema import NOT_A_SETTING
from vae.data import randomness
from vae.data.dataset import DataSet
from vae.errors import InputError
from vae.evaluation import evaluating, visible
from vae.evaluation.results_file import log_likelihoods
from vae.markdown import escape_markdown
from vae.model import CARD, PICTURE, VAE
from vae.run.contents import MODEL, SUMMARY, read_summary
from vae.run.finished import Loader
from vae.run.outputs import save_file

PIXELS = 900  # width of the picture, at most, unless one image is wider
SMALL = 64  # images below this height and width are drawn twice as large
GAP = 2  # pixels between images
CLASSES = 20  # with more, a picture has no column for each, and a card not their names
KINDS = ("encoder", "posterior", "hierarchy", "prior", "decoder", "likelihood")  # of a model's pieces
TASK = "unconditional-image-generation"
ON_THE_HUB = {  # data set -> its name there
    "MNIST": "ylecun/mnist", "FashionMNIST": "zalando-datasets/fashion_mnist", "CIFAR10": "uoft-cs/cifar10",
    "CIFAR100": "uoft-cs/cifar100",
}  # fmt: skip
NUMBERS = {  # of a summary: its metric's name and its title, where it is there
    "loss": ("negative_elbo", "-ELBO, nats per image"),
    "reconstruction": ("reconstruction", "-log p(x\\|z), nats per image"),
    "kl": ("kl", "KL(q(z\\|x) \\|\\| p(z)), nats per image"),
    "bits_per_dim": ("bits_per_dim", "-ELBO, bits per number of an image"),
    "accuracy": ("accuracy", "share of the images whose class is found"),
    "active_units": ("active_units", "latent dimensions in use"),
}


def card_files(
    name: str,
    config: Config,
    summary: Mapping[str, Any],
    model: VAE,
    data: DataSet,
    log_likelihood: Mapping[int, float] | None = None,
) -> dict[str, bytes]:
    """Return the card and its picture by the names of their files.

    Args:
        name: of the run.
        config: of the run.
        summary: the contents of its summary.json.
        model: the unwrapped model.
        data: it was trained on.
        log_likelihood: estimates of log p(x), nats, by the number of their draws.
    """
    columns = _columns(model)
    rows = 8 if columns > 4 else columns
    picture = png(_samples(model, rows * columns, columns, config.run.seed))
    card = _card(name, config, summary, model, data, log_likelihood or {}, rows * columns)
    return {CARD: card.encode(), PICTURE: picture}


def write_card(run: str | Path) -> tuple[Path, ...]:
    """Write the card of a finished run and its picture anew, with the estimates of log p(x) that the run's folder has.

    Raises:
        InputError: the run is not finished, its data are not there, or the files cannot be written.
    """
    folder = Path(run)
    opened = Loader().open(folder)
    summary = read_summary(folder / SUMMARY)
    if summary is None:
        raise InputError(f"{folder}: not finished: it holds no {SUMMARY}; run the same train command again")
    estimates = log_likelihoods(folder, opened.config.run.seed)
    files = card_files(folder.resolve().name, opened.config, summary, opened.model, opened.data, estimates)
    return tuple(
        save_file(folder / MODEL / name, lambda path, content=content: path.write_bytes(content))
        for name, content in files.items()
    )


def _columns(model: VAE) -> int:
    """Return the images in a row of the picture: the classes of a model that sees labels, or as many as have room."""
    if model.sees_labels and model.classes <= CLASSES:
        return model.classes
    return min(8, max(2, PIXELS // (model.image_shape[-1] + GAP)))


def _samples(model: VAE, count: int, columns: int, seed: int) -> np.ndarray:
    """Return samples of the prior on one canvas (H', W', C)."""
    noise = randomness.normal(count, model.draw_dim, seed, "samples").to(next(model.parameters()))
    with evaluating(model):
        images = visible(model.sample(noise=noise)).float().cpu().numpy()
    larger = 2 if max(model.image_shape[1:]) < SMALL else 1
    return tile(images.repeat(larger, -1).repeat(larger, -2), columns=columns, gap=GAP)


def _card(
    name: str,
    config: Config,
    summary: Mapping[str, Any],
    model: VAE,
    data: DataSet,
    log_likelihood: Mapping[int, float],
    samples: int,
) -> str:
    test = summary["test"]
    of_data = Path(data.name).name
    numbers = [(*NUMBERS[key], test[key]) for key in NUMBERS if test.get(key) is not None]
    numbers += [
        (f"log_likelihood_{draws}", f"log p(x), {draws:,} draws of q(z\\|x) for each image, nats per image", value)
        for draws, value in sorted(log_likelihood.items())
    ]
    known = ON_THE_HUB.get(of_data)
    metadata = ModelCardData(
        library_name="vae",
        pipeline_tag=TASK,
        tags=["variational-autoencoder", "pytorch_model_hub_mixin", "model_hub_mixin"],
        datasets=[known] if known else None,
        model_name=name,
        eval_results=[
            EvalResult(
                task_type=TASK,
                dataset_type=known or of_data,
                dataset_name=of_data,
                dataset_split="test",
                metric_type=metric,
                metric_name=title.replace("\\", ""),
                metric_value=value,
            )
            for metric, title, value in numbers
        ],
    )
    body = _template().render(
        name=name,
        data=of_data,
        model=model,
        test=test,
        protocol=test["protocol"],
        numbers=numbers,
        pieces={
            key: yaml.safe_dump(spec, default_flow_style=True, sort_keys=False, width=1000).strip()
            for key, spec in _pieces(config)
        },
        summary=summary,
        settings=yaml.safe_dump(_changed(config), sort_keys=False, width=1000) if _changed(config) else "",
        class_names=(data.class_names or []) if model.classes <= CLASSES else [],
        seed=config.run.seed,
        samples=samples,
        picture=PICTURE,
    )
    return f"---\n{metadata.to_yaml()}\n---\n\n{body}"


def _pieces(config: Config) -> list[tuple[str, Any]]:
    return [*((kind, getattr(config.model, kind)) for kind in KINDS), ("objective", config.objective)]


def _changed(config: Config) -> dict[str, Any]:
    """Return the keys that differ from the defaults, change the numbers, hold no path and are not said elsewhere."""
    defaults, own = flatten(Config()), flatten(config)
    said = ("run.", "data.name", "data.root", "objective.", *(f"model.{kind}." for kind in KINDS))
    shown = {key: value for key, value in own.items() if key not in NOT_A_SETTING and not key.startswith(said)}
    return {key: value for key, value in shown.items() if key not in defaults or defaults[key] != value}


@cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # at the end of a job, not at its start

    environment = Environment(
        loader=PackageLoader("vae.sharing"),
        autoescape=False,  # Markdown: names go through the filter `plain`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["plain"] = escape_markdown
    return environment.get_template("model_card.md")
