"""The same training steps in several places, and how far the weights lie apart afterwards.

    python tests/helpers/programs/same_weights.py --precision fp64 cpu-eager-1 cuda-eager-1 cuda-graph-1
    python tests/helpers/programs/same_weights.py --precision fp64 cuda-graph-1 cuda-graph-2

A place is DEVICE-ENGINE-RANKS. Places that follow each other with the same device and ranks share their processes. Two
ranks on CUDA share the first GPU, with gloo for their collectives (NCCL refuses two ranks on a device). Prints one line
of JSON: for each place the largest difference of a weight from the first place, and the largest between the place's own
ranks. It judges nothing: under the fake CUDA runtime of tests/cuda values mean nothing.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = 25 * 128 + 1  # an epoch has room for a replay of 20 steps; its last batch has an example for one rank alone
LEARNING_RATE = 2**-10  # float32 holds it: no engine rounds it
SECONDS = 300.0  # for the processes of one place


def train(device: str, engines: Sequence[str], precision: str, steps: int, file: Path, *, uncompiled: bool) -> None:
    """Make the steps in one engine after the other (all ranks), and save this rank's weights."""
    from vae import assemble
    from vae.config import load
    from vae.data.dataset import Split
    from vae.distributed import launch
    from vae.engine import static

    if uncompiled:
        static.compiled = lambda function, *_, **__: function
    backend = "gloo" if "RANK" in os.environ else None
    accelerator = launch.make_accelerator(device, assemble.MIXED_PRECISION[precision], os.environ, backend=backend)
    launch.set_threads(0, os.environ)
    rank, world_size = accelerator.process_index, accelerator.num_processes

    def weights(engine: str) -> list[np.ndarray]:
        settings = {"engine": engine, "device": device, "precision": precision, "batch_size": 128}
        given = [f"optim.lr={LEARNING_RATE}", f"data.root={ROOT / 'data'}"]
        config = load(None, [*given, *(f"train.{key}={value}" for key, value in settings.items())])
        data = assemble.build_data(config)
        data = replace(data, train=Split(data.train.images[:EXAMPLES], None))
        vae, objective = assemble.build_model(config, data.image_shape), assemble.build_objective(config)
        batches = assemble.build_batches(config, data, vae, objective, accelerator.device, rank, world_size)
        built = assemble.build_engine(config, accelerator, vae, objective, batches)
        assert built.name == engine, built.why
        step = 0
        while step < steps:
            step += built.advance(step, steps)
        print(f"rank {rank} of {world_size} on {accelerator.device}: {built.name}, {built.why}", file=sys.stderr)
        trained = [weight.detach().cpu().numpy() for weight in built.update.parameters]
        built.close()
        return trained

    for engine in engines:
        np.savez(f"{file}-{engine}-{rank}.npz", *weights(engine))
    launch.leave()


def run(device: str, engines: Sequence[str], ranks: int, settings: Sequence[str], file: Path) -> None:
    """Start the processes of some places and wait for them; raises `RuntimeError` if one fails."""
    words = [
        sys.executable,
        __file__,
        *settings,
        "--file",
        str(file),
        *(f"{device}-{each}-{ranks}" for each in engines),
    ]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    launched = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    launched |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = []
    for rank in range(ranks):
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | (launched | {"RANK": str(rank)} if ranks > 1 else {})
        processes.append(subprocess.Popen(words, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True))
    try:
        errors = [process.communicate(timeout=SECONDS)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, said in zip(processes, errors, strict=True):
        sys.stderr.write(said)
        if process.returncode:
            last = (said.strip() or "no message").splitlines()[-1]
            raise RuntimeError(f"{' '.join(words[2:])}: {last} (exit code {process.returncode})")


def compare(places: Sequence[str], settings: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the largest difference of a weight `from_first` place and `between_ranks`, by place."""

    def apart(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
        return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))

    def saved(file: str) -> list[np.ndarray]:
        with np.load(file) as arrays:
            return [arrays[name] for name in arrays.files]

    with tempfile.TemporaryDirectory() as folder:
        weights = {}
        for (device, ranks), same in groupby(places, key=lambda place: place.split("-")[::2]):
            engines = [place.split("-")[1] for place in same]
            file = Path(folder) / f"{device}-{ranks}"
            run(device, engines, int(ranks), settings, file)
            for engine in engines:
                of_ranks = [saved(f"{file}-{engine}-{rank}.npz") for rank in range(int(ranks))]
                weights[f"{device}-{engine}-{ranks}"] = of_ranks
        first = weights[places[0]][0]
        return {
            place: {
                "from_first": max(apart(first, rank) for rank in of_ranks),
                "between_ranks": max(apart(of_ranks[0], rank) for rank in of_ranks),
            }
            for place, of_ranks in weights.items()
        }


def main() -> None:
    """Compare the places, or be one rank of some of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=["fp64", "fp32", "bf16"], default="fp64")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--uncompiled", action="store_true", help="capture steps as they are: compiling takes seconds")
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("places", nargs="+", metavar="DEVICE-ENGINE-RANKS")
    args = parser.parse_args()
    if args.file:
        device, engines = args.places[0].split("-")[0], [place.split("-")[1] for place in args.places]
        train(device, engines, args.precision, args.steps, args.file, uncompiled=args.uncompiled)
        return
    settings = ["--precision", args.precision, "--steps", str(args.steps)]
    print(json.dumps(compare(args.places, [*settings, *(["--uncompiled"] if args.uncompiled else [])])))


if __name__ == "__main__":
    main()
