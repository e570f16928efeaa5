"""Posterior collapse: hardly any latent dimension is used, although the weight of the KL has settled."""

from vae.evaluation.latents import LatentMeasures

ADVICE = "try a longer warm-up of objective.beta, a smaller beta, or free bits (the ELBO's free_bits)"


class CollapseWatch:
    """Says when fewer latent dimensions are active than there should be, once for each number of them.

    Args:
        min_active: the share of the dimensions that should be active; 0: any number is right.
        settled: epochs after which the weight of the KL no longer changes; before, nothing is said.
    """

    def __init__(self, min_active: float, settled: float):
        self.min_active, self.settled = min_active, settled
        self._said: int | None = None

    def collapsed(self, measures: LatentMeasures, epoch: float) -> bool:
        """Return whether too few dimensions are active after so many epochs."""
        return epoch > self.settled and measures.active < self.min_active * len(measures.variance)

    def remark(self, measures: LatentMeasures, epoch: float, since: float) -> str | None:
        """Return a sentence if there is something new to say.

        Args:
            measures: on held-out data.
            epoch: now.
            since: the epoch at which it was found first, if it is collapsed.
        """
        counted = f"{measures.active} of {len(measures.variance)} latent dimensions are active"
        before, self._said = self._said, measures.active if self.collapsed(measures, epoch) else None
        if self._said == before:
            return None
        if self._said is None:
            return f"no posterior collapse any more: {counted}"
        wanted = f"fewer than train.min_active = {self.min_active:g} of them"
        return f"posterior collapse: {counted}, {wanted}, since epoch {since:.2f}; {ADVICE}"
