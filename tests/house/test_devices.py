"""Tests and the programs that they start leave the GPU of a machine alone, but for the tests marked gpu."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests import conftest
from tests.cuda import build
from tests.helpers import ROOT
from tests.helpers.starts import environment


def test_neither_a_test_nor_a_program_that_it_starts_sees_a_device() -> None:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == environment()["CUDA_VISIBLE_DEVICES"] == ""
    assert not torch.cuda.is_available()


@pytest.mark.parametrize(("asked", "visible"), [("gpu", "0,1"), ("", ""), ("not gpu", ""), ("gpu or slow", "")])
def test_the_gpu_is_shown_to_its_own_tests_alone(monkeypatch: pytest.MonkeyPatch, asked: str, visible: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    config: Any = SimpleNamespace(option=SimpleNamespace(markexpr=asked))
    conftest.pytest_configure(config)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


SEEN = """
import pytest, torch

def test_on_the_cpu():
    assert (torch.cuda.is_available(), torch.cuda.device_count()) == (False, 0)

@pytest.mark.gpu
def test_on_the_gpu():
    raise AssertionError("unasked")
"""


@pytest.mark.skipif(bool(build.why_not()), reason=build.why_not() or "-")
def test_where_there_is_a_gpu_its_tests_are_skipped_with_the_way_to_run_them(tmp_path: Path) -> None:
    (tmp_path / "test_seen.py").write_text(SEEN)
    pytest_of_ours = ["-m", "pytest", "-q", "-c", os.devnull, "-o", "markers=gpu", "-p", "tests.conftest", tmp_path]
    words = [ROOT / "tests/cuda/fake", "--devices", "1", sys.executable, *pytest_of_ours]
    variables = environment() | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(list(map(str, words)), cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed, 1 skipped" in done.stdout
    assert (
        "not run: 1 that need a CUDA device: on a machine that has one, `.venv/bin/python -m pytest -m gpu`"
        in done.stdout
    )
