"""One optimiser update at a time. What is measured stays on the device until somebody asks for it."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor

from vae.data.batches import Batch
from vae.gradients import Gradients
from vae.objectives import Terms
from vae.schedules import Schedule

# what a rank adds up between two logging points; the fault is the step and the terms of the first bad update
SUMS = ("loss", "reconstruction", "kl", "examples", "grad_norm", "steps", "skipped")
FAULT = ("step", "reconstruction", "kl")
MAX_SKIPPED = 1000  # a run that skips so many steps in a row will not recover


class NonFiniteError(RuntimeError):
    """A loss or gradient was not finite; raised on all ranks together, the weights are those from before `step`."""

    def __init__(self, step: int, term: str, checkpoint: str | None = None):
        hint = f"; last good checkpoint: {checkpoint}" if checkpoint else ""
        super().__init__(f"step {step}: not finite: {term}{hint}")
        self.step, self.term = step, term


@dataclass(frozen=True)
class Interval:
    """What happened since the last logging point, all ranks together.

    Attributes:
        loss, reconstruction, kl: means over the real examples, nats; NaN without any (all steps were skipped).
        grad_norm: mean over the steps, before clipping.
        examples: how many were learnt from.
        skipped: steps left out because they were not finite.
    """

    loss: float
    reconstruction: float
    kl: float
    grad_norm: float
    examples: int
    skipped: int


class Engine:
    """Runs training steps eagerly, through Accelerate.

    Args:
        accelerator: owns precision, DDP and the collectives.
        gradients: fills the `grad` of the parameters from a batch.
        optimizer: as prepared by `accelerator.prepare`; fused.
        lr: learning rate; `lr_schedule` is its factor over epochs.
        max_grad_norm: threshold for the global gradient norm; None: no clipping.
        skip_nonfinite: whether a non-finite update is skipped and counted; else it stops the run.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        gradients: Gradients,
        optimizer: AcceleratedOptimizer,
        *,
        lr: float,
        lr_schedule: Schedule,
        max_grad_norm: float | None,
        skip_nonfinite: bool,
    ):
        self.accelerator, self.gradients, self.optimizer = accelerator, gradients, optimizer
        self.lr, self.lr_schedule = lr, lr_schedule
        self.max_grad_norm = math.inf if max_grad_norm is None else max_grad_norm
        # in fp16 an overflow now and then is how the loss scale is found: always skipped, by the scaler
        self.skip_nonfinite = skip_nonfinite
        self.keeps_going = skip_nonfinite or accelerator.scaler is not None
        self.parameters = list(gradients.model.parameters())
        device = accelerator.device
        self.sums = torch.zeros(len(SUMS), dtype=torch.float64, device=device)
        self.fault = torch.full((len(FAULT),), -1.0, dtype=torch.float64, device=device)
        self.grad_norm = torch.zeros((), device=device)
        # what all ranks know alike (steps, gradient norms, skipped steps) is counted by the main one
        self._once = float(accelerator.is_main_process)
        self._skip = torch.tensor([0.0] * (len(SUMS) - 1) + [self._once], dtype=torch.float64, device=device)
        self._skipped_in_a_row = 0
        # a fused optimizer leaves weights and moments alone where found_inf is 1: no host sync. fp16: the scaler's job
        self._found_inf = torch.zeros((), device=device)
        if accelerator.scaler is None:
            optimizer.optimizer.found_inf = self._found_inf  # pyright: ignore[reportAttributeAccessIssue]

    def step(self, batch: Batch, step: int, progress: float) -> None:
        """Make one update from this rank's part of a global batch (all ranks).

        Args:
            batch: images and noise.
            step: updates made before this one.
            progress: epochs seen before this one.
        """
        self._set_learning_rate(progress)
        terms = self.gradients(batch, progress)
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.max_grad_norm)
        assert isinstance(norm, Tensor)
        self.grad_norm = norm.detach()

        self._account(terms, step)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def drain(self) -> Interval:
        """Return the means since the last call and start anew (all ranks: one collective, one sync).

        Raises:
            NonFiniteError: an update was not finite (or, where these are skipped, the last 1000 of them).
        """
        totals = dict(zip(SUMS, self.gather_sums().sum(0).tolist(), strict=True))
        examples, steps, skipped = totals["examples"], totals["steps"], round(totals["skipped"])
        self._skipped_in_a_row = 0 if examples else self._skipped_in_a_row + skipped
        if self._skipped_in_a_row >= MAX_SKIPPED:
            raise NonFiniteError(int(self.fault[0]), f"the last {self._skipped_in_a_row} losses or gradients")
        self.sums.zero_()
        self.fault.fill_(-1.0)
        means = {name: totals[name] / (examples or math.nan) for name in ("loss", "reconstruction", "kl")}
        grad_norm = totals["grad_norm"] / (steps or math.nan)
        return Interval(**means, grad_norm=grad_norm, examples=round(examples), skipped=skipped)

    def gather_sums(self) -> Tensor:
        """Return every rank's sums, (world size, 7), float64, on the CPU (all ranks); raises `NonFiniteError`."""
        rows = self.accelerator.gather(torch.cat([self.sums, self.fault])[None])
        assert isinstance(rows, Tensor)
        rows = rows.cpu()
        self._raise_fault(rows[:, len(SUMS) :].amax(0).tolist())
        return rows[:, : len(SUMS)]

    def raise_faults(self) -> None:
        """Raise `NonFiniteError` if an update was not finite and may not be skipped (all ranks)."""
        self.gather_sums()

    def learning_rate(self, progress: float) -> float:
        """Return the learning rate at `progress` epochs."""
        return self.lr * self.lr_schedule(progress)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside the weights (all ranks); raises `NonFiniteError`."""
        scaler = self.accelerator.scaler
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "sums": self.gather_sums(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`; at another world size rank 0 takes the total of the sums."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        rank, rows = self.accelerator.process_index, state["sums"]
        if len(rows) == self.accelerator.num_processes:
            self.sums.copy_(rows[rank])
        elif rank == 0:
            self.sums.copy_(rows.sum(0))

    def assert_ranks_agree(self) -> None:
        """Raise if the last gradient norm differs between ranks: then gradients are not synchronised (all ranks)."""
        norms = self.accelerator.gather(self.grad_norm[None])
        assert isinstance(norms, Tensor)
        # bitwise on equal devices; unlike ones may round the norm differently, missing synchronisation shows in digits
        if bool(norms.isfinite().all()) and not torch.allclose(norms, norms[:1].expand_as(norms), rtol=1e-4):
            raise RuntimeError(f"gradients are not synchronised: their norms differ between ranks: {norms.tolist()}")

    def _set_learning_rate(self, progress: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(progress)

    @torch.no_grad()
    def _account(self, terms: Terms, step: int) -> None:
        """Add this step to the sums, on the device, and decide there whether the update may be made."""
        norm = self.grad_norm.double()
        bad = ~norm.isfinite()
        nats = torch.stack([terms.loss, terms.reconstruction, terms.kl]).double().sum(1)
        fault = torch.cat([norm.new_full((1,), step), (~nats[1:].isfinite()).double()])
        first = bad & (self.fault[0] < 0)
        self.fault = torch.where(first, fault, self.fault)
        # after a fault nothing is updated any more, until the host notices at the next logging point
        skip = bad if self.keeps_going else self.fault[0] >= 0
        count = norm.new_full((1,), len(terms.loss))  # filled on the device: a copy from the host would wait
        one = torch.full_like(count, self._once)
        good = torch.cat([nats, count, one * norm, one, torch.zeros_like(count)])
        self.sums += torch.where(skip, self._skip, good)
        self._found_inf.fill_(skip)

    def _raise_fault(self, fault: list[float]) -> None:
        scaler = self.accelerator.scaler
        tolerated = self.skip_nonfinite or (scaler is not None and scaler.get_scale() >= 1)
        if fault[0] >= 0 and not tolerated:
            raise NonFiniteError(round(fault[0]), _name(fault))


def _name(fault: list[float]) -> str:
    terms = [name for name, bad in zip(FAULT[1:], fault[1:], strict=True) if bad > 0]
    return ", ".join(terms) or "gradient"
