"""Checkpoints that nobody waits for: what a snapshot holds, what is left out, and the best, which waits its turn."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.starts import SMALL, Job, launch
from vae import assemble
from vae.config import TrainConfig, load
from vae.data.batches import TrainingBatches
from vae.distributed import launch as processes
from vae.engine import Engine, NonFiniteError
from vae.model import VAE
from vae.run import checkpoint
from vae.run.state import RunState, restore
from vae.training import saving
from vae.training.agenda import Agenda
from vae.training.saving import SaveError, Saver
from vae.training.tracking import Stopwatch

IMAGES = torch.randint(0, 256, (60, 1, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Records:
    """In place of a tracker: what was warned of."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.warn = self.warnings.append

    def flush(self) -> None:
        pass


class Disk:
    """Checkpoints are written once `free` is set; `full`: there is no room for these steps."""

    def __init__(self) -> None:
        self.free, self.full, self.seen = threading.Event(), set[int](), list[int]()
        self.free.set()

    def save(self, write: Callable[..., Path], folder: Path, step: int, *args: Any, **settings: Any) -> Path:
        assert self.free.wait(60)
        if step in self.full:
            raise OSError(28, "No space left on device")
        self.seen.append(step)
        return write(folder, step, *args, **settings)


class Training:
    """A run in this process, with its saver."""

    def __init__(self, folder: Path):
        config = load(None, ["model.hidden_dim=8", "train.batch_size=20", "train.engine=eager"])
        accelerator = processes.make_accelerator("cpu", "no", {})
        self.model: VAE = assemble.build_model(config, (1, 6, 6))
        batches = TrainingBatches(IMAGES, batch_size=20, noise_dim=2, seed=0)
        objective = assemble.build_objective(config)
        self.engine: Engine = assemble.build_engine(config, accelerator, self.model, objective, batches)
        self.state, self.records, self.folder = RunState(), Records(), folder
        watch = Stopwatch(torch.device("cpu"), spent=self.state.spent)
        records: Any = self.records
        self.saver = Saver(accelerator, folder, self.model, self.engine, records, watch, "crc", step=0)

    def train(self, until: int) -> dict[str, torch.Tensor]:
        """Make updates; returns the weights after them."""
        while self.state.step < until:
            self.state.step += self.engine.advance(self.state.step, until)
        return {name: weight.clone() for name, weight in self.model.state_dict().items()}

    def found_best(self) -> None:
        """Have this step be the best on the validation set."""
        assert self.state.note_best(100.0 - self.state.step, 0.0, 0.0)
        self.saver.keep_best(self.state)

    def weights_at(self, step: int) -> dict[str, torch.Tensor]:
        return load_file(self.folder / checkpoint.name_of(step) / "model.safetensors")

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk, write = Disk(), checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *args, **settings: disk.save(write, *args, **settings))
    yield disk
    disk.free.set()


@pytest.fixture
def training(tmp_path: Path, disk: Disk) -> Iterator[Training]:
    yield Training(tmp_path / "checkpoints")
    processes.leave()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], tensor) for name, tensor in other.items())


def test_a_checkpoint_is_the_run_at_its_step_however_late_it_is_written(training: Training, disk: Disk) -> None:
    disk.free.clear()
    weights = training.train(5)
    moments = {name: tensor.clone() for name, tensor in training.engine.state_dict()["optimizer"][0].items()}
    training.saver.save(training.state)
    training.train(9)
    disk.free.set()
    training.saver.finish(training.state)
    assert disk.seen == [5, 9]
    assert same(training.weights_at(5), weights)
    state, engine_state = restore(training.folder / checkpoint.name_of(5), total_steps=10, fingerprint="crc")
    assert state.step == 5
    assert same(engine_state["optimizer"][0], moments)
    assert engine_state["sums"].shape == (1, 7)


def test_training_does_not_wait_for_the_disk_and_what_falls_into_a_write_is_left_out(
    training: Training, disk: Disk
) -> None:
    disk.free.clear()
    for step in (1, 2, 3):  # 2 and 3 while 1 is being written
        training.train(step)
        training.saver.save(training.state)
    assert not training.saver.wanted()
    costs = training.saver.costs()
    assert (costs["saves"], costs["left_out"]) == (1, 2)
    disk.free.set()
    training.saver.finish(training.state)  # the end: step 3 after all
    assert disk.seen == [1, 3]
    training.saver.finish(training.state)
    assert disk.seen == [1, 3], "saved already"


def test_a_new_run_that_is_stopped_before_its_first_step_leaves_no_checkpoint(training: Training, disk: Disk) -> None:
    training.saver.finish(training.state)
    assert disk.seen == []


