"""Whole training steps as functions of tensors that stay where they are: compiled, on CUDA captured.

What a step reads lies on the device: the images, and for each step of a segment the indices of its examples, their
noise and weights, and the scheduled numbers. A segment is an epoch, or a part of one whose noise is too much to hold. A
counter there says which row is next. So a CUDA graph can hold several steps: the host asks for them at once, and the
device needs nothing from it.

With several processes a step is two graphs, one before the all-reduce of the gradients and one after it: a collective
inside a graph is seen by no watchdog of NCCL's, and hangs across nodes with some of its versions.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from vae.data.batches import Ahead, staged
from vae.engine.base import Engine
from vae.engine.compiler import EngineError, compiled, together
from vae.engine.local_gradients import Measured, local_gradients
from vae.engine.update import CompilableAdamW, FusedAdamW, Numbers, total_norm
from vae.model import VAE

STEPS_A_REPLAY = 20
HELD_NUMBERS = 2**26  # of noise in the rows of a segment: 256 MiB
# between a compiled step's gradients and the plain one's, of their norm: other orders of sums differ by far less
TOLERANCE, MIXED_TOLERANCE = 1e-3, 5e-2
WARM_UP_STEPS = 3  # before a capture, on a stream of their own: libraries set themselves up


def segments_of(steps: int, numbers: int) -> tuple[int, int]:
    """Return into how many segments an epoch of so many steps is divided, and the steps of each.

    Args:
        steps: in an epoch.
        numbers: of noise that a step takes.
    """
    most = max(1, HELD_NUMBERS // max(1, numbers))
    length = math.ceil(steps / math.ceil(steps / most))
    return math.ceil(steps / length), length


class StaticStep:
    """One training step as a function of tensors that stay where they are; no argument, no answer.

    Args:
        engine: whose step it is.
        model: not wrapped.

    Attributes:
        measure, finish: its halves, before and after the ranks `meet`. Neither makes collectives; each can be replaced
            by itself compiled.
        settle: the part of `finish` before the update; it can be replaced likewise.
        segments: how many of them an epoch has.
        length: steps in a segment; the last one of an epoch may have fewer.
        flat: whether gradients are one tensor: for one collective, and on CUDA one norm.
    """

    def __init__(self, engine: Engine, model: VAE):
        self.engine = engine
        self.gradients = local_gradients(engine.accelerator, model, engine.objective, engine.update.parameters)
        self.measure, self.finish, self.settle = self.plain_measure, self._finish, self._settle
        self.flat: bool = engine.accelerator.num_processes > 1 or engine.accelerator.device.type == "cuda"
        batches, device = engine.batches, engine.accelerator.device
        self.names = list(engine.objective.at(0.0))
        rows, numbers = batches.rows, batches.rows * math.prod(batches.noise_shape)
        self.segments, self.length = segments_of(batches.steps_per_epoch, numbers)
        steps = self.length
        self.index = torch.zeros(steps, rows, dtype=torch.int64, device=device)
        self.noise = torch.zeros(steps, rows, *batches.noise_shape, dtype=batches.dtype, device=device)
        self.weight = torch.zeros(steps, rows, dtype=batches.dtype, device=device)
        self.count = torch.zeros(steps, dtype=torch.float64, device=device)
        self.now = torch.zeros(steps, len(self.names), dtype=batches.dtype, device=device)
        fused = isinstance(engine.update, FusedAdamW)  # which reads the learning rate in float32
        self.lr = torch.zeros(steps, dtype=torch.float32 if fused else torch.float64, device=device)
        self._tables = (self.index, self.noise, self.weight, self.count, self.now, self.lr)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)  # of the next step in its segment
        self.step = torch.zeros(1, dtype=torch.float64, device=device)  # and in the run
        self.pixels = torch.empty_like(batches.images) if batches.dynamic else batches.images
        self._pixels_of = -1  # the epoch

    def rows(self, segment: int) -> list[Tensor]:
        """Return the rows of a segment of the run for `load`, on the CPU.

        In NumPy, for the reason that `TrainingBatches.table` gives; on CUDA pinned, so that no copy waits.
        """
        batches, engine = self.engine.batches, self.engine
        epoch, part = divmod(segment, self.segments)
        first = part * self.length
        positions = range(first, min(first + self.length, batches.steps_per_epoch))
        table = batches.table(epoch, positions)
        progress = [batches.progress(epoch * batches.steps_per_epoch + position) for position in positions]
        now = np.array([list(engine.objective.at(at).values()) for at in progress]).reshape(
            len(positions), len(self.names)
        )
        lr = np.array([engine.learning_rate(at) for at in progress])
        rows = (table.index.numpy(), table.noise.numpy(), table.weight.numpy(), table.count.numpy(), now, lr)
        return [staged(each, there.device, there.dtype) for each, there in zip(rows, self._tables, strict=True)]

    def load(self, segment: int, rows: Sequence[Tensor]) -> None:
        """Bring a segment's rows to the device; what is still running there is done with the old ones first."""
        for there, here in zip(self._tables, rows, strict=True):
            there[: len(here)].copy_(here, non_blocking=True)
        epoch = segment // self.segments
        if self.engine.batches.dynamic and epoch != self._pixels_of:
            self.pixels.copy_(self.engine.batches.pixels(epoch))
            self._pixels_of = epoch

    def seek(self, position: int, step: int) -> None:
        """Make `position` of the segment that is loaded, `step` of the run, the next one."""
        self.position.fill_(position)
        self.step.fill_(step)

    def __call__(self) -> None:
        """Make the next update (all ranks)."""
        gradients, nats = self.measure()
        self.meet(gradients)
        self.finish(gradients, nats)

    def plain_measure(self) -> Measured:
        """Return this rank's gradients, in one tensor if they are `flat`, and its sums, for the next batch."""
        index, noise, weight, now = (self._row(table) for table in (self.index, self.noise, self.weight, self.now))
        scheduled = dict(zip(self.names, now.unbind(), strict=True))
        gradients, nats = self.gradients(self.pixels, self.engine.batches.labels, index, noise, weight, scheduled)
        return [torch.cat([each.reshape(-1) for each in gradients])] if self.flat else gradients, nats

    def meet(self, gradients: Sequence[Tensor]) -> None:
        """Add up the gradients of all ranks (all ranks: one collective, if there are several)."""
        if self.engine.accelerator.num_processes > 1:
            (flat,) = gradients
            torch.distributed.all_reduce(flat)

    def _finish(self, gradients: Sequence[Tensor], nats: Tensor) -> None:
        """Record and update, with the gradients of all ranks together."""
        numbers, share = self.settle(gradients, nats)
        self.engine.update.apply(self._of_each(gradients), numbers)
        if self.engine.average is not None and share is not None:
            self.engine.average.follow(share)

    def _settle(self, gradients: Sequence[Tensor], nats: Tensor) -> tuple[Numbers, Tensor | None]:
        """Record the step; returns the numbers that the update takes, and the share that the average takes, if any."""
        ledger, update, average = self.engine.ledger, self.engine.update, self.engine.average
        skip = ledger.record(nats, self._row(self.count), update.clip(gradients), self.step[0])
        numbers = update.prepare(skip, self._row(self.lr))
        share = None if average is None else average.share(skip, self.step[0])
        self.position += 1
        self.step += 1
        return numbers, share

    def _of_each(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the gradient for each weight, laid out in memory as the weight is: the optimizer takes no other."""
        weights = self.engine.update.parameters
        if self.flat:
            parts = gradients[0].split([weight.numel() for weight in weights])
            return [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]
        pairs = zip(gradients, weights, strict=True)
        return [each if each.stride() == weight.stride() else each.contiguous() for each, weight in pairs]

    def tensors(self) -> Iterator[Tensor]:
        """Yield every tensor that a step changes."""
        yield from (self.position, self.step, *self.engine.ledger.tensors(), *self.engine.update.tensors())
        if self.engine.average is not None:
            yield from self.engine.average.tensors()

    def _row(self, table: Tensor) -> Tensor:
        return table.index_select(0, self.position)[0]


@dataclass
class Static(Engine):
    """Makes whole steps of fixed shape, fast once `prepare` has been called.

    Attributes:
        model: not wrapped.
        captured: whether `prepare` captures steps in CUDA graphs; else each step is called.
        compiles: whether `prepare` compiles the step.
    """

    model: VAE
    captured: bool
    compiles: bool = True
    _step: StaticStep = field(init=False)
    _calls: dict[int, Callable[[], None]] = field(init=False)  # by how many steps they make
    _graphs: list[torch.cuda.CUDAGraph] = field(init=False, default_factory=list)
    _segment: int = field(init=False, default=-1)
    _next: int = field(init=False, default=-1)
    _rows: Ahead[list[Tensor]] = field(init=False)

    def __post_init__(self) -> None:
        self._step = StaticStep(self, self.model)
        self._calls = {1: self._step}
        self._rows = Ahead(self.batches.ahead, self._step.rows)

    def prepare(self) -> None:
        """Compile the step, and capture it where it is to be (all ranks); weights and sums stay as they are.

        Raises:
            EngineError: the step cannot be compiled (captured, it need not be), or not captured.
        """
        self._seek(0)
        before = [(tensor, tensor.detach().clone()) for tensor in self._step.tensors()]
        try:
            if self.compiles:
                self._compile()
            if self.captured:
                self._calls = self._capture()
        except EngineError:
            self._release()
            raise
        finally:
            with torch.no_grad():
                for tensor, value in before:
                    tensor.copy_(value)

    def advance(self, step: int, until: int) -> int:
        """Make as many steps as a call can, within a segment (all ranks)."""
        left = self._seek(step)
        room = min(until - step, left)
        made = max(count for count in self._calls if count <= room)
        self._calls[made]()
        self._next = step + made
        return made

    def close(self) -> None:
        """Let go of the graphs, before the process group that they may have used."""
        self._release()
        super().close()

    def _release(self) -> None:
        self._calls.clear()
        for graph in self._graphs:
            graph.reset()
        self._graphs.clear()

    def _seek(self, step: int) -> int:
        """Have the device ready to make `step` next; returns how many steps its segment still has."""
        epoch, place = divmod(step, self.batches.steps_per_epoch)
        part, position = divmod(place, self._step.length)
        segment = epoch * self._step.segments + part
        if segment != self._segment:
            self._step.load(segment, self._rows(segment))
            self._segment = segment
        if step != self._next or position == 0:
            self._step.seek(position, step)
        return min(self._step.length - position, self.batches.steps_per_epoch - place)

    def _compile(self) -> None:
        """Compile the halves of the step, and compare the gradients (all ranks)."""
        step, device = self._step, self.accelerator.device.type
        plain = step.measure()  # torch.distributions looks up KL rules, untraceably, once
        try:
            step.measure = compiled(step.measure, device=device)
            together(self.disagreement(plain, step.measure()))
            if isinstance(self.update, CompilableAdamW):
                step.finish = compiled(step.finish, *plain, device=device)
            else:
                step.settle = compiled(step.settle, *plain, device=device)
        except EngineError as error:
            if not self.captured:
                raise
            step.measure = step.plain_measure
            self.why += f"; it is not compiled: {error}"

    def disagreement(self, expected: Measured, found: Measured) -> str:
        """Return a line if a compiled step's gradients are not those of the step as it is, else nothing."""
        gradients, others = expected[0], found[0]
        norm = total_norm(gradients)
        apart = total_norm([other - gradient for gradient, other in zip(gradients, others, strict=True)])
        limit = TOLERANCE if self.accelerator.mixed_precision == "no" else MIXED_TOLERANCE
        if not norm.isfinite() or apart <= limit * norm:  # a batch without finite gradients tells nothing
            return ""
        return f"its gradients differ from those of the step as it is, by {(apart / norm).item():.1e} of their norm"

    def _capture(self) -> dict[int, Callable[[], None]]:
        """Return calls that replay one step, or several where this process is alone (all ranks).

        Whatever hinders one rank, all of them raise: they would wait for each other in different collectives.
        """
        problem, calls, stream = "", {}, torch.cuda.current_stream()
        try:
            self._warm_up()
            if self.accelerator.num_processes == 1:
                calls = {count: self._captured(self._step, count).replay for count in (1, STEPS_A_REPLAY)}
            else:
                calls = {1: self._in_halves()}
        except Exception as error:
            cause = error.__context__ or error  # what ended the capture, rather than that it has ended
            problem = f"a step cannot be captured: {str(cause).splitlines()[0]}"
        finally:
            torch.cuda.set_stream(stream)  # a capture that fails leaves its own stream in place
        together(problem)
        return calls

    def _in_halves(self) -> Callable[[], None]:
        """Return a call that replays a step's halves, between which the ranks meet."""
        step, measured = self._step, []
        before = self._captured(lambda: measured.append(step.measure()))
        ((gradients, nats),) = measured  # where each replay leaves them
        after = self._captured(lambda: step.finish(gradients, nats))

        def call() -> None:
            before.replay()
            step.meet(gradients)
            after.replay()

        return call

    def _warm_up(self) -> None:
        """Call the step on a stream of its own, so that libraries set themselves up; the ranks do not meet."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_STEPS):
                self._step.seek(0, 0)
                self._step.finish(*self._step.measure())
        torch.cuda.current_stream().wait_stream(side)

    def _captured(self, function: Callable[[], None], times: int = 1) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads ask CUDA things meanwhile
            for _ in range(times):
                function()
        self._graphs.append(graph)
        return graph
