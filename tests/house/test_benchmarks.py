"""The programs that measure still run on the job as it is; what they measure in seconds means nothing."""

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import ROOT
from tests.helpers.starts import Outcome, on_ranks


def measured(result: Any) -> Iterator[float]:
    """Yield every number under a key that says it is what a measurement or a training took."""
    if isinstance(result, dict):
        for key, value in result.items():
            if key in ("seconds", "train_seconds"):
                yield value
            yield from measured(value)
    elif isinstance(result, list):
        for item in result:
            yield from measured(item)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a benchmark in this process; the jobs that it measures are forked."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    harness = import_module("harness")

    def forked(words: Sequence[str], processes: int) -> subprocess.CompletedProcess[str]:
        done = on_ranks(processes, *words)
        return subprocess.CompletedProcess(words, done.code, done.out, done.err)

    def run(name: str, *args: Any) -> Outcome:
        monkeypatch.setattr(harness, "start", forked)
        monkeypatch.setattr("sys.argv", [f"{name}.py", *map(str, args)])
        code = harness.exit_code_of(import_module(name).main)
        printed = capsys.readouterr()
        return Outcome(code, printed.out, printed.err)

    return run


@pytest.mark.parametrize(
    "words",
    [
        *((name, "--patience", 0) for name in ("throughput", "scaling", "reliability", "startup", "evaluation")),
        ("mistakes",),
    ],
    ids=lambda words: words[0],
)
def test_every_program_measures_prints_and_writes(
    words: tuple[Any, ...], program: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "result.json"
    done = program(*words, "--quick", "--output", output)
    assert done.code == 0, done.err
    result = json.loads(output.read_text())
    assert {"program", "args", "machine", "versions", "commit"} <= result.keys()
    seconds = list(measured(result))
    assert seconds
    assert all(second > 0 for second in seconds)
    assert str(output) in done.out
    assert list(tmp_path.iterdir()) == [output]


def test_a_benchmark_refuses_what_it_cannot_do_in_one_line(program: Callable[..., Outcome], tmp_path: Path) -> None:
    refused = program("throughput", "--device", "cuda", "--output", tmp_path / "r.json")
    assert refused.code == 2
    assert refused.line.startswith("throughput.py: ")
    assert not (tmp_path / "r.json").exists()
