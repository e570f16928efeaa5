"""`make gpu-check`: every part of it runs, on fake devices; the table says what was promised, predicted, and not run.

The tests marked gpu are those that two of its parts make, too: weights on the GPU and of two ranks on one card.
"""

import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock

from tests.cuda import build, counters
from tests.helpers import ROOT
from tests.helpers.starts import environment

SAME_WEIGHTS = ROOT / "tests/helpers/programs/same_weights.py"
FAKE = ROOT / "tests/cuda/fake"
PLANTED = """
import json, subprocess, sys, time
name, file = sys.argv[1:3]
open(file, "w").write(json.dumps({"key": "found", "values": [1.0]}) + "\\n")
if name == "fails":
    raise ValueError("planted")
if name == "refuses":
    sys.exit("one line") if "--quick" in sys.argv else (print("no such device", file=sys.stderr), sys.exit(3))
if name == "hangs":
    child = subprocess.Popen(["sleep", "1000"])
    open(file, "a").write(json.dumps({"key": "child", "values": [child.pid]}) + "\\n")
    time.sleep(1000)
"""


@pytest.fixture
def gpu_check(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The program, as a module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return import_module("gpu_check")


# --- on fake devices: every part runs ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checked:
    """The files of `gpu_check.py --quick` on one fake device: its JSON, its table, a report of each process."""

    parts: dict[str, dict[str, Any]]
    table: str
    processes: Sequence[dict[str, Any]]


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Checked:
    if reason := build.why_not():
        pytest.skip(reason)
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "gpu-check"
    with FileLock(f"{folder}.lock"):  # workers that share these tests share the one run
        if not folder.exists():
            folder.mkdir()
            _check(folder)
    parts = json.loads((folder / "result.json").read_text())["parts"]
    return Checked(
        {part["name"]: part for part in parts}, (folder / "result.md").read_text(), counters.reports(folder / "seen")
    )


def _check(folder: Path) -> None:
    words = [FAKE, "--devices", "1", "--report", folder / "seen", sys.executable, "benchmarks/gpu_check.py"]
    done = subprocess.run(
        [sys.executable, *map(str, words), "--quick", "--budget", "1000", "--output", str(folder / "result.json")],
        cwd=ROOT, env=environment() | {"BENCHMARK_JOB": str(ROOT / "tests/cuda/job.py")}, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["exactness", "two", "tf32", "job", "steps"])
def test_a_part_measures(checked: Checked, gpu_check: Any, name: str) -> None:
    part = checked.parts[name]
    assert (part["why"], part["failed"]) == ("", False), part
    keys = {line.key for line in gpu_check.lines() if line.part == name}
    assert keys & part["found"].keys()
    assert part["found"].keys() - {"benchmark"} <= keys


@pytest.mark.parametrize(
    ("name", "why"), [("tests", "--quick: "), ("scaling", "one card"), ("nodes", "torch.profiler saw no kernel")]
)
def test_a_part_that_fake_devices_cannot_run_says_so(checked: Checked, name: str, why: str) -> None:
    part = checked.parts[name]
    assert part["why"].startswith(why), part
    assert not part["failed"]


def test_the_table_has_every_line_and_judges_none_that_mean_nothing(checked: Checked, gpu_check: Any) -> None:
    rows = [row.split(" | ") for row in checked.table.splitlines()]
    for line in gpu_check.lines():
        (row,) = [row for row in rows if row[0] == f"| {line.what}"]
        assert "met" not in row
        assert "MISSED" not in row
    assert "--quick" in checked.table


def test_no_process_breaks_a_rule_of_cuda_and_two_ranks_meet_outside_their_graphs(checked: Checked) -> None:
    assert checked.processes
    assert [counters.violations_of(process) for process in checked.processes] == [[]] * len(checked.processes)
    ranks = [process for process in checked.processes if process["rank"] is not None]
    assert sorted(process["rank"] for process in ranks) == [0, 1]
    for rank in ranks:  # two steps
        before, after = counters.graphs_of(rank)
        assert (before.replays, after.replays, before.collectives, after.collectives) == (2, 2, 0, 0)


# --- the command, anywhere --------------------------------------------------------------------------------------------


@pytest.fixture
def planted(gpu_check: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The program, with parts that fail, refuse, hang and end well."""
    (tmp_path / "part.py").write_text(PLANTED)
    monkeypatch.setattr(gpu_check, "PART", tmp_path / "part.py")
    monkeypatch.setattr(gpu_check, "LIMITS", dict.fromkeys(["fails", "hangs", "refuses", "well"], 2))
    monkeypatch.setattr(gpu_check, "LEAST", 0.1)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    return gpu_check


def ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE  # nobody may have asked for its exit code
    except psutil.NoSuchProcess:
        return True


def test_a_part_that_fails_or_hangs_does_not_stop_the_others(planted: Any) -> None:
    args = Namespace(parts=list(planted.LIMITS), budget=60.0, quick=False)
    fails, hangs, refuses, well = planted.run_all(args)
    assert (fails.why, fails.failed) == ("ValueError: planted", True)
    assert "Traceback" in fails.said
    assert (hangs.why, hangs.failed) == ("stopped after 2 s", True)
    assert ended(int(hangs.found["child"]["values"][0]))
    assert (refuses.why, refuses.failed) == ("no such device", False)
    assert (well.why, well.failed) == ("", False)
    assert all(outcome.found["found"]["values"] == [1.0] for outcome in (fails, hangs, refuses, well))


def test_what_there_is_no_time_for_is_not_run(planted: Any) -> None:
    outcomes = planted.run_all(Namespace(parts=list(planted.LIMITS), budget=0.0, quick=False))
    assert [(outcome.why, outcome.failed, outcome.found) for outcome in outcomes] == [("out of time", False, {})] * 4


@pytest.mark.parametrize(
    ("part", "key", "value", "verdict", "right"),
    [
        ("two", "fp64", 1e-13, "met", ""),
        ("two", "fp64", 1e-11, "MISSED", ""),
        ("two", "fp64", float("nan"), "MISSED", ""),
        ("two", "bf16", 1e-3, "", ""),
        ("job", "graph images", 1.1e6, "met", "yes"),
        ("job", "graph images", 0.6e6, "MISSED", "NO"),
        ("job", "images 8192", 1.1e7, "met", "NO"),
        ("job", "graph run", 3.9, "met", "yes"),
        ("nodes", "graph compiled nodes", 84.0, "MISSED", "NO"),
    ],
)
def test_a_number_stands_beside_its_promise_and_its_prediction(
    gpu_check: Any, part: str, key: str, value: float, verdict: str, right: str
) -> None:
    (line,) = [line for line in gpu_check.lines() if (line.part, line.key) == (part, key)]
    outcome = gpu_check.Outcome(part, found={key: {"values": [value]}})
    cells = gpu_check.cells(line, outcome, quick=False)
    assert (cells[3], cells[5]) == (verdict, right)
    assert (gpu_check.exit_code([outcome], quick=False) == 1) == (line.law and verdict == "MISSED")


def test_every_prediction_is_of_a_line(gpu_check: Any) -> None:
    lines = [(line.part, line.key) for line in gpu_check.lines()]
    assert len(set(lines)) == len(lines)
    assert import_module("gpu_lines").PREDICTIONS.keys() <= set(lines)


def test_the_document_has_the_predictions(gpu_check: Any) -> None:
    written = (ROOT / "docs/performance.md").read_text().splitlines()
    for line in (line for line in gpu_check.lines() if line.prediction):
        what, _, promised, _, predicted, _, origin = gpu_check.cells(line, gpu_check.Outcome(line.part), quick=False)
        assert f"| {what} | {promised} | {predicted} | {origin} |" in written


def test_without_a_gpu_one_line_says_so(
    gpu_check: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu_check.py", "--output", str(tmp_path / "r.json")])
    assert import_module("harness").exit_code_of(gpu_check.main) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gpu_check.py: this machine has no CUDA device")
    assert not list(tmp_path.iterdir())


# --- on a GPU ---------------------------------------------------------------------------------------------------------


def apart(precision: str, *places: str) -> dict[str, dict[str, float]]:
    """Return how far the weights of places lie apart after 40 steps."""
    words = [sys.executable, str(SAME_WEIGHTS), "--precision", precision, *places]
    done = subprocess.run(words, env=dict(os.environ), text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.gpu
def test_in_float64_the_gpu_has_the_weights_of_the_cpu() -> None:
    found = apart("fp64", "cpu-eager-1", "cuda-eager-1", "cuda-graph-1")
    assert {place: 0.0 <= row["from_first"] < 1e-9 for place, row in found.items()} == dict.fromkeys(found, True)


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "most"), [("fp64", 1e-12), ("fp32", 1e-5)])
@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_two_ranks_on_one_card_have_the_weights_of_one(engine: str, precision: str, most: float) -> None:
    found = apart(precision, f"cuda-{engine}-1", f"cuda-{engine}-2")[f"cuda-{engine}-2"]
    assert found["from_first"] < most
    assert found["between_ranks"] == 0.0
