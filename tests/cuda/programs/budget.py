"""Run by test_budget.py under the fake runtime: one compiled and captured step of two configurations, node by node."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from tests.cuda import counters, job
from tests.cuda.programs import pieces
from vae import assemble
from vae.config import load
from vae.distributed import launch

CASES = {
    "bf16": ["train.precision=bf16"],
    # more nodes than the default net in fp32; with 794 columns the first layer's gradient would have other strides than
    # its weights where products are padded
    "fp32, conditional, averaged": ["model.condition=true", "optim.ema=0.999"],
}


def seen(settings: list[str]) -> dict[str, Any]:
    """Return the nodes of one step of the default net at its batch size of 128."""
    config = load(None, ["train.device=cuda", "train.engine=graph", *settings])
    precision = assemble.MIXED_PRECISION[config.train.precision]
    engine, _ = pieces.build(config, launch.make_accelerator("cuda", precision, os.environ), shape=(1, 28, 28))
    nodes = min((graph.nodes for graph in counters.graphs()), key=len)
    engine.close()
    launch.leave()
    return {"engine": engine.name, "why": engine.why, "nodes": nodes}


if __name__ == "__main__":
    torch.set_num_threads(1)
    job.silence()
    Path(sys.argv[1]).write_text(json.dumps({name: seen(settings) for name, settings in CASES.items()}))
