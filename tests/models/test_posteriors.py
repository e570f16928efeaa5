"""Flows, and the posteriors made of them: densities against Jacobians and quadrature, inverses, what broadcasts."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributions import Normal

from vae import assemble
from vae.components import build
from vae.config import load
from vae.data import randomness
from vae.distributed import launch
from vae.errors import InputError
from vae.families.distributions import Flowed, StandardGaussian, kl
from vae.families.flows import SplineCouplings, spline
from vae.families.posteriors import POSTERIORS, Posterior
from vae.model import VAE, WEIGHTS
from vae.networks.masked import Contracting
from vae.run.checkpoint import load_weights

SPECS: dict[str, dict[str, Any]] = {
    "SplineFlow": {"layers": 5, "bins": 5, "width": 16, "bound": 3.0, "context": 4},
    "InverseAutoregressiveFlow": {"layers": 3, "width": 16, "context": 4},
}
every_flow = pytest.mark.parametrize("name", SPECS)
every_dim = pytest.mark.parametrize("dim", [2, 3, 5])


def noise(*shape: int) -> Tensor:
    return randomness.normal(math.prod(shape), 1, 7, "test noise").double().view(shape)


def far_from_its_start(name: str, dim: int, **settings: Any) -> Posterior[Flowed]:
    """Return a family in float64 whose weights have been moved."""
    torch.manual_seed(3)
    family = build(POSTERIORS, {"name": name, **SPECS[name], **settings}, dim).double()
    with torch.no_grad():
        for weight in family.parameters():
            weight.add_(0.15 * torch.randn_like(weight))
    return family


def jacobian_of(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Return (D, D), by automatic differentiation column by column, of a function (1, D) -> (D,)."""
    found = torch.autograd.functional.jacobian(function, at)
    assert isinstance(found, Tensor)
    return found[:, 0]


@every_flow
@every_dim
def test_the_density_is_that_of_the_noise_over_the_jacobian(name: str, dim: int) -> None:
    family = far_from_its_start(name, dim)
    numbers, e = noise(4, family.features), 2 * noise(4, dim)
    q = family(numbers)
    got = q.log_prob(family.transform(q, e))
    for row in range(4):
        alone = family(numbers[row : row + 1])
        jacobian = jacobian_of(lambda one, q=alone: family.transform(q, one)[0], e[row : row + 1])
        expected = Normal(0.0, 1.0).log_prob(e[row]).sum() - torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(got[row], expected, rtol=1e-10, atol=1e-10)


