"""The agenda of a run: the steps after which metrics, an evaluation or a checkpoint are due."""

from collections.abc import Callable
from dataclasses import dataclass

from vae.config import TrainConfig
from vae.data.batches import count_steps


@dataclass(frozen=True)
class Agenda:
    """The steps of a run after which there is something to do.

    Attributes:
        total_steps: updates in the whole run.
        steps_per_epoch: updates in an epoch.
        log_every, save_every: steps between two lines of training metrics, and between two checkpoints.
        eval_every: epochs between two evaluations; 0: only at the end.
        saves_all: whether each of these checkpoints is asked for; else one is saved where it is time for it.
    """

    total_steps: int
    steps_per_epoch: int
    log_every: int
    save_every: int
    eval_every: int
    saves_all: bool

    @classmethod
    def of(cls, train: TrainConfig, examples: int) -> "Agenda":
        """Return the agenda of a run on so many examples."""
        steps, total = count_steps(examples, train.batch_size, train.epochs, train.max_steps)
        every = train.checkpoint_every
        save_every = every if isinstance(every, int) and every else steps
        return cls(total, steps, train.log_every, save_every, train.eval_every, saves_all=every != 0)

    def next_stop(self, step: int) -> int:
        """Return the first step after `step` with something to do, or the last one of the run."""
        intervals = (self.log_every, self.steps_per_epoch, self.save_every)
        return min(self.total_steps, *(step - step % interval + interval for interval in intervals))

    def logs(self, step: int) -> bool:
        """Return true if training metrics are recorded after `step`."""
        return step == self.total_steps or step % self.log_every == 0

    def evaluates(self, step: int) -> bool:
        """Return true if the run is evaluated after `step`."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return step == self.total_steps or (position == 0 and self.eval_every > 0 and epoch % self.eval_every == 0)

    def saves(self, step: int, is_time: Callable[[], bool]) -> bool:
        """Return true if a checkpoint is saved after `step`; `is_time` decides where none is asked for there."""
        return step % self.save_every == 0 and (self.saves_all or is_time())
