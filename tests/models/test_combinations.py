"""Two processes have the gradient of one, in float64, whatever the model is made of and whatever is minimised."""

import json
from pathlib import Path

from tests.helpers import ROOT
from tests.helpers.pieces import named, refused
from tests.helpers.programs.combinations import pieces_to_try
from tests.helpers.starts import on_ranks
from vae.objectives import OBJECTIVES

EXACT = 1e-9  # float64, of the largest number of a weight's gradient


def test_two_processes_have_the_gradient_of_one_for_every_combination(tmp_path: Path) -> None:
    done = on_ranks(2, ROOT / "tests/helpers/programs/combinations.py", tmp_path)
    assert done.code == 0, done.err
    wanted = {named(one): {name for name in OBJECTIVES if not refused(one, name)} for one in pieces_to_try()}
    for rank in (0, 1):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert {pieces: set(objectives) for pieces, objectives in found.items()} == wanted
        assert {(a, b): far for a, each in found.items() for b, far in each.items() if not far < EXACT} == {}
