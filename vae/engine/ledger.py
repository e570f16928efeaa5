"""Sums over the steps since the last logging point, kept on the device until they are asked for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor

from vae.errors import JobError

# what a rank adds up between two logging points, and behind it an objective's extra terms; checkpoints hold such rows
SUMS = ("loss", "reconstruction", "kl", "examples", "grad_norm", "steps", "skipped")
FAULT = ("step", "reconstruction", "kl")  # of the first bad update; and the extra terms
MAX_SKIPPED = 1000  # a run that skips so many steps in a row will not recover


class NonFiniteError(JobError):
    """A loss or gradient was not finite; raised on all ranks together, the weights are those from before `step`."""

    def __init__(self, step: int, term: str, checkpoint: str | None = None):
        hint = f"; last good checkpoint: {checkpoint}" if checkpoint else ""
        super().__init__(f"step {step}: not finite: {term}{hint}")
        self.step, self.term = step, term


@dataclass(frozen=True)
class Interval:
    """Means and counts since the last logging point, all ranks together.

    Attributes:
        loss, reconstruction, kl: means over the real examples, nats; NaN without any (all steps were skipped).
        grad_norm: mean over the steps, before clipping.
        examples: how many were learnt from.
        skipped: steps left out because they were not finite.
        extra: means of the objective's extra terms over the real examples that have them, by name; none where none has.
    """

    loss: float
    reconstruction: float
    kl: float
    grad_norm: float
    examples: int
    skipped: int
    extra: dict[str, float] = field(default_factory=dict)


class Ledger:
    """Adds up the measurements of the steps, and decides on the device whether an update may be made.

    Args:
        accelerator: the process group, its device, the loss scaler if there is one.
        skip_nonfinite: whether a non-finite update is skipped and counted; else it stops the run.
        extra: names of the objective's extra terms.
        extra_of: extra term that only some examples have -> extra term that counts these examples.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        *,
        skip_nonfinite: bool,
        extra: Sequence[str] = (),
        extra_of: Mapping[str, str] | None = None,
    ):
        self.accelerator, self.skip_nonfinite = accelerator, skip_nonfinite
        self.extra, self.extra_of = tuple(extra), dict(extra_of or {})
        self._names, self._fault_names = SUMS + self.extra, FAULT + self.extra
        # in fp16 an overflow now and then is how the loss scale is found: always skipped, by the scaler
        self.keeps_going = skip_nonfinite or accelerator.scaler is not None
        self.sums, self._good, self._skipped = (self._zeros(len(self._names)) for _ in range(3))
        self.fault, self._now = (self._zeros(len(self._fault_names)) for _ in range(2))
        # what all ranks know alike (steps, gradient norms, skipped steps) is counted by the main one
        self._once = float(accelerator.is_main_process)
        self._good[SUMS.index("steps")] = self._skipped[SUMS.index("skipped")] = self._once
        self._skipped_in_a_row = 0
        self._start_anew()

    def record(self, nats: Tensor, count: int | Tensor, norm: Tensor, step: int | Tensor) -> Tensor:
        """Add a step to the sums; returns whether its update is to be left out, (), bool. Nothing waits for the device.

        Args:
            nats: loss, reconstruction, KL and the E extra terms, (3 + E,), float64, summed over this rank's examples.
            count: how many these are.
            norm: of the global gradient, (), the same on all ranks.
            step: updates made before this one.
        """
        self._good[:3].copy_(nats[:3])
        self._good[len(SUMS) :].copy_(nats[3:])
        self._good[3].fill_(count)
        self._good[4].copy_(norm * self._once)
        self._now[0].fill_(step)
        self._now[1:].copy_(nats[1:])
        bad = ~(norm < math.inf)  # or NaN
        torch.where(bad & (self.fault[0] < 0), self._now, self.fault, out=self.fault)
        # after a fault nothing is updated any more, until the host notices at the next logging point
        skip = bad if self.keeps_going else self.fault[0] >= 0
        self.sums += torch.where(skip, self._skipped, self._good)
        return skip

    def drain(self) -> Interval:
        """Return the means since the last call and start anew (all ranks: one collective, one sync).

        Raises:
            NonFiniteError: an update was not finite (or, where these are skipped, the last 1000 of them).
        """
        totals = dict(zip(self._names, self.gather().sum(0).tolist(), strict=True))
        examples, steps, skipped = totals["examples"], totals["steps"], round(totals["skipped"])
        self._skipped_in_a_row = 0 if examples else self._skipped_in_a_row + skipped
        if self._skipped_in_a_row >= MAX_SKIPPED:
            raise NonFiniteError(int(self.fault[0]), f"the last {self._skipped_in_a_row} losses or gradients")
        self._start_anew()
        terms = {name: totals[name] / (examples or math.nan) for name in SUMS[:3]}
        counts = {name: totals[self.extra_of.get(name, "examples")] for name in self.extra}
        extra = {name: totals[name] / count for name, count in counts.items() if count}
        grad_norm = totals["grad_norm"] / (steps or math.nan)
        return Interval(**terms, grad_norm=grad_norm, examples=round(examples), skipped=skipped, extra=extra)

    def gather(self) -> Tensor:
        """Return every rank's sums, (world size, 7 + E), float64, on the CPU (all ranks); raises `NonFiniteError`."""
        scaler = self.accelerator.scaler
        return self.judged(self.rows().cpu(), 0.0 if scaler is None else scaler.get_scale())

    def rows(self) -> Tensor:
        """Return every rank's sums and first fault, on the device (all ranks: one collective); nothing waits for it."""
        rows = self.accelerator.gather(torch.cat([self.sums, self.fault])[None])
        assert isinstance(rows, Tensor)
        return rows

    def judged(self, rows: Tensor, scale: float) -> Tensor:
        """Return the sums among `rows` that are on the CPU, (world size, 7 + E); no device is asked.

        Args:
            rows: of all ranks.
            scale: of the loss, where there is a scaler; else 0.

        Raises:
            NonFiniteError: an update was not finite and may not be skipped.
        """
        sums, faults = rows.split([len(self._names), len(self._fault_names)], dim=1)
        if not (self.skip_nonfinite or scale >= 1):
            self._judge(faults)
        return sums

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the tensors that `record` changes."""
        return self.sums, self.fault

    def restore(self, rows: Tensor) -> None:
        """Continue from the sums of all ranks; at another world size rank 0 takes their total."""
        rank = self.accelerator.process_index
        if len(rows) == self.accelerator.num_processes:
            self.sums.copy_(rows[rank])
        elif rank == 0:
            self.sums.copy_(rows.sum(0))

    def _start_anew(self) -> None:
        self.sums.zero_()
        self.fault.zero_()
        self.fault[:1].fill_(-1.0)  # no fault

    def _zeros(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.float64, device=self.accelerator.device)

    def _judge(self, faults: Tensor) -> None:
        """Raise if there is a fault (world size, 3 + E)."""
        step = faults[:, 0].max().item()
        if step >= 0:
            finite = faults[:, 1:].isfinite().all(0).tolist()
            terms = [name for name, is_finite in zip(self._fault_names[1:], finite, strict=True) if not is_finite]
            raise NonFiniteError(round(step), ", ".join(terms) or "gradient")
