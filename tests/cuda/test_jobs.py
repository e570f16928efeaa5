"""The whole job on fake devices: in every engine and precision, on one device and several, resumed anywhere."""

import json
from pathlib import Path

import pytest

from tests.cuda import counters
from tests.cuda.forks import Ended, Fake
from tests.helpers.runs import rows
from tests.helpers.starts import SMALL

SHORT = [
    "train.max_steps=45",
    "train.log_every=20",
]  # of the real MNIST; captured, it has replays of 20 steps and of one
PRECISIONS = ["fp32", "bf16", "fp16", "fp64"]
ENGINES = ["eager", "compile", "graph"]


def assert_finished(done: Ended, folder: Path, *, engine: str, steps: int = 45) -> None:
    """Assert that a run has kept every law and left what a run leaves."""
    done.succeeded()
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["engine"], summary["device"], summary["steps"]) == (engine, "cuda", steps)
    assert (folder / "checkpoints" / f"step-{steps:08d}").is_dir()
    assert (folder / "model" / "model.safetensors").exists()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_job_in_every_engine_and_precision(fake: Fake, tmp_path: Path, engine: str, precision: str) -> None:
    folder = tmp_path / "run"
    done = fake.job(1, *SHORT, f"train.engine={engine}", f"train.precision={precision}", f"run.dir={folder}")
    if precision == "fp16" and engine != "eager":
        assert done.succeeded(2).err.startswith(f"train_ddp.py: train.engine = '{engine}': with train.precision = fp16")
        assert not folder.exists()
        return
    assert_finished(done, folder, engine=engine)
    replays = sorted(graph.replays for graph in done.graphs)
    assert replays == ([2, 5] if engine == "graph" else [])


@pytest.mark.parametrize(
    ("processes", "settings"),
    [
        (2, ["train.engine=graph", "train.precision=fp64", "data.val_size=1000", "optim.ema=0.999"]),
        (2, ["train.engine=eager"]),
        (2, ["train.engine=eager", "train.exact=6"]),
        (2, ["train.engine=eager", "train.micro_batch=30", "objective=BetaTCVAE"]),
        (3, ["train.engine=graph", "train.precision=bf16", "data.val_size=1000"]),
        (3, ["train.engine=eager", "train.exact=6"]),
    ],
    ids=str,
)
def test_the_job_on_several_devices(fake: Fake, tmp_path: Path, processes: int, settings: list[str]) -> None:
    folder, engine = tmp_path / "run", settings[0].partition("=")[2]
    done = fake.job(processes, *SHORT, *settings, f"run.dir={folder}")
    assert_finished(done, folder, engine=engine)
    assert [report["touched"] for report in done.reports] == [[rank] for rank in range(processes)]
    for report in done.reports:
        assert report["launches"]["collectives"] > 45, "an all-reduce in each step, outside of any graph"
        replays = [graph.replays for graph in counters.graphs_of(report)]
        assert replays == ([45, 45] if engine == "graph" else []), "the halves of a step"


@pytest.mark.parametrize("processes", [1, 2])
def test_more_steps_between_two_logging_points_read_nothing_more_back(
    fake: Fake, tmp_path: Path, processes: int
) -> None:
    seen = []
    for steps in (50, 110):
        settings = [f"train.max_steps={steps}", "train.log_every=200", "train.engine=graph"]
        done = fake.job(processes, *settings, f"run.dir={tmp_path / str(steps)}").succeeded()
        seen.append([(report["readbacks"], report["copies"]) for report in done.reports])
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("before", "after"),
    [((1, "cuda"), (1, "cuda")), ((2, "cuda"), (1, "cuda")), ((1, "cuda"), (1, "cpu")), ((1, "cpu"), (2, "cuda"))],
    ids=lambda place: "-".join(map(str, place)),
)
def test_a_run_goes_on_with_other_devices(
    fake: Fake, tmp_path: Path, small: Path, before: tuple[int, str], after: tuple[int, str]
) -> None:
    folder = tmp_path / "run"
    settings = [f"data.name={small}", *SMALL, "train.batch_size=32", "train.log_every=32", f"run.dir={folder}"]
    for steps, (processes, device) in ((25, before), (60, after)):
        engine = "graph" if device == "cuda" else "eager"
        place = [f"train.device={device}", f"train.engine={engine}"]
        done = fake.job(processes, *settings, *place, f"train.max_steps={steps}").succeeded()
    assert "from step 25" in done.out
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["device"], summary["steps"]) == (after[1], 60)
    assert [row["step"] for row in rows(folder) if row["split"] == "train"] == [25, 32, 60]
