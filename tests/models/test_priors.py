"""Priors: densities against explicit sums, quadrature and the Jacobian of what makes z; which component noise picks."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MultivariateNormal, Normal, kl_divergence

from tests.helpers import ROOT
from tests.helpers.programs.families import FAMILIES
from tests.helpers.starts import on_ranks
from vae.assemble import build_model
from vae.components import build
from vae.config import load
from vae.data import randomness
from vae.data.dataset import Split
from vae.errors import InputError
from vae.families.distributions import DiagonalGaussian, kl, kl_by_group
from vae.families.mixtures import mixture
from vae.families.posteriors import POSTERIORS
from vae.families.priors import PRIORS, Given, Prior
from vae.model import VAE
from vae.networks import Sizes
from vae.report.prior import shown_prior

D, CLASSES = 2, 3
SIZES = Sizes(image_shape=(1, 4, 4), latent_dim=D, hidden_dim=8, classes=CLASSES)
SPECS: dict[str, dict[str, Any]] = {
    "GaussianMixture": {"components": 4},
    "VampPrior": {"pseudo_inputs": 5},
    "Flow": {"layers": 4, "bins": 5, "width": 16, "bound": 3.0},
    "ClassNormal": {},
}
every_prior = pytest.mark.parametrize("name", SPECS)

SPLIT = Split(torch.zeros(10, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2, 2]))


def noise(count: int, dim: int = D) -> Tensor:
    return randomness.normal(count, dim, 7, "test noise").double()


def far_from_its_start(name: str) -> tuple[Prior, Given]:
    """Return a prior in float64 whose weights have been moved, and what it is given."""
    torch.manual_seed(3)
    model = VAE(image_shape=(1, 4, 4), latent_dim=D, hidden_dim=8).double()
    prior = build(PRIORS, {"name": name, **SPECS[name]}, SIZES).double()
    with torch.no_grad():
        for weight in [*prior.parameters(), *model.parameters()]:
            weight.add_(0.15 * torch.randn_like(weight))
    return prior, Given(torch.zeros((), dtype=torch.float64), model.encode, torch.tensor([1]))


@every_prior
@torch.no_grad()
def test_densities_integrate_to_one_and_have_the_moments_of_samples(name: str) -> None:
    """By quadrature, over a square that holds all but nothing."""
    prior, given = far_from_its_start(name)
    p = prior(given)
    ticks = torch.linspace(-14, 14, 561, dtype=torch.float64)
    z = torch.cartesian_prod(ticks, ticks)
    mass = p.log_prob(z[:, None]).flatten().exp() * (ticks[1] - ticks[0]) ** 2
    assert mass.sum().item() == pytest.approx(1, abs=2e-4)
    mean = mass @ z
    covariance = (z * mass[:, None]).T @ z - torch.outer(mean, mean)
    draws = prior.transform(p, noise(40_000, prior.noise_dim))
    assert (draws.mean(0) - mean).abs().max() < 5 * covariance.diag().max().sqrt() / 200
    assert (torch.cov(draws.T) - covariance).abs().max() < 0.05 * covariance.diag().max()


def test_a_mixture_is_the_weighted_sum_of_its_normals() -> None:
    prior, given = far_from_its_start("GaussianMixture")
    z = 2 * noise(6)
    weights = prior.get_parameter("logits").detach().exp()
    for row, got in zip(z, prior(given).log_prob(z), strict=True):
        density = 0.0
        for k, weight in enumerate((weights / weights.sum()).tolist()):
            one = weight
            for d in range(D):
                std = math.exp(prior.get_parameter("log_scale")[k, d].item())
                units = (row[d].item() - prior.get_parameter("loc")[k, d].item()) / std
                one *= math.exp(-0.5 * units**2) / (std * math.sqrt(2 * math.pi))
            density += one
        assert got.item() == pytest.approx(math.log(density), rel=1e-12)


@pytest.mark.parametrize("far", [1.0, 5.0], ids=["near", "far"])
def test_the_density_of_many_narrow_normals_is_that_of_float64(far: float) -> None:
    """In float32, as close to a sum over components in float64 as float32 can say; gradients, too."""
    K, D = 500, 40
    torch.manual_seed(0)
    loc, scale = 3 * torch.randn(K, D), 0.02 + 0.3 * torch.rand(K, D)
    z = loc[:24].unflatten(0, (4, 6)) + far * scale[:24].unflatten(0, (4, 6)) * torch.randn(4, 6, D)
    numbers = [torch.randn(K), loc, scale, z]

    def derived(log_density: Callable[..., Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
        given = [number.to(dtype).requires_grad_() for number in numbers]
        found = log_density(*given)
        return found.detach(), *torch.autograd.grad(found.sum(), given)

    def ours(logits: Tensor, loc: Tensor, scale: Tensor, z: Tensor) -> Tensor:
        return mixture(Categorical(logits=logits), DiagonalGaussian(loc, scale)).log_prob(z)

    def summed(logits: Tensor, loc: Tensor, scale: Tensor, z: Tensor) -> Tensor:
        units = (z[..., None, :] - loc) / scale
        each = -0.5 * units.square() - scale.log() - 0.5 * math.log(2 * math.pi)
        return (logits.log_softmax(-1) + each.sum(-1)).logsumexp(-1)

    expected = derived(summed, torch.float64)
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-6)):
        for got, right in zip(derived(ours, dtype), expected, strict=True):
            assert got.dtype == dtype
            assert got.shape == right.shape
            assert (got - right).abs().max() <= tolerance * right.abs().max()
    alone = ours(numbers[0], loc, scale, z[0, 0])
    assert alone.shape == ()
    torch.testing.assert_close(alone.double(), expected[0][0, 0], rtol=1e-6, atol=1e-4)


def test_the_last_number_of_noise_picks_a_component_as_often_as_it_weighs() -> None:
    prior = build(PRIORS, {"name": "GaussianMixture", "components": 3}, SIZES)
    weights = torch.tensor([0.1, 0.2, 0.7])
    with torch.no_grad():
        prior.logits.copy_(weights.log())
        prior.loc.copy_(torch.tensor([[-100.0, 0.0], [0.0, 0.0], [100.0, 0.0]]))
    p = prior(Given(torch.zeros(()), lambda _: NotImplemented))
    # at the quantiles 0.05, 0.15, ... of N(0, 1) each tenth picks once
    tenths = Normal(0.0, 1.0).icdf(torch.linspace(0.05, 0.95, 10))
    picked = prior.transform(p, torch.cat([torch.zeros(10, 2), tenths[:, None]], 1))
    assert picked[:, 0].detach().round().tolist() == [-100.0, *[0.0] * 2, *[100.0] * 7]
    extremes = prior.transform(p, torch.tensor([[0.0, 0.0, -40.0], [0.0, 0.0, 40.0]]))
    assert extremes[:, 0].tolist() == [-100.0, 100.0]


def test_components_differ_at_first_and_follow_from_the_seed_of_torch() -> None:
    def fresh(name: str, seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return build(PRIORS, {"name": name, **SPECS[name]}, SIZES).state_dict()

    for name, key in {"GaussianMixture": "loc", "VampPrior": "raw"}.items():
        one, again, other = fresh(name, 0), fresh(name, 0), fresh(name, 1)
        assert all(torch.equal(one[key], again[key]) for key in one)
        assert not torch.equal(one[key], other[key])
        assert torch.pdist(one[key].flatten(1)).min() > 0.1


@pytest.mark.parametrize("posterior", [name for name in POSTERIORS if name != "VectorQuantized"])
def test_a_vamp_prior_is_the_mean_of_what_the_encoder_says_of_its_pseudo_inputs(posterior: str) -> None:
    model = VAE(image_shape=(1, 4, 4), latent_dim=D, hidden_dim=8, posterior=posterior, prior="VampPrior").double()
    z, given = noise(6), Given(torch.zeros((), dtype=torch.float64), model.encode)
    inputs = model.prior.get_parameter("raw").detach().sigmoid()
    assert inputs.min() > 0
    assert inputs.max() < 1
    each = torch.stack([model.encode(u[None]).log_prob(z) for u in inputs])
    torch.testing.assert_close(model.prior(given).log_prob(z), each.logsumexp(0) - math.log(len(inputs)))


@torch.no_grad()
def test_a_vamp_prior_that_is_held_encodes_once_and_forgets_afterwards() -> None:
    model, calls = VAE(image_shape=(1, 4, 4), latent_dim=D, hidden_dim=8, prior="VampPrior").double(), []

    def encode(u: Tensor) -> Distribution:
        calls.append(len(u))
        return model.encode(u)

    z, given = noise(6), Given(torch.zeros((), dtype=torch.float64), encode)
    alone = model.prior(given).log_prob(z)
    with model.prior.held(given):
        assert all(torch.equal(model.prior(given).log_prob(z), alone) for _ in range(3))
    assert calls == [100, 100]
    model.prior.get_parameter("raw").add_(1.0)
    assert not torch.allclose(model.prior(given).log_prob(z), alone)
    assert calls == [100] * 3


def test_pseudo_inputs_start_as_training_images_of_which_none_comes_twice() -> None:
    images = torch.randint(0, 256, (9, 1, 4, 4), dtype=torch.uint8)
    shown = (images / 255).clamp(0.01, 0.99)

    def started(seed: int, **settings: Any) -> Tensor:
        prior = {"name": "VampPrior", **settings}
        config = load(None, [f"run.seed={seed}", f"model.prior={json.dumps(prior)}", "model.hidden_dim=8"])
        return build_model(config, (1, 4, 4), images=images).prior.get_parameter("raw").detach()

    def places(raw: Tensor) -> list[int]:
        distances = (raw.sigmoid()[:, None] - shown).abs().flatten(2).amax(-1)
        assert distances.min(1).values.max() < 1e-6
        return distances.argmin(1).tolist()

    chosen = places(started(0, pseudo_inputs=5))
    assert len(set(chosen)) == 5
    assert chosen == places(started(0, pseudo_inputs=5))
    assert chosen != places(started(1, pseudo_inputs=5))
    more = started(0, pseudo_inputs=12)
    assert sorted(places(more[:9])) == list(range(9))
    noise = started(0, pseudo_inputs=12, start="noise")
    assert torch.equal(more[9:], noise[9:])  # there are no images left
    assert 0.5 < noise.std() < 1.5


def test_a_class_has_a_normal_of_its_own_which_starts_as_the_standard_one() -> None:
    prior, given = far_from_its_start("ClassNormal")
    labels, z = torch.tensor([2, 0, 2]), noise(3)
    p = prior(Given(given.like, given.encode, labels))
    for row, (label, value) in enumerate(zip(labels, z, strict=True)):
        scale = prior.get_parameter("log_scale")[label].exp()
        alone = MultivariateNormal(prior.get_parameter("loc")[label], covariance_matrix=scale.square().diag())
        torch.testing.assert_close(p.log_prob(z)[row], alone.log_prob(value))
    fresh = build(PRIORS, "ClassNormal", SIZES)(given)
    torch.testing.assert_close(fresh.log_prob(z), Normal(0.0, 1.0).log_prob(z).sum(1))
    with pytest.raises(ValueError, match="labels: must be given"):
        prior(Given(given.like, given.encode))


# --- KL ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("posterior", ["DiagonalNormal", "FullNormal"])
def test_the_kl_against_a_class_is_that_of_two_multivariate_normals(posterior: str) -> None:
    prior, given = far_from_its_start("ClassNormal")
    p = prior(Given(given.like, given.encode, torch.tensor([0, 1, 2, 1])))
    family = build(POSTERIORS, posterior, D)
    q = family(noise(4, family.features))
    full = q if isinstance(q, MultivariateNormal) else MultivariateNormal(q.mean, scale_tril=q.stddev.diag_embed())
    other = MultivariateNormal(p.mean, scale_tril=p.stddev.diag_embed())
    torch.testing.assert_close(kl(q, p, q.mean), kl_divergence(full, other), rtol=1e-11, atol=1e-12)
    groups = kl_by_group(q, p, q.mean)
    assert groups.shape == (4, D if isinstance(q, Independent) else 1)
    torch.testing.assert_close(groups.sum(-1), kl(q, p, q.mean))


@pytest.mark.parametrize("name", ["GaussianMixture", "VampPrior", "Flow"])
@torch.no_grad()
def test_without_a_rule_the_kl_is_estimated_without_bias(name: str) -> None:
    """Against quadrature; K draws are averaged, one is not."""
    prior, given = far_from_its_start(name)
    p, family = prior(given), build(POSTERIORS, "DiagonalNormal", D)
    q = family(noise(1, family.features))
    ticks = torch.linspace(-8, 8, 401, dtype=torch.float64)
    z = torch.cartesian_prod(ticks, ticks)[:, None]
    log_q, log_p = q.log_prob(z), p.log_prob(z[:, 0])[:, None]
    exact = ((log_q.exp() * (log_q - log_p)).sum() * (ticks[1] - ticks[0]) ** 2).item()
    draws = family.transform(q, noise(20_000)[:, None])  # (K, 1, D)
    single = kl(q, p, draws[0])
    assert single.shape == (1,)
    torch.testing.assert_close(single, q.log_prob(draws[0]) - p.log_prob(draws[0]))
    ratios = q.log_prob(draws) - p.log_prob(draws)
    got = kl(q, p, draws)
    assert got.shape == (1,)
    assert abs(got.item() - exact) < 4 * ratios.std().item() / math.sqrt(len(draws))
    assert kl_by_group(q, p, draws[0]).shape == (1, 1)


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_the_standard_normal_is_shown_as_itself() -> None:
    assert shown_prior(VAE(image_shape=(1, 4, 4), hidden_dim=8), SPLIT, seed=0) is None


@pytest.mark.parametrize(
    ("name", "hierarchy"),
    [*((name, "Flat") for name in SPECS), ("StandardNormal", "BottomUp"), ("GaussianMixture", "BottomUp")],
)
@torch.no_grad()
def test_what_pictures_show_of_a_prior_agrees_with_its_draws(name: str, hierarchy: str) -> None:
    """Marginals that add up to 1, whose means and variances are those of draws; densities, where they are known."""
    torch.manual_seed(3)
    model = VAE(
        image_shape=(1, 4, 4), hidden_dim=8, prior={"name": name, **SPECS.get(name, {})}, hierarchy=hierarchy, classes=3
    ).double()
    for weight in model.prior.parameters():
        weight.add_(0.15 * torch.randn_like(weight))
    prior = shown_prior(model, SPLIT, seed=0)
    assert prior is not None
    places = np.linspace(-14, 14, 5601)
    found = prior.marginals(places) * (places[1] - places[0])
    mean = places @ found
    std = np.sqrt(places**2 @ found - mean**2)
    assert found.sum(0) == pytest.approx(1, abs=2e-3)
    error = 5 * prior.draws.std(0).max() / math.sqrt(len(prior.draws))
    assert mean == pytest.approx(prior.draws.mean(0), abs=error)
    assert std == pytest.approx(prior.draws.std(0), rel=0.05)
    assert (prior.density is None) == (hierarchy != "Flat")
    if prior.density is not None:
        ticks = np.linspace(-14, 14, 281)
        mass = prior.density(np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2)) * (ticks[1] - ticks[0]) ** 2
        assert mass.sum() == pytest.approx(1, abs=2e-3)
        inside = prior.density(prior.draws) > np.median(prior.density(prior.draws))
        assert inside.mean() == pytest.approx(0.5, abs=0.01)


# --- precision, several processes, what is refused --------------------------------------------------------------------


@every_prior
@torch.no_grad()
def test_under_autocast_densities_are_the_same_and_in_float32(name: str) -> None:
    prior, z = far_from_its_start(name)[0].float(), noise(7).float()
    encode = VAE(image_shape=(1, 4, 4), latent_dim=D, hidden_dim=8).encode
    p = prior(Given(z, encode, torch.tensor([1])))
    draw = noise(7, prior.noise_dim).float()
    expected, made = p.log_prob(z), prior.transform(p, draw)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(p.log_prob(z), expected)
        assert torch.equal(prior.transform(p, draw), made)
    assert expected.dtype == made.dtype == torch.float32


def test_two_processes_train_the_same_weights_as_one(tmp_path: Path) -> None:
    """In float64, with batches that the two share unevenly; each family of priors and posteriors that has weights."""
    for processes in (1, 2):
        (folder := tmp_path / str(processes)).mkdir()
        done = on_ranks(processes, ROOT / "tests/helpers/programs/families.py", folder)
        assert done.code == 0, done.err
    for place in range(len(FAMILIES)):
        alone, together = (torch.load(tmp_path / f"{n}" / f"{place}.pt", weights_only=True) for n in (1, 2))
        start = torch.load(tmp_path / "1" / f"{place}-start.pt", weights_only=True)
        for key, weight in alone.items():
            assert not torch.equal(weight, start[key]), key
            assert (weight - together[key]).abs().max() < 1e-12, key


REFUSED = {
    ("model.latent_dim=1", "model.prior=Flow"): ["model.prior.name", "Flow", "GaussianMixture"],
    ("model.latent_dim=1", "model.posterior=SplineFlow"): ["model.posterior.name", "SplineFlow", "DiagonalNormal"],
    ("model.latent_dim=1", "model.posterior=InverseAutoregressiveFlow"): ["InverseAutoregressiveFlow"],
    ("model.prior=Flow", "model.hierarchy={name: BottomUp, latent_dims: [3, 1]}"): ["model.prior.name", "Flow"],
    ("model.posterior=SplineFlow", "model.hierarchy=BottomUp"): ["SplineFlow", "BottomUp", "DiagonalNormal"],
    ("model.prior=VampPrior", "model.condition=true"): ["VampPrior", "model.condition", "GaussianMixture"],
    ("model.prior=VampPrior", "model.hierarchy=BottomUp"): ["VampPrior", "BottomUp", "GaussianMixture"],
    ("model.prior={name: GaussianMixture, components: 1}",): ["model.prior.components", "greater than or equal to 2"],
}


@pytest.mark.parametrize("settings", REFUSED, ids=lambda settings: settings[-1])
def test_what_means_nothing_is_refused_in_one_line(settings: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as refusal:
        load(None, settings)
    assert "\n" not in str(refusal.value)
    assert all(word in str(refusal.value) for word in REFUSED[settings]), str(refusal.value)


def test_neighbours_of_what_is_refused_are_not() -> None:
    load(None, ["model.latent_dim=1", "model.prior=GaussianMixture"])
    load(None, ["model.latent_dim=1", "model.prior=Flow", "model.hierarchy={name: BottomUp, latent_dims: [2]}"])
    load(None, ["model.condition=true", "model.prior=ClassNormal"])
    load(None, ["model.hierarchy=BottomUp", "model.posterior=FullNormal", "model.prior=GaussianMixture"])
