"""Laws that every piece in every table keeps; a new class needs no new test."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributions as td
from torch import Tensor

from tests.helpers.pieces import (
    DENSE_POSTERIORS,
    DENSE_PRIORS,
    SHAPES,
    SIZES,
    D,
    build_model,
    every_combination,
    every_normal,
    every_piece,
    every_posterior,
    every_scale,
    given,
    images,
    labels,
    noise,
    refused,
)
from vae.components import SpecError, build
from vae.families.distributions import StandardGaussian, kl, marginals
from vae.families.likelihoods import LIKELIHOODS
from vae.families.posteriors import POSTERIORS
from vae.families.priors import PRIORS
from vae.model import VAE
from vae.objectives import ELBO, OBJECTIVES, negative_elbo
from vae.schedules import SCHEDULES, Constant, Cosine, Cyclical, LinearWarmup, MultiStep


@every_piece
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("depth", [1, 3])
def test_shapes(pieces: dict[str, Any], shape: tuple[int, int, int], depth: int) -> None:
    model = build_model(pieces, shape, depth=depth)
    x = images(5, shape)
    out = model(x, noise(5, model.noise_dim), labels(5))
    assert out.latents[0].z.shape == (5, D)
    assert out.p_x.mean.shape == x.shape
    assert negative_elbo(out, x).loss.shape == (5,)
    assert model.sample(4).shape == (4, *shape)
    assert model.reconstruct(x, labels(5)).shape == x.shape
    assert model.interpolate(x[0], x[1], steps=6, labels=labels(2)).shape == (6, *shape)


@every_combination
def test_every_combination_has_a_finite_loss_a_gradient_for_each_weight_samples_and_a_file(
    pieces: dict[str, Any], tmp_path: Path
) -> None:
    model, x = build_model(pieces), images(8, (1, 6, 6))
    for objective in (name for name in OBJECTIVES if not refused(pieces, name)):
        loss = build(OBJECTIVES, objective)
        eps = noise(8 * loss.samples, model.noise_dim).view(8, loss.samples, -1)
        terms = loss(model(x, eps if loss.samples > 1 else eps[:, 0], labels(8)), x, 1.0)
        assert terms.loss.shape == (8,)
        assert terms.loss.isfinite().all()
        terms.loss.sum().backward()
        for name, weight in model.named_parameters():
            assert weight.grad is not None, (objective, name)
            assert weight.grad.isfinite().all(), (objective, name)
            assert weight.grad.abs().sum() > 0, (objective, name)
        model.zero_grad()
    samples = model.sample(noise=noise(4, model.draw_dim))
    assert samples.shape == (4, 1, 6, 6)
    model.save_pretrained(tmp_path)
    assert torch.equal(VAE.from_pretrained(tmp_path).sample(noise=noise(4, model.draw_dim)), samples)


@every_piece
def test_saved_and_loaded_models_are_equal(pieces: dict[str, Any], tmp_path: Path) -> None:
    model = build_model(pieces, (3, 8, 6), depth=3, center_input=True)
    model.save_pretrained(tmp_path)
    loaded = VAE.from_pretrained(tmp_path)
    x, eps = images(4, (3, 8, 6)), noise(4, model.noise_dim)
    assert torch.equal(loaded(x, eps, labels(4)).p_x.mean, model(x, eps, labels(4)).p_x.mean)
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in model.state_dict().items())


@every_piece
def test_gradients_agree_with_finite_differences(pieces: dict[str, Any]) -> None:
    model = build_model(pieces, (1, 3, 3), hidden_dim=4, depth=1).double()
    x, eps = images(3, (1, 3, 3), torch.float64), noise(3, model.noise_dim, torch.float64)
    for network in (model.decoder, model.encoder):
        weight = next(network.parameters())
        assert torch.autograd.gradcheck(lambda _: ELBO(beta=0.7)(model(x, eps, labels(3)), x, 0.0).loss, weight)


@every_normal
@every_scale
def test_noise_makes_samples_of_q(name: str, settings: dict[str, str]) -> None:
    posterior = build(POSTERIORS, {"name": name, **settings}, D)
    q = posterior(noise(1, posterior.features).expand(100_000, -1))
    z = posterior.transform(q, noise(100_000))
    mean, covariance = z.mean(0), torch.cov(z.T)
    single = posterior(noise(1, posterior.features))
    triangle = single.scale_tril[0] if isinstance(single, td.MultivariateNormal) else single.stddev[0].diag()
    expected = triangle @ triangle.T
    assert (mean - single.mean[0]).abs().max() < 5 * expected.diag().max().sqrt() / 100_000**0.5
    assert (covariance - expected).abs().max() < 0.03 * expected.abs().max()


@every_posterior
@every_scale
@pytest.mark.parametrize("prior", DENSE_PRIORS)
def test_kl_against_many_samples(name: str, settings: dict[str, str], prior: str) -> None:
    """A KL without a rule is compared with the mean of as many estimates from other draws."""
    posterior, count = build(POSTERIORS, {"name": name, **settings}, D), 20_000
    draws = noise(2 * count).view(2, count, D)
    with torch.no_grad():
        numbers = noise(1, posterior.features)
        q, p = posterior(numbers.expand(count, -1)), build(PRIORS, prior, SIZES)(given(numbers, 1))
        z = posterior.transform(q, draws[0])
        samples = q.log_prob(z) - p.log_prob(z)
        one = posterior(numbers)
        got = kl(one, p, posterior.transform(one, draws[1][:, None]))
    assert got.shape == (1,)
    assert (samples.mean() - got).abs() < 4 * samples.std() * (2 / count) ** 0.5


@every_normal
@every_scale
def test_kl_against_the_closed_multivariate_formula(name: str, settings: dict[str, str]) -> None:
    posterior = build(POSTERIORS, {"name": name, **settings}, D)
    q = posterior(noise(6, posterior.features, torch.float64))
    full = td.MultivariateNormal(q.mean, covariance_matrix=torch.stack([_covariance(q, i) for i in range(6)]))
    standard = td.MultivariateNormal(torch.zeros(D, dtype=torch.float64), torch.eye(D, dtype=torch.float64))
    ours = kl(q, StandardGaussian(torch.zeros(D, dtype=torch.float64)), q.mean)
    torch.testing.assert_close(ours, td.kl_divergence(full, standard), rtol=1e-10, atol=1e-12)


def _covariance(q: td.Distribution, i: int) -> Tensor:
    return q.covariance_matrix[i] if isinstance(q, td.MultivariateNormal) else q.variance[i].diag()


@every_normal
def test_marginals_have_the_moments_of_each_dimension_and_no_others(name: str) -> None:
    posterior = build(POSTERIORS, name, D)
    q = posterior(noise(6, posterior.features, torch.float64))
    p = marginals(q)
    assert isinstance(p, td.Independent)
    for i in range(6):
        torch.testing.assert_close(p.mean[i], q.mean[i])
        torch.testing.assert_close(p.variance[i], _covariance(q, i).diag())


def test_kl_is_exact_and_never_negative_next_to_the_prior() -> None:
    scale = 1 + torch.linspace(-1e-3, 1e-3, 41)
    q = td.Independent(td.Normal(torch.zeros(41, 1), scale[:, None]), 1)
    ours = kl(q, StandardGaussian(torch.zeros(1)), torch.zeros(41, 1))
    s = scale.double()
    exact = 0.5 * (s.square() - 1 - 2 * s.log())
    assert (ours >= 0).all()
    assert (ours - exact).abs().max() < 1e-9  # the usual form in float32 is off by 1e-7 here


def test_kl_of_a_family_that_torch_has_a_rule_for_is_that_rule() -> None:
    q = td.Independent(td.Laplace(torch.zeros(4, D), 1.5), 1)
    expected = td.kl_divergence(td.Laplace(0.0, 1.5), td.Normal(0.0, 1.0)) * D
    torch.testing.assert_close(kl(q, StandardGaussian(torch.zeros(D)), noise(4)), expected.expand(4))


def test_kl_without_a_rule_is_the_estimate_at_the_sample() -> None:
    q, p = td.Independent(td.StudentT(torch.full((4, D), 5.0)), 1), StandardGaussian(torch.zeros(D))
    z = noise(4)
    torch.testing.assert_close(kl(q, p, z), q.log_prob(z) - p.log_prob(z))


@pytest.mark.parametrize("prior", DENSE_PRIORS)
def test_prior_noise_makes_samples_of_p(prior: str) -> None:
    family = build(PRIORS, prior, SIZES)
    with torch.no_grad():
        p = family(given(torch.zeros(()), 1))
        z, other = family.transform(p, noise(50_000, family.noise_dim)), p.sample(torch.Size([50_000])).flatten(0, -2)
    error = 5 * (2 / 50_000) ** 0.5
    assert (z.mean(0) - other.mean(0)).abs().max() < error * other.std()
    assert (z.std(0) / other.std(0) - 1).abs().max() < error


def test_bernoulli_against_an_explicit_sum_in_double_precision() -> None:
    x, logits = images(4, (1, 5, 5)), 6 * noise(4, 25).reshape(4, 1, 5, 5)
    got = build(LIKELIHOODS, "Bernoulli", (1, 5, 5))(logits).log_prob(x)
    for b in range(4):
        total = 0.0
        for pixel, logit in zip(x[b].flatten().tolist(), logits[b].flatten().tolist(), strict=True):
            mean = 1 / (1 + math.exp(-logit))
            total += pixel * math.log(mean) + (1 - pixel) * math.log(1 - mean)
        assert got[b].item() == pytest.approx(total, rel=1e-5)


def test_bernoulli_survives_extreme_logits() -> None:
    logits = torch.tensor([-200.0, 200.0]).reshape(1, 1, 1, 2)
    p = build(LIKELIHOODS, "Bernoulli", (1, 1, 2))(logits)
    assert p.log_prob(torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2)).item() == 0
    assert p.log_prob(torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2)).item() == -400


def test_normal_with_unit_std_is_half_the_squared_error_up_to_a_constant() -> None:
    x, mean = images(4, (3, 4, 4)), images(4, (3, 4, 4)).flip(0)
    constant = 48 / 2 * math.log(2 * math.pi)
    got = -build(LIKELIHOODS, "Normal", (3, 4, 4))(mean).log_prob(x)
    torch.testing.assert_close(got, 0.5 * (x - mean).square().sum((1, 2, 3)) + constant)


@pytest.mark.parametrize("std", [0.1, 2.0])
def test_normal_integrates_to_one(std: float) -> None:
    grid = torch.linspace(-20, 20, 200_001, dtype=torch.float64)
    p = build(LIKELIHOODS, {"name": "Normal", "std": std}, (1, 1, 1))(
        torch.full((1, 1, 1, 1), 0.3, dtype=torch.float64)
    )
    density = p.log_prob(grid.reshape(-1, 1, 1, 1)).exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-9)


def test_elbo_is_the_sum_of_its_terms_and_beta_weighs_the_kl() -> None:
    model = VAE(image_shape=(1, 6, 6), latent_dim=D, hidden_dim=16)
    x = images(5, (1, 6, 6))
    out = model(x, noise(5))
    bound, weighted = negative_elbo(out, x), ELBO(beta=LinearWarmup(epochs=4.0))(out, x, 1.0)
    torch.testing.assert_close(bound.loss, bound.reconstruction + bound.kl)
    torch.testing.assert_close(weighted.loss, bound.reconstruction + 0.25 * bound.kl)
    torch.testing.assert_close(weighted.kl, bound.kl)


def test_a_mean_over_pixels_is_the_sum_with_as_many_times_the_beta() -> None:
    model = VAE(image_shape=(2, 6, 6), latent_dim=D, hidden_dim=16)
    x = images(5, (2, 6, 6))
    out = model(x, noise(5))
    got, expected = ELBO(beta=0.5, pixels="mean")(out, x, 0.0), ELBO(beta=0.5 * 72)(out, x, 0.0)
    torch.testing.assert_close(72 * got.loss, expected.loss)
    torch.testing.assert_close(got.reconstruction, expected.reconstruction)  # reported as it is


def test_free_bits_raise_the_mean_over_the_batch_of_each_dimension() -> None:
    """Against torch's rule for one dimension, and a loop; one dimension lies below the others' mean."""
    model = VAE(image_shape=(1, 6, 6), latent_dim=D, hidden_dim=16)
    x = images(5, (1, 6, 6))
    out = model(x, noise(5))
    bound, q = negative_elbo(out, x), out.latents[0].q.base_dist
    means = [
        sum(td.kl_divergence(td.Normal(q.loc[i, d], q.scale[i, d]), td.Normal(0.0, 1.0)).item() for i in range(5)) / 5
        for d in range(D)
    ]
    free_bits = (min(means) + max(means)) / 2
    got = ELBO(beta=0.5, free_bits=free_bits)(out, x, 0.0)
    raised = sum(max(mean, free_bits) for mean in means)
    assert got.loss.mean().item() == pytest.approx(bound.reconstruction.mean().item() + 0.5 * raised, rel=1e-5)
    torch.testing.assert_close(got.kl, bound.kl)  # reported as it is
    (gradient,) = torch.autograd.grad((got.loss - got.reconstruction).sum(), q.loc)
    assert [bool(column.any()) for column in gradient.T] == [mean > free_bits for mean in means]


ESTIMATED: list[dict[str, Any]] = [
    {"prior": "GaussianMixture"},
    {"hierarchy": {"name": "BottomUp", "latent_dims": [1]}},
]


@pytest.mark.parametrize("pieces", ESTIMATED)
def test_free_bits_of_an_estimated_kl_are_those_of_its_mean(pieces: dict[str, Any]) -> None:
    """Of a KL without a closed form single draws lie on both sides of what is free, where their mean does not."""
    model = VAE(image_shape=(1, 6, 6), latent_dim=D, hidden_dim=16, **pieces)
    x = images(1, (1, 6, 6)).expand(4000, -1, -1, -1)
    out = model(x, torch.randn(4000, model.noise_dim, generator=torch.Generator().manual_seed(1)))
    drawn = out.latents[0].log_ratio()
    assert drawn.mean() > 4 * drawn.std() / 4000**0.5, "the mean is too close to 0 to tell"
    others = sum(layer.kl().mean().item() for layer in out.latents[1:])
    for share in (0.5, 1.5):
        free_bits = share * drawn.mean().item() / D
        assert drawn.clamp(min=D * free_bits).mean() > max(share, 1) * drawn.mean() + 0.02  # of each draw: too much
        got = ELBO(beta=1.0, free_bits=free_bits)(out, x, 0.0)
        raised = max(share, 1) * drawn.mean().item() + (max(others, free_bits) if others else 0)
        assert (got.loss - got.reconstruction).mean().item() == pytest.approx(raised, rel=1e-4)
    if not others:
        parameters = list(model.encoder.parameters())
        slopes = torch.autograd.grad((got.loss - got.reconstruction).sum(), parameters)
        assert max(slope.abs().max() for slope in slopes) < 1e-2, "no gradient towards the prior, but rounding"


def test_each_dimension_of_a_ladders_layers_has_its_own_free_bits() -> None:
    """Against torch's rule for one dimension: q and p of every layer make dimensions independent."""
    ladder = {"name": "Ladder", "latent_dims": [2], "hidden_dims": [8], "depth": 1}
    model, x = VAE((1, 6, 6), D, hidden_dim=16, hierarchy=ladder).double(), images(5, (1, 6, 6)).double()
    out = model(x, torch.randn(5, model.noise_dim, dtype=torch.float64))
    bound = negative_elbo(out, x)
    layers = [(layer.q.base_dist, layer.p.base_dist) for layer in out.latents]
    means = torch.cat([td.kl_divergence(q, p).mean(0) for q, p in layers])
    assert means.shape == (D + 2,)
    torch.testing.assert_close(means.sum(), bound.kl.mean())
    free_bits = (means[:D].min().item() + means[:D].max().item()) / 2  # between those of the layer that is decoded
    got = ELBO(beta=1.0, free_bits=free_bits)(out, x, 0.0)
    torch.testing.assert_close((got.loss - got.reconstruction).mean(), means.clamp(min=free_bits).sum())


