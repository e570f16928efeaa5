"""Nine mistakes that VAE tutorials make, and two right numbers in the wrong column: each number right and wrong.

    python benchmarks/mistakes.py [--epochs 20] [--folder runs/mistakes]

Trains five models of 16 latent dimensions on MNIST with `train_ddp.py`, on one thread, and measures them on the test
set. Numbers are nats per image unless their row says otherwise. docs/tutorial.md explains each mistake.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import harness
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

from vae.data import randomness
from vae.data.dataset import Split
from vae.evaluation import chunks, evaluating, images_of
from vae.evaluation.log_likelihood.weights import log_weights
from vae.model import VAEOutput
from vae.objectives import negative_elbo
from vae.run.contents import METRICS, SUMMARY, read_metrics, read_summary
from vae.run.finished import Loader, Opened

COMMON = ["model.latent_dim=16", "train.device=cpu", "train.threads=1", "run.figures=false"]
RUNS = {
    "right": [],
    "pixels_mean": ["objective.pixels=mean"],
    "learned_std": ["model.likelihood=NormalLearnedStd"],
    "squared_error": ["model.likelihood={name: Normal, std: 1.0}"],
    "binary": ["data.binarize=dynamic"],
}
STANDARD = {"epochs": 20, "steps": 0, "images": 10_000, "scored": 1000, "draws": 500}
QUICK = {"epochs": 1, "steps": 10, "images": 200, "scored": 10, "draws": 5}
BATCH = 128  # of a tutorial's test loader: 10,000 images are 78 batches of 128 and one of 16
IMAGES_AT_ONCE = 10  # in a pass that draws several z for each image

Measure = Callable[[VAEOutput, Tensor], list[Tensor]]  # of a forward pass of images (B, C, H, W) -> columns (B,)


@dataclass(frozen=True)
class Row:
    """One number, right and wrong.

    Attributes:
        mistake: its number and name; empty where the row above has it.
        quantity: the name of the number and, unless it is nats per image, its unit.
        right, wrong: the number without and with the mistake.
    """

    mistake: str
    quantity: str
    right: float
    wrong: float


class Measured:
    """A finished run and what its model gives for each image, one z ~ q(z|x) an image, (N,), nats, float64.

    Args:
        folder: of the run.
        opened: the run.
        images: N, at most.
    """

    def __init__(self, folder: Path, opened: Opened, images: int):
        self.folder, self.model, self.data = folder, opened.model, opened.data
        self.test, self._seed, self._images = opened.data.test, opened.config.run.seed, images

    @property
    def loss(self) -> Tensor:
        """-ELBO."""
        return self._terms[0]

    @property
    def reconstruction(self) -> Tensor:
        """-log p(x|z)."""
        return self._terms[1]

    @property
    def kl(self) -> Tensor:
        """KL(q(z|x) || p(z))."""
        return self._terms[2]

    @cached_property
    def _terms(self) -> tuple[Tensor, ...]:
        return self.of(self.test, "test", lambda output, x: list(terms_of(output, x)))

    def of(self, part: Split, split: str, measure: Measure) -> tuple[Tensor, ...]:
        """Return the columns of a measure over the first images of a part, with the noise of the run's evaluations."""
        count = min(self._images, len(part))
        noise = randomness.normal(count, self.model.noise_dim, self._seed, f"evaluate/{split}")
        with evaluating(self.model):
            batches = ((images_of(self.model, part, rows), noise[rows]) for rows in chunks(slice(0, count)))
            columns = [torch.stack(measure(self.model(x, e), x)).double() for x, e in batches]
        return torch.cat(columns, 1).unbind()

    def log_likelihood(self, count: int, draws: int) -> tuple[float, float]:
        """Return log p(x) and the ELBO, means over the first test images, from so many draws of z for each."""
        found = []
        with evaluating(self.model):
            for first in tqdm(range(0, count, IMAGES_AT_ONCE), desc="log p(x)", leave=False):
                x = images_of(self.model, self.test, slice(first, min(first + IMAGES_AT_ONCE, count)))
                noise = randomness.normal(len(x) * draws, self.model.noise_dim, self._seed, "mistakes", block=first)
                log_w = log_weights(self.model(x, noise.view(len(x), draws, -1)), x).log_w
                found.append(torch.stack([log_w.logsumexp(0) - math.log(draws), log_w.mean(0)]))
        log_likelihood, elbo = torch.cat(found, 1).mean(1).tolist()
        return log_likelihood, elbo


