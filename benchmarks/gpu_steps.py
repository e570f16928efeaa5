"""The parts of `gpu_check.py` that measure in their own process: float32 products, the time of a step, its kernels."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import harness
import torch
from gpu_lines import COMPILED, UNCOMPILED, step_cases, step_key
from gpu_report import NotRun, Report
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from vae import assemble
from vae.config import load
from vae.data.dataset import DataSet, Split
from vae.distributed import launch
from vae.engine import Engine, static

STEPS_TO_TIME, QUICK_EPOCH = 500, 21
REPLAY = 20  # steps that are profiled


def tf32(report: Report) -> None:
    """Compare float32 products on the GPU, with the settings of a job, with float64 on the CPU."""
    launch.make_accelerator("cuda", "no", {})
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(*shape, generator=generator) for shape in ((64, 32, 14, 14), (64, 32, 4, 4)))

    def convolve(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, weight, stride=2, padding=1)

    def multiply(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ x.flatten(1).T

    report("convolution", _relative_error(convolve, x, weight))
    report("product", _relative_error(multiply, x, weight))
    first, second = (_gradient(convolve, x.cuda(), weight.cuda()) for _ in range(2))
    report("gradient", (first - second).abs().max().item())
    torch.backends.cudnn.allow_tf32 = True
    report("allowed", _relative_error(convolve, x, weight))


def _relative_error(f: Callable[..., torch.Tensor], *arguments: torch.Tensor) -> float:
    right = f(*(tensor.double() for tensor in arguments))
    found = f(*(tensor.cuda() for tensor in arguments)).cpu().double()
    return ((found - right).norm() / right.norm()).item()


def _gradient(f: Callable[..., torch.Tensor], x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    weight.requires_grad_()
    f(x, weight).square().sum().backward()
    assert weight.grad is not None
    return weight.grad


def steps(report: Report) -> None:
    """Time steps in each engine and precision; quick: one batch size, not compiled."""
    for precision, size, engine in step_cases():
        if report.quick and (engine == COMPILED or (precision, size) != ("bf16", 128)):
            continue
        key, began = step_key(precision, size, engine), time.perf_counter()
        with built(precision, size, engine, report) as running:
            seconds = time.perf_counter() - began
            if reason := not_as_asked(running, engine):
                report(key, why=reason)
                continue
            epochs = 1 if report.quick else math.ceil(STEPS_TO_TIME / running.batches.steps_per_epoch)
            microseconds(running, [0])
            report(key, microseconds(running, [0] * epochs), built_in_seconds=seconds)
            report(f"{key} loading", microseconds(running, range(1, epochs + 1)))


def nodes(report: Report) -> None:
    """Count the kernels of a replayed step and time what is between them; quick: not compiled."""
    for engine in (UNCOMPILED,) if report.quick else (COMPILED, UNCOMPILED):
        with built("bf16", 128, engine, report) as running:
            if reason := not_as_asked(running, engine):
                report(f"{engine} nodes", why=reason)
                continue
            step = [microseconds(running, [0]) for _ in range(3)][-1]
            report(f"{engine} step", step)
            kernels = [_trace(running) for _ in range(2)][-1]  # the first one sets the profiler up
            if not kernels:
                raise NotRun("torch.profiler saw no kernel on this device (CUPTI)")
            busy, count = sum(e.time_range.elapsed_us() for e in kernels) / REPLAY, len(kernels) / REPLAY
            report(f"{engine} nodes", count)
            report(f"{engine} kernels", busy, longest=longest(kernels))
            report(f"{engine} price", (step - busy) / count)


def not_as_asked(engine: Engine, asked: str) -> str:
    """Return the reason why an engine's step is not compiled, if it was asked to be, or nothing."""
    return engine.why if asked == COMPILED and "not compiled" in engine.why else ""


def _trace(engine: Engine) -> list[Any]:
    """Return the kernels and copies on the device of one replay."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as traced:
        made = engine.advance(0, REPLAY)
        torch.cuda.synchronize()
    assert made == REPLAY
    return [event for event in traced.events() or [] if _on_the_device(event)]


def _on_the_device(event: Any) -> bool:
    return event.device_type.name == "CUDA" and not event.is_user_annotation


def longest(kernels: list[Any], most: int = 15) -> list[dict[str, Any]]:
    """Return the kernels that take most of a step, with microseconds and launches a step."""
    found: dict[str, list[float]] = {}
    for event in kernels:
        found.setdefault(event.name, []).append(event.time_range.elapsed_us())
    ordered = sorted(found.items(), key=lambda item: -sum(item[1]))[:most]
    return [{"name": name[:120], "us": sum(us) / REPLAY, "launches": len(us) / REPLAY} for name, us in ordered]


@contextmanager
def built(precision: str, batch_size: int, engine: str, report: Report) -> Iterator[Engine]:
    """Give an engine that trains the default net on MNIST, or quickly on a part of it."""
    settings = {"device": "cuda", "precision": precision, "batch_size": batch_size, "engine": engine.split()[0]}
    places = [f"data.root={harness.ROOT / 'data'}", *(f"train.{key}={value}" for key, value in settings.items())]
    config = load(harness.CONFIG, places)
    data = assemble.build_data(config)
    if report.quick:
        data = DataSet("a part of MNIST", Split(data.train.images[: QUICK_EPOCH * batch_size], None), data.test)
    accelerator = launch.make_accelerator("cuda", assemble.MIXED_PRECISION[precision], {})
    vae, objective = assemble.build_model(config, data.image_shape, data.classes), assemble.build_objective(config)
    batches = assemble.build_batches(config, data, vae, objective, accelerator.device)
    original = static.compiled
    if engine == UNCOMPILED:
        static.compiled = lambda function, *_, **__: function
    try:
        running = assemble.build_engine(config, accelerator, vae, objective, batches)
        yield running
        running.close()
    finally:
        static.compiled = original
        torch.compiler.reset()
        launch.leave()


def microseconds(engine: Engine, epochs: Iterable[int]) -> float:
    """Return the time of a step over some epochs; one and the same again and again is loaded once."""
    each = engine.batches.steps_per_epoch
    torch.cuda.synchronize()
    began, made = time.perf_counter(), 0
    for epoch in epochs:
        step, end = epoch * each, (epoch + 1) * each
        while step < end:
            step += engine.advance(step, end)
        made += each
    torch.cuda.synchronize()
    return 1e6 * (time.perf_counter() - began) / made
