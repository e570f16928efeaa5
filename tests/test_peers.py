"""Losses that look across examples: all ranks see the same global batch, and gradients find their way back."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, environment
from tests.peers_on_ranks import pairs


@pytest.mark.parametrize(("world_size", "count"), [(2, 7), (3, 7), (3, 2)])  # of three ranks, one has no example
def test_gathered_examples_and_their_gradients_are_those_of_one_process(
    world_size: int, count: int, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world_size)]
    variables = environment() | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    program = [str(ROOT / "tests/peers_on_ranks.py"), str(tmp_path), str(count)]
    subprocess.run([*command, *program], env=variables, check=True, timeout=120)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world_size)]
    everyone = torch.linspace(-1, 2, count * 3, dtype=torch.float64).reshape(count, 3).sin().requires_grad_()
    loss = pairs(everyone, everyone).sum()
    (gradient,) = torch.autograd.grad(loss, everyone)
    torch.testing.assert_close(sum(each["loss"] for each in found), loss.detach(), rtol=1e-13, atol=0)
    torch.testing.assert_close(torch.cat([each["gradient"] for each in found]), gradient, rtol=1e-12, atol=1e-14)
