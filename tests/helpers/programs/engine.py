"""Run by test_engine.py under torchrun: what happens on all ranks when something is wrong on one of them."""

import math
import os
import sys
from pathlib import Path

import torch

from vae import assemble
from vae.config import load
from vae.data.batches import TrainingBatches
from vae.distributed import launch
from vae.engine import Engine, NonFiniteError
from vae.engine.eager import Eager
from vae.engine.gradients import AllReduced
from vae.model import VAE

STEPS, BAD = 6, 3


def build(overrides: list[str]) -> tuple[VAE, Engine]:
    torch.set_num_threads(1)
    config = load(None, ["model.hidden_dim=16", "train.batch_size=20", "objective.beta=1", *overrides])
    accelerator = launch.make_accelerator("cpu", "no", os.environ)
    vae = assemble.build_model(config, (1, 6, 6))
    images = torch.rand(200, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    rank, world_size = accelerator.process_index, accelerator.num_processes
    batches = TrainingBatches(images, batch_size=20, noise_dim=2, seed=0, rank=rank, world_size=world_size)
    return vae, assemble.build_engine(config, accelerator, vae, assemble.build_objective(config), batches)


def unsynchronised() -> str:
    """Train past DDP, as `unwrap_model(model).encode(...)` would."""
    vae, engine = build([])
    assert isinstance(engine, Eager)
    assert isinstance(engine.gradients, AllReduced)
    engine.gradients.model = vae
    engine.advance(0, 1)
    try:
        engine.assert_ranks_agree()
    except RuntimeError as error:
        return str(error)
    return "not noticed"


def fault_on_last_rank(*settings: str) -> str:
    """Give the last rank alone an image that is not a number, at one step."""
    _, engine = build(list(settings))
    if engine.accelerator.process_index == engine.accelerator.num_processes - 1:
        engine.batches.images[engine.batches.table(0).index[BAD, 0]] = math.nan
    before = after = 0.0
    for step in range(STEPS):
        before = _norm(engine) if step == BAD else before
        engine.advance(step, STEPS)
        after = _norm(engine) if step == BAD else after
    assert before == after, "the faulty update was made"
    try:
        interval = engine.drain()
    except NonFiniteError as error:
        return f"{error} weights {_norm(engine) == before}"
    return f"skipped {interval.skipped} of {STEPS}, {interval.examples} examples, finite {math.isfinite(interval.loss)}"


def _norm(engine: Engine) -> float:
    return sum(weight.detach().double().square().sum().item() for weight in engine.update.parameters)


if __name__ == "__main__":
    folder, what, *arguments = sys.argv[1:]
    answer = unsynchronised() if what == "unsynchronised" else fault_on_last_rank(*arguments)
    launch.leave()
    # a thread that outlives its process group may abort the process as it exits
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in names if "gloo" in name], names
    (Path(folder) / os.environ["RANK"]).write_text(answer)
