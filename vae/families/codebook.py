"""A codebook that follows the vectors assigned to its codes."""

import torch
from torch import Tensor, nn

LEAST = 1e-5  # a count; a code that has less stays where it is, since 0 / 0 is nowhere


class Codebook(nn.Module):
    """K vectors of d numbers, each the moving average of what it is the closest to (van den Oord et al. 2017, A.1).

    With n_k vectors assigned to code k in a step, whose sum is s_k: N_k <- decay N_k + (1 - decay) n_k,
    m_k <- decay m_k + (1 - decay) s_k, and the vector is m_k / N_k.

    A code is hardly used where N_k is below `restart` times the mean of all N. Such a code starts anew at one of the
    vectors of the step, as if it had had the mean share of them (Dhariwal et al. 2020, Jukebox, section 3.1, replace it
    as well). All codes begin so, with the first step that is observed; before it they lie close to 0.

    Args:
        codes: K.
        dim: d.
        decay: of the moving averages, a step.
        restart: share of the mean count; 0: never.

    Attributes:
        vectors: (K, d). A buffer, as are `counts`, N, (K,), and `sums`, m, (K, d).
        usage: n of the last step, (K,): how often each code was chosen in its batch. A buffer.
    """

    vectors: Tensor
    counts: Tensor
    sums: Tensor
    usage: Tensor

    def __init__(self, codes: int, dim: int, *, decay: float, restart: float):
        super().__init__()
        self.decay, self.restart = decay, restart
        self.register_buffer("vectors", nn.init.uniform_(torch.empty(codes, dim), -1 / codes, 1 / codes))
        self.register_buffer("counts", torch.zeros(codes))
        self.register_buffer("sums", torch.zeros(codes, dim))
        self.register_buffer("usage", torch.zeros(codes))

    @torch.no_grad()
    def follow(self, vectors: Tensor, codes: Tensor, seeds: Tensor, skip: Tensor) -> None:
        """Move each code towards the vectors assigned to it in a step; nothing waits for the device.

        Args:
            vectors: (N, d).
            codes: of each vector, (N,), int64.
            seeds: place in `vectors` of the vector at which code k starts anew, (K,), int64.
            skip: true if nothing is to change, (), bool.
        """
        count, total = assigned(vectors.double(), codes, len(self.counts))
        counts = self.decay * self.counts.double() + (1 - self.decay) * count.double()
        sums = self.decay * self.sums.double() + (1 - self.decay) * total
        share = counts.mean()
        unused = (counts < self.restart * share) | (self.counts.sum() == 0)
        counts = torch.where(unused, share, counts)
        sums = torch.where(unused[:, None], share * vectors[seeds].double(), sums)
        means = torch.where(counts[:, None] < LEAST, self.vectors, sums / counts[:, None])
        for old, new in ((self.counts, counts), (self.sums, sums), (self.vectors, means), (self.usage, count)):
            old.copy_(torch.where(skip, old, new.to(old.dtype)))


def assigned(vectors: Tensor, codes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the number of vectors (N, d) of each of `count` codes, (K,), and the sums of these vectors, (K, d).

    Sums are made in the order of the vectors, on any device: adding them up as they come would not be repeatable on
    CUDA, and ranks would drift apart.
    """
    lengths = torch.zeros(count, dtype=torch.int64, device=codes.device).index_add_(0, codes, torch.ones_like(codes))
    in_order = vectors.index_select(0, codes.argsort(stable=True))
    # unsafe: it would wait for the device to see whether the lengths are right
    return lengths, torch.segment_reduce(in_order, "sum", lengths=lengths, unsafe=True)
