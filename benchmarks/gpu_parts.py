"""The parts of `gpu_check.py`, each of which measures some lines of its table; started by it, each as a process.

    python benchmarks/gpu_parts.py PART FILE [--quick]

Appends a line of JSON to FILE for each number as soon as it is known: a part that is stopped leaves what it has.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import harness
import torch
from gpu_lines import COMPILED, JOB_ENGINES, LARGE, UNCOMPILED, step_cases, step_key
from rows import JOB, Row, Sample, select
from targets import LOGGING, WAITED, targets_of
from torch.autograd import DeviceType
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from vae import assemble
from vae.config import load
from vae.data.dataset import DataSet, Split
from vae.distributed import launch
from vae.engine import Engine, static

BENCHMARKS = harness.ROOT / "benchmarks"
SAME_WEIGHTS = harness.ROOT / "tests" / "helpers" / "programs" / "same_weights.py"
STEPS_TO_COMPARE, STEPS_TO_TIME, QUICK_EPOCH = 40, 500, 21
REPLAY = 20  # steps that are profiled


class NotRun(Exception):  # noqa: N818
    """A part cannot be run here; the message is the reason, in a few words."""


@dataclass(frozen=True)
class Report:
    """Where the numbers of a part go.

    Attributes:
        file: gets a line for each.
        quick: whether the part is to be as small as it can be; its numbers mean nothing then.
    """

    file: Path
    quick: bool

    def __call__(self, key: str, *values: float, **details: Any) -> None:
        """Note the values of a line, by its key, and what else is to be in the JSON."""
        with self.file.open("a") as file:
            file.write(json.dumps({"key": key, "values": values, **details}) + "\n")


# --- results that must be the same ------------------------------------------------------------------------------------


def tests(report: Report) -> None:
    """Run the tests that need a GPU; quick: collect them."""
    if find_spec("pytest") is None:
        raise NotRun("pytest is not installed here; it comes with `pip install -e .[dev]`, or make test")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "junit.xml"
        words = ["-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", f"--junitxml={file}", str(harness.ROOT)]
        done = harness.start([*words, "--rootdir", str(harness.ROOT), *(["--collect-only"] if report.quick else [])], 1)
        if report.quick:
            raise NotRun(f"--quick: only collected: {done.stdout.strip().splitlines()[-1].strip('= ')}")
        if not file.exists():
            raise harness.JobError(f"pytest: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
        suites = list(ElementTree.parse(file).iter("testsuite"))
        cases = list(ElementTree.parse(file).iter("testcase"))
    count = {key: sum(int(suite.get(key, 0)) for suite in suites) for key in ("tests", "failures", "errors", "skipped")}
    bad = [f"{c.get('classname')}::{c.get('name')}" for c in cases if c.find("failure") or c.find("error")]
    failed = count["failures"] + count["errors"]
    report("failed", failed, which=bad, output=done.stdout[-20_000:] if failed else "")
    report("passed", count["tests"] - failed - count["skipped"])
    report("skipped", count["skipped"])


def same_weights(places: list[str], precision: str, quick: bool) -> dict[str, dict[str, float]]:
    """Return how far the weights of some places lie apart after the same steps."""
    settings = ["--steps", "2", "--uncompiled"] if quick else ["--steps", str(STEPS_TO_COMPARE)]
    return json.loads(harness.run([str(SAME_WEIGHTS), "--precision", precision, *settings, *places]))


def exactness(report: Report) -> None:
    """Compare the GPU with the CPU in float64."""
    found = same_weights(["cpu-eager-1", "cuda-eager-1", "cuda-graph-1"], "fp64", report.quick)
    for engine in ("eager", "graph"):
        report(engine, found[f"cuda-{engine}-1"]["from_first"])


def two(report: Report) -> None:
    """Compare two ranks on one card with one rank; quick: in float64 only."""
    for precision in ("fp64",) if report.quick else ("fp64", "fp32", "bf16"):
        found = same_weights(["cuda-graph-1", "cuda-graph-2"], precision, report.quick)["cuda-graph-2"]
        report(precision, found["from_first"])
        report(f"{precision} ranks", found["between_ranks"])


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


# --- the job ----------------------------------------------------------------------------------------------------------


def measured(program: str, report: Report, *words: str) -> dict[str, Any]:
    """Run a benchmark on CUDA in bf16, one round, and return its JSON."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.json"
        given = ["--device", "cuda", "--rounds", "1", "--output", str(output), *words]
        harness.run([str(BENCHMARKS / program), *given, *(["--quick"] if report.quick else [])])
        return json.loads(output.read_text())


def row_of(saved: dict[str, Any]) -> Row:
    """Return a row that a benchmark has saved."""
    samples = [Sample(**sample) for sample in saved.pop("samples")]
    return Row(**{**saved, "samples": samples, "discarded": []})


