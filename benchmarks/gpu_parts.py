"""The parts of `gpu_check.py`, each of which measures some lines of its table; started by it, each as a process.

    python benchmarks/gpu_parts.py PART FILE [--quick]

FILE gets the numbers, see gpu_report.py.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import harness
import torch
from gpu_lines import JOB_ENGINES, LARGE
from gpu_report import NOT_RUN, NotRun, Report
from gpu_steps import nodes, steps, tf32
from rows import JOB, Row, Sample, select
from targets import LOGGING, WAITED, targets_of

BENCHMARKS = harness.ROOT / "benchmarks"
SAME_WEIGHTS = harness.ROOT / "tests" / "helpers" / "programs" / "same_weights.py"
STEPS_TO_COMPARE = 40


# --- results that must be the same ------------------------------------------------------------------------------------


def tests(report: Report) -> None:
    """Run the tests that need a GPU, but for those of other parts; quick: collect those of the engines."""
    if find_spec("pytest") is None:
        raise NotRun("pytest is not installed here; `pip install -e .[dev]` brings it")
    root = harness.ROOT
    words = ["-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "--rootdir", str(root)]
    if report.quick:
        done = harness.start([*words, "--collect-only", str(root / "tests" / "engine")], 1)
        raise NotRun(f"--quick: {last_line(done.stdout)}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "junit.xml"
        others = ["--ignore", str(root / "tests" / "cuda" / "test_gpu_check.py")]
        done = harness.start([*words, *others, f"--junitxml={file}", str(root / "tests")], 1)
        if not file.exists():
            raise harness.JobError(f"pytest: {last_line(done.stderr or done.stdout)}")
        results = ElementTree.parse(file)
    cases = {f"{case.get('classname')}::{case.get('name')}": case for case in results.iter("testcase")}
    failed = [
        name for name, case in cases.items() if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = [name for name, case in cases.items() if case.find("skipped") is not None]
    report("failed", len(failed), which=failed, output=done.stdout[-20_000:] if failed else "")
    report("passed", len(cases) - len(failed) - len(skipped))
    report("skipped", len(skipped))


def last_line(text: str) -> str:
    """Return the last line that says something."""
    return (text.strip() or "no message").splitlines()[-1].strip("= ")


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
    return Row(**saved | {"samples": [Sample(**sample) for sample in saved["samples"]], "discarded": []})


def job(report: Report) -> None:
    """Run the job beside the conventional loops: `throughput.py`, whose targets are judged engine by engine."""
    engines = JOB_ENGINES[:1] if report.quick else JOB_ENGINES
    larger = [] if report.quick else ["--steps", "200", "--more-batches", "8192"]
    found = measured("throughput.py", report, "--precisions", "bf16", "--engines", *engines, *larger)
    rows = [row_of(saved) for saved in found["rows"]]
    for engine in engines:
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


if __name__ == "__main__":
    sys.exit(main())
