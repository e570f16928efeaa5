"""The base of all engines: they make updates; measurements stay on the device until they are asked for."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from vae.data.batches import TrainingBatches
from vae.engine.average import Average
from vae.engine.ledger import Interval, Ledger
from vae.engine.update import Update
from vae.model import VAE
from vae.objectives import Objective


@dataclass
class Engine(ABC):
    """Makes training steps.

    Attributes:
        name: `eager`, `compile` or `graph`.
        why: the reason for this engine, in a few words.
        accelerator: owns precision and the collectives.
        batches: this rank's part of each global batch.
        objective: the loss.
        update: the optimiser update.
        ledger: the measurements.
        learning_rate: its value at a progress in epochs.
        average: of the weights, if one is kept.
    """

    name: str
    why: str
    accelerator: Accelerator
    batches: TrainingBatches
    objective: Objective
    update: Update
    ledger: Ledger
    learning_rate: Callable[[float], float]
    average: Average | None = field(default=None, kw_only=True)

    @abstractmethod
    def advance(self, step: int, until: int) -> int:
        """Make one update or several, none of them after `until` (all ranks); returns how many.

        Args:
            step: updates made before.
            until: as many updates may be made by the end of the call; more than `step`.
        """

    def models(self, trained: VAE) -> tuple[VAE, VAE | None]:
        """Return the model that is reported, evaluated and saved, and the one as trained if that is another.

        Args:
            trained: the unwrapped model that the engine trains; with an average, the average is reported.
        """
        return (trained, None) if self.average is None else (self.average.model, trained)

    def close(self) -> None:
        """Let go of what outlives a step; the engine is of no use afterwards."""
        self.batches.close()

    def drain(self) -> Interval:
        """Return the means since the last call and start anew (all ranks); raises `NonFiniteError`."""
        return self.ledger.drain()

    def raise_faults(self) -> None:
        """Raise `NonFiniteError` if an update was not finite and may not be skipped (all ranks)."""
        self.ledger.gather()

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint needs beside the weights, still on the device (all ranks).

        Nothing waits for the device. A checkpoint takes the state from `judged`.
        """
        scaler = self.accelerator.scaler
        return {
            "optimizer": self.update.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "sums": self.ledger.rows(),
        }

    def judged(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return a `state_dict` that is on the CPU, without its faults; raises `NonFiniteError`, asks no device."""
        scale = 0.0 if state["scaler"] is None else state["scaler"]["scale"]
        return state | {"sums": self.ledger.judged(state["sums"], scale)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`, of any engine and any world size."""
        self.update.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.ledger.restore(state["sums"])

    def assert_ranks_agree(self) -> None:
        """Raise if the last gradient norm differs between ranks: then gradients are not synchronised (all ranks)."""
        norms = self.accelerator.gather(self.update.grad_norm[None])
        assert isinstance(norms, Tensor)
        # bitwise on equal devices; unlike ones may round the norm differently, missing synchronisation shows in digits
        if bool(norms.isfinite().all()) and not torch.allclose(norms, norms[:1].expand_as(norms), rtol=1e-4):
            raise RuntimeError(f"gradients are not synchronised: their norms differ between ranks: {norms.tolist()}")
