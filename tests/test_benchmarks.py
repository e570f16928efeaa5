"""The programs that measure still run on the job as it is; what they measure in seconds means nothing."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import ROOT
from tests.helpers.starts import run


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


@pytest.mark.parametrize("program", ["throughput", "scaling", "reliability"])
def test_every_program_measures_prints_and_writes(program: str, tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    script = ROOT / "benchmarks" / f"{program}.py"
    done = run(script, "--quick", "--patience", "0", "--output", output, cwd=tmp_path)
    assert done.code == 0, done.err
    result = json.loads(output.read_text())
    assert {"program", "args", "machine", "versions", "commit"} <= result.keys()
    seconds = list(measured(result))
    assert seconds
    assert all(second > 0 for second in seconds)
    assert str(output) in done.out
    assert list(tmp_path.iterdir()) == [output]


def test_a_benchmark_refuses_what_it_cannot_do_in_one_line(tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "throughput.py"
    refused = run(script, "--device", "cuda", "--output", tmp_path / "r.json")
    assert refused.code == 2
    assert refused.line.startswith("throughput.py: ")
    assert not (tmp_path / "r.json").exists()
