"""Run by test_failures.py under the fake runtime on two ranks: what hinders an engine on rank 1, all ranks hear of."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from tests.cuda import counters, job
from tests.cuda.programs.pieces import SMALL, build
from vae.config import load
from vae.distributed import launch
from vae.engine import compiler, static
from vae.engine.static import Static, StaticStep
from vae.errors import InputError

ON_RANK_1 = os.environ["RANK"] == "1"


@contextmanager
def replaced(place: Any, name: str, value: Any) -> Iterator[None]:
    """Have another attribute in a block."""
    before = getattr(place, name)
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, before)


def waits_in_a_capture() -> Any:
    """Have rank 1's step read a number back, which CUDA does not allow in a capture."""
    finish = StaticStep._finish

    def reading(self: StaticStep, gradients: Any, nats: torch.Tensor) -> None:
        if ON_RANK_1 and torch.cuda.is_current_stream_capturing():
            float(nats[0])
        finish(self, gradients, nats)

    return replaced(StaticStep, "_finish", reading)


def fails_before_a_capture() -> Any:
    """Have rank 1 run out of memory while it warms up."""
    warm_up = Static._warm_up

    def failing(self: Static) -> None:
        if ON_RANK_1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        warm_up(self)

    return replaced(Static, "_warm_up", failing)


@contextmanager
def fails_to_compile() -> Iterator[None]:
    """Have rank 1's compiler fail; that of rank 0 takes the function as it is."""

    def fail(*_: Any) -> None:
        raise RuntimeError("no compiler was found")

    def compile_(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        return fail if ON_RANK_1 else function

    with replaced(static, "compiled", compiler.compiled), replaced(torch, "compile", compile_):
        yield


def finds_other_gradients() -> Any:
    """Have rank 1's compiled step compute other gradients than the plain one."""
    return replaced(Static, "disagreement", lambda *_: "its gradients differ" if ON_RANK_1 else "")


CASES: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "capture": (waits_in_a_capture, ["train.engine=auto"]),
    "capture, asked for": (waits_in_a_capture, ["train.engine=graph"]),
    "warm-up": (fails_before_a_capture, ["train.engine=auto"]),
    "compiler": (fails_to_compile, ["train.engine=graph"]),
    "compiler, called": (fails_to_compile, ["train.engine=compile"]),
    "gradients": (finds_other_gradients, ["train.engine=graph"]),
    "nothing": (lambda: replaced(sys, "argv", sys.argv), ["train.engine=graph"]),
}


def outcome(accelerator: Accelerator, settings: list[str]) -> dict[str, Any]:
    """Build an engine and make steps with it (all ranks); returns what became of it on this rank."""
    try:
        engine, _ = build(load(None, [*SMALL, *settings]), accelerator)
    except InputError as error:
        return {"refused": str(error), "alive": len(counters.graphs())}
    built, step = len(counters.graphs()), 0
    while step < 3:
        step += engine.advance(step, 3)
    engine.close()
    here = torch.cuda.current_stream() == torch.cuda.default_stream()
    return {"engine": engine.name, "why": engine.why, "built": built, "alive": len(counters.graphs()), "stream": here}


def main(folder: Path) -> None:
    """Write what this rank finds."""
    job.silence()
    accelerator, found = launch.make_accelerator("cuda", "no", os.environ), {}
    for name, (planted, settings) in CASES.items():
        with planted():
            found[name] = outcome(accelerator, settings)
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(found))
    launch.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