@every_flow
@every_dim
def test_the_density_of_a_z_from_elsewhere_is_the_same(name: str, dim: int) -> None:
    """The noise remembered with a z that q made is that of the inverse; also after q has made another z."""
    family = far_from_its_start(name, dim)
    q = family(noise(6, family.features))
    z = family.transform(q, 3 * noise(2, 6, dim))  # some of it beyond the splines' interval
    remembered = q.log_prob(z)
    torch.testing.assert_close(q.log_prob(z.clone()), remembered, rtol=1e-9, atol=1e-9)
    q.rsample()
    torch.testing.assert_close(q.log_prob(z), remembered, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(q.log_prob(z[1]), remembered[1], rtol=1e-9, atol=1e-9)


@every_flow
def test_gradients_do_not_depend_on_which_way_the_density_went(name: str) -> None:
    family = far_from_its_start(name, 3)
    numbers = noise(4, family.features).requires_grad_()
    found = []
    for elsewhere in (False, True):
        q = family(numbers)
        z = family.transform(q, noise(4, 3))
        density = q.log_prob(z * 1 if elsewhere else z).sum()
        found.append(torch.autograd.grad(density, [numbers, *family.parameters()]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@every_flow
def test_each_q_can_be_asked_about_the_z_of_each_other(name: str) -> None:
    family = far_from_its_start(name, 3)
    numbers = noise(5, family.features)
    q = family(numbers)
    z = family.transform(q, noise(5, 3))
    pairs = q.log_prob(z[:, None])
    assert pairs.shape == (5, 5)
    for j in range(5):
        torch.testing.assert_close(pairs[:, j], family(numbers[j : j + 1].expand(5, -1)).log_prob(z))


@every_flow
@torch.no_grad()
def test_densities_integrate_to_one_and_the_kl_is_estimated_without_bias(name: str) -> None:
    family = far_from_its_start(name, 2)
    q, p = family(noise(1, family.features) + 2), StandardGaussian(torch.zeros(2, dtype=torch.float64))
    ticks = torch.linspace(-8, 12, 501, dtype=torch.float64)
    z = torch.cartesian_prod(ticks, ticks)
    log_q = q.log_prob(z[:, None])[:, 0]
    mass = log_q.exp() * (ticks[1] - ticks[0]) ** 2
    assert mass.sum().item() == pytest.approx(1, abs=5e-4)
    exact = (mass * (log_q - p.log_prob(z))).sum().item()
    draws = family.transform(q, noise(20_000, 1, 2))
    ratios = q.log_prob(draws) - p.log_prob(draws)
    got = kl(q, p, draws)
    assert got.shape == (1,)
    assert abs(got.item() - exact) < 4 * ratios.std().item() / math.sqrt(len(ratios)) + 1e-3
    mean = mass @ z
    assert (draws.mean((0, 1)) - mean).abs().max() < 5 * draws.std() / math.sqrt(len(ratios))


@every_flow
def test_the_mean_is_the_image_of_no_noise_and_samples_have_their_shapes(name: str) -> None:
    family = far_from_its_start(name, 3)
    numbers = noise(4, family.features).requires_grad_()
    q = family(numbers)
    torch.testing.assert_close(q.mean, family.transform(q, torch.zeros(4, 3, dtype=torch.float64)))
    assert q.batch_shape == (4,)
    assert q.event_shape == (3,)
    assert q.rsample().shape == (4, 3)
    z = q.rsample(torch.Size([7, 2]))
    assert z.shape == (7, 2, 4, 3)
    assert q.log_prob(z).shape == (7, 2, 4)
    (gradient,) = torch.autograd.grad(z.sum(), numbers)
    assert gradient.abs().sum() > 0
    assert not q.sample().requires_grad


@every_flow
def test_the_context_shapes_q_beyond_loc_and_scale(name: str) -> None:
    family = far_from_its_start(name, 3)
    numbers, e = noise(1, family.features).expand(2, -1).clone(), noise(1, 3).expand(2, -1)
    numbers[1, 6:] += 1
    z = family.transform(family(numbers), e)
    assert (z[0] - z[1]).abs().max() > 1e-3
    without = far_from_its_start(name, 3, context=0)
    assert without.features == 6
    assert without.transform(without(noise(2, 6)), e).shape == (2, 3)


@every_flow
@torch.no_grad()
def test_a_context_of_any_size_moves_z_no_further_than_its_bound(name: str) -> None:
    family = far_from_its_start(name, 3)
    numbers, e = noise(4, family.features), noise(4, 3)

    def at(size: float) -> Tensor:
        return family.transform(family(torch.cat([numbers[:, :6], size * numbers[:, 6:]], 1)), e)

    assert (at(1.0) - at(1e3)).abs().max() > 1e-3
    torch.testing.assert_close(at(1e3), at(1e6), rtol=1e-12, atol=1e-12)


@every_flow
@torch.no_grad()
def test_under_autocast_z_and_density_are_the_same_and_in_float32(name: str) -> None:
    family = far_from_its_start(name, 3).float()
    numbers, e = noise(4, family.features).bfloat16(), noise(4, 3).float()

    def found() -> tuple[Tensor, ...]:
        q = family(numbers)
        z = family.transform(q, e)
        return z, q.log_prob(z), q.log_prob(z.clone())

    expected = found()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(torch.equal(*both) for both in zip(found(), expected, strict=True))
    assert all(tensor.dtype == torch.float32 for tensor in expected)
    torch.testing.assert_close(expected[1], expected[2], rtol=1e-4, atol=1e-4)


def test_an_autoregressive_step_sees_only_the_dimensions_before() -> None:
    """One layer has a lower triangle as its Jacobian, two layers neither an upper nor a lower one."""
    for layers, lower, upper in ((1, True, False), (2, True, True)):
        flow = far_from_its_start("InverseAutoregressiveFlow", 4, layers=layers).get_submodule("bijection")
        context = noise(1, 4)
        jacobian = jacobian_of(lambda e, f=flow, c=context: f(e, c)[0][0], noise(1, 4))
        assert bool(jacobian.tril(-1).abs().max() > 1e-3) == lower
        assert bool(jacobian.triu(1).abs().max() > 1e-12) == upper


@pytest.mark.parametrize("width", [1, 3, 8, 9, 40])
def test_every_earlier_dimension_and_the_context_matter_however_narrow_a_step_is(width: int) -> None:
    """Of 10 dimensions and one layer; fewer hidden units than 9 have not enough degrees by themselves."""
    flow = far_from_its_start("InverseAutoregressiveFlow", 10, layers=1, width=width).get_submodule("bijection")
    e, context = noise(1, 10), noise(1, 4)
    of_e = jacobian_of(lambda e: flow(e, context)[0][0], e)
    rows, columns = torch.tril_indices(10, 10, -1)
    assert (of_e[rows, columns].abs() > 1e-9).all()
    assert not of_e.triu(1).any()
    of_context = jacobian_of(lambda context: flow(e, context)[0][0], context)
    assert (of_context.abs() > 1e-9).all(), "the first dimension follows the context too"


@pytest.mark.parametrize("contracting", [True, False])
def test_numbers_of_a_contracting_spline_move_by_an_eighth_of_what_its_network_sees_whatever_its_weights(
    contracting: bool,
) -> None:
    """Three layers halve what moves, and SiLU between them is 1.1 steep at most, at 2.4. A prior's have no bound."""
    torch.manual_seed(3)
    flow = SplineCouplings(4, context=5, layers=1, width=16, bins=6, bound=3.0, contracting=contracting).double()
    (network,) = flow.networks
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(30 if weight.dim() == 2 else 1)
    seen = (noise(500, 2), noise(500, 5))
    slopes = torch.autograd.functional.jacobian(lambda *inputs: network(*inputs).sum(0), seen)
    steepest = max(slope.abs().sum(-1).max().item() for slope in slopes)  # of (outputs, 500, inputs)
    assert 0.005 < steepest < 1.1**2 / 8 if contracting else steepest > 100


def test_a_row_of_zeros_in_a_contracting_layer_has_a_finite_gradient() -> None:
    """The other rows' outputs are products with weights that were divided by twice their row's sum."""
    torch.manual_seed(3)
    layer, x = Contracting(4, 3).double(), noise(5, 4)
    with torch.no_grad():
        layer.weight[0] = 0
        layer.weight[1:] *= 30
    sums = layer.weight.detach().abs().sum(1)
    expected = torch.stack(
        [x @ row / (2 * total) if total else 0 * x[:, 0] for row, total in zip(layer.weight, sums, strict=True)], 1
    )
    torch.testing.assert_close(layer(x), expected + layer.bias)
    (gradient,) = torch.autograd.grad(layer(x).sum(), layer.weight)
    torch.testing.assert_close(gradient[0], x.sum(0))


@pytest.mark.parametrize("name", SPECS)
def test_training_leaves_a_flow_that_is_not_steep(name: str) -> None:
    """1,000 steps at three times the default rate; without bounds single gradients reach hundreds, slopes of z tens."""
    settings = ["model.hidden_dim=64", "model.depth=1", f"model.posterior={name}", "objective.beta=1"]
    config = load(None, [*settings, "optim.lr=0.003", "train.batch_size=64", "train.engine=eager"])
    data, objective = assemble.build_data(config), assemble.build_objective(config)
    model = assemble.build_model(config, data.image_shape)
    batches = assemble.build_batches(config, data, model, objective, torch.device("cpu"))
    engine = assemble.build_engine(config, launch.make_accelerator("cpu", "no", {}), model, objective, batches)
    largest = torch.zeros(())
    for step in range(1000):
        engine.advance(step, step + 1)
        if step >= 100:
            largest = largest.maximum(engine.update.grad_norm)
    print("LARGEST", largest)
    assert largest < 120
    e = randomness.normal(2000, 2, 0, "test noise").float()
    numbers = model.encoder(data.test.images[:2000] / 255).detach().requires_grad_()
    z = model.posterior.transform(model.posterior(numbers), e)
    jacobian = torch.stack([torch.autograd.grad(z[:, dim].sum(), numbers, retain_graph=True)[0] for dim in range(2)], 1)
    print("SLOPE", torch.linalg.matrix_norm(jacobian, 2).max())
    assert torch.linalg.matrix_norm(jacobian, 2).max() < 5


def test_a_posterior_saved_before_its_context_had_a_bound_is_refused(tmp_path: Path) -> None:
    """The weights have the same shapes, and would be another function."""
    model = VAE(image_shape=(1, 4, 4), hidden_dim=8, depth=1, posterior="SplineFlow")
    model.save_pretrained(tmp_path)
    load_weights(tmp_path, model)
    weights = load_file(tmp_path / WEIGHTS)
    save_file(
        {name.replace("posterior.bijection.", "posterior.flow."): weights[name] for name in weights}, tmp_path / WEIGHTS
    )
    with pytest.raises(InputError, match="holds a different model"):
        load_weights(tmp_path, model)


def test_splines_rise_from_end_to_end_and_have_the_slope_they_say() -> None:
    numbers = 3 * noise(1, 3 * 6 - 1)
    x = torch.linspace(-4, 4, 2001, dtype=torch.float64, requires_grad=True)
    y, log_slope = spline(x, numbers.expand(2001, -1), 3.0, inverse=False)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert (slope > 0).all()
    torch.testing.assert_close(log_slope, slope.log(), rtol=1e-9, atol=1e-9)
    outside = x.abs() >= 3
    assert torch.equal(y[outside], x[outside])
    assert (y.diff() > 0).all()
    back, again = spline(y.detach(), numbers.expand(2001, -1), 3.0, inverse=True)
    torch.testing.assert_close(back, x.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(again, log_slope, rtol=1e-6, atol=1e-7)


def test_splines_of_zeros_are_the_identity_and_gradients_are_finite_everywhere() -> None:
    x = torch.tensor([-1e6, -3.0, -2.9999998, -1.0, 0.0, 1.0, 2.9999998, 3.0, 1e6])
    for inverse in (False, True):
        numbers = torch.zeros(len(x), 11, requires_grad=True)
        y, log_slope = spline(x.requires_grad_(), numbers, 3.0, inverse=inverse)
        torch.testing.assert_close(y, x, rtol=1e-6, atol=1e-6)
        assert log_slope.abs().max() < 1e-5
        assert all(g.isfinite().all() for g in torch.autograd.grad((y + log_slope).sum(), [x, numbers]))
