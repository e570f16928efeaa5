"""KL and activity of each latent dimension, from sums that ranks and chunks can merge exactly."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributions import Distribution

from vae.families.codes import Quantized, perplexity
from vae.families.distributions import marginals
from vae.families.hierarchy import Latent
from vae.families.labels import LabelPosterior

ACTIVE = 0.01  # variance of E[z_d|x] above which dimension d is active (Burda et al. 2016, section 5)


@dataclass(frozen=True)
class LatentMeasures:
    """Means and variances over a test set, for each latent dimension.

    Attributes:
        variance: Var_x(E[z_d|x]) of each dimension d, over the examples (divided by their number).
        kl: mean of KL(q(z_d|x) || p(z_d)) for each dimension, nats. For a diagonal posterior they sum to `total_kl`;
            for a full covariance they are those of the marginals, see `shared_kl`. None: there is no closed form.
        total_kl: mean of KL(q(z|x) || p(z)), nats: the `kl` of summary.json.
        examples: their number.
        perplexity: e^H, H the entropy of the shares of codes in all positions of all examples; None: z has no codes.
    """

    variance: tuple[float, ...]
    kl: tuple[float, ...] | None
    total_kl: float
    examples: int
    perplexity: float | None = None

    @property
    def active(self) -> int:
        """The number of dimensions with a variance above 0.01 (Burda et al. 2016, section 5)."""
        return sum(variance > ACTIVE for variance in self.variance)

    @property
    def of_codes(self) -> dict[str, float]:
        """`perplexity` by its name in records, where z is a sequence of codes; else empty."""
        return {} if self.perplexity is None else {"perplexity": self.perplexity}

    @property
    def shared_kl(self) -> float | None:
        """The KL that dimensions share: `total_kl` less the sum of `kl`, nats.

        Under a factorised prior it is the total correlation of q(z|x), 0 for a diagonal posterior.
        """
        return None if self.kl is None else self.total_kl - math.fsum(self.kl)


@dataclass(frozen=True)
class Tally:
    """Sums over examples; the tallies of two sets of examples can be merged into that of both.

    Attributes:
        count: number of examples, (), float64 like the rest.
        sums: of numbers of each example, (S,).
        kl: sums of the KL of each group of dimensions, (G,).
        mean: of E[z|x], (D,).
        squares: sum of the squared deviations of E[z|x] from `mean`, (D,).
        codes: count of each of K codes, (K,); empty (0,) where z has no codes.
    """

    count: Tensor
    sums: Tensor
    kl: Tensor
    mean: Tensor
    squares: Tensor
    codes: Tensor

    @classmethod
    def of(cls, latents: Sequence[Latent], numbers: Tensor, labels: LabelPosterior | None = None) -> "Tally":
        """Return the tally of B examples.

        Args:
            latents: the stochastic layers, one draw for each example; their dimensions are concatenated. Where q of a
                layer depends on the z of another layer, E[z|x] is taken at the z that was drawn there.
            numbers: of each example, (S, B).
            labels: inferred labels, over which the layers are averaged; None: labels are not inferred.
        """
        groups = [replace(layer, q=marginals(layer.q)).kl_by_group() for layer in latents]
        means = torch.cat([layer.q.mean for layer in latents], -1).double()
        if labels is not None:
            groups, means = [labels.mean(each, event_dims=1) for each in groups], labels.mean(means, event_dims=1)
        mean = means.mean(0)
        squares = (means - mean).square().sum(0)
        count = mean.new_full((), len(means))
        codes = torch.cat([counts_of(layer.q) for layer in latents]).to(mean)
        return cls(count, numbers.double().sum(1), torch.cat(groups, -1).double().sum(0), mean, squares, codes)

    @classmethod
    def merged(cls, parts: "Sequence[Tally]") -> "Tally":
        """Return the tally of all examples (Chan, Golub & LeVeque 1983): no difference of large sums."""
        count, sums, kl_sums, means, squares, codes = (
            torch.stack([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__
        )
        total = count.sum()
        mean = (count[:, None] * means).sum(0) / total
        around = squares + count[:, None] * (means - mean).square()
        return cls(total, sums.sum(0), kl_sums.sum(0), mean, around.sum(0), codes.sum(0))

    def packed(self) -> Tensor:
        """Return all numbers in one tensor, (1 + S + G + D + D + K,)."""
        return torch.cat([self.count[None], self.sums, self.kl, self.mean, self.squares, self.codes])

    def unpacked(self, packed: Tensor) -> "Tally":
        """Return the tally that a tensor packs, with the sizes of this one."""
        sizes = [1, *map(len, (self.sums, self.kl, self.mean, self.squares, self.codes))]
        count, *others = packed.split(sizes)
        return Tally(count[0], *others)

    def measures(self, total_kl: float) -> LatentMeasures:
        """Return the latent measures; `total_kl` is the mean KL, nats."""
        variance, kl_of_each = self.squares / self.count, self.kl / self.count
        known = len(kl_of_each) == len(variance)
        each = tuple(kl_of_each.tolist()) if known else None
        used = perplexity(self.codes).item() if len(self.codes) else None
        return LatentMeasures(tuple(variance.tolist()), each, total_kl, int(self.count), used)


def counts_of(q: Distribution) -> Tensor:
    """Return the count of each of K codes, (K,); empty (0,) for a q(z|x) without codes."""
    if not isinstance(q, Quantized):
        return torch.empty(0)
    codes = q.codes.flatten()
    return codes.new_zeros(len(q.usage)).scatter_add_(0, codes, torch.ones_like(codes))  # a bincount reads them back
