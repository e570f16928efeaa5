"""The fake CUDA runtime itself: each rule is broken by a program, and found; a program that breaks none is clean."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cuda import build, counters
from tests.helpers import ROOT
from tests.helpers.starts import on_ranks

CALLS_DIFFER = 97  # exit code
BOTH = """
import os, sys
from tests.cuda.programs import clean, planted
clean.main()
planted.main()
sys.stdout.flush()
os._exit(3)
"""
FOUND = {  # what is planted -> what the runtime calls it
    "read-back in a capture": "cudaStreamSynchronize during a capture",
    "wait for the device in a capture": "cudaDeviceSynchronize during a capture",
    "pageable copy in a capture": "copy pageable to device during a capture",
    "allocation in a capture": "cudaMalloc during a capture",
    "pinned allocation in a capture": "cudaHostAlloc during a capture",
    "wait for work outside of the capture": "a wait for work outside of the capture",
    "stream that is not joined": "the end of a capture with a stream that was not joined",
    "read-back in a step": "a wait in a step: cudaStreamSynchronize",
    "pageable copy in a step": "a pageable copy in a step: copy pageable to device",
    "tensor of another device": "wrong device: memset on device 1 with memory of device 0",
    "operand on another device": "wrong device: product cublasSdot_v2 on device 1 with memory of device 0",
    "stream of another device": "wrong device: memset on a stream of device 0 while device 1 is current",
    "function that is not stood in": "not stood in: cuMemCreate",
}


@pytest.fixture(scope="module", autouse=True)
def there() -> None:
    if reason := build.why_not():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """Run the clean program and the planted faults; returns fault -> violations, and the report that was left."""
    report = tmp_path_factory.mktemp("one") / "report"
    fake = [ROOT / "tests/cuda/fake", "--devices", "2", "--report", report]
    program = subprocess.run([*fake, sys.executable, "-c", BOTH], capture_output=True, text=True, timeout=300)
    assert program.returncode == 3, program.stderr
    [left] = counters.reports(report)
    return json.loads(program.stdout), left


@pytest.mark.parametrize("fault", FOUND)
def test_a_planted_fault_is_found(one_process: tuple[dict[str, list[str]], Any], fault: str) -> None:
    violations = one_process[0][fault]
    assert any(line.startswith(FOUND[fault]) for line in violations), violations
    assert all("tests/cuda/programs/planted.py:" in line for line in violations)


def test_every_planted_fault_is_asked_for(one_process: tuple[dict[str, list[str]], Any]) -> None:
    assert one_process[0].keys() == FOUND.keys()


def test_a_process_leaves_its_report_at_os_exit(one_process: tuple[dict[str, list[str]], dict[str, Any]]) -> None:
    found, left = one_process
    assert left["ended"] == "_exit"
    assert (left["rank"], left["devices"], left["touched"]) == (None, 2, [0, 1])
    assert counters.violations_of(left) == [line for lines in found.values() for line in lines]


def test_ranks_that_break_the_rules_of_several_are_told(tmp_path: Path) -> None:
    variables = build.environment(2, tmp_path / "report")
    program = on_ranks(2, "-m", "tests.cuda.programs.disagreeing", tmp_path / "sign", real=True, env=variables)
    assert program.codes == (CALLS_DIFFER, CALLS_DIFFER), program.err
    reports = counters.reports(tmp_path / "report")
    assert [report["rank"] for report in reports] == [0, 1]
    calls = ["calls ncclAllReduce of 3 float32, sum at ", "calls ncclBroadcast of 3 float32, from rank 0 at "]
    for report in reports:
        captured, finalized, destroyed, *rest = counters.violations_of(report)
        assert captured.startswith("ncclAllReduce of 3 float32, sum captured in a graph at ")
        for line in (finalized, destroyed):
            assert "with 1 live graphs, 1 with collectives" in line
        assert all(f"rank {rank} {call}" in rest[-1] for rank, call in enumerate(calls)), rest
        assert rest[-1] in program.err
        assert report["ended"] == "collectives differ"
        assert [line.partition(":")[0] for line in rest[:-1]] == ["not its own device"] * report["rank"]
    assert [report["touched"] for report in reports] == [[0], [0, 1]]


def test_the_library_is_built_once_for_many_who_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def compile_slowly(path: Path, headers: list[Path]) -> None:
        time.sleep(0.05)
        path.touch()
        built.append(path)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "_build", compile_slowly)
    asking = [threading.Thread(target=build.library) for _ in range(5)]
    for one in asking:
        one.start()
    for one in asking:
        one.join()
    assert built == [build.library()]


def test_without_a_compiler_there_is_a_reason_to_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    assert build.why_not() == "fakecuda: no g++ to build it with"


def test_without_the_headers_there_is_a_reason_to_skip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "HEADERS", ("no/such/folder",))
    assert build.why_not().startswith("fakecuda: torch was installed without CUDA: no ")