def terms_of(output: VAEOutput, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return -ELBO, reconstruction and KL of each image."""
    terms = negative_elbo(output, x)
    return terms.loss, terms.reconstruction, terms.kl


def mean(values: Tensor) -> float:
    """Return the mean over images."""
    return values.mean().item()


# --- the mistakes -----------------------------------------------------------------------------------------------------


def pixels_averaged(right: Measured, wrong: Measured) -> list[Row]:
    """Return the rows of a loss with the mean over pixels beside the sum over latent dimensions: beta = 784."""
    return [
        Row("1 pixels averaged in the loss", "-ELBO", mean(right.loss), mean(wrong.loss)),
        Row("", "KL", mean(right.kl), mean(wrong.kl)),
    ]


def batches_averaged(right: Measured) -> list[Row]:
    """Return the rows of the last batch, and of the mean of batch means."""
    loss, batches = right.loss, right.loss.split(BATCH)
    means = torch.stack([batch.mean() for batch in batches])
    weight = len(loss) / len(batches) / len(batches[-1])
    return [
        Row("2 the last batch logged as the test loss", "-ELBO", mean(loss), means[-1].item()),
        Row("3 mean of batch means", "-ELBO", mean(loss), mean(means)),
        Row("", "weight of an image of the last batch", 1, weight),
    ]


def mean_for_sample(right: Measured) -> list[Row]:
    """Return the row of a test loss at z = E[z|x]."""

    def at_mean(output: VAEOutput, x: Tensor) -> list[Tensor]:
        return [-right.model.decode(output.latents[0].q.mean).log_prob(x)]

    (reconstruction,) = right.of(right.test, "test", at_mean)
    return [Row("4 z = mean in the test loss", "-ELBO", mean(right.loss), mean(reconstruction + right.kl))]


def sigmoid_twice(right: Measured) -> list[Row]:
    """Return the rows of a sigmoid before a function that has its own."""

    def measure(output: VAEOutput, x: Tensor) -> list[Tensor]:
        once = output.p_x.mean.flatten(1)
        twice = once.sigmoid()
        wrong = binary_cross_entropy_with_logits(once, x.flatten(1), reduction="none").sum(1)
        return [wrong, once.amin(1), twice.amin(1), once.amax(1), twice.amax(1)]

    wrong, darkest, darkest_twice, brightest, brightest_twice = right.of(right.test, "test", measure)
    return [
        Row("5 sigmoid twice", "-ELBO", mean(right.loss), mean(wrong + right.kl)),
        Row("", "darkest pixel, of 0 to 1", darkest.min().item(), darkest_twice.min().item()),
        Row("", "brightest pixel, of 0 to 1", brightest.max().item(), brightest_twice.max().item()),
    ]


def deviation_for_variance(right: Measured) -> list[Row]:
    """Return the row of a standard deviation where the formula of the KL has a variance."""

    def measure(output: VAEOutput, _: Tensor) -> list[Tensor]:
        q = output.latents[0].q
        return [0.5 * (q.mean.square() + q.stddev - q.stddev.log() - 1).sum(-1)]

    (wrong,) = right.of(right.test, "test", measure)
    return [Row("6 std where the KL has the variance", "KL", mean(right.kl), mean(wrong))]


def weighted_loss(right: Measured) -> list[Row]:
    """Return the row of the loss that is minimised, evaluated in the middle of the warm-up."""
    rows = [row for row in read_metrics(right.folder / METRICS) if row["split"] == "test"]
    half = min(rows, key=lambda row: abs(row["beta"] - 0.5))
    wrong = half["reconstruction"] + half["beta"] * half["kl"]
    return [
        Row(f"7 loss at beta = {half['beta']:.2g} reported", f"-ELBO, epoch {half['epoch']:g}", half["loss"], wrong)
    ]


def grey_pixels(right: Measured, binary: Measured) -> list[Row]:
    """Return the rows of the cross-entropy of grey pixels, beside the likelihood of 0/1 pixels."""

    def entropy(_: VAEOutput, x: Tensor) -> list[Tensor]:
        return [-(x.xlogy(x) + (1 - x).xlogy(1 - x)).flatten(1).sum(1)]

    copies = [mean(*run.of(run.test, "test", entropy)) for run in (binary, right)]
    return [
        Row("8 grey pixels beside a table for 0/1 pixels", "-ELBO", mean(binary.loss), mean(right.loss)),
        Row("", "cost of a perfect copy", *copies),
    ]


def squared_error(learned: Measured, fixed: Measured) -> list[Row]:
    """Return the rows of the squared error: a normal likelihood of standard deviation 1, without its constant."""
    constant = math.prod(fixed.data.image_shape) / 2 * math.log(2 * math.pi)
    shown = mean(2 * (fixed.reconstruction - constant) + fixed.kl)
    return [
        Row("9 squared error as the likelihood", "-ELBO", mean(learned.loss), mean(fixed.loss)),
        Row("", "KL", mean(learned.kl), mean(fixed.kl)),
        Row("", "shown: squared error + KL", mean(learned.loss), shown),
    ]


def wrong_columns(right: Measured, binary: Measured, scored: int, draws: int) -> list[Row]:
    """Return the rows of numbers that are right, under a wrong name."""
    log_likelihood, elbo = binary.log_likelihood(scored, draws)
    in_training, *_ = right.of(right.data.train, "train", lambda output, x: list(terms_of(output, x)))
    return [
        Row("- -ELBO called -log p(x)", f"-log p(x) of {scored:,} images, K = {draws}", -log_likelihood, -elbo),
        Row("- training images called test images", "-ELBO", mean(right.loss), mean(in_training)),
    ]


# --- the program ------------------------------------------------------------------------------------------------------


def parse() -> argparse.Namespace:
    """Return the arguments, defaults filled in; raises `InputError`."""
    parser = harness.untimed_parser_of("mistakes.py", __doc__)
    parser.add_argument("--epochs", type=harness.positive, help="of each run (default: 20, of which beta rises for 10)")
    parser.add_argument("--folder", type=Path, help="where runs are kept and, finished, not made again (default: none)")
    args = parser.parse_args()
    harness.check_output(args.output)
    harness.fill_in(args, {"epochs": (QUICK if args.quick else STANDARD)["epochs"]})
    return args


def train(folder: Path, epochs: int, steps: int) -> dict[str, Path]:
    """Make the runs that `folder` does not hold, and return the folder of each."""
    length = [f"train.epochs={epochs}", f"train.max_steps={steps}"]
    for name, settings in tqdm(RUNS.items(), desc="training", unit="run"):
        harness.run(harness.job_words(str(folder / name), [*COMMON, *length, *settings]))
    return {name: folder / name / "run" for name in RUNS}


def measure(folders: dict[str, Path], images: int, scored: int, draws: int) -> list[Row]:
    """Return the rows of the table."""
    loader = Loader()
    runs = {name: Measured(folder, loader.open(folder), images) for name, folder in folders.items()}
    right, binary = runs["right"], runs["binary"]
    return [
        *pixels_averaged(right, runs["pixels_mean"]),
        *batches_averaged(right),
        *mean_for_sample(right),
        *sigmoid_twice(right),
        *deviation_for_variance(right),
        *weighted_loss(right),
        *grey_pixels(right, binary),
        *squared_error(runs["learned_std"], runs["squared_error"]),
        *wrong_columns(right, binary, scored, draws),
    ]


def text_of(rows: list[Row]) -> str:
    """Return the table as text."""
    width = max(len(row.mistake) for row in rows)
    lines = [[f"{row.mistake:<{width}}  {row.quantity}", f"{row.right:,.2f}", f"{row.wrong:,.2f}"] for row in rows]
    return harness.table([f"{'mistake':<{width}}  number", "right", "wrong"], lines)


def main() -> None:
    """Train, measure, print, write."""
    args = parse()
    origin = harness.origin_of_numbers("cpu", args.commit)
    sizes: dict[str, Any] = QUICK if args.quick else STANDARD
    with harness.scratch(), tempfile.TemporaryDirectory() as scratch:
        folders = train(args.folder or Path(scratch), args.epochs, sizes["steps"])
        rows = measure(folders, sizes["images"], sizes["scored"], sizes["draws"])
        summaries = {name: read_summary(folder / SUMMARY) for name, folder in folders.items()}
    print(f"\n{harness.headline(origin)}\n{args.epochs} epochs, seed 0; nats per image\n\n{text_of(rows)}")
    args.folder = args.folder and str(args.folder)
    results = {"rows": [asdict(row) for row in rows], "runs": summaries}
    print(f"\nwritten: {harness.write_results(args, 'mistakes', origin, **results)}")


if __name__ == "__main__":
    sys.exit(harness.exit_code_of(main))
