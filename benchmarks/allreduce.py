"""The cost of an all-reduce of the gradients, for `scaling.py`, which starts it as N processes.

    python -m torch.distributed.run --standalone --nproc-per-node 2 benchmarks/allreduce.py --batch-size 128

Prints milliseconds as one line of JSON, medians of blocks of steps that are taken in turn:

    alone      an all-reduce of one tensor as large as all gradients, again and again, with nothing beside it
    together   a plain step of the default net on data in memory under DDP, whose all-reduce overlaps the backward pass
    apart      the same step under DDP's `no_sync`: no rank waits for another, and their weights go different ways

`together - apart` is what a step takes longer because gradients are exchanged: the part of the all-reduce that is not
hidden, and the waiting for the slowest rank. `alone` may be more (a part of it can be hidden) or less (it shares its
cores with nothing).
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import harness
import torch
import torch.distributed as dist
from floor import DTYPES
from loops import Loop, NegativeELBO
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from vae.assemble import build_model
from vae.config import load

WARM_UP = 5
IMAGE_SHAPE = (1, 28, 28)


def parse() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch-size", type=harness.positive, default=128, help="of all processes together")
    parser.add_argument("--precision", choices=list(DTYPES), default="fp32")
    parser.add_argument("--threads", type=harness.positive, default=1, help="of each process")
    parser.add_argument("--steps", type=harness.positive, default=30, help="of a block")
    parser.add_argument("--blocks", type=harness.positive, default=5)
    return parser.parse_args()


def build_loop(args: argparse.Namespace, device: torch.device) -> tuple[Loop, DistributedDataParallel]:
    """Return a loop over one random batch, this rank's share of the global one, and the DDP module inside."""
    config = load(harness.CONFIG)
    loss = NegativeELBO(build_model(config, IMAGE_SHAPE)).to(device)
    model = DistributedDataParallel(loss, gradient_as_bucket_view=True)
    x = torch.rand(max(1, args.batch_size // dist.get_world_size()), *IMAGE_SHAPE, device=device)
    return Loop(model, [(x,)], config, device, args.precision), model


def seconds_alone(gradients: Tensor, steps: int) -> float:
    """Return the seconds that so many all-reduces took (all ranks)."""
    for _ in range(WARM_UP):
        dist.all_reduce(gradients)
    _finish(gradients)
    started = time.perf_counter()
    for _ in range(steps):
        dist.all_reduce(gradients)
    _finish(gradients)
    return time.perf_counter() - started


def measure(args: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Return the medians, in milliseconds (all ranks)."""
    loop, model = build_loop(args, device)
    gradients = torch.zeros(sum(weight.numel() for weight in model.parameters()), device=device)

    def seconds_of_steps(context: Callable) -> float:
        with context():
            return loop.measure(args.steps, WARM_UP)[0]

    blocks = {
        "alone": lambda: seconds_alone(gradients, args.steps),
        "together": lambda: seconds_of_steps(nullcontext),
        "apart": lambda: seconds_of_steps(model.no_sync),
    }
    seconds: dict[str, list[float]] = {name: [] for name in blocks}
    for _ in range(args.blocks):
        for name, block in blocks.items():
            dist.barrier()
            seconds[name].append(block())
    return {name: 1000 * statistics.median(values) / args.steps for name, values in seconds.items()}


def main() -> None:
    """Measure on all ranks; the first one prints."""
    args = parse()
    torch.set_num_threads(args.threads)
    device = torch.device("cpu" if args.device == "cpu" else f"cuda:{os.environ['LOCAL_RANK']}")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    result = measure(args, device)
    if dist.get_rank() == 0:
        print(json.dumps(result), flush=True)
    dist.barrier()
    dist.destroy_process_group()


def _finish(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


if __name__ == "__main__":
    main()
