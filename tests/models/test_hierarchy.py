"""Models of several stochastic layers: what they draw, and that each KL is the mean of log q - log p."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from vae.config import load
from vae.data import randomness
from vae.errors import InputError
from vae.families.hierarchy import HIERARCHIES, product
from vae.model import VAE
from vae.objectives import negative_elbo

LAYERS = {"latent_dims": [3, 2], "hidden_dims": [6], "depth": 1}
SPECS = [{"name": "Flat"}, *({"name": name, **LAYERS} for name in HIERARCHIES if name != "Flat")]
every_hierarchy = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec["name"])


def build(spec: dict[str, Any], **pieces: Any) -> VAE:
    torch.manual_seed(0)
    model = VAE(image_shape=(1, 4, 4), latent_dim=4, hidden_dim=8, hierarchy=spec, **pieces).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.2)  # further from linear than at the start
    return model


def images(count: int) -> Tensor:
    return torch.from_numpy(randomness.generator(7, "test").random((count, 1, 4, 4)))


def noise(count: int, dim: int) -> Tensor:
    return randomness.normal(count, dim, 7, "test noise").double()


@every_hierarchy
def test_each_kl_is_the_mean_of_log_q_less_log_p(spec: dict[str, Any]) -> None:
    """Over many draws; a closed form for a q whose z the p has seen would be another number."""
    model, x = build(spec), images(1)
    with torch.no_grad():
        out = model(x, noise(100_000, model.noise_dim).view(1, 100_000, -1))
    for layer in out.latents:
        samples, ours = layer.log_ratio()[:, 0], layer.kl()
        ours = ours[:, 0] if ours.dim() == 2 else ours
        spread = 4 * (samples - ours).std() / len(samples) ** 0.5
        assert (samples.mean() - ours.mean()).abs() <= spread + 1e-12, (samples.mean(), ours.mean())


def test_the_closed_form_would_be_another_number_bottom_up() -> None:
    """The trap that `estimated` avoids: q(z_1|x) against p(z_1|z_2), where z_2 was drawn from z_1."""
    model, x = build({"name": "BottomUp", **LAYERS}), images(1)
    with torch.no_grad():
        first = model(x, noise(100_000, model.noise_dim).view(1, 100_000, -1)).latents[0]
    closed, estimate = torch.distributions.kl_divergence(first.q, first.p)[:, 0], first.log_ratio()[:, 0]
    assert (closed.mean() - estimate.mean()).abs() > 6 * (closed - estimate).std() / len(closed) ** 0.5


@every_hierarchy
def test_the_kl_is_a_closed_form_wherever_p_has_not_seen_z(spec: dict[str, Any]) -> None:
    """In every layer of a ladder and in the highest one of others: an estimate would be right too, but noisy."""
    model, x = build(spec), images(3)
    latents = model(x, noise(3, model.noise_dim)).latents
    for layer in latents if spec["name"] == "Ladder" else latents[-1:]:
        q, p = (each.base_dist for each in (layer.q, layer.p))
        expected = torch.distributions.kl_divergence(Normal(q.loc, q.scale), Normal(p.loc, p.scale)).sum(-1)
        torch.testing.assert_close(layer.kl(), expected)
        assert (layer.kl() - layer.log_ratio()).abs().min() > 1e-3


@every_hierarchy
def test_the_elbo_bounds_the_likelihood_that_draws_from_q_and_from_p_agree_on(spec: dict[str, Any]) -> None:
    wide = {"name": "DiagonalNormal", "eps": 1.0}  # q wider than p: its weights have a variance
    model, x = build(spec, posterior=wide), images(2)
    with torch.no_grad():
        out = model(x, noise(2 * 50_000, model.noise_dim).view(2, 50_000, -1))
        weights = out.p_x.log_prob(x) - sum(layer.log_ratio() for layer in out.latents)
        prior = model.decode(model.draw(noise(200_000, model.draw_dim))[:, None]).log_prob(x)  # (200000, 2)
    (evidence, error), (weighted, its_error) = log_mean(prior), log_mean(weights)
    assert (-negative_elbo(out, x).loss.mean(0) < weighted).all()
    assert ((weighted - evidence).abs() < 4 * (error + its_error)).all()
    assert (error + its_error < 0.1).all(), "too rough to tell"


def log_mean(logs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithm of the mean of exp(logs) over the draws (K, B), and its standard error."""
    values = logs.exp()
    return values.mean(0).log(), values.std(0) / values.mean(0) / len(logs) ** 0.5


@every_hierarchy
def test_layers_have_their_sizes_and_every_weight_a_gradient(spec: dict[str, Any]) -> None:
    model, x = build(spec), images(5)
    out = model(x, noise(5, model.noise_dim))
    assert [layer.z.shape[-1] for layer in out.latents] == ([4] if spec["name"] == "Flat" else [4, 3, 2])
    negative_elbo(out, x).loss.sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name
    assert model.sample(3).shape == (3, 1, 4, 4)
    assert model.reconstruct(x).shape == x.shape


