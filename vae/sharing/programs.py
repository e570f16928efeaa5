"""Programs: a model's encoder, decoder and prior as functions of named arrays, which can be exported.

A program holds only those parts of the model that it uses. It is float32, also where the model was trained in float64.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal

from vae.families.codes import Quantized, nearest
from vae.families.hierarchy import Flat, Latent
from vae.families.priors import StandardNormal
from vae.model import VAE

Arrays = dict[str, Tensor]  # by the names of a program's inputs or outputs, the batch in front
NEAR = 1e-3  # of two draws of a prior, whose noise differs by a tolerance


@dataclass(frozen=True)
class Port:
    """An input or an output of a program.

    Attributes:
        meaning: a phrase.
        shape: of one example.
        dtype: float32 or int64.
    """

    meaning: str
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32


class Program(nn.Module, ABC):
    """A function of named arrays, whose first input is positional and whose others go by name.

    Args:
        model: the unwrapped model; it is copied.
        unused: attributes of the model that the program does not need.

    Attributes:
        inputs: by name.
        meanings: of all outputs that there may be, by name.
    """

    inputs: dict[str, Port]
    meanings: dict[str, str]

    def __init__(self, model: VAE, unused: Iterable[str]):
        super().__init__()
        self.model = copy.deepcopy(model).cpu().float().eval()
        for part in unused:
            setattr(self.model, part, None if part == "classifier" else nn.Identity())

    @cached_property
    def outputs(self) -> dict[str, Port]:
        """The outputs by name."""
        with torch.no_grad():
            made = self(**called(self.zeros(2)))
        return {name: Port(self.meanings[name], tuple(t.shape[1:]), t.dtype) for name, t in made.items()}

    @abstractmethod
    def forward(self, first: Tensor, *, noise: Tensor | None = None, labels: Tensor | None = None) -> Arrays:
        """Return the outputs by name, the batch in front."""

    @abstractmethod
    def tied(self, inputs: Arrays, wanted: Arrays, found: Arrays, tolerance: float) -> Tensor:
        """Return the examples (B,), bool, of which rounding decides: what is found is as right as what is wanted.

        Args:
            inputs: of the program.
            wanted: the outputs that PyTorch gives.
            found: those of the exported program.
            tolerance: of the numbers.
        """

    def zeros(self, count: int) -> Arrays:
        """Return inputs that tell nothing of any data, for `count` examples."""
        return {name: torch.zeros(count, *port.shape, dtype=port.dtype) for name, port in self.inputs.items()}


def called(inputs: Arrays) -> Arrays:
    """Return the inputs of a program by the names that its `forward` has for them."""
    first, *others = inputs
    return {"first": inputs[first]} | {name: inputs[name] for name in others}


class Encoder(Program):
    """x -> q(z|x).

    What is said of it is what has a closed form: the mean and standard deviation of a normal, the codes of a codebook.
    Of anything else there is a draw and its density, made of noise that is an input.
    """

    def __init__(self, model: VAE):
        flat, posterior = isinstance(model.hierarchy, Flat), model.posterior
        super().__init__(model, ["decoder", "likelihood", *(["prior"] if flat else [])])
        self._flat, self._draws = flat, not (flat and (posterior.is_normal or posterior.gives_codes))
        self.inputs = {"x": Port("images, pixels in [0, 1]", model.image_shape)}
        if self._draws:
            of_noise = "standard normal, of which z is made; 0 gives the z that `python -m vae encode` calls the mean"
            self.inputs["noise"] = Port(of_noise, (model.noise_dim,))
        if model.condition and model.classifier is None:
            self.inputs["labels"] = _labels(model)
        self.meanings = {
            "mean": "mean of q(z|x)",
            "std": "standard deviation of q(z|x) in each dimension",
            "scale_tril": "L of q(z|x) = N(mean, L L^T), a lower triangle",
            "codes": "places in the codebook of the vectors that z is made of",
            "z": "a draw of q(z|x), for the decoder",
            "log_q": "log q(z|x) at the draw, nats",
            "probabilities": "q(y|x) of each class y",
            "labels": "the most probable class, which q(z|x) is given",
        }
        if not self._flat:
            given = "of the layer that is decoded, given the draws of the others"
            self.meanings |= {"mean": f"mean {given}", "std": f"standard deviation {given}"}
            layers = range(2, 1 + len(self._infer(**called(self.zeros(1)))))
            self.meanings |= {f"z_{layer}": f"the draw of stochastic layer {layer}" for layer in layers}

    def forward(self, first: Tensor, *, noise: Tensor | None = None, labels: Tensor | None = None) -> Arrays:
        """Return the outputs for images (B, C, H, W)."""
        inferred = self.model.classify(first)
        if inferred is None:
            return self._encoded(first, noise, labels)
        found = {"probabilities": inferred.log_q.exp().T, "labels": inferred.most_probable}
        return self._encoded(first, noise, inferred.most_probable) | found

    def _encoded(self, x: Tensor, noise: Tensor | None, labels: Tensor | None) -> Arrays:
        if not self._flat:
            layer, *above = self._infer(x, noise, labels)
            return _moments(layer.q) | {"z": layer.z} | {f"z_{i}": each.z for i, each in enumerate(above, start=2)}
        q = self.model.encode(x, labels)
        if not self._draws:
            return _moments(q)
        assert noise is not None
        z = self.model.posterior.transform(q, noise)
        return {"z": z, "log_q": q.log_prob(z)}

    def _infer(self, first: Tensor, noise: Tensor | None, labels: Tensor | None = None) -> tuple[Latent, ...]:
        if labels is None and self.model.sees_labels:  # by p(z|y), which stands beside q(z|x) and is not used
            labels = torch.zeros_like(first[:, 0, 0, 0], dtype=torch.int64)
        return self.model.infer(first, noise, labels)

    def tied(self, inputs: Arrays, wanted: Arrays, found: Arrays, tolerance: float) -> Tensor:
        """Return the images whose codes are as close, or whose class is as probable, as those that PyTorch finds."""
        tied = torch.zeros(len(inputs["x"]), dtype=torch.bool)
        if "labels" in found:
            chosen, probabilities = found["labels"], wanted["probabilities"]
            among = chosen.clamp(0, probabilities.shape[1] - 1)
            close = probabilities.amax(1) - probabilities.gather(1, among[:, None])[:, 0] <= tolerance
            tied |= (chosen != wanted["labels"]) & (chosen == among) & close
        if "codes" in found:
            q = self.model.encode(inputs["x"], wanted.get("labels", inputs.get("labels")))
            vectors = self.model.posterior.vectors()
            assert isinstance(q, Quantized)
            assert vectors is not None
            chosen = found["codes"]
            among = chosen.clamp(0, len(vectors) - 1)
            far, least = ((vectors[codes] - q.before).double().norm(dim=-1) for codes in (among, q.codes))
            close = ((far - least <= tolerance * (1 + least)) & (chosen == among)).all(-1)
            tied |= (chosen != wanted["codes"]).any(-1) & close
        return tied


class Decoder(Program):
    """z -> the mean of p(x|z); of a model of codes, their places in the codebook -> the same."""

    def __init__(self, model: VAE):
        codes, dim = model.posterior.codes, model.latent_dim
        super().__init__(model, ["encoder", "classifier", "prior", "hierarchy", *([] if codes else ["posterior"])])
        self.inputs = {"z": Port("the latent code, a draw of q(z|x) or of the prior", (dim,))}
        if codes:
            self.inputs = {"codes": Port("places in the codebook of the vectors of z", (dim // codes[1],), torch.int64)}
        if model.condition:
            self.inputs["labels"] = _labels(model)
        self.meanings = {"images": "mean of p(x|z), clipped to [0, 1]"}

    def forward(self, first: Tensor, *, noise: Tensor | None = None, labels: Tensor | None = None) -> Arrays:
        """Return the images (B, C, H, W)."""
        vectors = self.model.posterior.vectors() if "codes" in self.inputs else None
        z = first if vectors is None else vectors[first].flatten(-2)
        return {"images": self.model.decode(z, labels).mean.clamp(0, 1)}

    def tied(self, inputs: Arrays, wanted: Arrays, found: Arrays, tolerance: float) -> Tensor:
        """Return none: nothing is chosen."""
        return torch.zeros(len(found["images"]), dtype=torch.bool)


class Prior(Program):
    """Standard normal noise -> z ~ p(z), for the decoder; of a model of codes, their places in the codebook."""

    def __init__(self, model: VAE):
        super().__init__(model, ["decoder", "likelihood", "classifier"])
        self.inputs = {"noise": Port("standard normal, of which z is made", (model.draw_dim,))}
        if model.prior.needs_labels:
            self.inputs["labels"] = _labels(model)
        self.meanings = {"z": "a draw of p(z), for the decoder", "codes": "a draw of p(z) in codes, for the decoder"}

    def forward(self, first: Tensor, *, noise: Tensor | None = None, labels: Tensor | None = None) -> Arrays:
        """Return z (B, D), or codes (B, P)."""
        z, vectors = self.model.draw(first, labels), self.model.posterior.vectors()
        return {"z": z} if vectors is None else {"codes": nearest(z.unflatten(-1, (-1, vectors.shape[-1])), vectors)}

    def tied(self, inputs: Arrays, wanted: Arrays, found: Arrays, tolerance: float) -> Tensor:
        """Return the draws that PyTorch makes of noise moved by the tolerance: another component or code."""
        (name,) = found
        tied = torch.zeros(len(found[name]), dtype=torch.bool)
        for moved in (inputs["noise"] - tolerance, inputs["noise"] + tolerance):
            near = self(**called(inputs | {"noise": moved}))[name]
            tied |= torch.isclose(found[name].double(), near.double(), rtol=NEAR, atol=NEAR).all(-1)
        return tied


def is_standard(model: VAE) -> bool:
    """Return whether the prior is N(0, I) and of the layer that is decoded: then noise itself is its draw."""
    return isinstance(model.hierarchy, Flat) and isinstance(model.prior, StandardNormal)


def _labels(model: VAE) -> Port:
    return Port(f"class of each image, 0 to {model.classes - 1}", (), torch.int64)


def _moments(q: Distribution) -> Arrays:
    """Return what has a closed form of a distribution: mean, standard deviation, triangle, or codes."""
    if isinstance(q, Quantized):
        return {"codes": q.codes}
    found = {"mean": q.mean}
    with suppress(NotImplementedError):
        found["std"] = q.stddev
    return found | ({"scale_tril": q.scale_tril} if isinstance(q, MultivariateNormal) else {})
