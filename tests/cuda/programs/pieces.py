"""Run by test_pieces.py under the fake runtime, on one rank or several: a few steps of every piece in every table."""

import json
import os
import sys
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from tests.cuda import counters, job
from tests.helpers.pieces import TABLES, combinations, named
from vae import assemble
from vae.config import Config, load
from vae.data.dataset import DataSet, Split
from vae.distributed import launch
from vae.engine import Engine, static
from vae.errors import InputError
from vae.objectives import OBJECTIVES

EXAMPLES, SHAPE, CLASSES = 390, (1, 8, 8), 4
STEPS_A_REPLAY = 3  # a capture costs as much CPU time as the steps that it holds
SMALL = [
    "train.device=cuda",
    "model.latent_dim=4",
    "model.hidden_dim=8",
    "model.depth=1",
    "train.batch_size=16",  # 25 steps an epoch, the last one of 6 examples
    "objective=ELBO",
]
INFERRING = ["model.infer_labels=true", "model.condition=true", "data.labelled=20"]
CODES = ["model.posterior={name: VectorQuantized, codes: 5, code_dim: 2}", "objective=VectorQuantization"]
# what a piece may need beside it, in the order in which it is tried
COMPANIONS: list[list[str]] = [[], INFERRING, [*CODES, "model.prior=UniformCodes"]]
# settings outside of the tables that change what a step does
OTHERS = {
    "conditional": ["model.condition=true"],
    "inferred labels": INFERRING,
    "centred": ["model.center_input=true"],
    "binarize=dynamic": ["data.binarize=dynamic"],
    "binarize=static": ["data.binarize=static"],
    "clipped": ["optim.max_grad_norm=0.1"],
    "schedules": ["objective={name: ELBO, beta: {name: Cyclical}}", "optim.lr_schedule={name: Cosine}"],
    "skipping": ["train.on_nonfinite=skip"],
    "exact": ["train.exact=6"],
    "free bits": ["objective={name: ELBO, free_bits: 0.1}"],
    "doubly reparameterized": ["objective={name: IWAE, gradient: doubly_reparameterized}"],
    "stratified": ["objective={name: BetaTCVAE, estimator: stratified}"],
    "averaged": ["optim.ema=0.999"],
    "averaged codes": [*CODES, "model.prior=UniformCodes", "optim.ema=0.999"],
    "averaged fp16": ["optim.ema=0.999", "train.precision=fp16"],
    "averaged fp64": ["optim.ema=0.999", "train.precision=fp64"],
    "bf16": ["train.precision=bf16"],
    "fp16": ["train.precision=fp16"],
    "fp64": ["train.precision=fp64"],
}


def accepted(settings: list[str]) -> bool:
    """Return true if a configuration may have these settings."""
    try:
        load(None, [*SMALL, *settings])
    except InputError:
        return False
    return True


def pieces() -> dict[str, list[str]]:
    """Return settings by name: every piece of every table beside the defaults, or beside what it needs; and others."""
    tables = [(f"model.{key}", table) for key, table in TABLES.items()] + [("objective", OBJECTIVES)]
    alone = [f"{key}={name}" for key, table in tables for name in table]
    found = {}
    for one in alone:
        ways = [way for beside in COMPANIONS for way in ([*beside, one], [one, *beside])]
        found[one] = next(filter(accepted, ways), [one])
    return found | OTHERS


def together() -> dict[str, list[str]]:
    """Return settings by name: every posterior with every prior and hierarchy that go with it."""
    return {named(chosen): settings_of(chosen) for chosen in combinations("posterior", "prior", "hierarchy")}


def settings_of(chosen: dict[str, str]) -> list[str]:
    """Return the settings that choose some pieces of the model."""
    return [f"model.{key}={name}" for key, name in chosen.items()]


def build(config: Config, accelerator: Accelerator, shape: tuple[int, int, int] = SHAPE) -> tuple[Engine, str]:
    """Return an engine (all ranks), and the name of the one that the settings allow."""
    images = torch.randint(0, 256, (EXAMPLES, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    part = Split(images, torch.arange(EXAMPLES) % CLASSES)
    data = DataSet("small", part, part)
    if config.data.labelled:
        data = data.hide_labels(config.data.labelled, config.data.repeat_labelled, config.run.seed)
    vae, objective = assemble.build_model(config, shape, CLASSES), assemble.build_objective(config)
    device, rank, world_size = accelerator.device, accelerator.process_index, accelerator.num_processes
    batches = assemble.build_batches(config, data, vae, objective, device, rank, world_size)
    wanted = assemble.choose_engine(config, objective, batches, device.type, world_size).name
    return assemble.build_engine(config, accelerator, vae, objective, batches), wanted


def run(engine: Engine, first: int, until: int) -> None:
    """Make the steps `first` .. `until` - 1 (all ranks)."""
    step = first
    while step < until:
        step += engine.advance(step, until)


def seen(config: Config, accelerator: Accelerator) -> dict[str, Any]:
    """Return the launches, read-backs and rules broken of the steps between two logging points (all ranks)."""
    engine, wanted = build(config, accelerator)
    first, until = 20, 28  # over the end of an epoch
    run(engine, first, first + 2)
    engine.ledger.gather()
    # DDP waits for events of its own in its first ten steps, and then in one of a hundred: for its statistics
    ddp = engine.name == "eager" and accelerator.num_processes > 1
    judging = nullcontext() if ddp else counters.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with counters.between() as between, judging:
            run(engine, first + 2, until)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    engine.ledger.gather()
    return {
        "engine": engine.name,
        "wanted": wanted,
        "why": engine.why,
        "launches": between.launches,
        "readbacks": between.readbacks,
        "pageable": between.pageable,
        "violations": between.violations,
    }


def tried(settings: list[str], accelerator: Accelerator) -> dict[str, Any]:
    """Return the findings of `seen`, or the problem (all ranks)."""
    try:
        return seen(load(None, [*SMALL, *settings]), accelerator)
    except Exception as error:
        traceback.print_exc()
        return {"problem": f"{type(error).__name__}: {error}"}


def by_precision(chosen: dict[str, list[str]]) -> dict[str, dict[str, list[str]]]:
    """Return the cases of each mixed precision, for which an accelerator has to be made anew."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, settings in chosen.items():
        precision = load(None, [*SMALL, *settings]).train.precision
        found.setdefault(assemble.MIXED_PRECISION[precision], {})[name] = settings
    return found


def main(folder: Path) -> None:
    """Write what this rank finds."""
    torch.set_num_threads(1)
    job.silence()
    static.STEPS_A_REPLAY = STEPS_A_REPLAY
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    rows = []
    for precision, chosen in by_precision(pieces() | together() if alone else pieces()).items():
        accelerator = launch.make_accelerator("cuda", precision, os.environ)
        for name, settings in chosen.items():
            for engine in ("eager", "auto"):
                found = tried([*settings, f"train.engine={engine}"], accelerator)
                rows.append({"name": name, "asked": engine, **found})
        AcceleratorState._reset_state()  # the next one has this process group, too
    (folder / f"{os.environ.get('RANK', '0')}.json").write_text(json.dumps(rows))
    launch.leave()  # all ranks


if __name__ == "__main__":
    main(Path(sys.argv[1]))
