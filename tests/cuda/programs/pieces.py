"""Run by test_pieces.py under the fake runtime, on one rank or several: a few steps of every piece in every table."""

import ctypes
import json
import math
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from tests.helpers.pieces import TABLES
from vae import assemble
from vae.config import Config, load
from vae.data.dataset import DataSet, Split
from vae.distributed import launch
from vae.engine import Engine, ledger, static
from vae.errors import InputError
from vae.objectives import OBJECTIVES
import time
lib = ctypes.CDLL(None)
for f in ("fake_counts", "fake_graphs", "fake_log", "fake_nodes"):
    getattr(lib, f).restype = ctypes.c_char_p

def counts():
    return dict((w, int(n)) for n, w in (l.split("\t", 1) for l in lib.fake_counts().decode().splitlines()))

SMALL = [
    "train.device=cuda", "model.latent_dim=4", "model.hidden_dim=8", "train.batch_size=16", "objective=ELBO",
]
EXAMPLES, SHAPE, CLASSES = 390, (1, 8, 8), 4  # 25 steps an epoch, the last one of 6 examples
INFERRING = ["model.infer_labels=true", "model.condition=true", "data.labelled=20"]
CODES = ["model.posterior={name: VectorQuantized, codes: 5, code_dim: 2}"]
# what a piece needs of others, in the order in which it is tried
COMPANIONS = [
    [],
    INFERRING,
    [*CODES, "model.prior=UniformCodes", "objective=VectorQuantization"],
]
# settings outside of the tables that change what a step does
OTHERS = {
    "conditional": ["model.condition=true"],
    "inferred labels": [*INFERRING],
    "centred": ["model.center_input=true"],
    "binarize=dynamic": ["data.binarize=dynamic"],
    "binarize=static": ["data.binarize=static"],
    "never clipped": ["optim.max_grad_norm=null"],
    "schedules": ["objective={name: ELBO, beta: {name: Cyclical}}", "optim.lr_schedule={name: Cosine}"],
    "skipping": ["train.on_nonfinite=skip"],
    "exact": ["train.exact=6"],
    "free bits": ["objective={name: ELBO, free_bits: 0.1}"],
    "doubly reparameterized": ["objective={name: IWAE, gradient: doubly_reparameterized}"],
    "stratified": ["objective={name: BetaTCVAE, estimator: stratified}"],
    "bf16": ["train.precision=bf16"],
    "fp16": ["train.precision=fp16"],
    "fp64": ["train.precision=fp64"],
}


def accepted(*settings: str) -> Config | None:
    try:
        return load(None, [*SMALL, *settings])
    except InputError:
        return None


def cases() -> dict[str, list[str]]:
    """Return settings by name: every piece of every table beside the defaults, or beside what it needs."""
    pieces = {f"{table}={name}": f"model.{table}={name}" for table in TABLES for name in TABLES[table]}
    pieces |= {f"objective={name}": f"objective={name}" for name in OBJECTIVES}
    found = {}
    for name, setting in pieces.items():
        tries = [[*companions, setting] for companions in COMPANIONS]
        found[name] = next((settings for settings in tries if accepted(*settings)), [setting])
    return found | OTHERS


def engine_of(config: Config, accelerator: Accelerator) -> Engine:
    images = torch.randint(0, 256, (EXAMPLES, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    part = Split(images, torch.arange(EXAMPLES) % CLASSES)
    data = DataSet("small", part, part)
    if config.data.labelled:
        data = data.hide_labels(config.data.labelled, 1, 0)
    vae, objective = assemble.build_model(config, SHAPE, CLASSES), assemble.build_objective(config)
    place = accelerator.device, accelerator.process_index, accelerator.num_processes
    return assemble.build_engine(config, accelerator, vae, objective, assemble.build_batches(config, data, vae, objective, *place))


def run(engine: Engine, first: int, until: int) -> None:
    step = first
    while step < until:
        step += engine.advance(step, until)


def watched(config: Config, accelerator: Accelerator, engine: str) -> dict[str, Any]:
    config = config.model_copy(update={"train": config.train.model_copy(update={"engine": engine})})
    t = time.process_time()
    try:
        made = engine_of(config, accelerator)
    except InputError as error:
        return {"refused": str(error)}
    first, until = (0, 48) if made.name == "graph" else (22, 27)
    run(made, first, first + 2)
    before = counts()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(made, first + 2, until)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    after = counts()
    new = {k: v - before.get(k, 0) for k, v in after.items() if v != before.get(k, 0)}
    other = {k: v for k, v in new.items() if not k.startswith(("kernel", "product"))}
    graphs = lib.fake_graphs().decode()
    made.drain()
    return {"name": made.name, "why": made.why, "launches": sum(v for k, v in new.items() if k.startswith(("kernel", "product"))), "other": other, "graphs": graphs, "violations": lib.fake_violations(), "cpu": time.process_time() - t}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    ledger.Ledger._judge = lambda *_: None
    static.compiled = lambda f, *_: f
    chosen = cases()
    if len(sys.argv) > 2:
        chosen = {k: v for k, v in chosen.items() if sys.argv[2] in k}
    found = {}
    for name, settings in chosen.items():
        config = load(None, [*SMALL, *settings])
        accelerator = launch.make_accelerator("cuda", assemble.MIXED_PRECISION[config.train.precision], os.environ)
        for engine in ("eager", "graph"):
            try:
                found[f"{name} {engine}"] = watched(config, accelerator, engine)
            except Exception as error:
                traceback.print_exc()
                found[f"{name} {engine}"] = {"error": f"{type(error).__name__} {error}"[:300]}
            print(name, engine, found[f"{name} {engine}"], flush=True)
        launch.leave() if accelerator.num_processes == 1 else None
    print(lib.fake_log().decode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
