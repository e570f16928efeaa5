"""Data for the explorer of a page: the decoder's weights, the encoded test set, starting points.

Weights are 16-bit integers with one scale for each output of a layer, as small as float16 and closer to float32. The
worst pixel of the default net on MNIST is off by 0.1 of 1/255 instead of 0.5. Test images come with their posterior
means: an encoder would double the size of the page for numbers that are known.
"""

import base64
import math
from typing import Any

import numpy as np
import torch
from matplotlib.colors import to_hex
from torch import Tensor, nn

from vae.data import randomness
from vae.data.batches import to_unit_interval
from vae.data.dataset import Split
from vae.evaluation import ACTIVE, LatentMeasures, evaluating, visible
from vae.evaluation.encoding import encode
from vae.families.likelihoods import (
    Bernoulli,
    ContinuousBernoulli,
    Normal,
    NormalLearnedStd,
    NormalPixelStd,
    OptimalNormal,
)
from vae.families.priors import StandardNormal
from vae.figures.latents import NAMED_CLASSES, class_colors
from vae.figures.style import TRAIN
from vae.model import VAE
from vae.networks import MLPDecoder
from vae.run.finished import Opened

# how the mean of p(x|z) follows, pixel by pixel, from the first C H W of the decoder's numbers; explorer.js holds
# functions of these names
NORMALS = (Normal, NormalLearnedStd, NormalPixelStd, OptimalNormal)
MEANS = {Bernoulli: "sigmoid", ContinuousBernoulli: "continuousBernoulli", **dict.fromkeys(NORMALS, "clamp")}
SLIDERS = 12  # at most, for the most active dimensions
EXAMPLES = 30  # test images to start from
STARTS = 64  # draws of the prior to start from
POINTS = 10_000  # of the test set on the plane
LIMIT = 3.0  # standard deviations of the prior that plane and sliders show at least
MAX_BYTES = 16_000_000  # of a packed decoder


def obstacle(model: VAE) -> str | None:
    """Return why a page cannot run this model's decoder, or None if it can."""
    decoder = model.decoder
    if type(decoder) is not MLPDecoder:
        return f"the page cannot run a {type(decoder).__name__}, only an MLPDecoder"
    if decoder.normalization != "none":
        return "the page cannot run an MLPDecoder whose layers are normalised"
    if model.posterior.codes:
        return "the page moves z by degrees, and this one is a sequence of codes"
    if model.sees_labels:
        return "the page has no labels to show the decoder or the prior"
    if type(model.likelihood) not in MEANS:
        return f"the page does not know the mean of a {type(model.likelihood).__name__} likelihood"
    if (size := packed_bytes(model)) > MAX_BYTES:
        return f"the decoder would take {size / 1e6:.0f} MB of the page, more than {MAX_BYTES / 1e6:.0f} MB"
    return None


def packed_bytes(model: VAE) -> int:
    """Return the bytes of a page that the decoder takes, about: two for each weight, in base64."""
    return sum(weight.numel() for weight in model.decoder.parameters()) * 2 * 4 // 3


def pack(opened: Opened, measures: LatentMeasures) -> dict[str, Any]:
    """Return the data that explorer.js reads, plain for JSON; arrays are little-endian and in base64.

    Args:
        opened: a finished run whose model has no `obstacle`.
        measures: of the latent dimensions of this model.

    Returns:
        The decoder: `shape` (C, H, W) of a decoded image, `shown` channels of it (of four the last is the opacity),
        `layers`, `activation`, `mean`.
        The latent space: `latent_dim`, `active` dimensions, `variances` (D,) of E[z|x] over the test set.
        The controls: `sliders`, dimensions from the most active on; `limit` of the sliders and the plane.
        The starting points: `starts` (64, D), draws of the prior; `examples`, test images with E[z|x].
        With two dimensions also `plane`: the encoded test set, radii that hold half and 95 % of the prior N(0, I).
    """
    model, test = opened.model, opened.data.test
    assert obstacle(model) is None
    assert isinstance(model.decoder, MLPDecoder)
    means = encode(model, test).mean
    with evaluating(model):
        weights = next(model.parameters())
        noise = randomness.normal(STARTS, model.draw_dim, opened.config.run.seed, "explorer/starts")
        starts = model.draw(noise.to(weights))
    variance = np.array(measures.variance)[: model.latent_dim]  # of several layers, the one that is decoded
    active = int((variance > ACTIVE).sum())
    chosen = _some_of_each(test, EXAMPLES)
    names = opened.data.class_names
    by_activity = np.argsort(-variance, kind="stable").tolist()
    count = min(SLIDERS, max(active, 2))
    return {
        "shape": list(model.image_shape),
        "shown": model.image_shape[0] if model.image_shape[0] in (3, 4) else 1,
        "activation": model.decoder.activation,  # explorer.js holds functions of these names
        "mean": MEANS[type(model.likelihood)],
        "layers": _pack_layers(model),
        "latent_dim": model.latent_dim,
        "active": active,
        "variances": variance.round(4).tolist(),
        "sliders": by_activity[:count] if model.latent_dim > 2 else list(range(model.latent_dim)),
        "limit": _limit(means, means[chosen]),
        "starts": _base64(starts.float().cpu(), "<f4"),
        "examples": _pack_examples(test, means, chosen, names),
        "plane": _pack_plane(means, test.labels, names, model) if model.latent_dim == 2 else None,
    }


