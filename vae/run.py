"""The run folder: its name, its lock, whether it is finished, and where a run continues."""

import contextlib
import json
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import accelerate
import numpy
import torch
import torchvision
from filelock import FileLock, Timeout

from vae import __version__, checkpoint
from vae.components import InputError
from vae.config import Config, differences, flatten, load, to_yaml
from vae.data.sources import DataSet
from vae.engine import NonFiniteError
from vae.evaluation import Evaluation, protocol
from vae.model import VAE

RUNS = Path("runs")


@dataclass
class RunState:
    """How far a run is; saved with each checkpoint.

    Attributes:
        step: updates made.
        train_seconds: time spent on training steps, evaluations and checkpoints not counted.
        skipped: updates left out because they were not finite.
        test: the latest evaluation on the test set, and the step it was made at.
        best: the best checkpoint so far, chosen on the validation set: its name, step, epoch and both losses there.
    """

    step: int = 0
    train_seconds: float = 0.0
    skipped: int = 0
    test: dict[str, Any] | None = None
    test_step: int = 0
    best: dict[str, Any] | None = None

    def note_test(self, result: Evaluation) -> None:
        """Remember the evaluation of this step."""
        self.test, self.test_step = asdict(result), self.step

    def note_best(self, val_loss: float, test_loss: float, epoch: float) -> bool:
        """Remember this step if its validation loss is the lowest so far; returns whether it is."""
        if self.best is not None and val_loss >= self.best["val_loss"]:
            return False
        name = checkpoint.name_of(self.step)
        losses = {"val_loss": val_loss, "test_loss": test_loss}
        self.best = {"checkpoint": name, "step": self.step, "epoch": epoch, **losses}
        return True

    @property
    def keep(self) -> list[str]:
        """Names of the checkpoints that are not pruned however old they are."""
        return [self.best["checkpoint"]] if self.best else []


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Attributes:
        folder: the run folder.
        checkpoint: continue from this one; None: begin at step 0.
        summary: the summary of a run that is finished already, else None.
        notes: what the user should know, a line each.
    """

    folder: Path
    checkpoint: Path | None
    summary: dict[str, Any] | None
    notes: list[str]


def folder_of(config: Config, config_file: str | None) -> Path:
    """Return the run's folder: `run.dir`, or `runs/<run.name>`, or `runs/<config file>-<time>`."""
    if config.run.dir:
        return Path(config.run.dir)
    if config.run.name:
        return RUNS / config.run.name
    return RUNS / f"{Path(config_file).stem if config_file else 'default'}-{time.strftime('%Y%m%d-%H%M%S')}"


class RunFolder:
    """One run's folder, claimed by one job: the lock is held until the process ends, however it ends."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = FileLock(folder / ".lock")

    def claim(self, config: Config, resume: str, total_steps: int) -> Start:
        """Lock the folder and say where the run begins (main process only). Nothing is written if it is refused.

        Args:
            config: the run's configuration.
            resume: `auto`, `never` or `must`.
            total_steps: updates in the whole run.

        Raises:
            InputError: another job holds the folder, it cannot be written, it holds a run with other settings, or it
                does not fit `resume`.
        """
        existed = (self.folder / "config.yaml").exists()
        if resume == "must" and not existed:
            raise InputError(f"--resume must: {self.folder} holds no run; check run.name or run.dir")
        self._acquire()
        existed = (self.folder / "config.yaml").exists()
        if not existed:
            checkpoint.write_text(self.folder / "config.yaml", to_yaml(config))
            return Start(self.folder, None, None, [])
        if resume == "never":
            raise InputError(f"--resume never: {self.folder} already holds a run; choose another run.name or delete it")
        return self._continue(config, resume, total_steps)

    def release(self) -> None:
        """Give the folder free."""
        self._lock.release()

    def _acquire(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(f"{self.folder}: another job is running in this folder; choose another run.name") from None
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written: {error.strerror}; set run.dir") from None

    def _continue(self, config: Config, resume: str, total_steps: int) -> Start:
        before = load(self.folder / "config.yaml")
        if changed := differences(before, config):
            changes = "; ".join(changed)
            raise InputError(f"{self.folder}: holds a run with other settings ({changes}); choose another run.name")
        newest, notes = checkpoint.newest_valid(self.folder / "checkpoints")
        if newest is None and resume == "must":
            raise InputError(
                f"--resume must: {self.folder} holds no valid checkpoint; " + "; ".join(notes or ["none yet"])
            )
        summary = _read_summary(self.folder / "summary.json")
        if summary and summary.get("steps", 0) >= total_steps:
            return Start(self.folder, newest, summary, notes)
        if flatten(before) != flatten(config):
            checkpoint.write_text(self.folder / "config.yaml", to_yaml(config))
        return Start(self.folder, newest, None, notes)


@contextlib.contextmanager
def naming_last_checkpoint(folder: Path) -> Iterator[None]:
    """Add to a `NonFiniteError` which checkpoint is the last good one."""
    try:
        yield
    except NonFiniteError as error:
        newest, _ = checkpoint.newest_valid(folder / "checkpoints")
        raise NonFiniteError(error.step, error.term, str(newest or "none yet")) from None


def restore(start: Path, total_steps: int, fingerprint: str) -> tuple[RunState, dict[str, Any]]:
    """Return the state of a run and of its engine from a checkpoint.

    Args:
        start: the checkpoint's folder.
        total_steps: updates in the whole run.
        fingerprint: of the data the run is continued on.

    Raises:
        InputError: the data are others, or the run is further than it is asked to go.
    """
    saved = checkpoint.load_state(start)
    state = RunState(**saved["run"])
    if saved["data"] != fingerprint:
        raise InputError(f"data.name: the pixels are not those that {start} was trained on; choose another run.name")
    if state.step > total_steps or (state.step == total_steps and state.test_step != state.step):
        raise InputError(
            f"train.epochs, train.max_steps: end at step {total_steps}, but {start} is at {state.step} already"
        )
    return state, saved["engine"]


def versions() -> dict[str, str]:
    """Return the versions that a run's numbers may depend on."""
    packages = {module.__name__: module.__version__ for module in (torch, torchvision, accelerate, numpy)}
    return {"vae": __version__, "python": platform.python_version(), **packages}


def summarise(
    config: Config,
    state: RunState,
    model: VAE,
    data: DataSet,
    *,
    epochs: float,
    world_size: int,
    device: str,
    startup_seconds: float,
) -> dict[str, Any]:
    """Return the contents of summary.json: what ran, how fast, and the final numbers with their protocol."""
    assert state.test is not None
    likelihood = config.model.likelihood["name"]
    how = protocol(data.name, config.data.binarize, likelihood, seed=config.run.seed, split="test")
    return {
        "parameters": model.count_parameters(),
        "world_size": world_size,
        "device": device,
        "precision": config.train.precision,
        "engine": config.train.engine,
        "epochs": epochs,
        "steps": state.step,
        "skipped": state.skipped,
        "train_seconds": state.train_seconds,
        "images_per_second": epochs * len(data.train) / state.train_seconds,
        "startup_seconds": startup_seconds,
        "versions": versions(),
        "test": {**state.test, "protocol": how},
        "best": state.best,
    }


def _read_summary(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        raise InputError(f"{path}: not valid JSON; delete it to have the end of the run repeated") from None