def test_two_layers_of_a_bottom_up_model_are_the_formula() -> None:
    """log w, written out layer by layer from the networks themselves."""
    model, x = build({"name": "BottomUp", "latent_dims": [3], "hidden_dims": [6], "depth": 1}), images(2)
    eps = noise(2, 7)
    with torch.no_grad():
        out = model(x, eps)
        up, down = model.hierarchy.get_submodule("up.0"), model.hierarchy.get_submodule("down.0")

        def normal(numbers: Tensor) -> Normal:
            loc, raw = numbers.chunk(2, -1)
            return Normal(loc, torch.nn.functional.softplus(raw) + 1e-6)

        q1 = normal(model.encoder(x))
        z1 = q1.loc + q1.scale * eps[:, :4]
        q2 = normal(up(z1))
        z2 = q2.loc + q2.scale * eps[:, 4:]
        p1, p2 = normal(down(z2)), Normal(0.0, 1.0)
        expected = sum((q.log_prob(z) - p.log_prob(z)).sum(-1) for q, p, z in ((q1, p1, z1), (q2, p2, z2)))
    torch.testing.assert_close(sum(layer.log_ratio() for layer in out.latents), expected)


def test_two_layers_of_a_ladder_are_the_formula() -> None:
    """Sonderby et al. 2016, eq. 11 to 19: up through the activation of what the encoder hands on, then down."""
    model, x = build({"name": "Ladder", "latent_dims": [3], "hidden_dims": [6], "depth": 1}), images(2)
    eps = noise(2, 7)
    with torch.no_grad():
        out = model(x, eps)
        up, down = model.hierarchy.get_submodule("up.0"), model.hierarchy.get_submodule("down.0")
        numbers = model.encoder(x)

        def moments(numbers: Tensor) -> tuple[Tensor, Tensor]:
            loc, raw = numbers.chunk(2, -1)
            return loc, (torch.nn.functional.softplus(raw) + 1e-6) ** 2

        loc2, var2 = moments(up(torch.nn.functional.silu(numbers[:, 8:])))
        z2 = loc2 + var2.sqrt() * eps[:, 4:]
        (own, own_var), (above, above_var) = moments(numbers[:, :8]), moments(down(z2))
        var1 = 1 / (1 / own_var + 1 / above_var)
        loc1 = var1 * (own / own_var + above / above_var)
        z1 = loc1 + var1.sqrt() * eps[:, :4]
        q1, p1, q2, p2 = (
            Normal(loc, torch.as_tensor(var).sqrt())
            for loc, var in ((loc1, var1), (above, above_var), (loc2, var2), (0.0, 1.0))
        )
        expected = sum((q.log_prob(z) - p.log_prob(z)).sum(-1) for q, p, z in ((q1, p1, z1), (q2, p2, z2)))
    torch.testing.assert_close(out.latents[0].z, z1)
    torch.testing.assert_close(sum(layer.log_ratio() for layer in out.latents), expected)


def test_a_product_of_normals_is_proportional_to_the_product_of_their_densities() -> None:
    a = Independent(Normal(torch.randn(5, 3).double(), torch.rand(5, 3).double() + 0.1), 1)
    b = Independent(Normal(torch.randn(5, 3).double(), torch.rand(5, 3).double() + 0.1), 1)
    c, z = product(a, b), torch.randn(2, 5, 3).double()
    first, second = a.log_prob(z) + b.log_prob(z) - c.log_prob(z)
    torch.testing.assert_close(first, second)


@every_hierarchy
def test_full_covariances_and_saved_models(spec: dict[str, Any], tmp_path: Any) -> None:
    posterior = "DiagonalNormal" if spec["name"] == "Ladder" else "FullNormal"
    model, x = build(spec, posterior=posterior).float(), images(3).float()
    model.save_pretrained(tmp_path)
    eps = noise(3, model.noise_dim).float()
    out = model(x, eps)
    assert torch.equal(VAE.from_pretrained(tmp_path)(x, eps).p_x.mean, out.p_x.mean)
    assert isinstance(out.latents[-1].q, MultivariateNormal) == (posterior == "FullNormal")


def test_a_ladder_of_full_covariances_is_refused() -> None:
    with pytest.raises(InputError, match="a Ladder multiplies diagonal normals"):
        load(None, ["model.hierarchy=Ladder", "model.posterior=FullNormal"])


@every_hierarchy
def test_a_compiler_can_follow_the_whole_step(spec: dict[str, Any]) -> None:
    """A break of the graph, which would make `train.engine=compile` fall back, is an error here."""
    model, x, eps = build(spec), images(3), noise(3, build(spec).noise_dim)
    expected = negative_elbo(model(x, eps), x).loss  # torch looks up its KL rules once, before they are traced
    torch._dynamo.reset()
    loss = torch.compile(lambda: negative_elbo(model(x, eps), x).loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(loss(), expected, rtol=1e-12, atol=0)
