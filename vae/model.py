"""The VAE: puts an encoder, a posterior, a prior, a decoder and a likelihood together."""

import contextlib
import filecmp
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.distributions import Distribution

from vae import plugins
from vae.components import Spec, build
from vae.data.statistics import PixelStatistics
from vae.errors import PluginWarning
from vae.families.hierarchy import HIERARCHIES, Families, Hierarchy, Latent
from vae.families.labels import LabelPosterior
from vae.families.likelihoods import LIKELIHOODS, Likelihood
from vae.families.posteriors import POSTERIORS, Posterior
from vae.families.priors import PRIORS, Given, Prior
from vae.families.special import load_special_values
from vae.networks import DECODERS, ENCODERS, Decoder, Sizes

LatentPath = Callable[[Tensor, Tensor, Tensor], Tensor]
CARD, PICTURE = "README.md", "samples.png"  # of a model's folder: its card, and the picture in it
WEIGHTS = "model.safetensors"

load_special_values()  # for whatever this process does with a model


@dataclass(frozen=True)
class VAEOutput:
    """The output of a forward pass: one `Latent` for each stochastic layer, and p(x|z), batch (B,) or (K, B).

    A model that infers labels gives both for each label, batch (C, B) or (K, C, B), with the weights in `labels`.
    """

    latents: tuple[Latent, ...]
    p_x: Distribution
    labels: LabelPosterior | None = None

    def over_labels(self, values: Tensor, event_dims: int = 0) -> Tensor:
        """Return the mean over y, (..., B, *event), of `values`; `values` itself where labels are not inferred.

        Args:
            values: (B, *event) or (K, B, *event), with inferred labels (..., C, B, *event).
            event_dims: dimensions behind B.
        """
        return values if self.labels is None else self.labels.mean(values, event_dims)


