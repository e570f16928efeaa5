"""Milliseconds that log p(x) of an image takes, beside the matrix products in it, of nets of published tables.

    python benchmarks/evaluation.py [--samples 5000] [--images 100] [--repeats 5] [--threads 1]

Prints medians. The nets are those of Burda et al. 2016, with one stochastic layer or two, and that of Tomczak & Welling
2018 with 500 pseudo-inputs, each with Bernoulli or normal pixels; the weights are those before training, on which the
time does not depend. The floor is the products of the linear layers, of the same shapes, and nothing else. CPU is what
the process itself has used: on a busy machine it says more than the time that has passed.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import harness
import torch
from accelerate import Accelerator
from quiet import Patience
from torch import Tensor, nn
from tqdm import tqdm

from vae import assemble
from vae.config import load
from vae.data.dataset import Split
from vae.distributed import launch
from vae.distributed.signals import StopRequest
from vae.evaluation.log_likelihood.importance import estimate
from vae.evaluation.log_likelihood.progress import Progress
from vae.model import VAE
from vae.networks.linear import linear

STANDARD = {"samples": 5000, "images": 100, "repeats": 5, "threads": 1, "patience": 300}
QUICK = {"samples": 200, "images": 3, "repeats": 1, "patience": 0}
NETS = {"one layer": "burda_vae", "two layers": "burda_2layer", "VampPrior": "vamp_static"}
PIXELS = {
    "Bernoulli": ["data.binarize=dynamic"],
    "normal": ["data.binarize=none", "model.likelihood={name: Normal, std: 0.1}", "model.output_bias=zero"],
}
Run = dict[str, Any]  # seconds of an evaluation of all images, of the CPU in it, of the products alone; others' CPU


@dataclass(frozen=True)
class Product:
    """The shapes of a product: (rows, inputs) times (inputs, outputs)."""

    rows: int
    inputs: int
    outputs: int


def parse() -> argparse.Namespace:
    """Return the arguments, defaults filled in; raises `InputError`."""
    parser = harness.parser_of("evaluation.py", __doc__)
    number = harness.positive
    parser.add_argument("--samples", type=number, help="K, draws of each image (default: 5000)")
    parser.add_argument("--images", type=number, help="in an evaluation (default: 100)")
    parser.add_argument("--repeats", type=number, help="evaluations of each net (default: 5)")
    parser.add_argument("--threads", type=number, help="of torch (default: 1)")
    args = parser.parse_args()
    harness.check_output(args.output)
    harness.fill_in(args, STANDARD | (QUICK if args.quick else {}))
    return args


def build(net: str, pixels: str) -> VAE:
    """Return the model of a configuration, with its weights before training."""
    config = load(str(harness.ROOT / f"configs/papers/{NETS[net]}.yaml"), [*PIXELS[pixels], "train.device=cpu"])
    return assemble.build_model(config, (1, 28, 28))


class Measured:
    """A net whose evaluation is timed, and its products alone.

    Args:
        accelerator: of one process.
        model: on the CPU.
        args: the program's.
    """

    def __init__(self, accelerator: Accelerator, model: VAE, args: argparse.Namespace):
        images = torch.randint(0, 2, (args.images, 1, 28, 28), generator=torch.Generator().manual_seed(0))
        self.part, self.images = Split((255 * images).to(torch.uint8)), args.images
        progress = Progress(accelerator, StopRequest())
        self._estimate = partial(
            estimate, accelerator, model, samples=args.samples, seed=0, split="test", progress=progress
        )
        self.products = self._products_of_an_image(model)
        self._factors = {
            product: (torch.randn(product.rows, product.inputs), torch.randn(product.outputs, product.inputs))
            for product in self.products
        }

    def evaluate(self) -> tuple[float, float]:
        """Return the seconds that an evaluation of all images takes, and those of the CPU."""
        began, used = time.perf_counter(), time.process_time()
        self._estimate(self.part)
        return time.perf_counter() - began, time.process_time() - used

    def multiply(self) -> float:
        """Return the seconds that the products of all images take."""
        began = time.perf_counter()
        for _ in range(self.images):
            for product in self.products:
                left, right = self._factors[product]
                linear(left, right)
        return time.perf_counter() - began

    def _products_of_an_image(self, model: VAE) -> list[Product]:
        """Return the products of each linear layer in the evaluation of one image; a first evaluation fills caches."""
        self._estimate(Split(self.part.images[:2]))
        found: list[Product] = []

        def note(layer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
            assert isinstance(layer, nn.Linear)
            found.append(Product(inputs[0].shape[:-1].numel(), layer.in_features, layer.out_features))

        hooks = [layer.register_forward_hook(note) for layer in model.modules() if isinstance(layer, nn.Linear)]
        self._estimate(Split(self.part.images[:1]))
        for hook in hooks:
            hook.remove()
        return found


def measure(args: argparse.Namespace) -> dict[tuple[str, str], list[Run]]:
    """Return the runs of each net and kind of pixels; the nets take turns."""
    accelerator = launch.make_accelerator("cpu", "no", {})
    torch.set_num_threads(args.threads)
    nets = {(net, pixels): Measured(accelerator, build(net, pixels), args) for net in NETS for pixels in PIXELS}
    patience = Patience(args.patience)
    results: dict[tuple[str, str], list[Run]] = {key: [] for key in nets}
    for key in tqdm([key for _ in range(args.repeats) for key in nets]):
        each = nets[key]
        ((seconds, used), floor), others, _ = patience.take(lambda each=each: (each.evaluate(), each.multiply()))
        run = {"seconds": seconds, "cpu_seconds": used, "floor_seconds": floor, "others_percent": others}
        results[key].append(run)
    launch.leave()
    return results


def main() -> None:
    """Measure, print, write."""
    args = parse()
    origin = harness.origin_of_numbers("cpu", args.commit)
    with harness.scratch():
        results = measure(args)
    lines = []
    for (net, pixels), runs in results.items():
        keys = ("seconds", "cpu_seconds", "floor_seconds")
        times = [[1000 * run[key] / args.images for run in runs] for key in keys]
        ratios = [run["seconds"] / run["floor_seconds"] for run in runs]
        lines.append([f"{net}, {pixels}", *(harness.spread(each, 1) for each in times), harness.spread(ratios)])
    busy = harness.median([run["others_percent"] or 0.0 for runs in results.values() for run in runs], 0)
    print(
        f"\n{harness.headline(origin)}\n{args.images} images, K = {args.samples:,}, {args.threads} thread(s), ", end=""
    )
    print(f"{args.repeats} evaluations: median (lowest..highest); others' CPU {busy} %\n")
    print(harness.table(["net", "ms an image", "CPU", "ms of its products", "ratio"], lines))
    nets = [{"net": net, "pixels": pixels, "evaluations": runs} for (net, pixels), runs in results.items()]
    print(f"\nwritten: {harness.write_results(args, 'evaluation', origin, nets=nets)}")


if __name__ == "__main__":
    sys.exit(harness.exit_code_of(main))
