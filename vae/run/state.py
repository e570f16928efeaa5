"""Progress of a run: saved with each checkpoint, read when the run is continued."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vae.engine import Engine
from vae.errors import InputError
from vae.files import expanded
from vae.model import VAE
from vae.run import checkpoint
from vae.run.checkpoint import WEIGHTS
from vae.run.contents import MODEL, must_exist

FORMAT = 2  # of a run's and an engine's state in a checkpoint; any other is refused


@dataclass
class RunState:
    """Progress of a run; saved with each checkpoint.

    Attributes:
        step: updates made.
        train_seconds: time spent on training steps, logging and checkpoints among them, without evaluations.
        logged_seconds: the same, at the last line of training metrics.
        spent: seconds by purpose: logging and checkpoints, which are part of training; evaluation, which is not.
        skipped: updates left out because they were not finite.
        test: the latest evaluation on the test set, and the step it was made at.
        test_raw: the same with the raw weights, where those of `test` are averages.
        best: the best checkpoint so far, chosen on the validation set: its name, step, epoch and both losses there.
        lowest: the lowest validation loss since the objective's schedules have ended, and its epoch.
        waited: epochs from there to the latest evaluation.
        collapsed_since: epoch at which the posterior was first found collapsed; None: the posterior is not collapsed.
    """

    step: int = 0
    train_seconds: float = 0.0
    logged_seconds: float = 0.0
    spent: dict[str, float] = field(default_factory=dict)
    skipped: int = 0
    test: dict[str, Any] | None = None
    test_raw: dict[str, Any] | None = None
    test_step: int = 0
    best: dict[str, Any] | None = None
    lowest: dict[str, float] | None = None
    waited: float = 0.0
    collapsed_since: float | None = None

    def note_test(self, numbers: dict[str, Any], raw: dict[str, Any] | None = None) -> None:
        """Remember the numbers of this step's evaluation on the test set, and those of raw weights."""
        self.test, self.test_raw, self.test_step = numbers, raw, self.step

    def note_best(self, val_loss: float, test_loss: float, epoch: float) -> bool:
        """Remember this step and return True if its validation loss is the lowest so far."""
        if not val_loss < (self.best["val_loss"] if self.best else math.inf):  # NaN is never the best
            return False
        name = checkpoint.name_of(self.step)
        losses = {"val_loss": val_loss, "test_loss": test_loss}
        self.best = {"checkpoint": name, "step": self.step, "epoch": epoch, **losses}
        return True

    def note_settled(self, val_loss: float, epoch: float) -> None:
        """Remember the validation loss of this step, made after the objective's schedules, if it is the lowest such."""
        loss = math.inf if math.isnan(val_loss) else val_loss
        if self.lowest is None or loss < self.lowest["val_loss"]:
            self.lowest = {"val_loss": loss, "epoch": epoch}
        self.waited = epoch - self.lowest["epoch"]

    def is_out_of_patience(self, patience: int) -> bool:
        """Return true if the validation loss of this step has not improved for so many epochs; 0: never."""
        return 0 < patience <= self.waited and self.test_step == self.step

    @property
    def keep(self) -> list[str]:
        """Names of the checkpoints that are not pruned however old they are."""
        return [self.best["checkpoint"]] if self.best else []


def initial_weights(start_from: str) -> Path:
    """Return the file of the weights that `run.start_from` names: of a run's folder, or of one that holds a model."""
    folder = expanded(start_from)
    of_run = folder / MODEL / WEIGHTS
    return of_run if of_run.is_file() else folder / WEIGHTS


def begin(start_from: str | None, vae: VAE) -> None:
    """Load the initial weights of a run that starts from those of another one.

    Args:
        start_from: `run.start_from`; None: the weights stay as the seed has drawn them.
        vae: the model, before the engine copies weights.

    Raises:
        InputError: there are no such weights, or they are another model's.
    """
    if start_from is None:
        return
    file = initial_weights(start_from)
    must_exist(file, f"run.start_from = {start_from!r}: holds no {WEIGHTS}; must be a finished run, e.g. runs/mnist")
    try:
        checkpoint.load_weights(file.parent, vae)
    except InputError as error:
        raise InputError(f"run.start_from = {start_from!r}: {error}") from None


def resume(start: Path | None, vae: VAE, engine: Engine, *, total_steps: int, fingerprint: str) -> RunState:
    """Return the state of a run, after model and engine have been given theirs from a checkpoint.

    Args:
        start: the checkpoint's folder; None: the run begins at step 0.
        vae: the unwrapped model that is trained.
        engine: the engine that goes on, with its average of the model, if there is one.
        total_steps, fingerprint: as for `restore`.

    Raises:
        InputError: the checkpoint is another model's, or `restore` refuses it.
    """
    if start is None:
        return RunState()
    model, raw = engine.models(vae)
    checkpoint.load_weights(start, model)
    if raw is not None:
        checkpoint.load_weights(start / checkpoint.RAW, raw)
    state, engine_state = restore(start, total_steps, fingerprint)
    engine.load_state_dict(engine_state)
    return state


def restore(start: Path, total_steps: int, fingerprint: str) -> tuple[RunState, dict[str, Any]]:
    """Return the progress of a run and the state of its engine from a checkpoint.

    Args:
        start: the checkpoint's folder.
        total_steps: updates in the whole run.
        fingerprint: of the data the run is continued on.

    Raises:
        InputError: the data differ, or the run has passed `total_steps` already.
    """
    saved = checkpoint.load_state(start)
    if saved.get("format") != FORMAT:
        raise InputError(f"{start}: written by another version of this program; use that one to continue it")
    state = RunState(**saved["run"])
    if saved["data"] != fingerprint:
        raise InputError(f"data.name: the pixels or labels are not those of {start}; choose another run.name")
    if state.step > total_steps or (state.step == total_steps and state.test_step != state.step):
        limits = f"train.epochs, train.max_steps: end at step {total_steps}, but {start} is there already"
        raise InputError(f"{limits}; ask for more than {state.step} steps")
    return state, saved["engine"]