def job(report: Report) -> None:
    """Run the job beside the conventional loops: `throughput.py`, whose targets are judged for each engine."""
    words = ["--precisions", "bf16", "--engines", *JOB_ENGINES]
    larger = [] if report.quick else ["--steps", "200", "--more-batches", "8192"]
    found = measured("throughput.py", report, *words, *larger)
    rows = [row_of(saved) for saved in found["rows"]]
    for engine in JOB_ENGINES:
        own = [row for row in rows if row.kind != JOB or row.variant == engine]
        for target in targets_of("cuda", own, engine):
            if target.key != LARGE:
                report(f"{engine} {target.key}", *target.values)
            elif target.values:  # of the faster engine
                report(LARGE, *target.values, engine=engine)
        (row,) = select(own, JOB, "bf16", 128)
        evaluating, epochs = row.of_summaries("evaluation_seconds"), row.of_summaries("epochs")
        report(f"{engine} evaluation", *(1000 * s / n for s, n in zip(evaluating, epochs, strict=True)))
        report(f"{engine} evaluation share", *row.percent_of_training(("evaluation_seconds",)))
        report(f"{engine} logging", *row.percent_of_training(LOGGING))
        report(f"{engine} checkpoints", *row.percent_of_training(WAITED))
        report(f"{engine} start-up", *row.of_summaries("startup_seconds"))
    report("benchmark", result=found)


def scaling(report: Report) -> None:
    """Run the job on one card and on all of them: `scaling.py`."""
    cards = torch.cuda.device_count()
    if cards < 2:
        raise NotRun("one card")
    sizes = ["--strong", "128", *([] if report.quick else ["8192"]), "--weak", "0" if report.quick else "8192"]
    words = ["--precision", "bf16", "--engine", "graph", "--processes", "1", str(cards), *sizes]
    found = measured("scaling.py", report, *words)
    rows = {(case["processes"], case["job"]["batch_size"]): row_of(case["job"]) for case in found["cases"]}
    for size in (128, 8192):
        if (cards, size) in rows:
            report(f"strong {size}", *rows[cards, size].times_as_fast_as(rows[1, size]))
    if (cards, cards * 8192) in rows:
        speed_up = rows[cards, cards * 8192].times_as_fast_as(rows[1, 8192])
        report("weak 8192", *(100 * times / cards for times in speed_up))
    exchanges = [ms["alone"] for case in found["cases"] for ms in case["exchanges"]]
    report("all-reduce", *(1000 * ms for ms in exchanges), cards=cards)
    report("benchmark", result=found)


# --- a step -----------------------------------------------------------------------------------------------------------


def steps(report: Report) -> None:
    """Time steps in each engine and precision; quick: one batch size, not compiled."""
    for precision, size, engine in step_cases():
        if report.quick and (engine == COMPILED or (precision, size) != ("bf16", 128)):
            continue
        key = step_key(precision, size, engine)
        began = time.perf_counter()
        with built(precision, size, engine, report) as running:
            seconds = time.perf_counter() - began
            epochs = 1 if report.quick else math.ceil(STEPS_TO_TIME / running.batches.steps_per_epoch)
            microseconds(running, [0])
            report(key, microseconds(running, [0] * epochs), built_in_seconds=seconds, why=running.why)
            report(f"{key} loading", microseconds(running, range(1, epochs + 1)))


def nodes(report: Report) -> None:
    """Count the kernels of a replayed step and time what is between them."""
    for engine in (UNCOMPILED,) if report.quick else (COMPILED, UNCOMPILED):
        with built("bf16", 128, engine, report) as running:
            step = microseconds(running, [0] * 3)
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as traced:
                running.advance(0, REPLAY)
                torch.cuda.synchronize()
            kernels = [event for event in traced.events() or [] if _on_the_device(event)]
            report(f"{engine} step", step)
            if not kernels:
                raise NotRun("torch.profiler saw no kernel on this device (CUPTI)")
            busy, count = sum(e.time_range.elapsed_us() for e in kernels) / REPLAY, len(kernels) / REPLAY
            report(f"{engine} nodes", count)
            report(f"{engine} kernels", busy, longest=longest(kernels))
            report(f"{engine} price", (step - busy) / count)


def _on_the_device(event: Any) -> bool:
    return event.device_type == DeviceType.CUDA and not event.is_user_annotation


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


def microseconds(engine: Engine, epochs: Any) -> float:
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


# --- the program ------------------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Report], None]] = {
    part.__name__: part for part in (tests, exactness, two, tf32, job, scaling, steps, nodes)
}


def main() -> int:
    """Run a part; returns 0, or 3 where it cannot be run here, with the reason as the last line on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("file", type=Path)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    try:
        PARTS[args.part](Report(args.file, args.quick))
    except NotRun as reason:
        print(reason, file=sys.stderr)
        return NOT_RUN
    except harness.JobError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


NOT_RUN = 3

if __name__ == "__main__":
    sys.exit(main())
