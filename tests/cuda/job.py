"""The job, or `python -m vae COMMAND`, under the fake CUDA runtime, which runs no kernel: values mean nothing there.

    tests/cuda/fake --devices 2 torchrun --nproc-per-node 2 tests/cuda/job.py --config configs/mnist.yaml run.name=x
    tests/cuda/fake python tests/cuda/job.py evaluate runs/x

What judges values is silenced, or takes its values another way:

- the ledger's judgement of losses that are not finite, and that of the test loss; every sum that it gathers is 1;
- log p(x) of each image that `evaluate` and `score` estimate is 1 nat; a pass over images has as many draws as are
  asked for; their file may hold NaN;
- `assert_ranks_agree`, which compares gradient norms, and `disagreement`, those of a compiled step;
- the vote on a stop: the signals are gathered over gloo, and the next vote is a fixed number of steps away; the
  collective of the real vote is made as well;
- object collectives over NCCL go through a gloo group beside it: their bytes pass kernels such as `cat`;
- compiling: steps are captured as they are, unless FAKE_CUDA_COMPILE=1, since Inductor takes 13 s of CPU time.
"""

import dataclasses
import functools
import json
import math
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from vae.__main__ import COMMANDS
from vae.distributed import stopping
from vae.engine import base, ledger, static
from vae.evaluation import results_file
from vae.evaluation.log_likelihood import aggregate, evaluator, importance
from vae.training import recording
from vae.uses import scoring

ROOT = Path(__file__).resolve().parents[2]
STEPS_BETWEEN_VOTES, DRAWS_A_PASS = 2000, 1000


def silence() -> None:
    """Let nothing judge values; see the module's text."""
    ledger.Ledger._judge = lambda self, faults: None
    ledger.Ledger.gather = ones(ledger.Ledger.gather)
    evaluator.estimate = scoring.estimate = ones(importance.estimate)
    aggregate.largest_batch = importance.largest_batch = lambda accelerator, compute, few=0: DRAWS_A_PASS
    results_file.json = AnyNumber()  # pyright: ignore[reportAttributeAccessIssue]
    base.Engine.assert_ranks_agree = lambda self: None
    static.Static.disagreement = lambda self, expected, found: ""
    stopping.StopVote._ask = ask
    recording.math = AllFinite()  # pyright: ignore[reportAttributeAccessIssue]
    for name in ("all_gather_object", "broadcast_object_list"):
        setattr(dist, name, over_gloo(getattr(dist, name)))
    if os.environ.get("FAKE_CUDA_COMPILE") != "1":
        static.compiled = lambda function, *arguments, **settings: function


def ones(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function with ones, on the CPU, for the numbers of its answer, a tensor or a dataclass of tensors."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        answer = function(*args, **kwargs)
        if isinstance(answer, torch.Tensor):
            return torch.ones_like(answer, device="cpu")
        values = {
            field.name: torch.ones_like(getattr(answer, field.name), device="cpu")
            for field in dataclasses.fields(answer)
        }
        return dataclasses.replace(answer, **values)

    return call


class AnyNumber:
    """The module `json`, for which NaN is a number."""

    def __getattr__(self, name: str) -> Any:
        return getattr(json, name)

    def dumps(self, content: Any, **settings: Any) -> str:
        settings["allow_nan"] = True
        return json.dumps(content, **settings)


class AllFinite:
    """The module `math`, for which every number is finite."""

    def __getattr__(self, name: str) -> Any:
        return getattr(math, name)

    def isfinite(self, number: float) -> bool:
        return True


def ask(self: stopping.StopVote, step: int) -> int:
    """Vote as `StopVote` does, but with signals that come over gloo, and the next time at a fixed distance."""
    self.accelerator.gather(torch.zeros(1, 2, device=self.accelerator.device))
    signals: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(signals, self.request.signum)
    self._next = step + STEPS_BETWEEN_VOTES
    return max(signals)


def over_gloo(collective: Callable[..., Any]) -> Callable[..., Any]:
    """Return an object collective that NCCL's ranks make through a gloo group beside it."""

    @functools.wraps(collective)
    def call(*args: Any, **kwargs: Any) -> Any:
        if dist.get_backend() == "nccl":
            kwargs["group"] = beside()
        return collective(*args, **kwargs)

    return call


@functools.cache
def beside() -> Any:
    """Return the gloo group (all ranks)."""
    return dist.new_group(backend="gloo")


if __name__ == "__main__":
    silence()
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        sys.argv[0] = "vae"
        runpy.run_module("vae", run_name="__main__", alter_sys=True)
    else:
        sys.argv[0] = str(ROOT / "train_ddp.py")
        runpy.run_path(sys.argv[0], run_name="__main__")
