"""An engine that cannot be had on one rank: all of them take the next one together, and say why."""

import json
from pathlib import Path

from tests.cuda.forks import Fake
from tests.helpers import ROOT


def test_what_hinders_one_rank_all_ranks_hear_of(fake: Fake, tmp_path: Path) -> None:
    """Each fault in turn on rank 1 of two; afterwards both train, on the stream of before, and no graph is left."""
    ended = fake.run(2, ROOT / "tests/cuda/programs/failures.py", tmp_path)
    assert ended.outcome.code == 0, ended.err
    found, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert found == other
    capturing = "a step cannot be captured: "
    not_permitted = "CUDA error: operation not permitted when stream is capturing"
    eager = {"engine": "eager", "built": 0, "alive": 0, "stream": True}
    graph = {"engine": "graph", "built": 2, "alive": 0, "stream": True}
    assert found == {
        "capture": eager | {"why": f"auto: no graph: {capturing}{not_permitted}"},
        "capture, asked for": {
            "refused": f"train.engine = 'graph': {capturing}{not_permitted}; use eager or auto",
            "alive": 0,
        },
        "warm-up": eager | {"why": f"auto: no graph: {capturing}CUDA out of memory. Tried to allocate 2 GiB."},
        "compiler": graph
        | {"why": "as asked for; it is not compiled: torch.compile failed: RuntimeError: no compiler was found"},
        "compiler, called": {
            "refused": "train.engine = 'compile': torch.compile failed: RuntimeError: no compiler was found; "
            "use eager or auto",
            "alive": 0,
        },
        "gradients": graph | {"why": "as asked for; it is not compiled: its gradients differ"},
        "nothing": graph | {"why": "as asked for"},
    }
