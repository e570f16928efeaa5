"""The programs that measure still run on the job as it is; what they measure in seconds means nothing."""

import json
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, run


@pytest.mark.parametrize("program", ["throughput", "scaling", "reliability"])
def test_every_program_measures_prints_and_writes(program: str, tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    script = ROOT / "benchmarks" / f"{program}.py"
    done = run([sys.executable, str(script), "--quick", "--patience", "0", "--output", str(output)], cwd=tmp_path)
    assert done.code == 0, done.err
    result = json.loads(output.read_text())
    assert {"program", "args", "machine", "versions", "commit"} <= result.keys()
    seconds = [sample["seconds"] for row in result["rows"] for sample in row["samples"] if "seconds" in sample]
    assert all(second > 0 for second in seconds)
    assert str(output) in done.out
    assert list(tmp_path.iterdir()) == [output]


def test_a_benchmark_refuses_what_it_cannot_do_in_one_line(tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "throughput.py"
    refused = run([sys.executable, str(script), "--device", "cuda", "--output", str(tmp_path / "r.json")])
    assert refused.code == 2
    assert refused.line.startswith("throughput.py: ")
    assert not (tmp_path / "r.json").exists()