def test_dependent_dimensions_share_their_free_bits() -> None:
    model = VAE(image_shape=(1, 6, 6), latent_dim=D, hidden_dim=16, posterior="FullNormal")
    x = images(5, (1, 6, 6))
    out = model(x, noise(5))
    bound = negative_elbo(out, x)
    for free_bits in (1e-3, 5.0):
        raised = bound.kl if bound.kl.mean() > D * free_bits else torch.full_like(bound.kl, D * free_bits)
        got = ELBO(beta=1.0, free_bits=free_bits)(out, x, 0.0)
        torch.testing.assert_close(got.loss, bound.reconstruction + raised)


@pytest.mark.parametrize("free_bits", [0.0, 0.5])
@pytest.mark.parametrize("hierarchy", ["Flat", "BottomUp", "Ladder"])
def test_an_elbo_of_several_draws_is_the_mean_of_elbos_of_one(hierarchy: str, free_bits: float) -> None:
    model = VAE(image_shape=(1, 6, 6), latent_dim=D, hidden_dim=16, hierarchy=hierarchy).double()
    x, eps = images(5, (1, 6, 6)).double(), torch.randn(5, 3, model.noise_dim, dtype=torch.float64)
    got = ELBO(beta=0.5, samples=3)(model(x, eps), x, 0.0)
    each = [ELBO(beta=0.5)(model(x, eps[:, k]), x, 0.0) for k in range(3)]
    for name in ("loss", "reconstruction", "kl"):
        torch.testing.assert_close(getattr(got, name), torch.stack([getattr(one, name) for one in each]).mean(0))
    if free_bits:  # the mean that is raised is over draws and examples
        raised = ELBO(beta=0.5, samples=3, free_bits=free_bits)(model(x, eps), x, 0.0)
        assert raised.loss.mean() >= got.loss.mean()


