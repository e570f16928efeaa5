"""Likelihood families against sums over all levels, quadrature and formulas in double precision."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributions as td
import torch.nn.functional as F
from torch import Tensor

from tests.helpers.pieces import images, noise
from tests.helpers.runs import rows, scalars
from vae.components import build
from vae.config import load
from vae.data.dataset import DataSet, Split
from vae.distributed import launch
from vae.errors import InputError
from vae.evaluation import Evaluation, LatentMeasures, evaluate, protocol
from vae.families import pixels
from vae.families.distributions import at_least_float32
from vae.families.likelihoods import LIKELIHOODS, Likelihood, bits_per_dim
from vae.families.pixels import ContinuousBernoulli, DiscretizedLogistic, softplus
from vae.model import VAE
from vae.training.tracking import Tracker

LEVELS = torch.arange(256, dtype=torch.float64) / 255
DISCRETE = [name for name, family in LIKELIHOODS.items() if family.levels == 256]
DENSITIES = [name for name, family in LIKELIHOODS.items() if family.levels is None]
PRECISIONS = [torch.float32, torch.float64]
NODES, WEIGHTS = (torch.from_numpy(array) for array in np.polynomial.legendre.leggauss(20))


def grid(low: float, high: float, parts: int = 4000) -> tuple[Tensor, Tensor]:
    """Return the nodes and weights of a composite Gauss-Legendre rule on an interval, float64."""
    edges = torch.linspace(low, high, parts + 1, dtype=torch.float64)
    half = (edges[1:] - edges[:-1]) / 2
    return ((edges[:-1] + half)[:, None] + half[:, None] * NODES).flatten(), (half[:, None] * WEIGHTS).flatten()


def support(family: Likelihood) -> tuple[Tensor, Tensor]:
    """Return the values of a pixel and the weight of each, over which probabilities or densities add up to 1."""
    if family.levels:
        values = torch.linspace(0, 1, family.levels, dtype=torch.float64)
        return values, torch.ones_like(values)
    return grid(0, 1) if "[0, 1]" in family.density else grid(-40, 41)


def one_pixel(name: str, seed: int, dtype: torch.dtype = torch.float64, **settings: Any) -> tuple[Likelihood, Tensor]:
    """Return a family for images of one pixel, and random numbers (1, C', 1, 1) for it."""
    family = build(LIKELIHOODS, {"name": name, **settings}, (1, 1, 1)).to(dtype)
    return family, 2 * noise(seed + 1, family.output_shape[0], dtype)[seed].reshape(1, -1, 1, 1)


def log_probs(family: Likelihood, numbers: Tensor, values: Tensor) -> Tensor:
    """Return log p of images of one pixel with these values (N,)."""
    return family(numbers).log_prob(values.to(numbers.dtype).reshape(-1, 1, 1, 1))


def normalised_over(family: Likelihood) -> bool:
    return family.normalises(binary=family.levels == 2)


# --- laws of all of them ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_what_is_called_normalised_adds_up_to_one(name: str, seed: int) -> None:
    family, numbers = one_pixel(name, seed)
    values, weights = support(family)
    total = (log_probs(family, numbers, values).exp() * weights).sum().item()
    assert (abs(total - 1) < 1e-9) == normalised_over(family)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", [name for name in LIKELIHOODS if name != "OptimalNormal"])
def test_mean_and_samples_have_the_moments_of_the_probabilities(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    family, numbers = one_pixel(name, seed)
    values, weights = support(family)
    p = log_probs(family, numbers, values).exp() * weights
    moments = [(p * values**power).sum().item() for power in (1, 2, 4)]
    distribution = family(numbers)
    before_rounding = 0.5 / 255 if name.startswith("DiscretizedLogistic") else 1e-9
    assert distribution.mean.item() == pytest.approx(moments[0], abs=before_rounding)
    draws = distribution.sample(torch.Size([20_000])).flatten()
    error = 5 / len(draws) ** 0.5
    assert draws.mean().item() == pytest.approx(moments[0], abs=error * (moments[1] - moments[0] ** 2) ** 0.5 + 1e-12)
    assert draws.square().mean().item() == pytest.approx(
        moments[1], abs=error * (moments[2] - moments[1] ** 2) ** 0.5 + 1e-12
    )
    if family.levels:
        level = draws * (family.levels - 1)
        assert (level - level.round()).abs().max() < 1e-9


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_samples_have_the_shape_of_images(name: str) -> None:
    family = build(LIKELIHOODS, name, (3, 4, 5))
    numbers = noise(6, math.prod(family.output_shape)).reshape(2, 3, *family.output_shape)
    p = family(numbers)
    assert (p.batch_shape, p.event_shape) == ((2, 3), (3, 4, 5))
    assert p.sample().shape == p.mean.shape == (2, 3, 3, 4, 5)
    assert p.sample(torch.Size([7])).shape == (7, 2, 3, 3, 4, 5)
    assert not p.sample().requires_grad
    assert p.log_prob(images(3, (3, 4, 5))).shape == (2, 3)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_pixels_and_channels_do_not_mix(name: str) -> None:
    """An image's number is the sum of those of its pixels, each with its own numbers; not so for a std of the image."""
    shape = (3, 2, 2)
    family, single = build(LIKELIHOODS, name, shape).double(), build(LIKELIHOODS, name, (1, 1, 1)).double()
    per_channel = family.output_shape[0] // 3
    numbers, x = noise(2, 12 * per_channel, torch.float64), images(2, shape, torch.float64)
    numbers = numbers.reshape(2, per_channel * 3, 2, 2)
    # where the numbers of channel c are: one after another, or, of chunks, each chunk has one for each channel
    blocks = {"NormalPixelStd": 2, "DiscretizedLogistic": 2, "DiscretizedLogisticMixture": 3}.get(name, 1)
    apart = numbers.reshape(2, blocks, 3, per_channel // blocks, 2, 2).movedim(1, 2).reshape(2, 3, per_channel, 2, 2)
    expected = sum(
        single(apart[:, c, :, i, j, None, None]).log_prob(x[:, c : c + 1, i, j, None, None])
        for c in range(3)
        for i in range(2)
        for j in range(2)
    )
    assert torch.allclose(family(numbers).log_prob(x), torch.as_tensor(expected)) == (name != "OptimalNormal")


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_extreme_numbers_have_finite_values_and_gradients(name: str, dtype: torch.dtype) -> None:
    family = build(LIKELIHOODS, name, (1, 1, 1)).to(dtype)
    extremes = torch.tensor([-1e4, -300.0, -88.0, -17.0, -1e-30, 0.0, 1e-4, 1.0, 30.0, 300.0, 1e4], dtype=dtype)
    generator = np.random.default_rng(0)
    chosen = torch.from_numpy(generator.integers(0, len(extremes), (2000, family.output_shape[0])))
    numbers = extremes[chosen].reshape(2000, -1, 1, 1).requires_grad_()
    x = torch.tensor([0.0, 0.4, 1.0], dtype=dtype).reshape(3, 1, 1, 1, 1)
    found = family(numbers).log_prob(x)
    (gradient,) = torch.autograd.grad(found.sum(), numbers)
    assert found.isfinite().all()
    assert gradient.isfinite().all()
    assert family(numbers).mean.isfinite().all()


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_half_precision_numbers_make_float32_probabilities(name: str) -> None:
    family = build(LIKELIHOODS, name, (1, 4, 4))
    numbers = noise(2, math.prod(family.output_shape)).reshape(2, *family.output_shape).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = family(numbers).log_prob(images(2, (1, 4, 4)))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, family(at_least_float32(numbers)).log_prob(images(2, (1, 4, 4))))


def test_softplus_and_its_slope_against_float64() -> None:
    x = torch.cat([torch.linspace(-30, 30, 6001), torch.tensor([-1e4, -200.0, 0.0, 200.0, 1e4])])
    exact = np.logaddexp(0.0, x.double().numpy())
    for dtype, digits in ((torch.float32, 2e-7), (torch.float64, 4e-16)):
        at = x.to(dtype).requires_grad_()
        got = softplus(at)
        (slope,) = torch.autograd.grad(got.sum(), at)
        assert (np.abs(got.detach().double().numpy() - exact) / np.maximum(1, exact)).max() < digits
        torch.testing.assert_close(slope, at.detach().sigmoid(), rtol=0, atol=digits)
    assert softplus(torch.zeros((), dtype=torch.float64)).item() == pytest.approx(math.log(2), abs=1e-16)


@pytest.mark.parametrize("name", ["Bernoulli", "Normal", "NormalLearnedStd", "NormalPixelStd"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 5, 7)])
def test_an_image_as_a_whole_has_the_sum_over_its_pixels(name: str, shape: tuple[int, int, int]) -> None:
    """Of several draws of several images; logits up to 100 and with 0 among them, against float64."""
    family = build(LIKELIHOODS, name, shape)
    numbers = (12 * noise(2 * 3, math.prod(family.output_shape))).reshape(2, 3, *family.output_shape)
    numbers[0, 0], numbers[1, 1] = 0, 8 * numbers[1, 1]
    x = images(3, shape)
    exact = family.double()(numbers.double()).log_prob(x.double())  # with a gradient: pixel after pixel
    for dtype, digits in ((torch.float32, 2e-6), (torch.float64, 1e-14)):
        p = family.to(dtype)(numbers.to(dtype))
        with torch.no_grad():
            assert isinstance(p.base_dist, pixels.Bernoulli | pixels.Normal)
            whole = p.base_dist.log_prob_of_images(x.to(dtype))
            assert torch.equal(whole, p.log_prob(x.to(dtype)))
            torch.testing.assert_close(whole.double(), exact.detach(), rtol=digits, atol=0)


# --- continuous Bernoulli ---------------------------------------------------------------------------------------------

SPECIAL = [0.0, 1e-8, 1e-4, 1e-3, 1e-2, 0.4999, 0.5, 0.5001, 1.0, 16.0, 50.0]
LOGITS = torch.tensor([*torch.linspace(-50, 50, 401).tolist(), *SPECIAL, *(-logit for logit in SPECIAL)])


def tilted(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithm of the integral of exp(a x) over [0, 1], and its derivative, by quadrature."""
    x, weights = grid(0, 1, parts=10)
    density = weights * torch.exp(logits.double()[:, None] * x)
    return density.sum(1).log(), (density * x).sum(1) / density.sum(1)


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
def test_continuous_bernoulli_against_quadrature(dtype: torch.dtype) -> None:
    """Value, gradient and mean, with the same bounds next to 1/2 as elsewhere."""
    logits = LOGITS.to(dtype).requires_grad_()
    normaliser, mean = tilted(logits.detach())
    p = ContinuousBernoulli(logits)
    for pixel in (0.0, 0.3, 1.0):
        found = p.log_prob(torch.tensor(pixel, dtype=dtype))
        (gradient,) = torch.autograd.grad(found.sum(), logits)
        exact = pixel * logits.detach().double() - normaliser
        digits = torch.finfo(dtype).eps * (8 + logits.detach().abs())
        assert ((found.detach() - exact).abs() < digits).all()
        assert ((gradient - (pixel - mean)).abs() < 32 * torch.finfo(dtype).eps).all()
    assert ((p.mean.detach() - mean).abs() < 32 * torch.finfo(dtype).eps).all()


def test_continuous_bernoulli_against_torch_where_that_is_exact() -> None:
    """In double precision, away from 1/2 (where it has a series of few terms) and from 0 and 1 (which it clips)."""
    logits = LOGITS[(LOGITS.abs() > 0.1) & (LOGITS.abs() < 10)].double()
    other = td.ContinuousBernoulli(logits=logits)
    x = images(1, (1, 1, len(logits)), torch.float64).flatten()
    torch.testing.assert_close(ContinuousBernoulli(logits).log_prob(x), other.log_prob(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ContinuousBernoulli(logits).mean, other.mean, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("logit", [-50.0, -3.0, -1e-4, 0.0, 1e-4, 0.3, 7.0, 50.0])
@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
def test_continuous_bernoulli_integrates_to_one(logit: float, dtype: torch.dtype) -> None:
    x, weights = grid(0, 1)
    density = ContinuousBernoulli(torch.tensor(logit, dtype=dtype)).log_prob(x.to(dtype)).double().exp()
    assert (density * weights).sum().item() == pytest.approx(1, abs=1e-5 if dtype == torch.float32 else 1e-12)


# --- 256 levels -------------------------------------------------------------------------------------------------------

EXTREME = torch.tensor([-1e4, -300.0, -20.0, -7.7, -3.0, -1e-3, 0.0, 0.5, 1.0, 3.0, 20.0, 300.0, 1e4])


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
@pytest.mark.parametrize("name", DISCRETE)
def test_probabilities_of_all_256_values_add_up_to_one(name: str, dtype: torch.dtype) -> None:
    """For extreme numbers too: locations far outside [0, 1], scales much narrower than a bin or wider than all."""
    family = build(LIKELIHOODS, name, (1, 1, 1)).to(dtype)
    generator = np.random.default_rng(0)
    chosen = torch.from_numpy(generator.integers(0, len(EXTREME), (500, family.output_shape[0])))
    pairs = torch.cartesian_prod(EXTREME, EXTREME)
    extremes = [EXTREME[chosen]] + ([pairs] if family.output_shape[0] == 2 else [])
    for numbers in extremes:
        numbers = numbers.to(dtype).reshape(len(numbers), -1, 1, 1)
        found = family(numbers).log_prob(LEVELS.to(dtype).reshape(256, 1, 1, 1, 1)).logsumexp(0)
        assert found.abs().max() < (1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_a_pixel_belongs_to_the_nearest_level(precision: torch.dtype) -> None:
    numbers = 3 * noise(1, 256).reshape(1, 256, 1, 1)
    p = build(LIKELIHOODS, "Categorical", (1, 1, 1))(numbers)
    eight_bit = torch.arange(256, dtype=torch.uint8).to(precision).mul_(1 / 255)  # as batches scale them
    for shift in (0.0, 0.4 / 255, -0.4 / 255):
        found = p.log_prob((eight_bit + shift).reshape(-1, 1, 1, 1))
        torch.testing.assert_close(found, F.log_softmax(numbers.flatten(), 0))


def test_categorical_is_cross_entropy_over_levels() -> None:
    shape = (2, 3, 4)
    numbers, level = noise(5, 256 * 24).reshape(5, 512, 3, 4), (255 * images(5, shape)).round().long()
    found = build(LIKELIHOODS, "Categorical", shape)(numbers).log_prob(level / 255)
    loss = F.cross_entropy(numbers.reshape(5, 2, 256, 3, 4).movedim(2, 1), level, reduction="none")
    torch.testing.assert_close(-found, loss.sum((1, 2, 3)))


def difference_of_sigmoids(level: int, loc: Tensor, scale: Tensor) -> Tensor:
    """The probability of a level by the definition, in double precision (Salimans et al. 2017, eq. 2)."""
    loc, scale = loc.double(), scale.double()
    upper = torch.sigmoid(((level + 0.5) / 255 - loc) / scale) if level < 255 else torch.ones_like(loc)
    lower = torch.sigmoid(((level - 0.5) / 255 - loc) / scale) if level > 0 else torch.zeros_like(loc)
    return upper - lower


def test_discretized_logistic_against_the_definition() -> None:
    loc, log_scale = torch.cartesian_prod(torch.linspace(-0.2, 1.2, 29), torch.linspace(-7, 3, 21)).unbind(1)
    for level in (0, 1, 17, 128, 254, 255):
        found = DiscretizedLogistic(loc, log_scale).log_prob(torch.tensor(level / 255)).double().exp()
        expected = difference_of_sigmoids(level, loc, log_scale.exp())
        assert ((found - expected).abs() < 1e-3 * expected + 1e-7).all()


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
def test_mean_of_a_discretized_logistic_is_the_one_before_rounding(dtype: torch.dtype) -> None:
    """The mean of a variable in [0, 1] is the integral of the probability to be above, here by quadrature."""
    locs = torch.tensor([-1e4, -3.0, -0.01, 0.0, 0.3, 0.5, 1.0, 1.2, 9.0, 1e4])
    log_scales = torch.tensor([-20.0, -7.0, -5.5, -2.4, -2.2, 0.0, 3.0, 10.0, 60.0, 300.0])
    loc, log_scale = torch.cartesian_prod(locs, log_scales).to(dtype).unbind(1)
    t, weights = grid(0, 1)
    above = torch.sigmoid((loc.double()[:, None] - t) * torch.exp(-log_scale.double())[:, None])
    found = DiscretizedLogistic(loc, log_scale).mean
    assert (found.double() - above @ weights).abs().max() < (1e-6 if dtype == torch.float32 else 1e-7)
    levels = DiscretizedLogistic(loc, log_scale).log_prob(LEVELS.to(dtype)[:, None]).exp()
    gap = (found - LEVELS.to(dtype) @ levels).abs() * 255
    assert gap.max() < 0.5 + 1e-3
    assert gap[log_scale >= -5.5].max() < 0.02  # scales of a level or more


def test_wide_scales_lose_no_digits() -> None:
    """With bins much narrower than the scale a probability is the density in the middle times the width."""
    log_scale, loc = torch.linspace(2, 80, 79), torch.full((79,), 0.3)
    found = DiscretizedLogistic(loc, log_scale).log_prob(torch.tensor(100 / 255))
    u = ((100 / 255 - 0.3) / log_scale.double().exp()).abs()
    expected = -u - 2 * torch.log1p(torch.exp(-u)) - log_scale.double() - math.log(255)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-5)


def test_a_mixture_is_the_weighted_sum_of_its_parts() -> None:
    family = build(LIKELIHOODS, {"name": "DiscretizedLogisticMixture", "components": 3}, (1, 1, 1)).double()
    weights, loc, raw = 2 * noise(3, 3, torch.float64)
    numbers = torch.stack([weights, loc, raw]).reshape(1, 9, 1, 1)
    scale = torch.exp(-7.7 + torch.log1p(torch.exp(raw + 7.7)))
    found = log_probs(family, numbers, LEVELS).exp()
    for level in range(256):
        expected = (weights.softmax(0) * difference_of_sigmoids(level, loc, scale)).sum()
        assert found[level].item() == pytest.approx(expected.item(), rel=1e-7, abs=1e-12)


def test_a_mixture_of_one_is_a_discretized_logistic() -> None:
    shape = (3, 2, 2)
    mixture = build(LIKELIHOODS, {"name": "DiscretizedLogisticMixture", "components": 1}, shape)
    numbers = noise(4, 36).reshape(4, 9, 2, 2)
    single = build(LIKELIHOODS, "DiscretizedLogistic", shape)(numbers[:, 3:])
    x = images(4, shape)
    torch.testing.assert_close(mixture(numbers).log_prob(x), single.log_prob(x))
    torch.testing.assert_close(mixture(numbers).mean, single.mean)


@pytest.mark.parametrize("name", ["DiscretizedLogistic", "DiscretizedLogisticMixture"])
def test_no_scale_is_below_the_bound(name: str) -> None:
    """The steepest a probability can be: at an edge between two levels its gradient in loc is below 1 / scale."""
    family, numbers = one_pixel(name, 0, min_log_scale=-3.0)
    components = family.output_shape[0] // 3 if "Mixture" in name else 1
    numbers[:, -components:] = -1e4
    numbers.requires_grad_()
    values = log_probs(family, numbers, LEVELS)
    steepest = max(torch.autograd.grad(v, numbers, retain_graph=True)[0].abs().max().item() for v in values[::15])
    assert 0.2 * math.exp(3) < steepest < 1.001 * math.exp(3)


# --- normal -----------------------------------------------------------------------------------------------------------


def test_learned_std_is_one_weight_that_starts_as_asked() -> None:
    family = build(LIKELIHOODS, {"name": "NormalLearnedStd", "std": 0.25, "min_std": 0.01}, (1, 3, 3))
    mean, x = images(4, (1, 3, 3)), images(4, (1, 3, 3)).flip(0)
    assert [weight.numel() for weight in family.parameters()] == [1]
    expected = td.Normal(mean, 0.26).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(family(mean).log_prob(x), expected)


def test_learned_std_settles_at_the_root_mean_squared_error() -> None:
    family = build(LIKELIHOODS, "NormalLearnedStd", (1, 3, 3)).double()
    mean, x = images(4, (1, 3, 3), torch.float64), images(4, (1, 3, 3), torch.float64).flip(0)
    best = (x - mean).square().mean().sqrt().item()
    slopes = []
    for std in (0.9 * best, best, 1.1 * best):
        with torch.no_grad():
            family.raw.fill_(math.log(math.expm1(std - 0.004)))
        (slope,) = torch.autograd.grad(-family(mean).log_prob(x).sum(), [family.raw])
        slopes.append(slope.item())
    assert slopes[0] < -1
    assert slopes[1] == pytest.approx(0, abs=1e-9)
    assert slopes[2] > 1


@pytest.mark.parametrize("name", ["NormalLearnedStd", "NormalPixelStd", "OptimalNormal"])
def test_density_of_what_is_known_exactly_is_bounded(name: str) -> None:
    family, numbers = one_pixel(name, 0, min_std=0.01)
    with torch.no_grad():
        for weight in family.parameters():
            weight.fill_(-1e4)
    numbers[:, 1:] = -1e4
    highest = -math.log(0.01 * math.sqrt(2 * math.pi))
    found = log_probs(family, numbers, numbers[:, 0].flatten())
    assert found.item() == pytest.approx(highest)


def test_pixel_std_is_softplus_of_the_second_half() -> None:
    family = build(LIKELIHOODS, "NormalPixelStd", (2, 3, 3))
    numbers, x = noise(4, 36).reshape(4, 4, 3, 3), images(4, (2, 3, 3))
    expected = td.Normal(numbers[:, :2], 0.004 + F.softplus(numbers[:, 2:])).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(family(numbers).log_prob(x), expected)


def test_optimal_normal_is_the_best_of_all_stds_for_each_image() -> None:
    shape = (3, 4, 4)
    mean, x = images(5, shape, torch.float64), images(5, shape, torch.float64).flip(0)
    x[2], x[0] = mean[2], mean[0] + 1e-3  # known exactly, and almost
    found = build(LIKELIHOODS, {"name": "OptimalNormal", "min_std": 0.01}, shape)(mean).log_prob(x)
    stds = torch.exp(torch.linspace(math.log(0.01), 1, 2001, dtype=torch.float64))
    for i in range(5):
        each = td.Normal(mean[i], stds[:, None, None, None]).log_prob(x[i]).sum((1, 2, 3))
        assert found[i].item() == pytest.approx(each.max().item(), abs=1e-3)


def test_optimal_normal_of_one_image_does_not_depend_on_another() -> None:
    family = build(LIKELIHOODS, "OptimalNormal", (1, 4, 4))
    mean, x = images(5, (1, 4, 4)), images(5, (1, 4, 4)).flip(0)
    torch.testing.assert_close(family(mean).log_prob(x)[1:2], family(mean[1:2]).log_prob(x[1:2]))


# --- what numbers mean ------------------------------------------------------------------------------------------------


def test_equal_probabilities_are_eight_bits_for_each_number() -> None:
    shape = (3, 5, 4)
    numbers = torch.zeros(1, 256 * 3, 5, 4)
    nats = -build(LIKELIHOODS, "Categorical", shape)(numbers).log_prob(images(1, shape)).item()
    assert bits_per_dim(nats, shape) == pytest.approx(8)


def data_of(pixels: Tensor) -> DataSet:
    return DataSet("data", Split(pixels), Split(pixels))


GREY = torch.arange(256, dtype=torch.uint8).reshape(16, 1, 4, 4)


@pytest.mark.parametrize(
    ("pixels", "levels"),
    [
        (GREY, 256),
        (GREY / 255, 256),
        (torch.linspace(0, 1, 160).reshape(10, 1, 4, 4), None),
        ((GREY > 100).to(torch.uint8) * 255, 2),
        ((GREY > 100).float(), 2),
    ],
)
def test_the_levels_of_pixels_are_seen(pixels: Tensor, levels: int | None) -> None:
    assert Split(pixels).levels == levels


@pytest.mark.parametrize(
    ("name", "binarize", "measure"),
    [
        ("Bernoulli", "none", "not normalised"),
        ("Bernoulli", "dynamic", "probability of 0/1 pixels"),
        ("ContinuousBernoulli", "none", "density on [0, 1]"),
        ("Normal", "none", "density"),
        ("NormalLearnedStd", "none", "density"),
        ("NormalPixelStd", "none", "density"),
        ("OptimalNormal", "none", "not normalised"),
        ("OptimalNormal", "static", "not normalised"),
        ("Categorical", "none", "probability of 256 grey values"),
        ("DiscretizedLogistic", "none", "probability of 256 grey values"),
        ("DiscretizedLogisticMixture", "none", "probability of 256 grey values"),
    ],
)
def test_a_protocol_names_the_measure(name: str, binarize: str, measure: str) -> None:
    data = data_of(GREY) if binarize == "none" else data_of(GREY).binarize_evaluation(0)
    how = protocol(data, binarize, build(LIKELIHOODS, name, (1, 4, 4)), seed=0, split="test")
    assert (how["measure"], how["normalised"]) == (measure, measure != "not normalised")
    assert how["pixels"] == ("grey in [0, 1]" if binarize == "none" else "0/1, one fixed draw")


def test_pixels_that_are_0_and_1_by_themselves_are_called_so() -> None:
    how = protocol(
        data_of((GREY > 100).float()), "none", build(LIKELIHOODS, "Bernoulli", (1, 4, 4)), seed=0, split="test"
    )
    assert (how["pixels"], how["measure"]) == ("0/1", "probability of 0/1 pixels")


@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.parametrize("binarize", ["dynamic", "static"])
def test_densities_that_are_fitted_are_refused_for_binary_pixels(name: str, binarize: str) -> None:
    settings = [f"model.likelihood={name}", f"data.binarize={binarize}"]
    if name == "Normal":
        load(None, settings)
        return
    with pytest.raises(InputError, match=rf"model\.likelihood = '{name}'.*'{binarize}'.*take Bernoulli"):
        load(None, settings)


@pytest.mark.parametrize(
    ("name", "pixels", "has_bits"),
    [
        ("DiscretizedLogistic", GREY, True),
        ("DiscretizedLogistic", GREY / 255, True),
        ("DiscretizedLogistic", (GREY > 100).float(), False),
        ("Bernoulli", (GREY > 100).float(), True),
        ("Bernoulli", GREY, False),
        ("NormalLearnedStd", GREY, False),
        ("Normal", torch.linspace(0, 1, 160).reshape(10, 1, 4, 4), False),
    ],
)
def test_bits_per_dimension_are_those_of_probabilities(name: str, pixels: Tensor, has_bits: bool) -> None:
    model = VAE(image_shape=(1, 4, 4), hidden_dim=8, likelihood=name)
    found = evaluate(launch.make_accelerator("cpu", "no", {}), model, Split(pixels), seed=0, split="test")
    assert found.bits_per_dim == (pytest.approx(found.loss / 16 / math.log(2)) if has_bits else None)


@pytest.mark.parametrize("bits", [1.25, None])
def test_bits_per_dimension_stand_beside_nats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bits: float | None
) -> None:
    latents = LatentMeasures(variance=(1.0, 0.0), kl=(9.0, 1.0), total_kl=10.0, examples=16)
    found = Evaluation(30.0, 20.0, 10.0, 19.0, examples=16, latents=latents, bits_per_dim=bits)
    with Tracker(launch.make_accelerator("cpu", "no", {}), tmp_path, load(), step=0, total_steps=3) as tracker:
        for split in ("test", "val"):
            tracker.log_evaluation(split, found, step=3, epoch=1.0, beta=1.0, lr=1e-3, collapsed=False)
    said = ", 1.2500 bits per dimension" if bits else ""
    ending = f" loss 30.00 (reconstruction 20.00 + KL 10.00 nats){said}, 1 of 2 active\n"
    assert capsys.readouterr().out.count(ending) == 2
    assert [row.get("bits_per_dim") for row in rows(tmp_path)] == [bits, bits]
    curves = {tag: values for tag, values in scalars(tmp_path).items() if "bits" in tag}
    assert curves == ({f"Loss/{split}/bits_per_dim": [(3, bits)] for split in ("Test", "Val")} if bits else {})
