"""Gradient-free updates (e.g. an EMA codebook) from a global batch, after the optimizer step."""

from dataclasses import dataclass

from accelerate import Accelerator
from torch import Tensor

from vae.data import randomness
from vae.data.batches import Batch, TrainingBatches
from vae.distributed.peers import Ranks
from vae.families.observing import Observer


@dataclass(frozen=True)
class Observation:
    """Shows an observer all examples of a global batch, in one order on all ranks, so that all learn the same.

    Attributes:
        observer: of the model.
        accelerator: knows the ranks.
        batches: where these examples come from.
    """

    observer: Observer
    accelerator: Accelerator
    batches: TrainingBatches

    def __call__(self, seen: tuple[Tensor, ...], batch: Batch, step: int, skip: Tensor) -> None:
        """Update the observer once (all ranks: a gather for each tensor); nothing waits for the device.

        Args:
            seen: of this rank's examples, (B, ...) each.
            batch: these examples.
            step: updates made before.
            skip: true if the optimizer step was left out, (), bool.
        """
        rank, world_size = self.accelerator.process_index, self.accelerator.num_processes
        peers = Ranks(batch.global_count, len(self.batches.images), rank, world_size)
        everyone = tuple(peers.gather(part) for part in seen)
        epoch, position = divmod(step, self.batches.steps_per_epoch)
        rng = randomness.generator(self.batches.seed, "observe", epoch, position)
        self.observer.observe(everyone, skip, rng)