def test_the_elbo_bounds_the_likelihood_from_below() -> None:
    """The evidence by brute force over a grid of z, against the ELBO averaged over many draws of the noise."""
    model = VAE(image_shape=(1, 4, 4), latent_dim=1, hidden_dim=8).double()
    x = (images(3, (1, 4, 4)) > 0.5).double()
    z = torch.linspace(-12, 12, 20_001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        log_p_z = StandardGaussian(torch.zeros(1, dtype=torch.float64)).log_prob(z)
        joint = torch.stack([model.decode(z).log_prob(image) + log_p_z for image in x])
        evidence = torch.logsumexp(joint, 1) + math.log(24 / 20_000)
        repeated = x.repeat_interleave(4000, 0)
        elbo = -negative_elbo(model(repeated, noise(12_000, 1, torch.float64)), repeated).loss.reshape(3, 4000).mean(1)
    assert (elbo < evidence).all()
    assert (evidence - elbo < 5).all()


def test_without_noise_the_model_draws_its_own() -> None:
    model = VAE(image_shape=(1, 6, 6), latent_dim=D, hidden_dim=16)
    x = images(5, (1, 6, 6))
    assert not torch.equal(model(x).latents[0].z, model(x).latents[0].z)
    assert torch.equal(model(x, noise(5)).latents[0].z, model(x, noise(5)).latents[0].z)


@every_piece
def test_several_draws_are_those_of_as_many_passes(pieces: dict[str, Any]) -> None:
    model = build_model(pieces, (3, 4, 4)).double()
    x, eps = images(5, (3, 4, 4), torch.float64), noise(20, model.noise_dim, torch.float64).view(5, 4, -1)
    with torch.no_grad():
        together, each = model(x, eps, labels(5)), [model(x, eps[:, k], labels(5)) for k in range(4)]
    assert together.latents[0].z.shape == (4, 5, D)
    for layer, layers in zip(together.latents, zip(*[out.latents for out in each], strict=True), strict=True):
        expected = torch.stack([one.q.log_prob(one.z) - one.p.log_prob(one.z) for one in layers])
        torch.testing.assert_close(layer.q.log_prob(layer.z) - layer.p.log_prob(layer.z), expected)
    torch.testing.assert_close(together.p_x.log_prob(x), torch.stack([out.p_x.log_prob(x) for out in each]))
    torch.testing.assert_close(together.p_x.mean, torch.stack([out.p_x.mean for out in each]))


def test_a_conditional_model_sees_labels_in_encoder_and_decoder() -> None:
    model = VAE(image_shape=(1, 6, 6), latent_dim=D, hidden_dim=16, condition=True, classes=4)
    x, labels = images(5, (1, 6, 6)), torch.tensor([0, 1, 2, 3, 1])
    out, other = model(x, noise(5), labels), model(x, noise(5), labels.flip(0))
    differs = (out.latents[0].q.mean != other.latents[0].q.mean).all(1)
    assert differs.tolist() == [True, True, False, True, True]
    z = noise(5)
    assert (model.decode(z, labels).mean != model.decode(z, labels.flip(0)).mean).flatten(1).any(1).tolist() == [
        True, True, False, True, True,
    ]  # fmt: skip
    assert torch.equal(model.sample(6, noise(6)), model.sample(6, noise(6), torch.tensor([0, 1, 2, 3, 0, 1])))
    assert model.interpolate(x[0], x[1], labels=labels[:2]).shape == (10, 1, 6, 6)
    with pytest.raises(ValueError, match="labels: must be given"):
        model(x, noise(5))
    with pytest.raises(ValueError, match="there are none"):
        VAE(condition=True)


def test_centred_input_shifts_what_the_encoder_sees_and_nothing_else() -> None:
    plain, centred = (VAE(image_shape=(1, 6, 6), latent_dim=D, hidden_dim=16, center_input=c) for c in (False, True))
    centred.load_state_dict(plain.state_dict())
    x = images(5, (1, 6, 6))
    torch.testing.assert_close(centred.encode(x).mean, plain.encode(x - 0.5).mean)


def test_probabilities_stay_in_float32_when_the_network_runs_in_bfloat16() -> None:
    for name in DENSE_POSTERIORS:
        model = VAE(image_shape=(1, 6, 6), latent_dim=D, hidden_dim=16, posterior=name)
        x = images(5, (1, 6, 6))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model(x, noise(5))
        assert out.latents[0].z.dtype == torch.float32
        assert negative_elbo(out, x).loss.dtype == torch.float32


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_functions_of_progress_that_settle(name: str) -> None:
    schedule = build(SCHEDULES, name)
    values = [schedule(progress / 10) for progress in range(400)]
    assert values == [schedule(progress / 10) for progress in range(400)]
    assert all(schedule(schedule.ends_at + later) == schedule(schedule.ends_at) for later in (0, 1, 100))


def test_linear_warm_up_is_a_straight_line() -> None:
    warmup = LinearWarmup(epochs=10.0)
    assert [warmup(progress) for progress in (0, 2.5, 5, 10, 50)] == [0, 0.25, 0.5, 1, 1]
    falling = LinearWarmup(epochs=10.0, start=5.0, end=1.0)
    assert [falling(progress) for progress in (0, 2.5, 5, 10, 50)] == [5, 4, 3, 1, 1]
    assert Constant(value=3.0)(17.0) == 3


def test_cycles_rise_stay_and_begin_anew() -> None:
    """Four cycles of ten epochs, the first half of each a rise."""
    cyclical = Cyclical(epochs=40.0, cycles=4, ratio=0.5, start=0.5, end=2.5)
    for cycle in range(4):
        values = [cyclical(10 * cycle + within) for within in (0, 1.25, 2.5, 5, 9.99)]
        assert values == pytest.approx([0.5, 1.0, 1.5, 2.5, 2.5])
    assert [cyclical(progress) for progress in (40, 41, 400)] == [2.5] * 3
    warmup, once = LinearWarmup(epochs=8.0), Cyclical(epochs=8.0, cycles=1, ratio=1.0)
    assert [once(progress) for progress in range(20)] == [warmup(progress) for progress in range(20)]


def test_a_cosine_falls_as_its_derivative_says() -> None:
    """Its slope is -pi/2 sin(pi p / epochs) (start - end) / epochs; half way it is in the middle."""
    cosine = Cosine(epochs=8.0, start=3.0, end=1.0)
    assert [cosine(progress) for progress in (0, 4, 8, 100)] == pytest.approx([3.0, 2.0, 1.0, 1.0])
    slopes = [(cosine(p + 1e-6) - cosine(p - 1e-6)) / 2e-6 for p in (1.0, 4.0, 7.5)]
    assert slopes == pytest.approx([-math.pi / 8 * math.sin(math.pi * p / 8) for p in (1.0, 4.0, 7.5)], rel=1e-6)


def test_milestones_multiply() -> None:
    """The seven milestones of Burda et al. 2016 end at 10^-1; torch's scheduler gives the same at each epoch."""
    milestones = [float(sum(3**j for j in range(i + 1))) for i in range(7)]
    burda = MultiStep(milestones=milestones, gamma=10 ** (-1 / 7))
    assert [burda(progress) for progress in (0, 0.999, 5000)] == pytest.approx([1, 1, 0.1])
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    torchs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [round(m) for m in milestones], gamma=10 ** (-1 / 7))
    for epoch in range(150):
        assert burda(epoch) == pytest.approx(torchs.get_last_lr()[0])
        optimizer.step()
        torchs.step()


@pytest.mark.parametrize("spec", ["Nothing", {"name": "Normal", "sdt": 1.0}, {"name": "Normal", "std": 0.0}, 3, {}])
def test_unusable_specs_are_refused(spec: object) -> None:
    with pytest.raises(SpecError):
        build(LIKELIHOODS, spec, (1, 4, 4))
