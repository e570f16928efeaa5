"""Run by test_peers.py under torchrun: what all ranks gather, the gradient that comes back, and a short training."""

import math
import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate import Accelerator
from torch import Tensor

from vae import assemble
from vae.config import load
from vae.data.batches import TrainingBatches, share
from vae.distributed import launch
from vae.distributed.peers import Ranks
from vae.objectives import OBJECTIVES

COUNTS = (7, 2)  # of three ranks, one has no example of two
STEPS = 6  # of 10, 10 and 1 examples: with several ranks, not all of them have one
SPECS = [
    # these have models of their own, see codes.py and test_semi_supervised.py
    *[name for name in OBJECTIVES if name not in ("VectorQuantization", "SemiSupervised")],
    "{name: IWAE, gradient: doubly_reparameterized}",
    "{name: BetaTCVAE, beta: 3, alpha: 0.5, gamma: 2, estimator: stratified}",
    "{name: InfoVAE, alpha: 1}",
]
# the mean of the global batch lies on one side of what it is held against, and those of some ranks' shares on the other
BETWEEN = ["{name: CapacityVAE, capacity: 5.5}", "{name: ELBO, free_bits: 0.85, samples: 2}"]
SPECS += BETWEEN
# examples that a process takes at once; of 10 on three ranks with 3, one rank has two chunks, and the others have one
CHUNKS = (0, 1, 3)


def gathered(count: int, rank: int, world_size: int) -> dict[str, Tensor]:
    """Return this rank's value and gradient of a function of all pairs of `count` examples."""
    peers = Ranks(count, 1000, rank, world_size)
    everyone = torch.linspace(-1, 2, count * 3, dtype=torch.float64).reshape(count, 3).sin()
    part = share(count, rank, world_size)
    mine = everyone[part] if part.stop > part.start else everyone[:1]  # a stand-in, as in batches
    mine = mine.clone().requires_grad_()
    others = peers.gather(mine)
    assert torch.equal(others, everyone)
    assert peers.mine == part
    loss = pairs(mine, others)[: part.stop - part.start].sum()
    (gradient,) = torch.autograd.grad(loss, mine)
    return {"loss": loss.detach(), "gradient": gradient[: part.stop - part.start]}


def pairs(mine: Tensor, others: Tensor) -> Tensor:
    """Return for each of mine (B, D) a number that depends on all others (N, D)."""
    return (mine @ others.T).tanh().sum(1)


def trained(accelerator: Accelerator, spec: str, micro_batch: int = 0) -> dict[str, Any]:
    """Return the weights, and what was logged, of a few steps in float64 with an objective (all ranks)."""
    settings = ["model.hidden_dim=8", "train.batch_size=10", "train.precision=fp64", "train.engine=eager"]
    config = load(None, [*settings, f"objective={spec}", f"train.micro_batch={micro_batch}"])
    images = torch.rand(21, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vae, objective = assemble.build_model(config, (1, 4, 4)), assemble.build_objective(config)
    for weight in vae.encoder.parameters():
        weight.data.mul_(3)  # else the KL of all examples is much the same
    place = {"rank": accelerator.process_index, "world_size": accelerator.num_processes}
    batches = TrainingBatches(
        images, batch_size=10, noise_dim=2, samples=objective.samples, seed=0, dtype=torch.float64, **place
    )
    engine = assemble.build_engine(config, accelerator, vae, objective, batches)
    for step in range(STEPS):
        engine.advance(step, step + 1)
    interval = engine.drain()
    assert math.isfinite(interval.loss)
    logged = {"loss": interval.loss, "reconstruction": interval.reconstruction, "kl": interval.kl} | interval.extra
    logged["grad_norm"] = interval.grad_norm
    return {"weights": torch.cat([weight.detach().flatten() for weight in vae.parameters()]), "logged": logged}


def trained_by_shares(accelerator: Accelerator, spec: str) -> Tensor:
    """Return the weights where each rank takes its own share for the global batch (all ranks)."""
    with patch.object(Ranks, "gather", lambda peers, numbers: numbers[: peers.mine.stop - peers.mine.start]):
        return trained(accelerator, spec)["weights"]


def main(path: str) -> None:
    """Write what this rank finds."""
    torch.set_num_threads(1)
    accelerator = launch.make_accelerator("cpu", "no", os.environ)
    rank, world_size = accelerator.process_index, accelerator.num_processes
    found = {
        "gathered": {count: gathered(count, rank, world_size) for count in COUNTS},
        "trained": {spec: {most: trained(accelerator, spec, most) for most in CHUNKS} for spec in SPECS},
        "by shares": {spec: trained_by_shares(accelerator, spec) for spec in BETWEEN},
    }
    torch.save(found, Path(path) / f"{rank}.pt")
    launch.leave()


if __name__ == "__main__":
    main(sys.argv[1])
