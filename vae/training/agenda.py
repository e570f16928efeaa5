"""The agenda of a run: steps after which it is logged, evaluated and saved."""

from dataclasses import dataclass

from vae.config import TrainConfig
from vae.data.batches import count_steps


@dataclass(frozen=True)
class Agenda:
    """Steps after which a run is logged, evaluated and saved.

    Attributes:
        total_steps: updates in the whole run.
        steps_per_epoch: updates in an epoch.
        log_every, save_every: steps between two lines of training metrics, and between two checkpoints.
        eval_every: epochs between two evaluations; 0: only at the end.
    """

    total_steps: int
    steps_per_epoch: int
    log_every: int
    save_every: int
    eval_every: int

    @classmethod
    def of(cls, train: TrainConfig, examples: int) -> "Agenda":
        """Return the agenda of a run on so many examples."""
        steps, total = count_steps(examples, train.batch_size, train.epochs, train.max_steps)
        save_every = train.checkpoint_every or steps
        return cls(total, steps, train.log_every, save_every, train.eval_every)

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

    def saves(self, step: int) -> bool:
        """Return true if a checkpoint is saved after `step`, whatever its evaluation found."""
        return step == self.total_steps or step % self.save_every == 0
