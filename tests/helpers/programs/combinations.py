"""Run by test_combinations.py on two ranks: the gradient of every combination of pieces, alone and on all ranks."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from tests.helpers.pieces import CLASSES, build_model, combinations, images, labels, named, noise, refused
from vae.components import build
from vae.data.batches import Batch, share
from vae.distributed import launch
from vae.distributed.peers import alone
from vae.engine.gradients import AllReduced
from vae.model import VAE
from vae.objectives import OBJECTIVES, Objective

COUNT = 5  # of two ranks, one has an example more
SHAPE = (1, 3, 3)


def pieces_to_try() -> list[dict[str, Any]]:
    """Return every meaningful combination of posterior, prior and likelihood, and of posterior, prior and hierarchy."""
    return [*combinations("posterior", "prior", "likelihood"), *combinations("posterior", "prior", "hierarchy")]


def differences(accelerator: Accelerator, pieces: dict[str, Any]) -> dict[str, float]:
    """Return for each objective how far the gradients of all ranks are from those of one process (all ranks).

    The largest difference of a number, of one that is measured in the largest of its weight's numbers.
    """
    vae = build_model(pieces, SHAPE, hidden_dim=8, depth=1).double()
    wrapped, found = accelerator.prepare(vae), {}
    for name in OBJECTIVES:
        if refused(pieces, name):
            continue
        objective = build(OBJECTIVES, name)
        whole = whole_batch(vae, objective)
        part = share(COUNT, accelerator.process_index, accelerator.num_processes)
        y = None if whole.labels is None else whole.labels[part]
        mine = Batch(whole.x[part], whole.noise[part], y, part.stop - part.start, COUNT)
        (together, _), _ = AllReduced(accelerator, wrapped, objective, examples=COUNT)(mine, objective.at(1.0))
        pairs = zip(gradients_alone(vae, objective, whole), together, strict=True)
        found[name] = max(((one - all_).abs().max() / one.abs().max()).item() for one, all_ in pairs)
    return found


def whole_batch(vae: VAE, objective: Objective) -> Batch:
    """Return the global batch."""
    eps = noise(COUNT * objective.samples, vae.noise_dim, torch.float64).view(COUNT, objective.samples, -1)
    y = labels(COUNT) % CLASSES if vae.needs_labels else None
    return Batch(images(COUNT, SHAPE, torch.float64), eps if objective.samples > 1 else eps[:, 0], y, COUNT, COUNT)


def gradients_alone(vae: VAE, objective: Objective, batch: Batch) -> list[Tensor]:
    """Return the gradients of the mean loss, without anything distributed."""
    terms = objective.terms(vae(batch.x, batch.noise, batch.labels), batch.x, objective.at(1.0), alone(batch.x))
    return list(torch.autograd.grad(terms.loss.mean(), list(vae.parameters())))


def main(path: str) -> None:
    """Write what this rank finds."""
    torch.set_num_threads(1)
    accelerator = launch.make_accelerator("cpu", "no", os.environ)
    found = {named(pieces): differences(accelerator, pieces) for pieces in pieces_to_try()}
    (Path(path) / f"{accelerator.process_index}.json").write_text(json.dumps(found))
    launch.leave()


if __name__ == "__main__":
    main(sys.argv[1])
