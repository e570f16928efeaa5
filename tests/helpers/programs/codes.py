"""Run by test_vq.py, in its process or under torchrun: a VQ-VAE after a few steps in float64, and what it is worth."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from vae import assemble
from vae.config import load
from vae.data.batches import TrainingBatches
from vae.data.dataset import Split
from vae.distributed import launch
from vae.engine import Engine
from vae.evaluation import evaluate
from vae.model import VAE

FAMILIES = [
    "model.latent_dim=6",
    "model.posterior={name: VectorQuantized, codes: 7, code_dim: 2, restart: 0.3}",
    "model.prior={name: AutoregressiveCodes, width: 8, embedding: 3}",
    "objective=VectorQuantization",
]
SMALL = ["model.hidden_dim=8", "train.batch_size=10", "train.precision=fp64"]
# to rounding; bitwise, in six parts of each batch, of which five have no example of the last one
WAYS = {"plain": ["train.exact=0"], "exact": ["train.exact=6"]}
WAYS |= {"chunks": ["train.micro_batch=2"], "exact chunks": ["train.exact=6", "train.micro_batch=1"]}
STEPS = 7  # of 10, 10, 10 and 1 examples: with several ranks, not all of them have one


def engine_of(accelerator: Accelerator, *settings: str) -> tuple[VAE, Engine]:
    """Return a model and what trains it on 31 images of 4 x 4 pixels."""
    config = load(None, [*SMALL, *FAMILIES, *settings])
    images = torch.rand(31, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vae, objective = assemble.build_model(config, (1, 4, 4)), assemble.build_objective(config)
    place = {"rank": accelerator.process_index, "world_size": accelerator.num_processes}
    batches = TrainingBatches(
        images,
        batch_size=config.train.batch_size,
        noise_dim=vae.noise_dim,
        seed=0,
        dtype=assemble.DTYPES[config.train.precision],
        **place,
    )
    return vae, assemble.build_engine(config, accelerator, vae, objective, batches)


def trained(accelerator: Accelerator, *settings: str) -> dict[str, Any]:
    """Return weights and codebook, what was logged, and the evaluation of other images (all ranks)."""
    vae, engine = engine_of(accelerator, *settings)
    for step in range(STEPS):
        engine.advance(step, step + 1)
    interval = engine.drain()
    images = torch.rand(25, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = evaluate(accelerator, vae, Split(images, None), seed=0, split="test")
    logged = interval.extra | {"loss": interval.loss, "kl": interval.kl, "grad_norm": interval.grad_norm}
    worth = {name: value for name, value in found.numbers().items() if value is not None}
    return {"model": vae.state_dict(), "logged": logged, "test": worth}


def main(folder: Path) -> None:
    """Write what this rank finds."""
    torch.set_num_threads(1)
    accelerator = launch.make_accelerator("cpu", "no", os.environ)
    found = {way: trained(accelerator, *settings) for way, settings in WAYS.items()}
    torch.save(found, folder / f"{accelerator.process_index}.pt")
    launch.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