def _pack_layers(model: VAE) -> list[dict[str, Any]]:
    """Return the linear layers of the decoder, the last one as far as the mean needs it."""
    layers = [layer for layer in model.decoder.modules() if isinstance(layer, nn.Linear)]
    outputs = [layer.out_features for layer in layers[:-1]] + [math.prod(model.image_shape)]
    return [_pack_layer(layer, count) for layer, count in zip(layers, outputs, strict=True)]


def _pack_layer(layer: nn.Linear, outputs: int) -> dict[str, Any]:
    weight = layer.weight[:outputs].detach().double().cpu().numpy()
    scale = np.abs(weight).max(axis=1, keepdims=True) / 32767
    scale[scale == 0] = 1.0
    return {
        "inputs": layer.in_features,
        "outputs": outputs,
        "weight": _base64(np.rint(weight / scale), "<i2"),
        "scale": _base64(scale, "<f4"),
        "bias": _base64(layer.bias[:outputs].detach().cpu(), "<f4"),
    }


def _pack_examples(test: Split, means: Tensor, chosen: Tensor, names: list[str] | None) -> dict[str, Any]:
    images = to_unit_interval(test.images[chosen], torch.float32)
    pixels = images if images.shape[1] == 4 else visible(images)  # the page lays four over white
    labels = [] if test.labels is None else test.labels[chosen].tolist()
    return {
        "pixels": _base64((255 * pixels).round(), "u1"),
        "z": _base64(means[chosen], "<f4"),
        "index": chosen.tolist(),
        "names": [_name(label, names) for label in labels],
    }


def _pack_plane(means: Tensor, labels: Tensor | None, names: list[str] | None, model: VAE) -> dict[str, Any]:
    """Return the encoded test set, evenly thinned out to `POINTS`, with the colours of `figures.latent_scatter`."""
    some = torch.arange(len(means)) if len(means) <= POINTS else torch.linspace(0, len(means) - 1, POINTS).long()
    some = some[torch.from_numpy(np.random.default_rng(0).permutation(len(some)))]  # no class lies on top
    circles = [math.sqrt(-2 * math.log(1 - mass)) for mass in (0.5, 0.95)]  # P(|z| < r) = 1 - exp(-r^2 / 2)
    plane = {
        "z": _base64(means[some], "<f4"),
        "circles": circles if isinstance(model.prior, StandardNormal) else [],
        "total": len(means),
    }
    if labels is None:
        return plane | {"classes": _base64(np.zeros(len(some)), "<u2"), "colors": [TRAIN], "names": []}
    classes, index = np.unique(labels.numpy(), return_inverse=True)
    return plane | {
        "classes": _base64(index[some.numpy()], "<u2"),
        "colors": [to_hex(color) for color in class_colors(len(classes))],
        "names": [_name(label, names) for label in classes.tolist()] if len(classes) <= NAMED_CLASSES else [],
    }


def _some_of_each(split: Split, count: int) -> Tensor:
    """Return the indices of `count` examples, class after class, as evenly over the classes as there are examples."""
    if split.labels is None:
        return torch.arange(min(count, len(split)))
    places = [(split.labels == label).nonzero()[:, 0] for label in split.labels.unique()]
    # the first of each class, the second of each, ...
    turns = [(turn, kind) for turn in range(count) for kind in range(len(places)) if turn < len(places[kind])]
    by_class = sorted(turns[:count], key=lambda place: (place[1], place[0]))
    return torch.stack([places[kind][turn] for turn, kind in by_class])


def _limit(means: Tensor, examples: Tensor) -> float:
    """Return the limit of plane and sliders: all examples lie inside, and all but stragglers of the test set."""
    far = np.quantile(means.abs().numpy(), 0.9995)
    return round(max(LIMIT, 1.05 * float(far), 1.05 * float(examples.abs().max())), 1)


def _name(label: int, names: list[str] | None) -> str:
    return names[label] if names is not None and 0 <= label < len(names) else str(label)


def _base64(array: Tensor | np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(np.asarray(array), dtype=dtype).tobytes()).decode()
