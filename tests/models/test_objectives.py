"""Objectives against their formulas written out: loops, enumeration, closed forms, Monte Carlo."""

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributions as td
from torch import Tensor

from tests.helpers.runs import rows, scalars
from tests.helpers.starts import Outcome
from vae import assemble
from vae.components import Spec, build
from vae.config import Config, load, warnings
from vae.data import randomness
from vae.data.batches import TrainingBatches
from vae.distributed import launch
from vae.distributed.peers import Ranks
from vae.engine import Engine
from vae.engine.ledger import Ledger
from vae.engine.static import Static
from vae.errors import InputError
from vae.model import VAE, VAEOutput
from vae.objectives import (
    ELBO,
    IWAE,
    OBJECTIVES,
    BetaTCVAE,
    CapacityVAE,
    InfoVAE,
    Objective,
    VectorQuantization,
    negative_elbo,
)

D, B = 3, 6
CODES: Spec = {"name": "VectorQuantized", "codes": 5, "code_dim": 1}
IMAGES = torch.randint(0, 256, (103, 1, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def normal(*shape: int, name: str = "test noise") -> Tensor:
    return randomness.normal(math.prod(shape), 1, 7, name).view(shape).double()


def make(
    posterior: str | Spec = "DiagonalNormal", size: int = 3, latent_dim: int = D, prior: str = "StandardNormal"
) -> tuple[VAE, Tensor]:
    """Return a model in float64, whose q are wide apart, and binary images."""
    torch.manual_seed(3)
    pieces = {"posterior": posterior, "prior": prior}
    model = VAE(image_shape=(1, size, size), latent_dim=latent_dim, hidden_dim=8, depth=1, **pieces).double()
    with torch.no_grad():
        for weight in model.encoder.parameters():
            weight.mul_(3)
    return model, (normal(B, 1, size, size, name="images") > 0).double()


def run(objective: Objective, samples: int = 1, posterior: str = "DiagonalNormal") -> tuple[VAE, Tensor, VAEOutput]:
    codes = isinstance(objective, VectorQuantization)
    model, x = make(CODES, prior="AutoregressiveCodes") if codes else make(posterior)
    eps = normal(B, samples, D)
    return model, x, model(x, eps if objective.samples > 1 else eps[:, 0])


@pytest.fixture(autouse=True)
def leaving() -> Iterator[None]:
    yield
    launch.leave()


# --- what all have in common ------------------------------------------------------------------------------------------


# for a model that infers no labels; of one that does, see test_semi_supervised.py
NAMES = [name for name in OBJECTIVES if name != "SemiSupervised"]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_declared_is_what_is_given(name: str) -> None:
    objective: Objective = build(OBJECTIVES, name)
    _, x, output = run(objective, objective.samples)
    terms = objective(output, x, 1.0)
    assert tuple(terms.extra) == objective.extra
    for term in (terms.loss, terms.reconstruction, terms.kl, *terms.extra.values()):
        assert term.shape == (B,)
        assert term.isfinite().all()
    assert objective.at(0.5).keys() == objective.at(50.0).keys() == objective.schedules.keys()
    assert all(getattr(objective, name)(3.0) == value for name, value in objective.at(3.0).items())
    assert objective.beta(1.0) >= 0
    first = terms.first(2)
    assert torch.equal(first.loss, terms.loss[:2])
    assert [len(term) for term in first.extra.values()] == [2] * len(first.extra)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_reported_as_reconstruction_and_kl_is_not_weighted(name: str) -> None:
    objective: Objective = build(OBJECTIVES, name)
    if objective.samples == 1:
        _, x, output = run(objective)
        bound, terms = negative_elbo(output, x), objective(output, x, 1.0)
        torch.testing.assert_close(terms.reconstruction, bound.reconstruction)
        torch.testing.assert_close(terms.kl, bound.kl)


REFUSED = {
    "objective={name: IWAE, gradient: doubly}": "objective.gradient",
    "objective={name: IWAE, samples: 0}": "objective.samples",
    "objective=BetaTCVAE model.posterior=FullNormal": "needs independent dimensions, not model.posterior.name = 'Full",
    "objective={name: InfoVAE, alpha: 0.5, lambda_: 0.1}": "lambda_ = 0.1: with objective.alpha = 0.5 the MMD",
    "objective=InfoVAE model.hierarchy=BottomUp": "for one stochastic layer, not model.hierarchy.name = 'BottomUp'",
    "objective=BetaTCVAE model.hierarchy=Ladder": "for one stochastic layer, not model.hierarchy.name = 'Ladder'",
    "objective={name: IWAE, gradient: doubly_reparameterized} model.hierarchy=BottomUp": "for one stochastic layer",
    "objective={name: InfoVAE, alpha: 2}": "objective.alpha = 2",
    "objective={name: CapacityVAE, capacity: -1}": "objective.capacity.value = -1",
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_refused_with_one_line(overrides: str) -> None:
    with pytest.raises(InputError, match="objective") as refusal:
        load(None, overrides.replace(" model.", "|model.").split("|"))
    assert REFUSED[overrides] in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_capacity_that_rises_longer_than_training_is_a_warning() -> None:
    config = load(None, ["objective=CapacityVAE"])
    assert warnings(config, 5) == ["objective.capacity: the schedule lasts 10 epochs, longer than the run (5 epochs)"]
    assert warnings(load(None, ["objective=IWAE"]), 1) == []


# --- IWAE -------------------------------------------------------------------------------------------------------------


def log_weight(model: VAE, x: Tensor, z: Tensor, q: td.Distribution) -> Tensor:
    """log p(x|z) + log p(z) - log q(z), () for one image (1, 1, H, W) and z (D,), from torch's own pieces."""
    logits = model.decoder(z[None])
    log_likelihood = -torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    return log_likelihood + td.Normal(0.0, 1.0).log_prob(z).sum() - q.log_prob(z)


def posterior_of(model: VAE, numbers: Tensor, name: str) -> td.Distribution:
    """q(z|x) from the encoder's numbers (F,), by torch's full covariance."""
    if name == "FullNormal":
        lower = torch.zeros(D, D, dtype=torch.float64)
        rows, columns = torch.tril_indices(D, D)
        raw = numbers[D:]
        lower[rows, columns] = torch.where(rows == columns, torch.nn.functional.softplus(raw) + 1e-6, raw)
    else:
        lower = torch.diag(torch.nn.functional.softplus(numbers[D:]) + 1e-6)
    return td.MultivariateNormal(numbers[:D], scale_tril=lower)


@pytest.mark.parametrize("posterior", ["DiagonalNormal", "FullNormal"])
@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("gradient", ["standard", "doubly_reparameterized"])
def test_iwae_and_its_gradient_draw_by_draw(posterior: str, samples: int, gradient: str) -> None:
    """The bound and both estimates of its gradient, image by image and draw by draw."""
    objective = IWAE(samples=samples, gradient=gradient)  # type: ignore[arg-type]
    model, x, output = run(objective, samples, posterior)
    terms = objective(output, x, 0.0)
    parameters = list(model.parameters())
    got = torch.autograd.grad(terms.loss.sum(), parameters)
    expected = [torch.zeros_like(weight) for weight in parameters]

    def add(loss: Tensor) -> None:
        for total, part in zip(expected, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
            if part is not None:
                total.add_(part)

    for i, eps in enumerate(normal(B, samples, D)):
        image = x[i : i + 1]
        weights, draws = [], []
        for k in range(samples):
            q = posterior_of(model, model.encoder(image)[0], posterior)
            assert isinstance(q, td.MultivariateNormal)
            z = q.loc + q.scale_tril @ eps[k]
            weights.append(log_weight(model, image, z, q))
            draws.append(z)
        w = torch.stack(weights).exp()
        bound = w.mean().log()
        assert terms.loss[i].item() == pytest.approx(-bound.item(), rel=1e-12)
        assert (terms.reconstruction + terms.kl)[i].item() == pytest.approx(-torch.stack(weights).mean().item())
        share = (w / w.sum()).tolist()
        effective = 1 / sum(v**2 for v in share)
        assert terms.extra["effective_samples"][i].item() == pytest.approx(effective, rel=1e-10)
        if gradient == "standard":
            add(-bound)
            continue
        for v, z in zip(share, draws, strict=True):
            here = z.detach().requires_grad_()
            fixed = posterior_of(model, model.encoder(image)[0].detach(), posterior)
            value = log_weight(model, image, here, fixed)
            (slope,) = torch.autograd.grad(value, here, retain_graph=True)
            add(-v * value)  # all but the encoder
            add(-(v**2) * (slope * z).sum())  # the encoder
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_the_two_estimates_of_the_gradient_agree_and_the_second_is_less_noisy() -> None:
    """One image 6,000 times, each with its own eight draws: the gradient of its mean and standard deviation."""
    model, x = make(size=2, latent_dim=2)
    count, found = 6_000, {}
    for gradient in ("standard", "doubly_reparameterized"):
        objective = IWAE(samples=8, gradient=gradient)  # type: ignore[arg-type]
        output = model(x[:1].expand(count, -1, -1, -1), normal(count, 8, 2, name=gradient))
        base = output.latents[0].q.base_dist
        found[gradient] = torch.cat(
            torch.autograd.grad(
                objective(output, x[:1].expand(count, -1, -1, -1), 0.0).loss.sum(), [base.loc, base.scale]
            ),
            1,
        )
    standard, doubly = found.values()
    error = ((standard.var(0) + doubly.var(0)) / count).sqrt()
    assert ((standard.mean(0) - doubly.mean(0)).abs() < 4 * error).all()
    assert (standard.mean(0).abs() > 10 * error).any()  # it would have been noticed
    assert (doubly.var(0) < 0.5 * standard.var(0)).all()


def test_more_draws_give_a_tighter_bound() -> None:
    model, x = make()
    losses = []
    for samples in (1, 5, 50):
        repeated, eps = x.repeat_interleave(200, 0), normal(B * 200, samples, D)
        objective = IWAE(samples=samples)
        output = model(repeated, eps if samples > 1 else eps[:, 0])
        losses.append(objective(output, repeated, 0.0).loss.mean().item())
    assert losses[0] > losses[1] > losses[2]


@pytest.mark.parametrize("hierarchy", ["BottomUp", "Ladder"])
def test_several_layers_have_one_weight_for_all_of_them(hierarchy: str) -> None:
    """Three draws at once against three passes of one."""
    spec = {"name": hierarchy, "latent_dims": [2], "hidden_dims": [6], "depth": 1}
    model = VAE(image_shape=(1, 3, 3), latent_dim=D, hidden_dim=8, depth=1, hierarchy=spec).double()
    _, x = make()
    eps = normal(B, 3, model.noise_dim)
    terms = IWAE(samples=3)(model(x, eps), x, 0.0)
    weights = []
    for k in range(3):
        output = model(x, eps[:, k])
        weights.append(output.p_x.log_prob(x) - sum(layer.log_ratio() for layer in output.latents))
    torch.testing.assert_close(terms.loss, -torch.stack(weights).exp().mean(0).log())
    torch.testing.assert_close(terms.reconstruction + terms.kl, -torch.stack(weights).mean(0))


# --- BetaTCVAE --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["weighted", "stratified"])
def test_the_terms_of_the_kl_against_a_double_loop(estimator: str) -> None:
    objective = BetaTCVAE(beta=4.0, alpha=0.5, gamma=2.0, estimator=estimator)  # type: ignore[arg-type]
    _, x, output = run(objective)
    examples = 1000
    terms = objective.terms(output, x, objective.at(0.0), Ranks(B, examples))
    layer, bound = output.latents[0], negative_elbo(output, x)
    assert isinstance(layer.q, td.Independent)
    q, z = layer.q.base_dist, layer.z

    def density(i: int, j: int, d: int) -> float:
        """q(z_d|x_j) at the z of example i."""
        mean, std, at = q.loc[j, d].item(), q.scale[j, d].item(), z[i, d].item()
        return math.exp(-0.5 * ((at - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))

    def weight(i: int, j: int) -> float:
        if estimator == "weighted":
            return 1 / (examples * B)
        return 1 / examples if i == j else (examples - 1) / examples / (B - 1)

    for i in range(B):
        given_x = sum(math.log(density(i, i, d)) for d in range(D))
        joint = math.log(sum(weight(i, j) * math.prod(density(i, j, d) for d in range(D)) for j in range(B)))
        each = sum(math.log(sum(weight(i, j) * density(i, j, d) for j in range(B))) for d in range(D))
        prior = sum(-0.5 * at**2 - 0.5 * math.log(2 * math.pi) for at in z[i].tolist())
        parts = (given_x - joint, joint - each, each - prior)
        for name, part in zip(objective.extra, parts, strict=True):
            assert terms.extra[name][i].item() == pytest.approx(part, rel=1e-10)
        loss = bound.loss[i].item() - 0.5 * parts[0] + 3 * parts[1] + parts[2]
        assert terms.loss[i].item() == pytest.approx(loss, rel=1e-10)


def test_with_all_weights_one_it_is_the_elbo() -> None:
    objective = BetaTCVAE(beta=1.0)
    model, x, output = run(objective)
    ours = torch.autograd.grad(objective(output, x, 0.0).loss.sum(), list(model.parameters()), retain_graph=True)
    theirs = torch.autograd.grad(ELBO(beta=1.0)(output, x, 0.0).loss.sum(), list(model.parameters()))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_stratified_sampling_has_the_right_mean_and_is_exact_for_the_whole_training_set() -> None:
    """All batches of three out of six that hold an example, against the aggregate posterior itself."""
    objective = BetaTCVAE(estimator="stratified")
    model, x = make()
    eps = normal(B, D)
    layer = model(x, eps).latents[0]
    exact = td.MixtureSameFamily(td.Categorical(torch.ones(B, dtype=torch.float64)), layer.q).log_prob(layer.z)
    whole, _ = objective._aggregate(layer, Ranks(B, B))
    torch.testing.assert_close(whole, exact, rtol=1e-10, atol=0)
    for i in range(B):
        found = []
        for others in itertools.combinations([j for j in range(B) if j != i], 2):
            batch = torch.tensor([i, *others])
            log_q, _ = objective._aggregate(model(x[batch], eps[batch]).latents[0], Ranks(3, B))
            found.append(log_q[0].exp())
        torch.testing.assert_close(torch.stack(found).mean(), exact[i].exp(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("estimator", ["weighted", "stratified"])
def test_a_global_batch_of_one_example_is_finite(estimator: str) -> None:
    objective = BetaTCVAE(estimator=estimator)  # type: ignore[arg-type]
    model, x = make()
    terms = objective.terms(model(x[:1], normal(1, D)), x[:1], objective.at(0.0), Ranks(1, 100))
    assert terms.loss.isfinite().all()
    assert InfoVAE().terms(model(x[:1], normal(1, D)), x[:1], {}, Ranks(1, 100)).loss.isfinite().all()


# --- CapacityVAE ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.4, 0.8, 5.0])
def test_the_capacity_holds_the_mean_of_the_kl(share: float) -> None:
    """Also where some of the examples have a KL above the capacity, and others below."""
    model, x, output = run(CapacityVAE())
    bound = negative_elbo(output, x)
    capacity = torch.lerp(bound.kl.min(), bound.kl.max(), share).item()
    assert ((bound.kl < capacity).any() and (bound.kl > capacity).any()) == (0 < share < 1)
    objective = CapacityVAE(capacity=capacity, gamma=7.0)
    terms = objective(output, x, 0.0)
    distance = (bound.kl.mean() - capacity).abs()
    torch.testing.assert_close(terms.loss.mean(), bound.reconstruction.mean() + 7 * distance)
    torch.testing.assert_close(terms.extra["capacity_gap"].mean(), distance)
    assert terms.extra["capacity"].tolist() == [capacity] * B
    ours = torch.autograd.grad(terms.loss.mean(), list(model.parameters()), retain_graph=True)
    theirs = torch.autograd.grad(bound.reconstruction.mean() + 7 * distance, list(model.parameters()))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)


def test_the_capacity_rises() -> None:
    objective = CapacityVAE()
    assert [objective.at(progress)["capacity"] for progress in (0, 5, 10, 50)] == [0, 12.5, 25, 25]


# --- InfoVAE ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [0.5, 2.0])
def test_the_discrepancy_against_all_pairs_and_a_million_draws_of_the_prior(width: float) -> None:
    objective = InfoVAE(width=width)
    z = 0.5 + normal(B, D)
    ours = objective.mmd(z, Ranks(B, 100))
    s2 = (width * math.sqrt(D)) ** 2
    y, other = normal(200_000, D, name="y"), normal(200_000, D, name="other y")

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-((a - b) ** 2).sum(-1) / (2 * s2))

    prior = kernel(y, other)
    for i in range(B):
        pairs = [kernel(z[i], z[j]).item() for j in range(B) if j != i]
        across = kernel(z[i], y)
        estimate = sum(pairs) / (B - 1) - 2 * across.mean() + prior.mean()
        error = (4 * across.var() + prior.var()).sqrt() / 200_000**0.5
        assert (ours[i] - estimate).abs() < 4 * error
        assert error < 3e-3


def test_the_discrepancy_is_zero_on_average_under_the_prior_and_only_there() -> None:
    objective = InfoVAE()
    found = torch.stack([objective.mmd(z, Ranks(40, 100)).mean() for z in normal(500, 40, D)])
    assert found.mean().abs() < 4 * found.std() / 500**0.5
    assert objective.mmd(normal(1000, D) + 1, Ranks(1000, 1000)).mean() > 0.1
    assert objective.mmd(normal(1000, D) / 4, Ranks(1000, 1000)).mean() > 0.1


def test_without_a_discrepancy_it_is_a_beta_vae() -> None:
    objective = InfoVAE(alpha=-3.0, lambda_=4.0)
    _, x, output = run(objective)
    torch.testing.assert_close(objective(output, x, 0.0).loss, ELBO(beta=4.0)(output, x, 0.0).loss)
    assert objective.beta(0.0) == 4
    z = output.latents[0].z
    full = InfoVAE(alpha=0.25, lambda_=10.0)
    expected = ELBO(beta=0.75)(output, x, 0.0).loss + 9.25 * full.mmd(z, Ranks(B, B))
    torch.testing.assert_close(full(output, x, 0.0).loss, expected)


# --- in the engines ---------------------------------------------------------------------------------------------------

SETTINGS = ["model.hidden_dim=16", "train.batch_size=20", "train.precision=fp64", "train.engine=eager"]


Parts = tuple[Config, tuple[VAE, Objective, TrainingBatches]]


def parts(objective: str, *settings: str) -> Parts:
    config = load(None, [*SETTINGS, *settings, f"objective={objective}"])
    built, model = assemble.build_objective(config), assemble.build_model(config, (1, 6, 6))
    batches = TrainingBatches(
        IMAGES, batch_size=20, noise_dim=2, samples=built.samples, seed=config.run.seed, dtype=torch.float64
    )
    return config, (model, built, batches)


def steps(engine: Engine, count: int) -> None:
    for step in range(count):
        engine.advance(step, step + 1)


def compare(one: Engine, other: Engine) -> None:
    pairs = zip(one.update.parameters, other.update.parameters, strict=True)
    assert max((a - b).abs().max().item() for a, b in pairs) < 1e-12
    expected, found = one.drain(), other.drain()
    assert found.extra == pytest.approx(expected.extra, rel=1e-9)
    assert found.loss == pytest.approx(expected.loss, rel=1e-9)
    assert found.extra


IWAES = ["{name: IWAE, samples: 3}", "{name: IWAE, samples: 3, gradient: doubly_reparameterized}"]


@pytest.mark.parametrize("objective", IWAES)
def test_extra_terms_and_several_draws_with_exact_gradients(objective: str) -> None:
    """Eight steps, the sixth of three examples, fewer than parts."""
    accelerator = launch.make_accelerator("cpu", "no", {})
    apart, exact = parts(objective), parts(objective, "train.exact=4")
    one, other = (assemble.build_engine(config, accelerator, *own) for config, own in (apart, exact))
    steps(one, 8)
    steps(other, 8)
    compare(one, other)


def test_the_second_estimate_of_the_gradient_is_compiled_like_any_other() -> None:
    """It weighs a gradient on its way back: a compiler must see that."""
    accelerator = launch.make_accelerator("cpu", "no", {})
    config, own = parts(IWAES[1])
    eager = assemble.build_engine(config, accelerator, *own)
    config, (model, objective, batches) = parts(IWAES[1])
    update = assemble.build_update(config, accelerator, model, "compile")
    ledger = Ledger(accelerator, skip_nonfinite=False, extra=objective.extra)
    whole = Static("", "", accelerator, batches, objective, update, ledger, eager.learning_rate, model, captured=False)
    whole.prepare()
    steps(eager, 8)
    steps(whole, 8)
    compare(eager, whole)


def test_a_fault_in_an_extra_term_is_named() -> None:
    ledger = Ledger(launch.make_accelerator("cpu", "no", {}), skip_nonfinite=False, extra=["first", "second"])
    good = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    ledger.record(10 * good, 10, torch.tensor(1.0), 0)
    ledger.record(20 * good, 10, torch.tensor(1.0), 1)
    interval = ledger.drain()
    assert (interval.loss, interval.extra) == (1.5, {"first": 6.0, "second": 7.5})
    ledger.record(good * torch.tensor([math.nan, 1, 1, 1, math.nan]), 10, torch.tensor(math.nan), 2)
    with pytest.raises(RuntimeError, match="step 2: not finite: second"):
        ledger.drain()


def test_extra_terms_of_an_interval_are_saved_with_it() -> None:
    accelerator = launch.make_accelerator("cpu", "no", {})
    config, own = parts("BetaTCVAE")
    one = assemble.build_engine(config, accelerator, *own)
    config, own = parts("BetaTCVAE")
    other = assemble.build_engine(config, accelerator, *own)
    steps(one, 3)
    other.load_state_dict(one.judged(one.state_dict()))
    assert one.drain() == other.drain()


def test_a_run_logs_its_extra_terms(
    job: Callable[..., Outcome], small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vae.report.draw_figures", lambda *_, **__: None)
    done = job(
        f"data.name={small}", "model.hidden_dim=16", "objective=BetaTCVAE", "train.max_steps=4", "train.log_every=2",
        "train.engine=eager", f"run.dir={tmp_path}",
    )  # fmt: skip
    assert done.code == 0, done.err
    train = [row for row in rows(tmp_path) if row["split"] == "train"]
    assert [(row["step"], row["beta"]) for row in train] == [(2, 6), (4, 6)]
    drawn = scalars(tmp_path)
    for name in BetaTCVAE.extra:
        assert drawn[f"Loss/Train/{name}"] == [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in train]
