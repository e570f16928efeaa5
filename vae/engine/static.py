"""Whole training steps as functions of tensors that stay where they are: compiled, on CUDA captured.

What a step reads lies on the device: the images, and for each step of an epoch the indices of its examples, their noise
and weights, and the scheduled numbers. A counter there says which row is next. So a CUDA graph can hold several steps:
the host asks for them at once, and the device needs nothing from it.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vae.data.batches import EpochTable
from vae.engine.base import Engine
from vae.engine.compiler import EngineError, compiled
from vae.engine.local_gradients import Measured, local_gradients
from vae.engine.update import CompilableAdamW
from vae.model import VAE

STEPS_A_REPLAY = 20
WARM_UP_STEPS = 3  # before a capture, on a stream of their own: libraries and NCCL set themselves up


class StaticStep:
    """One training step as a function of tensors that stay where they are; no argument, no answer.

    Args:
        engine: whose step it is.
        model: not wrapped.

    Attributes:
        measure, finish: its halves. Neither makes collectives; each can be replaced by itself compiled.
    """

    def __init__(self, engine: Engine, model: VAE):
        self.engine = engine
        self.gradients = local_gradients(engine.accelerator, model, engine.objective, engine.update.parameters)
        self.measure, self.finish = self._measure, self._finish
        batches, device = engine.batches, engine.accelerator.device
        self.names = list(engine.objective.at(0.0))
        steps, rows = batches.steps_per_epoch, batches.rows
        self.index = torch.zeros(steps, rows, dtype=torch.int64, device=device)
        self.noise = torch.zeros(steps, rows, *batches.noise_shape, dtype=batches.dtype, device=device)
        self.weight = torch.zeros(steps, rows, dtype=batches.dtype, device=device)
        self.count = torch.zeros(steps, dtype=torch.float64, device=device)
        self.now = torch.zeros(steps, len(self.names), dtype=batches.dtype, device=device)
        # on CUDA the fused optimizer reads a learning rate in float32
        self.lr = torch.zeros(steps, dtype=torch.float32 if device.type == "cuda" else torch.float64, device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)  # of the next step in its epoch
        self.step = torch.zeros(1, dtype=torch.float64, device=device)  # and in the run
        self.pixels = torch.empty_like(batches.images) if batches.dynamic else batches.images

    def load(self, epoch: int, table: EpochTable) -> None:
        """Bring an epoch's rows to the device; what is still running there is done with the old ones first."""
        batches, engine = self.engine.batches, self.engine
        first = epoch * batches.steps_per_epoch
        progress = [batches.progress(first + position) for position in range(batches.steps_per_epoch)]
        scheduled = [engine.objective.at(at) for at in progress]
        now = torch.tensor([[at[name] for name in self.names] for at in scheduled], dtype=self.now.dtype)
        lr = torch.tensor([engine.learning_rate(at) for at in progress], dtype=self.lr.dtype)
        rows = {self.index: table.index, self.noise: table.noise, self.weight: table.weight, self.count: table.count}
        for there, here in (rows | {self.now: now, self.lr: lr}).items():
            here = here.to(there.dtype)
            there.copy_(here.pin_memory() if there.is_cuda else here, non_blocking=True)
        if batches.dynamic:
            self.pixels.copy_(batches.pixels(epoch))

    def seek(self, position: int, step: int) -> None:
        """Make `position` of the epoch that is loaded, `step` of the run, the next one."""
        self.position.fill_(position)
        self.step.fill_(step)

    def __call__(self) -> None:
        """Make the next update (all ranks)."""
        gradients, nats = self.measure()
        self.finish(all_reduced(gradients, self.engine.accelerator.num_processes), nats)

    def _measure(self) -> Measured:
        """Return this rank's gradients and sums for the next batch."""
        index, noise, weight, now = (self._row(table) for table in (self.index, self.noise, self.weight, self.now))
        scheduled = dict(zip(self.names, now.unbind(), strict=True))
        return self.gradients(self.pixels, self.engine.batches.labels, index, noise, weight, scheduled)

    def _finish(self, gradients: Sequence[Tensor], nats: Tensor) -> None:
        """Record and update, with the gradients of all ranks together."""
        ledger, update = self.engine.ledger, self.engine.update
        skip = ledger.record(nats, self._row(self.count), update.clip(gradients), self.step[0])
        update(gradients, skip, self._row(self.lr))
        self.position += 1
        self.step += 1

    def tensors(self) -> Iterator[Tensor]:
        """Yield every tensor that a step changes."""
        yield from (self.position, self.step, *self.engine.ledger.tensors(), *self.engine.update.tensors())

    def _row(self, table: Tensor) -> Tensor:
        return table.index_select(0, self.position)[0]


