"""Posterior collapse: too few latent dimensions are active, although the objective has settled."""

from vae.evaluation.latents import LatentMeasures
from vae.objectives import Objective

ADVICE = "try a longer warm-up of objective.beta, a smaller beta, or free bits (the ELBO's free_bits)"


class CollapseWatch:
    """Watches for posterior collapse; each number of active dimensions is remarked on once.

    Args:
        min_active: the least share of the latent dimensions that should be active; 0: any share is right.
        settled: epochs after which the objective no longer changes. There is no remark before, nor in the first epoch,
            in which a posterior that is not collapsed may still look so.
    """

    def __init__(self, min_active: float, settled: float):
        self.min_active, self.settled = min_active, settled
        self._said: int | None = None

    @classmethod
    def of(cls, objective: Objective, *, min_active: float) -> "CollapseWatch":
        """Return the watch for a model that is trained with this objective."""
        return cls(min_active, objective.settled_at)

    def collapsed(self, measures: LatentMeasures, epoch: float) -> bool:
        """Return whether too few dimensions are active, and `epoch` is past the first one and the warm-up."""
        return epoch >= 1.0 and epoch > self.settled and measures.active < self.min_active * len(measures.variance)

    def remark(self, measures: LatentMeasures, epoch: float, since: float) -> str | None:
        """Return a sentence if the collapse, or its end, is news.

        Args:
            measures: of held-out data.
            epoch: of these measures.
            since: the epoch at which a collapse was found first.
        """
        counted = f"{measures.active} of {len(measures.variance)} latent dimensions are active"
        before, self._said = self._said, measures.active if self.collapsed(measures, epoch) else None
        if self._said == before:
            return None
        if self._said is None:
            return f"no posterior collapse any more: {counted}"
        wanted = f"fewer than train.min_active = {self.min_active:g} of them"
        return f"posterior collapse: {counted}, {wanted}, since epoch {since:.2f}; {ADVICE}"
