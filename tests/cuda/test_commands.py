"""Commands on a run that was made on fake devices."""

from pathlib import Path

import pytest

from tests.cuda.forks import JOB, Fake
from tests.helpers.starts import SMALL


@pytest.fixture(scope="module")
def run(fake: Fake, small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("made") / "run"
    fake.job(1, f"data.name={small}", *SMALL, "train.engine=graph", f"run.dir={folder}").succeeded()
    return folder


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("command", ["evaluate", "score"])
def test_log_likelihoods_are_estimated_on_all_devices(fake: Fake, run: Path, command: str, processes: int) -> None:
    again = ["--again"] if command == "evaluate" else []
    done = fake.run(processes, JOB, command, run, "--samples", 20, "--device", "cuda", *again).succeeded()
    assert [report["touched"] for report in done.reports] == [[rank] for rank in range(processes)]
    assert all(report["launches"]["products"] for report in done.reports)


@pytest.mark.parametrize("command", ["sample", "encode", "report", "quality"])
def test_commands_that_take_no_device_leave_the_card_alone(fake: Fake, run: Path, command: str) -> None:
    count = ["--count", 100] if command == "quality" else []
    assert fake.run(1, JOB, command, run, *count).succeeded().reports == []


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_doctor_tries_what_the_job_would_do(
    fake: Fake, small: Path, tmp_path: Path, processes: int, engine: str
) -> None:
    """It finds one fault: the first gradient is 0, since no kernel ran."""
    settings = [f"data.name={small}", *SMALL, "train.device=cuda", f"train.engine={engine}", f"run.dir={tmp_path}/run"]
    done = fake.run(processes, JOB, "doctor", *settings).succeeded(1)
    failures = [line.split()[1] for line in done.out.splitlines() if line.startswith("failure")]
    assert failures == ["gradients"], done.out
