"""The eager engine: one step at a time, the reference for the others."""

from dataclasses import dataclass

from vae.data.batches import Batch
from vae.engine.base import Engine
from vae.engine.gradients import Gradients
from vae.engine.observation import Observation


@dataclass
class Eager(Engine):
    """Makes one update a call.

    Attributes:
        gradients: of a batch.
        observation: gradient-free learning, if the model has any.
    """

    gradients: Gradients
    observation: Observation | None = None

    def advance(self, step: int, until: int) -> int:
        """Make one update (all ranks)."""
        self.step(self.batches(step), step, self.batches.progress(step))
        return 1

    def step(self, batch: Batch, step: int, progress: float) -> None:
        """Make one update from this rank's part of a global batch (all ranks).

        Args:
            batch: images and noise.
            step: updates made before this one.
            progress: epochs seen before this one.
        """
        (gradients, nats), seen = self.gradients(batch, self.objective.at(progress))
        skip = self.ledger.record(nats, batch.count, self.update.clip(gradients), step)
        self.update(gradients, skip, self.learning_rate(progress))
        if self.average is not None:
            self.average.follow(self.average.share(skip, step))
        if self.observation is not None:
            self.observation(seen, batch, step, skip)
