"""The plan of a run in words: what would run, where, and what deserves a warning."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from vae.config import Config, to_yaml, warnings
from vae.data.batches import TrainingBatches
from vae.data.dataset import DataSet
from vae.distributed.launch import crowding, precision_warnings
from vae.engine import Engine
from vae.engine.choice import Choice
from vae.model import VAE
from vae.run.contents import CHECKPOINTS
from vae.run.state import RunState
from vae.training.agenda import Agenda


@dataclass(frozen=True)
class Plan:
    """A run in words. Each method returns text for the main process to print.

    Attributes:
        config: the configuration of the run.
        folder: the run's folder.
        data: the data set, as it was understood.
        size: the parameters, the steps, and the processes that make them.
        engine, why: the engine that was chosen, and the reason.
        notes: sentences that deserve a warning.
    """

    config: Config
    folder: Path
    data: str
    size: str
    engine: str
    why: str
    notes: list[str]

    @classmethod
    def of(
        cls,
        config: Config,
        folder: Path,
        accelerator: Accelerator,
        data: DataSet,
        vae: VAE,
        batches: TrainingBatches,
        agenda: Agenda,
        engine: Choice,
    ) -> "Plan":
        """Return the plan of a run on these pieces."""
        count, device, threads = accelerator.num_processes, accelerator.device.type, torch.get_num_threads()
        size = f"{vae.count_parameters():,} parameters, "
        at_once = f" ({config.train.micro_batch} at once in a process)" if config.train.micro_batch else ""
        size += f"{agenda.total_steps:,} steps of {config.train.batch_size} images{at_once}, "
        size += f"{count} process{'es' if count > 1 else ''} on {device} ({threads} threads each)"
        size += f" in {config.train.precision}"
        size += f", weights averaged (optim.ema = {config.optim.ema:g})" if config.optim.ema else ""
        notes = warnings(config, batches.progress(agenda.total_steps))
        notes += precision_warnings(accelerator.mixed_precision, device, tf32=config.train.tf32)
        notes += crowding(device, os.environ, "train.threads=1")
        return cls(config, folder, f"data: {data.summary}", size, engine.name, engine.why, notes)

    def warnings(self, others: Iterable[str] = ()) -> str:
        """Return a line for each sentence that deserves a warning, `others` first; empty where there is none."""
        return "".join(f"warning: {note}\n" for note in [*others, *self.notes])

    def dry_run(self) -> str:
        """Return the resolved configuration, what would run, and the data."""
        would = f"would train in {self.folder}: {self.size}, engine {self.engine} ({self.why})"
        return f"{to_yaml(self.config)}\n{would}\n{self.data}"

    def finished(self, summary: dict[str, Any]) -> str:
        """Return the line about a run that was finished before, from its summary."""
        steps, loss = summary["steps"], summary["test"]["loss"]
        early = summary.get("stopped_early")
        how = f"ended early after {early['epoch']:g} epochs, {steps:,} steps" if early else f"{steps:,} steps"
        return f"{self.folder} is finished ({how}): test loss {loss:.2f} nats. Nothing to do."

    def building(self) -> str:
        """Return a line if the engine is one that is compiled or captured, which takes a while."""
        return "" if self.engine == "eager" else f"building engine {self.engine} ({self.why})\n"

    def training(self, engine: Engine, step: int, changed: Iterable[str]) -> str:
        """Return the lines before the first step: the data, and the training.

        Args:
            engine: the one that was built, which may be another than the one that was chosen.
            step: updates made already.
            changed: settings that differ from those of the last start.
        """
        line = f"training in {self.folder}: {self.size}, engine {engine.name} ({engine.why})"
        begun = f", from the weights of {self.config.run.start_from}" if self.config.run.start_from else ""
        line += f", from step {step:,}" if step else begun
        changes = "; ".join(changed)
        return f"{self.data}\n{line}" + (f" ({changes})" if changes else "")

    def early_end(self, state: RunState) -> str:
        """Return the line about a run that ends early."""
        patience, step = self.config.train.patience, f"{state.step:,}"
        line = f"the validation loss has not improved for {state.waited:g} epochs (train.patience = {patience})"
        best = f"; its best checkpoint is {CHECKPOINTS}/{state.best['checkpoint']}" if state.best else ""
        return f"{line}: the run ends here, after step {step}{best}"

    def done(self) -> str:
        """Return the line after the last step: what the run's folder holds."""
        pictures = "figures/, " if self.config.run.figures else ""
        contents = f"{self.folder} holds model/, {pictures}summary.json"
        drawn = any(tracker["name"] == "tensorboard" for tracker in self.config.run.trackers)
        curves = f"; curves: tensorboard --logdir {self.folder}/tensorboard" if drawn else ""
        return f"done: {contents}{curves}"
