"""Run by test_priors.py, alone or under torchrun: a few steps in float64 of each family that has weights of its own."""

import os
import sys
from pathlib import Path

import torch

from vae import assemble
from vae.config import load
from vae.data.batches import TrainingBatches
from vae.distributed import launch

FAMILIES = [
    ["model.prior={name: GaussianMixture, components: 3}"],
    ["model.prior={name: VampPrior, pseudo_inputs: 4}"],
    ["model.prior={name: Flow, layers: 2, width: 8}"],
    ["model.prior=ClassNormal"],
    ["model.posterior={name: SplineFlow, layers: 2, width: 8}"],
    ["model.posterior={name: InverseAutoregressiveFlow, layers: 2, width: 8}", "train.exact=2"],
]
STEPS, EXAMPLES, CLASSES = 4, 33, 3


def main(folder: Path) -> None:
    """Save the weights of each family before and after its steps; the last batch of an epoch is 9 + 4 or 5 + 4 ..."""
    torch.set_num_threads(1)
    accelerator = launch.make_accelerator("cpu", "no", os.environ)
    images = torch.rand(EXAMPLES, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for place, settings in enumerate(FAMILIES):
        fixed = ["train.precision=fp64", "model.hidden_dim=8", "train.batch_size=13", "objective.beta=1"]
        config = load(None, [*fixed, *settings])
        model = assemble.build_model(config, (1, 4, 4), CLASSES)
        objective = assemble.build_objective(config)
        batches = TrainingBatches(
            images,
            batch_size=config.train.batch_size,
            noise_dim=model.noise_dim,
            labels=torch.arange(EXAMPLES) % CLASSES if model.needs_labels else None,
            seed=0,
            dtype=torch.float64,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
        )
        engine = assemble.build_engine(config, accelerator, model, objective, batches)
        if accelerator.is_main_process:
            torch.save(model.state_dict(), folder / f"{place}-start.pt")
        for step in range(STEPS):
            engine.advance(step, STEPS)
        if accelerator.is_main_process:
            torch.save(model.state_dict(), folder / f"{place}.pt")
    launch.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