def test_the_best_waits_and_is_written_before_the_checkpoint_that_names_it(training: Training, disk: Disk) -> None:
    training.train(1)
    training.found_best()
    best = training.train(2)
    training.found_best()
    training.train(4)
    assert disk.seen == [], "nothing was due"
    training.saver.save(training.state)
    training.train(6)
    training.saver.finish(training.state)
    assert disk.seen == [2, 4, 6], "of two bests the better one alone"
    assert training.names() == [checkpoint.name_of(step) for step in (2, 4, 6)]
    assert same(training.weights_at(2), best)
    state, _ = restore(training.folder / checkpoint.name_of(4), total_steps=10, fingerprint="crc")
    assert state.best is not None
    assert state.best["checkpoint"] == checkpoint.name_of(2)


def test_the_best_of_the_step_that_is_saved_is_written_once(training: Training, disk: Disk) -> None:
    training.train(3)
    training.found_best()
    training.saver.save(training.state)
    training.saver.finish(training.state)
    assert disk.seen == [3]


def test_a_best_that_finds_no_room_is_tried_again_and_nothing_names_it_before(training: Training, disk: Disk) -> None:
    disk.full = {2}
    training.train(2)
    training.found_best()
    training.train(3)
    training.saver.save(training.state)
    training.train(4)
    with pytest.raises(SaveError, match=r"step-00000004: not saved .*No space left.*there is none; make room"):
        training.saver.finish(training.state)
    assert disk.seen == []
    assert ["step-00000002: not saved" in warning for warning in training.records.warnings] == [True, True]
    disk.full = set()
    training.saver.finish(training.state)
    assert disk.seen == [2, 4]


def test_no_checkpoint_has_weights_from_after_a_fault(training: Training, disk: Disk) -> None:
    training.train(2)
    training.saver.save(training.state)
    with torch.no_grad():
        next(training.model.decoder.parameters())[0] = float("nan")
    training.train(4)
    training.saver.save(training.state)  # nothing has waited for the device: nobody knows of the fault here
    with pytest.raises(NonFiniteError, match="step 2: not finite"):
        training.saver.finish(training.state)
    with pytest.raises(NonFiniteError, match="step 2: not finite"):
        training.engine.drain()
    training.saver._thread.shutdown()
    assert disk.seen == [2]


# --- when -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "saved"), [(0, []), ("epoch", [3, 6, 9]), (2, [2, 4, 6, 8, 10]), (5, [5, 10])], ids=str
)
def test_steps_and_epochs_that_are_asked_for_are_saved_whatever_the_clock_says(every: Any, saved: list[int]) -> None:
    train = TrainConfig(epochs=4, max_steps=11, batch_size=10, checkpoint_every=every)
    agenda = Agenda.of(train, examples=30)
    assert [step for step in range(1, 12) if agenda.saves(step, lambda: False)] == saved
    if every == 0:
        assert [step for step in range(1, 12) if agenda.saves(step, lambda: True)] == [3, 6, 9]


def test_it_is_time_for_a_checkpoint_after_an_interval_without_one(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(saving.time, "perf_counter", lambda: now[0])
    training.saver._due_at = now[0] + saving.SECONDS_BETWEEN_CHECKPOINTS
    training.train(1)
    for _ in range(3):
        now[0] += saving.SECONDS_BETWEEN_CHECKPOINTS - 0.1
        assert not training.saver.wanted()
        now[0] += 0.2
        assert training.saver.wanted()
        training.train(training.state.step + 1)
        training.saver.save(training.state)
        training.saver._collect()


@pytest.mark.parametrize("processes", [1, 2])
def test_by_default_all_ranks_save_together_when_the_clock_of_the_main_one_says_so(
    processes: int, tmp_path: Path, small: Path
) -> None:
    """Epochs of 16 steps; the interval and that between votes are shortened."""
    settings = [f"data.name={small}", *SMALL, "train.epochs=30", "train.eval_every=0"]
    saved = {}
    for seconds in (0.0, 1e6):
        folder = tmp_path / str(seconds)
        patches = {
            "vae.training.saving:SECONDS_BETWEEN_CHECKPOINTS": seconds,
            "vae.distributed.stopping:SECONDS_BETWEEN_VOTES": 0.01,
        }
        done = launch(processes, *settings, f"run.dir={folder}", patches=patches)
        assert done.code == 0, done.err
        saved[seconds] = json.loads((folder / "summary.json").read_text())["checkpoints"]
        assert (folder / "checkpoints" / checkpoint.name_of(480)).exists()
    assert saved[1e6]["saves"] == 1, "the end alone"
    assert 3 <= saved[0.0]["saves"] <= 30


def test_a_value_that_is_neither_steps_nor_epoch_is_refused_in_one_line(job: Job) -> None:
    for value in ("epochs", "-1", "1.5", "true"):
        refused = job(f"train.checkpoint_every={value}")
        assert refused.code == 2
        assert "train.checkpoint_every = " in refused.line
        assert "must be a number of steps, 0 or more, or epoch" in refused.line
