"""Run by test_waits.py under the fake runtime: an evaluation and the pictures of every piece in every table."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from tests.cuda import counters, job
from tests.cuda.programs.pieces import CLASSES, SHAPE, SMALL, by_precision, pieces
from vae import assemble
from vae.config import load
from vae.data.dataset import Split
from vae.distributed import launch
from vae.evaluation import HeldOut, pictures

EXAMPLES = 3000


def seen(settings: list[str], accelerator: Accelerator, part: Split) -> dict[str, Any]:
    """Return what an evaluation and the pictures read from the device, once the images are there."""
    config = load(None, [*SMALL, *settings])
    dtype = assemble.DTYPES[config.train.precision]
    vae = assemble.build_model(config, SHAPE, CLASSES).to(accelerator.device, dtype)
    held_out = HeldOut(accelerator, vae, part, seed=0, split="test")
    held_out.evaluate()
    with counters.between() as evaluating:
        held_out.evaluate()
    with counters.between() as picturing:
        pictures(vae, part, 0)
    return {
        "evaluation": evaluating.copies.get("device to pageable", 0),
        "waits": sum(evaluating.readbacks.values()),
        "pictures": picturing.readbacks,
        "pageable": [places for places in evaluating.pageable if places != "device to pageable"],
        "violations": evaluating.violations + picturing.violations,
    }


def main(file: Path) -> None:
    """Write what each piece has made the host wait for."""
    torch.set_num_threads(1)
    job.silence()
    images = torch.randint(0, 256, (EXAMPLES, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    part = Split(images, torch.arange(EXAMPLES) % CLASSES)
    found = {}
    for precision, chosen in by_precision(pieces()).items():
        accelerator = launch.make_accelerator("cuda", precision, os.environ)
        found |= {name: seen(settings, accelerator, part) for name, settings in chosen.items()}
        launch.leave()
    file.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
