"""The decoder's last bias from the training images: against numpy, closed forms, and entropies at step 0."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers.pieces import CLASSES, build_model, combinations, named, noise
from vae import assemble
from vae.components import build
from vae.config import load
from vae.data import statistics
from vae.data.statistics import PixelStatistics
from vae.families.likelihoods import LIKELIHOODS, Likelihood
from vae.model import VAE

N, C, H, W = 60, 2, 5, 3
CLIPPED = (0.001, 0.999)


def greys(dtype: torch.dtype = torch.uint8) -> Tensor:
    """Return images whose pixels have many distributions; one is always black, one always white, one one level."""
    rng = np.random.default_rng(0)
    images = (255 * rng.beta(0.3, rng.uniform(0.3, 3, (C, H, W)), (N, C, H, W))).round()
    images[:, 0, 0, 0], images[:, 0, 0, 1], images[:, 1, 0, 0] = 0, 255, 100
    levels = torch.from_numpy(images)
    return levels.to(dtype) if dtype == torch.uint8 else (levels / 255).to(dtype)


def numbers_of(name: str, images: Tensor, *, binary: bool = False, **settings: object) -> tuple[Likelihood, Tensor]:
    """Return a family in float64 and its numbers, (1, C', H, W)."""
    family = build(LIKELIHOODS, {"name": name, **settings}, (C, H, W)).double()
    numbers = family.output_bias(PixelStatistics(images, binary))
    assert numbers.shape == family.output_shape
    assert numbers.isfinite().all()
    return family, numbers[None]


# --- statistics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("per_channel", [False, True])
def test_statistics_are_those_of_numpy(dtype: torch.dtype, per_channel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "NUMBERS_AT_ONCE", 7 * C * H * W + 1)  # the last part is shorter
    images = greys(dtype)
    found = PixelStatistics(images, per_channel=per_channel)
    x = images.double().numpy() / (255 if dtype == torch.uint8 else 1)
    axes = (0, 2, 3) if per_channel else (0,)
    shape = (C, 1, 1) if per_channel else (C, H, W)
    np.testing.assert_allclose(found.mean, x.mean(axes).reshape(shape), atol=1e-15)
    np.testing.assert_allclose(found.variance, x.var(axes).reshape(shape), atol=1e-15)
    levels = np.stack([(np.rint(255 * x) == level).mean(axes).reshape(shape) for level in range(256)], 1)
    np.testing.assert_allclose(found.shares, levels, atol=1e-15)


def test_a_grey_value_between_two_levels_counts_for_the_nearest() -> None:
    images = torch.tensor([99.6, 100.4, 100.6, 7.0]).view(4, 1, 1, 1) / 255
    shares = PixelStatistics(images).shares.flatten()
    assert {level: shares[level].item() for level in shares.nonzero().flatten().tolist()} == {
        7: 0.25,
        100: 0.5,
        101: 0.25,
    }


def test_grey_values_are_probabilities_where_pixels_are_drawn() -> None:
    """The statistics of all draws together: those of very many draws come close, and those of 0/1 images are theirs."""
    images = greys()
    drawn = torch.rand(500, *images.shape, generator=torch.Generator().manual_seed(0)) < images / 255
    many, found = PixelStatistics(255 * drawn.flatten(0, 1).byte()), PixelStatistics(images, binary=True)
    for name in ("mean", "variance", "shares"):
        torch.testing.assert_close(getattr(found, name), getattr(many, name), rtol=0, atol=6 / math.sqrt(4 * 500 * N))
    assert PixelStatistics(images, binary=True, per_channel=True).shares.shape == (C, 256, 1, 1)
    ones = PixelStatistics(255 * drawn[0].byte(), binary=True)
    torch.testing.assert_close(ones.variance, PixelStatistics(255 * drawn[0].byte()).variance)


# --- likelihoods ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary", [False, True])
def test_a_bernoulli_has_the_clipped_mean_of_each_pixel(binary: bool) -> None:
    images = greys()
    family, numbers = numbers_of("Bernoulli", images, binary=binary)
    expected = np.clip((images.double() / 255).mean(0).numpy(), *CLIPPED)
    np.testing.assert_allclose(family(numbers).mean[0], expected, rtol=1e-12)
    np.testing.assert_allclose(numbers[0], -np.log(1 / expected - 1), rtol=1e-11)  # as the paper's code has it


def test_a_continuous_bernoulli_has_it_too() -> None:
    """Its mean by quadrature of the density e^(a x) a / (e^a - 1), written without overflow."""
    images = greys()
    _, numbers = numbers_of("ContinuousBernoulli", images)
    nodes, weights = np.polynomial.legendre.leggauss(20)
    x, weight = ((np.arange(400)[:, None] + (nodes + 1) / 2) / 400).ravel(), np.tile(weights, 400)
    a = numbers.numpy()[0, ..., None]
    density = np.exp(a * x - np.maximum(a, 0)) * weight
    mean = (density * x).sum(-1) / density.sum(-1)
    np.testing.assert_allclose(mean, np.clip((images.double() / 255).mean(0).numpy(), *CLIPPED), rtol=1e-9)


@pytest.mark.parametrize("name", ["Normal", "NormalLearnedStd", "NormalPixelStd", "OptimalNormal"])
def test_normals_have_the_mean_of_each_pixel_and_one_of_them_its_std(name: str) -> None:
    x = greys().double().numpy() / 255
    family, numbers = numbers_of(name, greys())
    p = family(numbers)
    np.testing.assert_allclose(p.mean[0], x.mean(0), atol=1e-15)
    if name == "NormalPixelStd":
        np.testing.assert_allclose(p.stddev[0], np.maximum(x.std(0), math.sqrt(0.000999)), rtol=1e-12)
        family, numbers = numbers_of(name, greys(), min_std=0.2)  # above the std of many pixels
        np.testing.assert_allclose(family(numbers).stddev[0], np.maximum(x.std(0), 0.201), rtol=1e-12)


def test_a_categorical_has_the_shares_of_the_grey_values() -> None:
    images = greys()
    family, numbers = numbers_of("Categorical", images)
    counts = np.stack([(images.numpy() == level).mean(0) for level in range(256)])  # (256, C, H, W)
    for level in (0, 100, 255, 7):
        value = torch.full((1, C, H, W), level / 255, dtype=torch.float64)
        each = family(numbers).base_dist.log_prob(value)[0]
        np.testing.assert_allclose(each.exp(), 0.999 * counts[level] + 0.001 / 256, rtol=1e-12)


@pytest.mark.parametrize("lowest", [-7.7, -2.0, 0.0])
def test_discretised_logistics_have_mean_and_variance_and_so_has_their_mixture(lowest: float) -> None:
    images = greys()
    x = images.double().numpy() / 255
    family, numbers = numbers_of("DiscretizedLogistic", images, min_log_scale=lowest)
    p = family(numbers).base_dist
    np.testing.assert_allclose(p.loc[0], x.mean(0), atol=1e-15)
    # the variance of a logistic distribution is (pi scale)^2 / 3
    scale = np.sqrt(np.maximum(x.var(0), 0.000999) * 3) / math.pi
    np.testing.assert_allclose(p.log_scale[0], np.maximum(np.log(scale), lowest + 0.001), rtol=1e-12)
    mixture, several = numbers_of("DiscretizedLogisticMixture", images, min_log_scale=lowest, components=3)
    value = images[:1].double() / 255
    torch.testing.assert_close(mixture(several).log_prob(value), family(numbers).log_prob(value), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_images_are_more_likely_there_than_at_zero(name: str) -> None:
    family, numbers = numbers_of(name, greys())
    x = greys(torch.float64)
    assert family(numbers).log_prob(x).mean() > family(torch.zeros_like(numbers)).log_prob(x).mean() + 1


# --- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", combinations("likelihood", "decoder"), ids=named)
def test_a_decoder_of_zero_weights_gives_each_pixel_or_channel_its_own(pieces: dict[str, str]) -> None:
    shape, images = (2, 8, 6), (255 * torch.rand(9, 2, 8, 6, generator=torch.Generator().manual_seed(0))).byte()
    plain = build_model({**pieces, "output_bias": "zero"}, shape, condition=True)
    model = build_model({**pieces, "output_bias": "data"}, shape, condition=True)
    model.load_state_dict(plain.state_dict())
    plain.start_output_bias(images, binary=False)
    model.start_output_bias(images, binary=False)
    changed = {name for name, weight in model.state_dict().items() if not weight.equal(plain.state_dict()[name])}
    (name,) = changed
    assert name.startswith("decoder.")
    assert name.endswith(".bias")
    layer = model.decoder.output_layer
    nn.init.zeros_(layer.weight)
    numbers = model.decoder(noise(4), F.one_hot(torch.arange(4) % CLASSES))
    expected = model.likelihood.output_bias(PixelStatistics(images, per_channel=pieces["decoder"] == "ConvDecoder"))
    assert numbers.shape[1:] == model.likelihood.output_shape
    torch.testing.assert_close(numbers, expected.float().expand(4, *model.likelihood.output_shape), rtol=1e-6, atol=0)


STEP_0 = {
    "a bottom-up hierarchy": ["model.hierarchy={name: BottomUp, latent_dims: [2]}"],
    "codes": [
        "model.posterior={name: VectorQuantized, codes: 4, code_dim: 2}", "model.prior=UniformCodes",
        "objective=VectorQuantization", "model.latent_dim=4",
    ],
    "a convolution": ["model.decoder=ConvDecoder"],
}  # fmt: skip


@pytest.mark.parametrize("name", STEP_0)
def test_at_step_0_the_reconstruction_is_the_entropy_of_independent_pixels(name: str, tmp_path: Path) -> None:
    """For a decoder of zero weights the mean of -log p(x|z) over 0/1 training images is the sum of binary entropies."""
    config = load(None, ["data.binarize=dynamic", "model.output_bias=data", "model.hidden_dim=8", *STEP_0[name]])
    generator = torch.Generator().manual_seed(0)
    images = 255 * (torch.rand(200, 1, 6, 6, generator=generator) < torch.rand(1, 6, 6, generator=generator)).byte()
    vae = assemble.build_model(config, (1, 6, 6), images=images)
    untouched = assemble.build_model(config, (1, 6, 6))
    weights, others = vae.state_dict(), untouched.state_dict()
    assert [key for key in weights if not weights[key].equal(others[key])] == [
        f"decoder.{key}" for key, value in vae.decoder.named_parameters() if value is vae.decoder.output_layer.bias
    ]
    nn.init.zeros_(vae.decoder.output_layer.weight)
    x = images / 255
    output = vae(x, noise(len(x), vae.noise_dim))
    share = x.double().mean((0, 1, 2, 3) if name == "a convolution" else (0, 1)).clamp(*CLIPPED)
    x = x.double()
    entropy = -(x * share.log() + (1 - x) * (1 - share).log()).sum((1, 2, 3)).mean()
    assert -output.p_x.log_prob(images / 255).mean().item() == pytest.approx(entropy.item(), rel=1e-6)

    # and a saved model needs no images to have it back
    vae.save_pretrained(tmp_path)
    loaded = VAE.from_pretrained(tmp_path)
    assert loaded.output_bias == "data"
    assert all(weight.equal(weights[key]) for key, weight in loaded.state_dict().items())