class VAE(nn.Module, PyTorchModelHubMixin, library_name="vae", tags=["variational-autoencoder"]):
    """A variational autoencoder (Kingma & Welling 2014), described by plain data so that it can be saved and loaded.

    `VAE.from_pretrained(folder)` loads the files of `save_pretrained(folder)`: safetensors and a `config.json`. A model
    card that stands beside them is saved or pushed with the same weights, and not with others.

    Args:
        image_shape: (C, H, W).
        latent_dim: D, of the layer that is decoded.
        hidden_dim, depth: of encoder and decoder, see `vae.networks.Sizes`.
        center_input: whether the encoder sees x - 0.5 instead of x; the likelihood always sees x.
        condition: whether encoder and decoder see the label: q(z|x, y), p(x|z, y) (Sohn et al. 2015).
        infer_labels: whether a network like the encoder gives q(y|x), and the forward pass covers each label where
            none is given: the model M2 of Kingma et al. 2014, Semi-supervised learning with deep generative models.
        classes: number of classes of the labels; 0: there are no labels.
        hierarchy: spec of the stochastic layers above the one that is decoded.
        output_bias: how the decoder's last bias starts, `zero` or `data`; see `start_output_bias`.
        encoder, decoder, posterior, prior, likelihood: specs, e.g. `{"name": "DiagonalNormal", "scale": "exp"}`.

    Raises:
        ValueError: a spec names no known piece, or gives it a setting it does not have; or labels are needed, and
            there are none.

    Attributes:
        noise_dim: standard normal numbers of one draw of all latents, z ~ q.
        draw_dim: standard normal numbers of one draw of all latents, z ~ p.
        sees_labels: whether the model uses labels (B,), int64; they must then be given with a z.
        passes: times that a forward pass encodes and decodes an image: once for each label, where labels are inferred.
        needs_labels: whether labels must be given with images too: the model sees them, and does not infer them.
        most_at_once: images in one pass of an evaluation; 0: as many as evaluations take by themselves.
    """

    _loaded_from: Path | None = None

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        latent_dim: int = 2,
        hidden_dim: int = 512,
        depth: int = 2,
        center_input: bool = False,
        condition: bool = False,
        infer_labels: bool = False,
        classes: int = 0,
        output_bias: Literal["zero", "data"] = "zero",
        hierarchy: str | Spec = "Flat",
        encoder: str | Spec = "MLPEncoder",
        decoder: str | Spec = "MLPDecoder",
        posterior: str | Spec = "DiagonalNormal",
        prior: str | Spec = "StandardNormal",
        likelihood: str | Spec = "Bernoulli",
    ):
        super().__init__()
        image_shape = (image_shape[0], image_shape[1], image_shape[2])  # JSON gives a list
        self.image_shape, self.latent_dim, self.center_input = image_shape, latent_dim, center_input
        self.condition, self.classes, self.output_bias = condition, classes, output_bias
        sizes = Sizes(image_shape, latent_dim, hidden_dim, depth, classes, context_dim=classes if condition else 0)
        self.posterior: Posterior = build(POSTERIORS, posterior, latent_dim)
        self.likelihood: Likelihood = build(LIKELIHOODS, likelihood, image_shape)
        self.hierarchy: Hierarchy = build(
            HIERARCHIES, hierarchy, sizes, self.posterior, partial(build, POSTERIORS, posterior)
        )
        self.prior: Prior = build(
            PRIORS, prior, replace(sizes, latent_dim=self.hierarchy.top_dim, codes=self.posterior.codes)
        )
        self.encoder: nn.Module = build(ENCODERS, encoder, sizes, self.hierarchy.features)
        self.decoder: Decoder = build(DECODERS, decoder, sizes, self.likelihood.output_shape)
        self.noise_dim, self.draw_dim = self.hierarchy.noise_dim, self.hierarchy.draw_dim(self.prior)
        self.sees_labels = condition or self.prior.needs_labels
        self.needs_labels = self.sees_labels and not infer_labels
        if self.sees_labels and not classes:
            raise ValueError("labels are needed (by condition, or by the prior), and there are none")
        self.classifier: nn.Module | None = None
        self.passes = classes if infer_labels else 1
        self.most_at_once = 0
        if infer_labels:
            self.classifier = build(ENCODERS, encoder, replace(sizes, context_dim=0), classes)
        networks = ((ENCODERS, encoder), (DECODERS, decoder), (HIERARCHIES, hierarchy))
        families = ((POSTERIORS, posterior), (PRIORS, prior), (LIKELIHOODS, likelihood))
        if (needs := plugins.needs_of([*networks, *families])) and isinstance(self._hub_mixin_config, dict):
            self._hub_mixin_config["plugins"] = needs  # saved with the model

    @torch.no_grad()
    def start_output_bias(self, images: Tensor, *, binary: bool) -> None:
        """Set the decoder's last bias so that at weights of 0 p(x|z) is close to each pixel's own distribution.

        Nothing is done where `output_bias` is `zero`: the bias is then at or near 0, as the decoder's initialisation
        has left it. A bias that is shared by a channel fits the channel.

        Args:
            images: the training set, (N, C, H, W) on the CPU, uint8 or floating point in [0, 1].
            binary: whether 0/1 pixels are drawn from these grey ones: then all draws together count, and not one.
        """
        if self.output_bias == "data":
            layer = self.decoder.output_layer
            statistics = PixelStatistics(images, binary, per_channel=not isinstance(layer, nn.Linear))
            assert layer.bias is not None
            layer.bias.copy_(self.likelihood.output_bias(statistics).flatten())

    @classmethod
    def _from_pretrained(cls, *, config: dict[str, Any] | None = None, **location: Any) -> "VAE":
        """Load as the mixin does, but without its line on stdout, and never with weights or a plugin missing."""
        for sentence in plugins.check((config or {}).get("plugins"), str(location["model_id"])):
            warnings.warn(sentence, PluginWarning, stacklevel=3)
        # the hook's signature is the mixin's own and changes with its version: passed on as it comes
        with contextlib.redirect_stdout(None):
            model = super()._from_pretrained(**{**location, "strict": True})
        folder = Path(location["model_id"])
        model._loaded_from = folder if folder.is_dir() else None
        return model

    def _save_pretrained(self, save_directory: Path) -> None:
        """Save as the mixin does, with the card of the same weights in place of the mixin's own."""
        super()._save_pretrained(save_directory)
        origin = self._loaded_from
        if origin is None or (save_directory / CARD).exists() or not (origin / CARD).is_file():
            return
        if filecmp.cmp(origin / WEIGHTS, save_directory / WEIGHTS, shallow=False):
            for name in (CARD, PICTURE):
                if (origin / name).is_file():
                    shutil.copyfile(origin / name, save_directory / name)

    def forward(self, x: Tensor, noise: Tensor | None = None, labels: Tensor | None = None) -> VAEOutput:
        """Encode, draw z ~ q(z|x), decode.

        Args:
            x: images (B, C, H, W) in [0, 1].
            noise: standard normal (B, noise_dim) that determines z, or (B, K, noise_dim) for K draws of each image,
                with K in front in the output: z (K, B, D). None: one draw by torch's generator.
            labels: (B,), for a model that sees labels. A model that infers labels takes `HIDDEN` for an unlabelled
                image, or None if all are; z and p(x|z) then cover each label, from one noise.
        """
        inferred = self.classify(x, labels)
        seen = labels if inferred is None else inferred.every
        latents = self.infer(x, noise, seen)
        return VAEOutput(latents, self.decode(latents[0].z, seen), inferred)

    def classify(self, x: Tensor, labels: Tensor | None = None) -> LabelPosterior | None:
        """Return q(y|x) with the labels that are given; None: the model does not infer labels."""
        return None if self.classifier is None else LabelPosterior(self.classifier(self._seen(x)), labels)

    def labels_of(self, x: Tensor, labels: Tensor | None = None) -> Tensor | None:
        """Return labels (B,), with the most probable one where none is given, if the model infers labels."""
        inferred = self.classify(x, labels) if labels is None or labels.dim() == 1 else None
        return labels if inferred is None else inferred.most_probable

    def infer(self, x: Tensor, noise: Tensor | None = None, labels: Tensor | None = None) -> tuple[Latent, ...]:
        """Return q, p and z of each stochastic layer, the one that is decoded first.

        Args:
            x, noise: as for a forward pass.
            labels: as for a forward pass, but the most probable label replaces one that is not given; or (C, B),
                several for each image, with C in front of B in the output: z (C, B, D) or (K, C, B, D).
        """
        labels = self.labels_of(x, labels)
        own = noise.movedim(1, 0) if noise is not None and noise.dim() == 3 else noise
        if own is not None and labels is not None and labels.dim() == 2:
            own = own.unsqueeze(-3)
        return self.hierarchy.infer(self._numbers(x, labels), own, self._families(), self._given(x, labels))

    def encode(self, x: Tensor, labels: Tensor | None = None) -> Distribution:
        """Return q(z|x), event (D,), for images (B, C, H, W) in [0, 1], of a model with one stochastic layer."""
        return self.posterior(self._numbers(x, labels))

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Distribution:
        """Return p(x|z), event (C, H, W), batch (B,) or (K, B), for latents (B, D) or (K, B, D)."""
        context, batch = self._context(labels), z.shape[:-1]
        if len(batch) > 1:  # networks take one batch dimension
            context = None if context is None else context.expand(*batch, -1).flatten(0, -2)
            z = z.flatten(0, -2)
        numbers = self.decoder(z) if context is None else self.decoder(z, context)
        return self.likelihood(numbers.unflatten(0, batch) if len(batch) > 1 else numbers)

    @torch.no_grad()
    def sample(
        self,
        count: int = 64,
        noise: Tensor | None = None,
        labels: Tensor | None = None,
        prior: Prior | None = None,
    ) -> Tensor:
        """Return the means (count, C, H, W) of p(x|z) for z ~ p(z).

        Args:
            count: number of images, when no noise is given.
            noise: standard normal (count, draw_dim) that determines z.
            labels: (count,), for a model that sees labels; None: 0, 1, ..., and again from 0.
            prior: as for `draw`.
        """
        weights = next(self.parameters())
        if noise is None:
            dim = self.hierarchy.draw_dim(prior or self.prior)
            noise = torch.randn(count, dim, device=weights.device, dtype=weights.dtype)
        if self.sees_labels and labels is None:
            labels = torch.arange(len(noise), device=weights.device) % self.classes
        return self.decode(self.draw(noise, labels, prior), labels).mean

    def draw(self, noise: Tensor, labels: Tensor | None = None, prior: Prior | None = None) -> Tensor:
        """Return z (B, D) ~ p(z), of the layer that is decoded.

        Args:
            noise: standard normal (B, draw_dim) that determines z.
            labels: (B,), for a model that sees labels.
            prior: takes the place of the model's own, of the highest layer; then z is not the model's, and noise is
                (B, hierarchy.draw_dim(prior)).
        """
        families = replace(self._families(), prior=prior or self.prior)
        return self.hierarchy.draw(noise, families, self._given(noise, labels))

    @torch.no_grad()
    def code(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return E[z|x], (B, D), for pictures; a test loss draws z ~ q.

        With several stochastic layers it is the mean of the layer that is decoded, at noise 0 of the others.
        """
        return self.infer(x, x.new_zeros(len(x), self.noise_dim), labels)[0].q.mean

    @torch.no_grad()
    def reconstruct(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the mean of p(x|z) at z = E[z|x], (B, C, H, W): for pictures; a test loss draws z ~ q."""
        labels = self.labels_of(x, labels)
        return self.decode(self.code(x, labels), labels).mean

    @torch.no_grad()
    def interpolate(
        self, start: Tensor, end: Tensor, steps: int = 10, labels: Tensor | None = None, path: LatentPath = torch.lerp
    ) -> Tensor:
        """Return decoded images (steps, C, H, W) on a path between the codes of two images.

        Args:
            start, end: images (C, H, W) in [0, 1].
            steps: points on the path, both ends included.
            labels: (2,), for a model that sees labels; the decoder sees that of the nearer end.
            path: two codes (D,) and weights (steps, 1) from 0 to 1 -> points (steps, D): the straight line, or an arc
                (`vae.uses.generation.slerp`).
        """
        ends = torch.stack([start, end])
        labels = self.labels_of(ends, labels)
        first, last = self.code(ends, labels)
        weight = torch.linspace(0, 1, steps, device=first.device, dtype=first.dtype)[:, None]
        nearer = None if labels is None else labels[(weight[:, 0] > 0.5).long()]
        return self.decode(path(first, last, weight), nearer).mean

    def holding_prior(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which weights stay as they are, and p(z) takes from them no more than once."""
        return self.prior.held(self._given(next(self.parameters()), None))

    def _numbers(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Return the numbers of the encoder, (B, features), or (C, B, features) for labels (C, B)."""
        seen, context = self._seen(x), self._context(labels)
        if context is None:
            return self.encoder(seen)
        if context.dim() == 2:
            return self.encoder(seen, context)
        several = seen.expand(len(context), *seen.shape).flatten(0, 1)
        return self.encoder(several, context.flatten(0, 1)).unflatten(0, context.shape[:2])

    def _seen(self, x: Tensor) -> Tensor:
        """Return the input of encoder and classifier for images x."""
        return x - 0.5 if self.center_input else x

    def _families(self) -> Families:
        return Families(self.posterior, self.prior)

    def _given(self, like: Tensor, labels: Tensor | None) -> Given:
        return Given(like, self.encode, labels, self.posterior.vectors())

    def _context(self, labels: Tensor | None) -> Tensor | None:
        """Return labels (...) one-hot, (..., classes), for encoder and decoder; None without `condition`."""
        if not self.condition:
            return None
        if labels is None:
            raise ValueError("labels: must be given to a model that sees them")
        return labels[..., None] == torch.arange(self.classes, device=labels.device)

    def count_parameters(self) -> int:
        """Return the number of trainable parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)
