"""The VAE: puts an encoder, a posterior, a prior, a decoder and a likelihood together."""

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.distributions import Distribution

from vae.components import Spec, build
from vae.likelihoods import LIKELIHOODS, Likelihood
from vae.networks import DECODERS, ENCODERS, Shape
from vae.posteriors import POSTERIORS, Posterior
from vae.priors import PRIORS, Prior


@dataclass(frozen=True)
class Latent:
    """One stochastic layer: q(z|x), p(z) and the z (B, D) that was drawn from q."""

    q: Distribution
    p: Distribution
    z: Tensor


@dataclass(frozen=True)
class VAEOutput:
    """What a forward pass gives: one `Latent` for each stochastic layer, and p(x|z)."""

    latents: tuple[Latent, ...]
    p_x: Distribution


class VAE(nn.Module, PyTorchModelHubMixin, library_name="vae", tags=["variational-autoencoder"]):
    """A variational autoencoder (Kingma & Welling 2014), described by plain data so that it can be saved and loaded.

    `VAE.from_pretrained(folder)` gives back what `save_pretrained(folder)` wrote: safetensors and a `config.json`.

    Args:
        image_shape: (C, H, W).
        latent_dim: D.
        hidden_dim: width of the hidden layer next to the image.
        depth: hidden layers in each network.
        center_input: whether the encoder sees x - 0.5 instead of x; the likelihood always sees x.
        encoder, decoder, posterior, prior, likelihood: specs, e.g. `{"name": "DiagonalNormal", "scale": "exp"}`.

    Raises:
        ValueError: a spec names no known piece, or gives it a setting it does not have.
    """

    def __init__(
        self,
        image_shape: Shape = (1, 28, 28),
        latent_dim: int = 2,
        hidden_dim: int = 512,
        depth: int = 2,
        center_input: bool = False,
        encoder: str | Spec = "MLPEncoder",
        decoder: str | Spec = "MLPDecoder",
        posterior: str | Spec = "DiagonalNormal",
        prior: str | Spec = "StandardNormal",
        likelihood: str | Spec = "Bernoulli",
    ):
        super().__init__()
        image_shape = (image_shape[0], image_shape[1], image_shape[2])  # JSON gives a list
        self.image_shape, self.latent_dim, self.center_input = image_shape, latent_dim, center_input
        self.posterior: Posterior = build(POSTERIORS, posterior, latent_dim)
        self.prior: Prior = build(PRIORS, prior, latent_dim)
        self.likelihood: Likelihood = build(LIKELIHOODS, likelihood, image_shape)
        self.encoder: nn.Module = build(ENCODERS, encoder, image_shape, self.posterior.features, hidden_dim, depth)
        self.decoder: nn.Module = build(DECODERS, decoder, latent_dim, self.likelihood.output_shape, hidden_dim, depth)

    @classmethod
    def _from_pretrained(cls, **location: Any) -> "VAE":
        """Load as the mixin does, but without the line it prints, and never with weights missing."""
        # the hook's signature is the mixin's own and changes with its version: passed on as it comes
        with contextlib.redirect_stdout(None):
            return super()._from_pretrained(**{**location, "strict": True})

    def forward(self, x: Tensor, noise: Tensor | None = None) -> VAEOutput:
        """Encode, draw z ~ q(z|x), decode.

        Args:
            x: images (B, C, H, W) in [0, 1].
            noise: standard normal (B, D) that determines z; without it `q.rsample()`.
        """
        q = self.encode(x)
        z = q.rsample() if noise is None else self.posterior.transform(q, noise)
        return VAEOutput(latents=(Latent(q, self.prior(z), z),), p_x=self.decode(z))

    def encode(self, x: Tensor) -> Distribution:
        """Return q(z|x), event (D,), for images (B, C, H, W) in [0, 1]."""
        return self.posterior(self.encoder(x - 0.5 if self.center_input else x))

    def decode(self, z: Tensor) -> Distribution:
        """Return p(x|z), event (C, H, W), for latents (B, D)."""
        return self.likelihood(self.decoder(z))

    @torch.no_grad()
    def sample(self, count: int = 64, noise: Tensor | None = None) -> Tensor:
        """Return the means (count, C, H, W) of p(x|z) for z ~ p(z).

        Args:
            count: how many, when no noise is given.
            noise: standard normal (B, D) that determines z.
        """
        p = self.prior(next(self.parameters()))
        z = p.sample(torch.Size([count])) if noise is None else self.prior.transform(p, noise)
        return self.decode(z).mean

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the mean of p(x|z) at z = E[z|x], (B, C, H, W): for pictures; a test loss draws z ~ q."""
        return self.decode(self.encode(x).mean).mean

    @torch.no_grad()
    def interpolate(self, start: Tensor, end: Tensor, steps: int = 10) -> Tensor:
        """Return decoded images (steps, C, H, W) on the straight line between the codes of two images.

        Args:
            start, end: images (C, H, W) in [0, 1].
            steps: points on the line, both ends included.
        """
        first, last = self.encode(torch.stack([start, end])).mean
        weight = torch.linspace(0, 1, steps, device=first.device, dtype=first.dtype)[:, None]
        return self.decode(torch.lerp(first, last, weight)).mean

    def count_parameters(self) -> int:
        """Return the number of trainable parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)
