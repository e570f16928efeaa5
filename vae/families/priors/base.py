"""The base of all prior families, and the values that a prior may depend on."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.distributions import Distribution

from vae.components import Piece
from vae.config import Config
from vae.families.posteriors import POSTERIORS
from vae.networks import Sizes


@dataclass(frozen=True)
class Given:
    """Values that a prior may depend on, besides its weights.

    Attributes:
        like: any tensor on the device and in the precision of the model.
        encode: images (N, C, H, W) in [0, 1] -> q(z|x), the model's own.
        labels: (B,), int64, where the model sees them.
        codebook: (K, d), where z is a sequence of its vectors.
    """

    like: Tensor
    encode: Callable[[Tensor], Distribution]
    labels: Tensor | None = None
    codebook: Tensor | None = None


class Prior(nn.Module, Piece, ABC):
    """A family p(z) on D dimensions.

    Args:
        sizes: of the model.

    Attributes:
        noise_dim: standard normal numbers that make one z.
        needs_labels: whether the family is p(z|y): then `given.labels` are there, and the batch shape is (B,), else ().
        of_codes: whether z is a sequence of a codebook's vectors.
    """

    needs_labels: bool = False
    of_codes: bool = False

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.latent_dim = self.noise_dim = sizes.latent_dim

    @classmethod
    def conflicts(cls, config: Config) -> Iterator[str]:
        """Yield a line if codes meet a prior of other vectors (or the reverse), or if nothing sees inferred labels."""
        model, posterior, prior = config.model, config.model.posterior["name"], config.model.prior["name"]
        gives_codes = POSTERIORS[posterior].gives_codes
        if cls.of_codes and not gives_codes:
            yield f"model.prior.name = {prior!r}: of codes, which only model.posterior=VectorQuantized gives"
        if gives_codes and not cls.of_codes:
            yield (
                f"model.posterior.name = {posterior!r}: its codes need a prior of codes, not model.prior.name = "
                f"{prior!r}; take UniformCodes or AutoregressiveCodes"
            )
        if model.infer_labels and not (model.condition or cls.needs_labels):
            yield "model.infer_labels = True: nothing sees a label; set model.condition=true, or infer_labels=false"

    def start(self, images: Tensor, seed: int) -> None:
        """Set those initial weights that depend on the training images; most families have none.

        Args:
            images: (N, C, H, W) on the CPU, uint8 or floating point in [0, 1].
            seed: of a choice among them.
        """

    @contextlib.contextmanager
    def held(self, given: Given) -> Iterator[None]:
        """Compute no more than once what p(z) takes from the weights, which stay as they are meanwhile.

        Args:
            given: values that the prior may depend on, but the labels.
        """
        yield

    @abstractmethod
    def forward(self, given: Given) -> Distribution:
        """Return p(z), event (D,)."""

    @abstractmethod
    def transform(self, p: Distribution, noise: Tensor) -> Tensor:
        """Return z (B, D) ~ p made from standard normal noise (B, noise_dim)."""
