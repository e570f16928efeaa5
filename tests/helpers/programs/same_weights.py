"""The same training steps in several places, and how far the weights lie apart afterwards.

    python tests/helpers/programs/same_weights.py --precision fp64 cpu-eager-1 cuda-eager-1 cuda-graph-1
    python tests/helpers/programs/same_weights.py --precision fp64 cuda-graph-1 cuda-graph-2

A place is DEVICE-ENGINE-RANKS. Each has processes of its own, one after the other; two ranks on CUDA share the first
GPU, with gloo for their collectives (NCCL refuses two ranks on a device). Prints one line of JSON: for each place but
the first the largest difference of a weight from the first place, and the largest between the place's own ranks. It
judges nothing: under the fake CUDA runtime of tests/cuda values mean nothing.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = 25 * 128 + 1  # an epoch has room for a replay of 20 steps; its last batch has an example for one rank alone
LEARNING_RATE = 2**-10  # float32 holds it: no engine rounds it
SECONDS = 300.0  # for the processes of one place


def train(engine: str, device: str, ranks: int, precision: str, steps: int, file: Path) -> None:
    """Make the steps (all ranks) and save this rank's weights."""
    import torch

    from vae import assemble
    from vae.config import load
    from vae.data.dataset import DataSet, Split
    from vae.distributed import launch

    settings = {"engine": engine, "device": device, "precision": precision, "batch_size": 128}
    config = load(None, [*(f"train.{key}={value}" for key, value in settings.items()), f"optim.lr={LEARNING_RATE}"])
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (EXAMPLES, 1, 28, 28), dtype=torch.uint8, generator=generator)
    data = DataSet("random", Split(images, None), Split(images[:1], None))
    backend = "gloo" if ranks > 1 else None
    accelerator = launch.make_accelerator(device, assemble.MIXED_PRECISION[precision], os.environ, backend=backend)
    launch.set_threads(0, os.environ)
    vae, objective = assemble.build_model(config, data.image_shape), assemble.build_objective(config)
    rank, world_size = accelerator.process_index, accelerator.num_processes
    batches = assemble.build_batches(config, data, vae, objective, accelerator.device, rank, world_size)
    built = assemble.build_engine(config, accelerator, vae, objective, batches)
    assert (built.name, world_size) == (engine, ranks), built.why
    step = 0
    while step < steps:
        step += built.advance(step, steps)
    torch.save([weight.detach().cpu() for weight in built.update.parameters], f"{file}.{rank}")
    print(f"rank {rank} of {world_size} on {accelerator.device}: {built.name}, {built.why}", file=sys.stderr)
    del built, batches, vae
    launch.leave()


def run(place: str, precision: str, steps: int, file: Path) -> None:
    """Start the processes of a place and wait for them; raises `RuntimeError` if one fails."""
    device, engine, ranks = place.split("-")
    words = [sys.executable, __file__, "--rank", "--precision", precision, "--steps", str(steps), place, str(file)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    launched = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    launched |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = []
    for rank in range(int(ranks)):
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | (launched | {"RANK": str(rank)} if ranks != "1" else {})
        processes.append(subprocess.Popen(words, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True))
    try:
        errors = [process.communicate(timeout=SECONDS)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, said in zip(processes, errors, strict=True):
        sys.stderr.write(said)
        if process.returncode:
            raise RuntimeError(f"{place}, {precision}: exit code {process.returncode}: {said.strip().splitlines()[-1:]}")


def compare(places: Sequence[str], precision: str, steps: int) -> dict[str, dict[str, float]]:
    """Return the largest difference of a weight `from_first` place and `between_ranks`, by place."""
    import torch

    def apart(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> float:
        return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True))

    with tempfile.TemporaryDirectory() as folder:
        weights = {}
        for place in places:
            run(place, precision, steps, Path(folder) / place)
            ranks = range(int(place.split("-")[2]))
            weights[place] = [torch.load(Path(folder) / f"{place}.{rank}") for rank in ranks]
        first = weights[places[0]][0]
        return {
            place: {
                "from_first": max(apart(first, rank) for rank in of_ranks),
                "between_ranks": max(apart(of_ranks[0], rank) for rank in of_ranks),
            }
            for place, of_ranks in weights.items()
        }


def main() -> None:
    """Compare the places, or be one rank of one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=["fp64", "fp32", "bf16"], default="fp64")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("places", nargs="+", metavar="DEVICE-ENGINE-RANKS")
    args = parser.parse_args()
    if not args.rank:
        print(json.dumps(compare(args.places, args.precision, args.steps)))
        return
    place, file = args.places
    device, engine, ranks = place.split("-")
    train(engine, device, int(ranks), args.precision, args.steps, Path(file))


if __name__ == "__main__":
    main()
