"""Two processes have the gradient of one, in float64, whatever the model is made of and whatever is minimised."""

import json
import subprocess
import sys
from pathlib import Path

from tests.combinations_on_ranks import pieces_to_try
from tests.conftest import ROOT, environment
from tests.test_pieces import named, refused
from vae.objectives import OBJECTIVES

EXACT = 1e-9  # float64, of the largest number of a weight's gradient


def test_two_processes_have_the_gradient_of_one_for_every_combination(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    variables = environment() | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    program = [str(ROOT / "tests/combinations_on_ranks.py"), str(tmp_path)]
    done = subprocess.run([*command, *program], env=variables, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    wanted = {named(one): {name for name in OBJECTIVES if not refused(one, name)} for one in pieces_to_try()}
    for rank in (0, 1):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert {pieces: set(objectives) for pieces, objectives in found.items()} == wanted
        assert {(a, b): far for a, each in found.items() for b, far in each.items() if not far < EXACT} == {}