@dataclass
class Static(Engine):
    """Makes whole steps of fixed shape, fast once `prepare` has been called.

    Attributes:
        model: not wrapped.
        captured: whether `prepare` captures steps in a CUDA graph; else each step is called.
    """

    model: VAE
    captured: bool
    _step: StaticStep = field(init=False)
    _calls: dict[int, Callable[[], None]] = field(init=False)  # by how many steps they make
    _epoch: int = field(init=False, default=-1)
    _next: int = field(init=False, default=-1)
    _table: tuple[int, Future[EpochTable]] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._step = StaticStep(self, self.model)
        self._calls = {1: self._step}
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="batches")

    def prepare(self) -> None:
        """Compile the step, and capture it where it is to be (all ranks); weights and sums stay as they are.

        Raises:
            EngineError: the step cannot be compiled (captured, it need not be), or not captured.
        """
        self._seek(0)
        before = [(tensor, tensor.detach().clone()) for tensor in self._step.tensors()]
        try:
            self._compile()
            if self.captured:
                self._calls = self._capture()
        finally:
            with torch.no_grad():
                for tensor, value in before:
                    tensor.copy_(value)

    def advance(self, step: int, until: int) -> int:
        """Make as many steps as a call can, within an epoch (all ranks)."""
        self._seek(step)
        room = min(until, (self._epoch + 1) * self.batches.steps_per_epoch) - step
        made = max(count for count in self._calls if count <= room)
        self._calls[made]()
        self._next = step + made
        return made

    def _seek(self, step: int) -> None:
        """Have the device ready to make `step` next."""
        epoch, position = divmod(step, self.batches.steps_per_epoch)
        if epoch != self._epoch:
            self._step.load(epoch, self._take_table(epoch))
            self._epoch = epoch
        if step != self._next or position == 0:
            self._step.seek(position, step)

    def _take_table(self, epoch: int) -> EpochTable:
        """Return an epoch's table, and have the next one prepared meanwhile."""
        ready, self._table = self._table, (epoch + 1, self._ahead.submit(self.batches.table, epoch + 1))
        return ready[1].result() if ready and ready[0] == epoch else self.batches.table(epoch)

    def _compile(self) -> None:
        step = self._step
        gradients, nats = step.measure()  # torch.distributions looks up KL rules, untraceably, once
        try:
            step.measure = compiled(step.measure)
            if isinstance(self.update, CompilableAdamW):
                step.finish = compiled(step.finish, gradients, nats)
        except EngineError as error:
            if not self.captured:
                raise
            self.why += f"; it is not compiled: {error}"

    def _capture(self) -> dict[int, Callable[[], None]]:
        """Return replays of one step and of several."""
        try:
            self._warm_up()
            return {count: self._capture_steps(count).replay for count in (1, STEPS_A_REPLAY)}
        except RuntimeError as error:
            raise EngineError(f"a step cannot be captured: {str(error).splitlines()[0]}") from None

    def _warm_up(self) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_STEPS):
                self._step.seek(0, 0)
                self._step()
        torch.cuda.current_stream().wait_stream(side)

    def _capture_steps(self, count: int) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # NCCL's watchdog asks CUDA things meanwhile
            for _ in range(count):
                self._step()
        return graph


def all_reduced(gradients: Sequence[Tensor], world_size: int) -> Sequence[Tensor]:
    """Return the sums of each gradient over the ranks (all ranks: one collective)."""
    if world_size == 1:
        return gradients
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    torch.distributed.all_reduce(flat)
    parts = flat.split([gradient.numel() for gradient in gradients])
    return [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]
