"""The evaluator, against closed forms, a grid and other process counts; what each evaluation says of latents."""

import hashlib
import json
import math
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from tests.helpers.folders import in_float64, write_data, write_run
from tests.helpers.linear import STD, D, images, linear_gaussian
from tests.helpers.runs import events, rows, scalars
from tests.helpers.starts import Outcome, Program, on_ranks, ranks
from tests.helpers.stopping import StopAfter
from vae import __main__ as cli
from vae.components import build
from vae.data import randomness
from vae.data.dataset import Split
from vae.distributed import launch
from vae.distributed.signals import Stopped, StopRequest
from vae.errors import InputError, OneLineWarning
from vae.evaluation import CollapseWatch, LatentMeasures, evaluate, measure_latents
from vae.evaluation.latents import Tally
from vae.evaluation.log_likelihood import importance, text
from vae.evaluation.log_likelihood.aggregate import aggregate
from vae.evaluation.log_likelihood.budget import largest_tensor
from vae.evaluation.log_likelihood.evaluator import Request, likelihood_results
from vae.evaluation.log_likelihood.importance import Estimates, estimate
from vae.evaluation.log_likelihood.progress import Progress
from vae.evaluation.log_likelihood.runs import Resources, compare_runs, evaluate_runs, must_agree
from vae.evaluation.log_likelihood.weights import Draws, effective_sample_size, jackknife, log_mean, log_weights
from vae.evaluation.passes import chunks
from vae.evaluation.results_file import Kept, log_likelihoods
from vae.model import VAE, VAEOutput
from vae.objectives import OBJECTIVES, negative_elbo
from vae.run import checkpoint
from vae.run.versions import versions


@pytest.fixture(scope="module")
def accelerator() -> Iterator[Accelerator]:
    yield launch.make_accelerator("cpu", "no", {})
    launch.leave()


def estimates(
    accelerator: Accelerator, model: VAE, x: Tensor, samples: int, *, seed: int = 3, at_once: int | None = None
) -> Estimates:
    how: dict[str, Any] = {"samples": samples, "seed": seed, "split": "test", "at_once": at_once}
    return estimate(accelerator, model, Split(x), progress=Progress(accelerator, StopRequest()), **how)


@pytest.mark.parametrize(
    ("on_cuda", "shape", "passes", "most", "size"),
    [
        (False, (1, 28, 28), 1, 0, 1000),
        (False, (1, 28, 28), 10, 0, 100),
        (True, (1, 28, 28), 1, 0, 10_000),
        (True, (1, 28, 28), 10, 0, 1000),
        (True, (2, 28, 28), 1, 0, 5000),
        (True, (3, 64, 64), 1, 0, 1000),
        (True, (3, 64, 64), 10_000, 0, 1),
        (False, (1, 28, 28), 1, 32, 32),
        (True, (1, 28, 28), 10, 5000, 1000),
    ],
)
def test_a_chunk_on_cuda_is_as_large_as_its_images_and_the_run_allow(
    on_cuda: bool, shape: tuple[int, int, int], passes: int, most: int, size: int
) -> None:
    weight, likelihood = SimpleNamespace(is_cuda=on_cuda), SimpleNamespace(output_shape=shape)
    facts: dict[str, Any] = {"likelihood": likelihood, "passes": passes, "most_at_once": most}
    model: Any = SimpleNamespace(parameters=lambda: iter([weight]), **facts)
    sizes = [rows.stop - rows.start for rows in chunks(slice(7, 20_007), model)]
    assert set(sizes[:-1]) == {size}
    assert sum(sizes) == 20_000


# --- a model whose likelihood is known --------------------------------------------------------------------------------


def test_with_the_exact_posterior_every_draw_says_the_same(accelerator: Accelerator) -> None:
    model, p_x = linear_gaussian()
    x = images(6)
    found, exact = estimates(accelerator, model, x, 50), p_x.log_prob(x.flatten(1))
    assert (found.log_likelihood - exact).abs().max() < 1e-10
    assert (found.elbo - exact).abs().max() < 1e-10
    assert (found.effective_sample_size - 50).abs().max() < 1e-8


def test_with_another_posterior_the_estimate_is_the_closed_form_within_its_error(accelerator: Accelerator) -> None:
    model, p_x = linear_gaussian(shift=0.4, wider=1.5)
    x, samples = images(40), 4000
    found, exact = estimates(accelerator, model, x, samples), p_x.log_prob(x.flatten(1))
    error = found.variance.sqrt()  # of log p(x), by leaving draws out
    torch.testing.assert_close(
        error, (1 / found.effective_sample_size - 1 / samples).sqrt(), rtol=0.05, atol=0
    )  # delta
    assert ((found.log_likelihood - exact).abs() < 4 * error).all()
    assert (found.log_likelihood - exact).mean().abs() < 3 * error.square().sum().sqrt() / len(x)
    assert error.max() < 0.05, "too rough to tell"
    assert found.effective_sample_size.max() < 0.8 * samples, "q is another one"
    assert (found.elbo < exact - 0.1).all()
    q = model.encode(x)
    exact_elbo = exact - kl_divergence(q, linear_gaussian()[0].encode(x))
    assert (found.elbo - exact_elbo).mean().abs() < 0.02  # 160,000 draws of log w


def test_a_nonlinear_model_of_one_dimension_against_a_grid(accelerator: Accelerator) -> None:
    torch.manual_seed(0)
    model = VAE((1, 4, 4), 1, hidden_dim=8).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2)
        x = (images(5, 16).view(5, 1, 4, 4) > 0.5).double()
        z = torch.linspace(-12, 12, 20_001, dtype=torch.float64)[:, None]
        prior = Normal(0.0, 1.0).log_prob(z[:, 0])
        exact = torch.stack([model.decode(z).log_prob(image) + prior for image in x]).logsumexp(1) + math.log(
            24 / 20_000
        )
    found = estimates(accelerator, model, x, 3000)
    error = found.variance.sqrt()
    assert ((found.log_likelihood - exact).abs() < 4 * error).all()
    assert error.max() < 0.05


@pytest.mark.parametrize("at_once", [1, 7, 60, 100_000])
def test_chunks_of_any_size_give_the_same_numbers(accelerator: Accelerator, at_once: int) -> None:
    """The same as one pass over all draws, their noise drawn here."""
    model, x = linear_gaussian(shift=0.4, wider=1.5)[0], images(5)
    streams = [randomness.generator(3, "importance/test", block=i) for i in range(5)]
    noise = np.stack([stream.standard_normal((20, D), dtype=np.float32) for stream in streams])
    with torch.no_grad():
        log_w, _, log_p_x = log_weights(model(x, torch.from_numpy(noise).double()), x)
    found = estimates(accelerator, model, x, 20, at_once=at_once)
    weights = log_w.exp()
    expected = {
        "log_likelihood": weights.mean(0).log(),
        "elbo": log_w.mean(0),
        "reconstruction": -log_p_x.mean(0),
        "effective_sample_size": weights.sum(0) ** 2 / (weights**2).sum(0),
        "squared_error": (model.reconstruct(x) - x).square().mean((1, 2, 3)),
    }
    for name, values in expected.items():
        torch.testing.assert_close(getattr(found, name), values, rtol=1e-12, atol=1e-12, msg=name)


def test_one_draw_is_the_negative_elbo_with_an_estimated_kl_and_more_draws_begin_with_it(
    accelerator: Accelerator,
) -> None:
    model, x = linear_gaussian(shift=0.4)[0], images(3)
    one, two = (estimates(accelerator, model, x, samples) for samples in (1, 2))
    streams = [randomness.generator(3, "importance/test", block=i) for i in range(3)]
    noise = torch.from_numpy(np.stack([stream.standard_normal((2, D), dtype=np.float32) for stream in streams]))
    first, second = (-_loss(model, x, noise[:, k].double()) for k in (0, 1))
    torch.testing.assert_close(one.log_likelihood, first, rtol=1e-12, atol=0)
    torch.testing.assert_close(two.elbo, (first + second) / 2, rtol=1e-12, atol=0)


def _loss(model: VAE, x: Tensor, noise: Tensor) -> Tensor:
    with torch.no_grad():
        output = model(x, noise)
    estimated = VAEOutput(tuple(replace(layer, estimated=True) for layer in output.latents), output.p_x)
    return negative_elbo(estimated, x).loss


def test_the_error_of_the_mean_is_what_other_seeds_show_and_its_bias_what_it_lacks(accelerator: Accelerator) -> None:
    """Of 12 images by 30 draws each, 200 times, against the closed form."""
    model, p_x = linear_gaussian(shift=0.4, wider=1.5)
    x, samples, repeats = images(12), 30, 200
    evaluations = [estimates(accelerator, model, x, samples, seed=seed) for seed in range(repeats)]
    results = [likelihood_results(each, samples) for each in evaluations]
    found, bias, error = (
        torch.tensor([each[f"log_likelihood{what}"] for each in results]) for what in ("", "_bias", "_draw_error")
    )
    assert error.square().mean().sqrt().item() == pytest.approx(found.std().item(), rel=0.2)  # four errors of a std
    missing, its_error = p_x.log_prob(x.flatten(1)).mean() - found.mean(), found.std().item() / repeats**0.5
    assert missing > 5 * its_error, "too little to tell"
    assert bias.mean().item() == pytest.approx(missing.item(), abs=4 * its_error)


def test_results_are_the_means_over_images_with_their_errors() -> None:
    """By NumPy; of 5 images 3 have an effective sample size below 10."""
    each = np.random.default_rng(0).random((7, 5)) + 1
    each[5] = [9.9, 10.1, 1.0, 40.0, 3.0]
    found = likelihood_results(Estimates(*torch.from_numpy(each)), 50)
    likelihood, bias, variance, elbo, reconstruction, size, error = each
    sizes = found.pop("effective_sample_size")
    assert found == pytest.approx(
        {
            "log_likelihood": likelihood.mean(),
            "log_likelihood_error": likelihood.std(ddof=1) / math.sqrt(5),
            "log_likelihood_draw_error": math.sqrt((variance / 5**2).sum()),
            "log_likelihood_bias": bias.mean(),
            "elbo": elbo.mean(),
            "elbo_error": elbo.std(ddof=1) / math.sqrt(5),
            "reconstruction": reconstruction.mean(),
            "squared_error_mean_z": error.mean(),
        }
    )
    assert sizes.pop("quantiles") == pytest.approx({f"{share}": np.quantile(size, share) for share in (0.01, 0.1, 0.5)})
    assert sizes == pytest.approx({"mean": size.mean(), "min": 1, "low": 3 / 5, "low_below": 10})
    alone = likelihood_results(Estimates(*torch.from_numpy(each)), 1)  # draw
    assert (alone["log_likelihood_draw_error"], alone["log_likelihood_bias"]) == (None, None)


def in_words(size: dict[str, Any], information: float | None, samples: int = 50) -> str:
    """Return the lines about an evaluation of 1,000 images, and below them its row in the table."""
    whole = None if information is None else {
        "mutual_information": information, "mutual_information_error": 0.01, "limit": math.log(1000),
        "marginal_kl": 0.25, "marginal_kl_error": 0.02, "draws": 1000,
    }  # fmt: skip
    results = {
        "log_likelihood": -90.0, "log_likelihood_error": 0.5, "log_likelihood_draw_error": 0.004,
        "log_likelihood_bias": 0.123 if samples > 1 else None, "elbo": -93.0, "elbo_error": 0.5, "reconstruction": 80.0,
        "reconstruction_mean_z": 79.0, "squared_error_mean_z": 0.03, "kl": 13.0, "bits_per_dim": None,
        "active_units": 20, "latent_dimensions": 50, "aggregate": whole,
        "effective_sample_size": {"mean": 20.0, "min": 1.5, "quantiles": {"0.01": 2.0}, "low_below": 10, **size},
    }  # fmt: skip
    kept = Kept({"samples": samples, "given": None}, {}, results, {})
    return "\n".join([*text.in_full(kept), *text.table({Path("runs/one"): kept})])


def test_the_lines_say_what_few_draws_and_few_images_do_to_the_numbers() -> None:
    few, enough = in_words({"low": 0.011}, information=5.95), in_words({"low": 0.009}, information=5.85)
    for words in (few, enough):
        assert "-90.000 ± 0.500 (of it 0.004 from the draws; K = 50 leaves it too low by 0.123 or more)" in words
        assert "KL(q(z)||p(z)) 0.250 ± 0.020 (an upper bound)" in words
        assert "≤ 0.25" in words.splitlines()[-1]
    warning = "below 10 for 1% of the images: there the bias is larger than said; --samples"
    assert warning in few
    assert "images: there" not in enough
    assert "5.950 ± 0.010 (close to its limit 6.91)" in few
    assert "5.850 ± 0.010 (at most 6.91)" in enough
    assert "too low" not in in_words({"low": 0.0}, None, samples=1)


@pytest.mark.parametrize(("spread", "least_bias"), [(0.5, 0.5), (0.6, 0.2), (0.8, 0.0)])
def test_the_error_of_heavy_tails_covers_what_repeated_draws_show(spread: float, least_bias: float) -> None:
    """w = p(z) / q(z) of normals of 10 dimensions, q too narrow: log of the mean of w is 0, and estimated too low."""
    draws, repeats, dims = 500, 1500, 10
    e = torch.randn(draws, repeats, dims, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    log_w = (0.5 * (1 - spread**2) * e.square()).sum(-1) + dims * math.log(spread)
    found, (bias, variance) = log_mean(log_w), jackknife(log_w)
    claimed, seen = variance.mean().sqrt(), found.std()
    assert 0.93 < claimed / seen < 1.15
    if spread < 0.7:
        delta = (1 / effective_sample_size(log_w) - 1 / draws).mean().sqrt()
        assert delta < 0.75 * seen, "the delta method would do, this is no test"
    assert -found.mean() > least_bias
    assert -3 * seen / repeats**0.5 < bias.mean() < -found.mean() + 3 * seen / repeats**0.5  # so much, or more


def test_the_jackknife_leaves_out_one_draw_after_another() -> None:
    """By a loop, also where one weight outweighs all others by more digits than there are."""
    log_w = torch.tensor([[0.3, 0.0], [-0.2, 60.0], [1.1, -1.0], [0.6, 0.5]], dtype=torch.float64)
    bias, variance = jackknife(log_w)
    for column in range(2):
        weights = log_w[:, column].tolist()
        without = [_log_mean([w for j, w in enumerate(weights) if j != i]) for i in range(4)]
        mean = sum(without) / 4
        assert bias[column].item() == pytest.approx(3 * (_log_mean(weights) - mean), rel=1e-12)
        assert variance[column].item() == pytest.approx(3 / 4 * sum((each - mean) ** 2 for each in without), rel=1e-12)


def _log_mean(log_w: list[float]) -> float:
    top = max(log_w)
    return top + math.log(sum(math.exp(each - top) for each in log_w) / len(log_w))


def test_weights_far_out_of_range() -> None:
    log_w = [[-2000.0, 3000.0], [-2000.0, 3000.0 + math.log(3)], [-2000.0 + math.log(2), 0.0]]
    log_w = torch.tensor(log_w, dtype=torch.float64)
    assert log_mean(log_w).tolist() == pytest.approx([-2000 + math.log(4 / 3), 3000 + math.log(4 / 3)], abs=1e-9)
    assert effective_sample_size(log_w).tolist() == pytest.approx([16 / 6, 16 / 10], rel=1e-9)


def test_pseudo_inputs_are_encoded_once_for_all_draws(
    accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the estimate of each pass on its own as the witness."""
    model, x = VAE((1, 1, 16), 3, hidden_dim=8, prior="VampPrior").double(), images(3, 16)
    expected = estimates(accelerator, model, x, samples=12)
    calls, encode = [], model.encode
    monkeypatch.setattr(model, "encode", lambda u, labels=None: (calls.append(len(u)), encode(u, labels))[1])
    in_passes = estimates(accelerator, model, x, samples=12, at_once=2)  # 18 of them
    assert calls == [100]
    torch.testing.assert_close(in_passes.log_likelihood, expected.log_likelihood, rtol=1e-12, atol=0)


def test_several_layers_labels_and_a_posterior_without_other_z(
    accelerator: Accelerator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models that the closed forms above do not reach are evaluated, each draw being that of a forward pass."""
    layers: dict[str, Any] = {"name": "BottomUp", "latent_dims": [2], "hidden_dims": [4], "depth": 1}
    model = VAE((1, 1, 16), 3, hidden_dim=8, hierarchy=layers, condition=True, classes=4).double()
    part = Split(images(5, 16), torch.arange(5) % 4)
    progress = Progress(accelerator, StopRequest())
    how: dict[str, Any] = {"seed": 3, "split": "test"}
    monkeypatch.setattr("vae.bars.SECONDS_BETWEEN_LINES", 0.0)
    found = estimate(accelerator, model, part, samples=1, progress=progress, **how)
    assert "log p(x): 5 of 5 draws, 00:00 left\n" in capsys.readouterr().err
    streams = [randomness.generator(3, "importance/test", block=i) for i in range(5)]
    noise = torch.from_numpy(np.stack([stream.standard_normal(5, dtype=np.float32) for stream in streams])).double()
    with torch.no_grad():
        output = model(part.images, noise, part.labels)
    expected = output.p_x.log_prob(part.images) - sum(layer.log_ratio() for layer in output.latents)
    torch.testing.assert_close(found.log_likelihood, expected, rtol=1e-12, atol=0)
    assert aggregate(accelerator, model, part, progress=progress, **how) is None
    measures = evaluate(accelerator, model, part, **how).latents
    assert (len(measures.variance), measures.kl) == (5, None)


# --- the aggregate posterior ------------------------------------------------------------------------------------------


def one_dimensional(slope: float, std: float) -> VAE:
    """q(z|x) = N(slope x, std^2) for a single pixel."""
    model = VAE((1, 1, 1), 1, posterior={"name": "DiagonalNormal", "scale": "exp", "eps": 0.0}).double()
    encoder = nn.Linear(1, 2).double()
    with torch.no_grad():
        encoder.weight.copy_(torch.tensor([[slope], [0.0]]))
        encoder.bias.copy_(torch.tensor([0.0, 2 * math.log(std)]))
    model.encoder = nn.Sequential(nn.Flatten(), encoder)
    return model


@pytest.mark.parametrize("most", [5000, 500])
def test_the_kl_falls_into_information_and_marginal_kl_as_in_closed_form(
    most: int, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """x the quantiles of N(0, 1), so that q(z) is N(0, slope^2 + std^2) as nearly as 3,000 components allow.

    Of fewer draws than images all quantiles have their share.
    """
    monkeypatch.setattr("vae.evaluation.log_likelihood.aggregate.DRAWS", most)
    slope, std, count = 1.1, 0.4, 3000
    x = Normal(0.0, 1.0).icdf((torch.arange(count).double() + 0.5) / count).view(count, 1, 1, 1)
    progress = Progress(accelerator, StopRequest())
    model = one_dimensional(slope, std)
    found = aggregate(accelerator, model, Split(x), seed=0, split="test", progress=progress)
    assert found is not None
    assert (found.draws, found.limit) == (min(most, count), math.log(count))
    assert found.marginal_kl is not None
    information = 0.5 * math.log(1 + slope**2 / std**2)
    marginal = kl_divergence(Normal(0.0, math.hypot(slope, std)), Normal(0.0, 1.0)).item()
    most_error = 0.06 * math.sqrt(count / found.draws)
    assert abs(found.mutual_information - information) < 3 * (found.mutual_information_error or 0) < most_error
    assert abs(found.marginal_kl - marginal) < 3 * (found.marginal_kl_error or 0) < most_error
    assert found.mutual_information + found.marginal_kl == pytest.approx(
        measure_latents(model, Split(x), seed=0).total_kl, abs=0.08
    )


def test_a_prior_that_depends_on_labels_leaves_no_marginal_kl(accelerator: Accelerator) -> None:
    """log q(z) has all labels, and log p(z|y) has one."""
    model = VAE((1, 1, 5), 2, hidden_dim=4, prior="ClassNormal", classes=3).double()
    part, progress = Split(images(6), torch.arange(6) % 3), Progress(accelerator, StopRequest())
    found = aggregate(accelerator, model, part, seed=0, split="test", progress=progress)
    assert found is not None
    assert (found.marginal_kl, found.marginal_kl_error) == (None, None)
    assert 0 < found.mutual_information < math.log(6)


def test_images_that_z_tells_apart_share_log_n(accelerator: Accelerator) -> None:
    x = torch.arange(8).double().view(8, 1, 1, 1)
    progress = Progress(accelerator, StopRequest())
    found = aggregate(accelerator, one_dimensional(1.0, 1e-3), Split(x), seed=0, split="test", progress=progress)
    assert found is not None
    assert found.mutual_information == pytest.approx(math.log(8), rel=1e-12)


# --- means over held-out data -----------------------------------------------------------------------------------------


def test_an_evaluation_has_the_means_of_its_terms_written_out(accelerator: Accelerator) -> None:
    """Of one draw an image, and of none at z = E[z|x]."""
    model, _ = linear_gaussian(shift=0.4, wider=1.5)
    x = images(40)
    found = evaluate(accelerator, model, Split(x), seed=5, split="val")
    w, b = (weight.detach() for weight in model.decoder.parameters())
    q, p = model.encode(x), MultivariateNormal(torch.zeros(D).double(), torch.eye(D).double())
    assert isinstance(q, MultivariateNormal)
    z = q.mean + (q.scale_tril @ randomness.normal(40, D, 5, "evaluate/val").double()[..., None])[..., 0]

    def nats(z: Tensor) -> float:
        return -Normal(z @ w.T + b, STD).log_prob(x.flatten(1)).sum(1).mean().item()

    divergence = kl_divergence(q, p).mean().item()
    assert (found.reconstruction, found.kl) == pytest.approx((nats(z), divergence), rel=1e-9)
    assert found.loss == pytest.approx(found.reconstruction + found.kl, rel=1e-12)
    assert found.reconstruction_mean_z == pytest.approx(nats(q.mean), rel=1e-9)
    assert (found.examples, found.bits_per_dim, found.accuracy) == (40, None, None)


# --- latent measures of each evaluation -------------------------------------------------------------------------------


def test_tallies_of_parts_make_that_of_the_whole_however_far_from_zero(accelerator: Accelerator) -> None:
    """Sums of squares would lose all digits of a variance of 1e-6 around 1e6."""
    model, x = one_dimensional(1e-3, 0.5), images(31, 1)
    with torch.no_grad():
        model.encoder.get_parameter("1.bias")[0] = 1e6
        parts = [
            model(x[part], torch.zeros(len(x[part]), 1).double()) for part in (slice(0, 1), slice(1, 17), slice(17, 31))
        ]
    tally = Tally.merged([Tally.of(out.latents, negative_elbo(out, x[:1]).kl[None]) for out in parts])
    exact = np.var(1e-3 * x.flatten().numpy())
    assert tally.measures(0.0).variance == pytest.approx([exact], rel=1e-3)  # of means that are rounded to 1e-10
    assert tally.unpacked(tally.packed()).measures(1.0) == tally.measures(1.0)
    found = evaluate(accelerator, model, Split(x), seed=0, split="test")
    assert found.latents == measure_latents(model, Split(x), seed=0)
    assert found.numbers()["active_units"] == 0


@pytest.mark.parametrize(("variance", "active"), [(0.0099, 0), (0.0101, 1)])
def test_a_dimension_is_active_where_its_mean_varies_by_more_than_a_hundredth(
    variance: float, active: int, accelerator: Accelerator
) -> None:
    """Burda et al. 2016, section 5; the variance is over images, divided by their number."""
    x = torch.tensor([-1.0, 1.0]).double().repeat(3).view(6, 1, 1, 1)
    found = evaluate(accelerator, one_dimensional(math.sqrt(variance), 0.5), Split(x), seed=0, split="test")
    assert found.latents.variance == pytest.approx([variance])
    assert found.numbers()["active_units"] == active


def test_a_collapse_is_said_once_and_again_when_it_changes() -> None:
    watch = CollapseWatch(0.1, settled=10.0)

    def remark(active: int, epoch: float, since: float = 11.0) -> str | None:
        return watch.remark(LatentMeasures((1.0,) * active + (0.0,) * (32 - active), None, 0.0, 1), epoch, since)

    assert remark(0, 10.0) is None, "beta still rises"
    first = remark(3, 11.0)
    assert first is not None
    assert first.startswith(
        "posterior collapse: 3 of 32 latent dimensions are active, fewer than train.min_active = 0.1"
    )
    assert "since epoch 11.00; try" in first
    assert remark(3, 12.0) is None
    assert "2 of 32" in (remark(2, 13.0) or "")
    assert remark(4, 14.0) == "no posterior collapse any more: 4 of 32 latent dimensions are active"
    assert remark(19, 15.0) is None
    assert CollapseWatch(0.0, 0.0).remark(LatentMeasures((0.0,), None, 0.0, 1), 1.0, 1.0) is None


@pytest.mark.parametrize(
    ("objective", "first"),
    [
        ({"name": "IWAE"}, 1.0),
        ({"name": "ELBO", "beta": {"name": "LinearWarmup", "epochs": 0.2}}, 1.0),
        ({"name": "ELBO", "beta": {"name": "LinearWarmup", "epochs": 3}}, 3.01),
        ({"name": "CapacityVAE", "capacity": {"name": "LinearWarmup", "epochs": 3, "end": 25}}, 3.01),
    ],
)
def test_a_collapse_is_news_once_an_epoch_and_the_warm_up_are_over(objective: dict[str, Any], first: float) -> None:
    watch = CollapseWatch.of(build(OBJECTIVES, objective), min_active=0.1)
    nothing = LatentMeasures((0.0,) * 4, None, 0.0, 1)
    found = [epoch for epoch in (0.01, 0.3, 0.99, 1.0, 2.0, 3.0, 3.01) if watch.collapsed(nothing, epoch)]
    assert found[0] == first


def test_a_run_whose_posterior_collapses_says_so_everywhere(job: Callable[..., Outcome], small: Path) -> None:
    settings = [f"data.name={small}", "run.dir=r", "model.hidden_dim=16", "model.latent_dim=3", "train.batch_size=250"]
    done = job(*settings, "objective={name: ELBO, beta: 50, pixels: mean}", "train.epochs=3", "train.log_every=4")
    assert done.code == 0, done.err
    assert done.err.count("posterior collapse: 0 of 3 latent dimensions are active") == 1
    assert "since epoch 1.00" in done.err
    assert done.out.count("nats), 0 of 3 active") == 3
    tested = [row for row in rows(Path("r")) if row["split"] == "test"]
    assert [(row["active_units"], row["collapsed"]) for row in tested] == [(0, True)] * 3
    assert all(sum(row["kl_by_dimension"]) == pytest.approx(row["kl"], rel=1e-5) for row in tested)
    assert scalars(Path("r"))["Latents/ActiveUnits"] == [(4, 0.0), (8, 0.0), (12, 0.0)]
    log = events(Path("r"))
    assert "Latents/KL" in log.Tags()["histograms"]
    (text,) = log.Tensors("Latents/Collapse/text_summary")
    assert b"0 of 3" in text.tensor_proto.string_val[0]
    again = job(*settings, "objective={name: ELBO, beta: 50, pixels: mean}", "train.epochs=4", "train.min_active=0.5")
    assert again.err.count("posterior collapse") == 1, "once a start"
    assert "train.min_active = 0.5 of them, since epoch 1.00" in again.err


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def finished(tmp_path: Path, archive: Path) -> Path:
    """A run in float64 that holds out 7 of its images."""
    return in_float64(tmp_path / "run", archive)


def command(
    *paths: Path, stop: StopRequest | None = None, again: bool = False, at_once: int | None = None, **request: Any
) -> list[str]:
    resources = Resources({}, stop or StopRequest(), "cpu", at_once, again)
    try:
        return list(evaluate_runs(paths, replace(Request(samples=9), **request), resources))
    finally:
        launch.leave()


def kept(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "evaluation.json").read_text())["evaluations"]


def flat(values: Any, key: str = "") -> dict[str, Any]:
    if isinstance(values, dict):
        return {name: value for k, each in values.items() for name, value in flat(each, f"{key}.{k}").items()}
    if isinstance(values, list):
        return flat(dict(enumerate(values)), key)
    return {key: values}


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_find_what_one_finds(finished: Path, processes: int) -> None:
    """On 7 images."""
    command(finished, split="val")
    (alone,) = kept(finished)
    done = on_ranks(processes, "-m", "vae", "evaluate", finished, "--samples=9", "--split=val", "--again")
    assert done.codes == (0,) * processes, done
    assert done.out.count("log p(x)") == 1, "the main process speaks"
    (together,) = kept(finished)
    assert together["made"]["world_size"] == processes
    assert (together["protocol"], together["checkpoint"]) == (alone["protocol"], alone["checkpoint"])
    assert flat(together["results"]) == pytest.approx(flat(alone["results"]), rel=1e-12)


@pytest.mark.parametrize("words", [["evaluate", "--split=val"], ["score"]], ids=lambda words: words[0])
def test_a_rank_that_dies_ends_an_evaluation_with_a_line_that_names_it(finished: Path, words: list[str]) -> None:
    """Of draws that would last for hours."""
    name, *options = words
    line = ["-m", "vae", name, finished, "--samples=1000000000", *options]
    patches = {"vae.distributed.watchdog:SECONDS_BETWEEN_BEATS": 0.1}
    first, second = (Program(*line, env=rank, patches=patches) for rank in ranks(2))
    first.wait_until(lambda: "images, K = " in first.out, "under way")
    second.kill()
    ended = first.wait(60)
    assert ended.code == 1
    named = rf"python -m vae: rank 0: cannot go on after step \d+: rank 1 \(.*pid {second.pid}\) gives no sign of life"
    assert re.search(named, ended.err), ended
    assert "Traceback" not in ended.err


def test_an_evaluation_says_how_it_was_made_and_is_that_of_the_functions(finished: Path) -> None:
    lines = command(finished)
    (found,) = kept(finished)
    assert found["protocol"] | {"pixels_crc32": ""} == {
        "data": "data", "pixels_crc32": "", "split": "test", "pixels": "0/1, one fixed draw", "likelihood": "Bernoulli",
        "normalised": True, "measure": "probability of 0/1 pixels", "seed": 0, "samples": 9, "examples": 70,
        "draw": 0, "given": None, "bound": found["protocol"]["bound"], "tf32": False,
    }  # fmt: skip
    digest = hashlib.sha256((finished / "model/model.safetensors").read_bytes()).hexdigest()
    assert found["checkpoint"]["sha256"] == digest
    assert "torch" in found["made"]["versions"]
    results = found["results"]
    assert results["kl"] == pytest.approx(sum(results["kl_by_dimension"]), rel=1e-9)
    assert results["bits_per_dim"] == pytest.approx(-results["log_likelihood"] / 64 / math.log(2))
    assert results["elbo"] < results["log_likelihood"]
    assert 1 <= results["effective_sample_size"]["min"] <= results["effective_sample_size"]["mean"] <= 9
    assert any(f"{results['log_likelihood']:.3f} ± {results['log_likelihood_error']:.3f}" in line for line in lines)


def test_evaluations_stand_side_by_side_and_none_is_made_twice(finished: Path) -> None:
    command(finished)
    requests: list[dict[str, Any]] = [{"samples": 4}, {"seed": 1}, {"split": "val"}, {"split": "train"}, {"draw": 5}]
    for request in requests:
        command(finished, **request)
    found = kept(finished)
    assert len(found) == 6
    assert len({json.dumps(each["results"]) for each in found}) == 6
    assert log_likelihoods(finished, 0).keys() == {4, 9}
    assert log_likelihoods(finished, 5) == {9: found[-1]["results"]["log_likelihood"]}
    assert found[0]["protocol"]["pixels_crc32"] != found[-1]["protocol"]["pixels_crc32"]
    assert any("evaluated already" in line for line in command(finished))
    assert kept(finished) == found
    command(finished, again=True)
    assert [each["results"] for each in kept(finished)] == [each["results"] for each in [*found[1:], found[0]]]
    assert kept(finished)[-1]["made"] != found[0]["made"]
    model = VAE.from_pretrained(finished / "model").double()
    with torch.no_grad():
        next(model.parameters()).mul_(1.1)
    checkpoint.save_model(finished / "model", model)
    command(finished)
    assert len(kept(finished)) == 7, "of other weights"


def test_runs_of_one_protocol_make_a_table_best_first_and_others_are_refused_before_anything_is_done(
    tmp_path: Path, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (in_float64(tmp_path / f"{dim}", archive, f"model.latent_dim={dim}") for dim in (2, 3))
    table = command(first, second)[-3:]
    found = {folder: kept(folder)[0]["results"] for folder in (first, second)}
    best = max(found, key=lambda folder: found[folder]["log_likelihood"])
    assert table[0].split()[0] == "run"
    assert table[1].startswith(str(best))
    assert f"{found[best]['log_likelihood']:.2f}" in table[1]

    assert cli.main(["evaluate", "--compare", str(first), str(second)]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == table
    other = in_float64(tmp_path / "other", archive, "run.seed=1")
    with pytest.raises(InputError, match=r"not one protocol: pixels_crc32 = .*; draw = 0 or 1; give"):
        command(first, other)
    assert not (other / "evaluation.json").exists()
    command(first, other, draw=0)
    command(second, samples=5)
    assert cli.main(["evaluate", "--compare", str(first), str(other)]) == 0
    assert cli.main(["evaluate", "--compare", str(second), str(other), "--samples=9"]) == 0
    (second / "evaluation.json").unlink()
    command(second, samples=5)
    capsys.readouterr()
    assert cli.main(["evaluate", "--compare", str(first), str(second)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "not one protocol: samples = 9 or 5; give" in line
    assert cli.main(["evaluate", "--compare", str(first), "--samples=77"]) == 2
    assert "keeps no evaluation of its weights with samples = 77" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--samples=0"], "--samples: '0': must be a whole number from 1"),
        (["--split=all"], "invalid choice"),
        (["--compare", "nowhere"], "nowhere: neither a run nor a folder of runs"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    words: list[str], problem: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", str(finished), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line


def test_what_cannot_be_evaluated_is_refused(finished: Path, archive: Path, tmp_path: Path) -> None:
    without = in_float64(tmp_path / "without", archive, "data.val_size=0")
    with pytest.raises(InputError, match="has held out nothing"):
        command(without, split="val")
    with pytest.raises(InputError, match="not finished"):
        command(write_run(tmp_path / "begun", archive, finished=False))
    (finished / "evaluation.json").write_text('{"format": 1, "evaluations": [{}]}')
    with pytest.raises(InputError, match="not a list of evaluations"):
        command(finished)
    with pytest.raises(InputError, match="not a list of evaluations"):
        list(compare_runs([finished], {}))
    shutil.rmtree(finished / "model")


def unfinished(folder: Path) -> list[Path]:
    """Return the files of evaluations of a run that are not complete."""
    return sorted(folder.glob(".evaluating/*/*"))


def test_a_stopped_evaluation_continues_to_the_same_bits(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 images a pass, of which two attempts complete two each: the signal comes within the third."""
    made: list[int] = []
    log_weights_of = importance.log_weights

    def counted(output: VAEOutput, x: Tensor) -> Any:
        made.append(len(x))
        return log_weights_of(output, x)

    command(finished, at_once=36)
    (whole,) = kept(finished)
    (finished / "evaluation.json").unlink()
    monkeypatch.setattr(importance, "log_weights", counted)
    for attempt in range(2):
        with pytest.raises(Stopped, match="the same command continues it"):
            command(finished, at_once=36, stop=StopAfter(3))
        assert not (finished / "evaluation.json").exists()
        assert len(unfinished(finished)) == attempt + 1
    assert command(finished, at_once=36)[1].endswith(": evaluating; 16 images are known from before")
    (continued,) = kept(finished)
    assert continued["results"] == whole["results"]
    assert made[:6] == [4] * 6
    assert sum(made[6:]) == whole["protocol"]["examples"] - 4 * 4
    assert not (finished / ".evaluating").exists()


@pytest.mark.parametrize("processes", [1, 3])
def test_another_number_of_processes_continues(finished: Path, processes: int) -> None:
    """A crash on two processes, each of which has written its first images."""
    words = ("-m", "vae", "evaluate", finished, "--samples=9", "--device=cpu", "--batch=9")
    command(finished)
    (whole,) = kept(finished)
    (finished / "evaluation.json").unlink()
    crashed = on_ranks(2, "tests/helpers/programs/crash_in_evaluation.py", finished)
    assert crashed.code not in (0, 2), crashed
    assert len(unfinished(finished)) == 2
    done = on_ranks(processes, *words)
    assert done.code == 0, done
    (continued,) = kept(finished)
    assert (whole["made"]["taken_over"], continued["made"]["taken_over"]) == (0, 2)
    assert flat(continued["results"]) == pytest.approx(flat(whole["results"]), rel=1e-12, abs=1e-12)


def test_another_evaluation_begins_anew_and_what_was_complete_stays(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(finished)
    before = (finished / "evaluation.json").read_text()
    with pytest.raises(Stopped):
        command(finished, samples=8, at_once=8, stop=StopAfter(5))
    assert (finished / "evaluation.json").read_text() == before
    (of_eight,) = unfinished(finished)
    command(finished, samples=7)
    assert unfinished(finished) == [of_eight]
    assert not list(finished.rglob(".partial*"))
    other = versions() | {"torch": "0.1"}
    with monkeypatch.context() as patched:
        patched.setattr("vae.evaluation.log_likelihood.unfinished.versions", lambda: other)
        assert command(finished, samples=8)[1].endswith(": evaluating")
    (finished / "evaluation.json").write_text(before)
    of_eight.write_bytes(b"PK")
    with pytest.raises(InputError, match=f"{of_eight}: damaged; delete it"):
        command(finished, samples=8)
    of_eight.unlink()
    command(finished, samples=8)
    assert [each["protocol"]["samples"] for each in kept(finished)] == [9, 8]


def test_where_images_cannot_be_written_the_evaluation_goes_on(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vae.evaluation.log_likelihood.unfinished.SECONDS", 0.0)
    (finished / ".evaluating").write_text("in the way of the folder")
    with pytest.warns(OneLineWarning, match=r"\.npz: cannot be written: .*; a stop would lose"):
        command(finished, at_once=36)
    assert kept(finished)


def test_a_rank_without_an_image_draws_nothing() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert Draws(0, "test", [], 3, pool).next(2).shape == (0, 2, 3)


def test_control_c_ends_the_command_at_once_and_cleanly(finished: Path) -> None:
    running = Program("-m", "vae", "evaluate", finished, "--samples=100000000", "--device=cpu")
    running.wait_until(lambda: "evaluating" in running.out)
    assert "K = 100,000,000" in running.out.splitlines()[0]
    running.send_signal(signal.SIGINT)
    done = running.wait()
    assert done.code == 130
    assert done.err.splitlines()[-1].startswith("python -m vae: SIGINT: stopped before the evaluation was complete")
    assert not (finished / "evaluation.json").exists()


def test_memory_is_measured_by_the_largest_tensor_that_is_made() -> None:
    weights = torch.zeros(1000, 10)
    assert largest_tensor(lambda: (torch.zeros(2, 10) @ weights.T).exp()) == 2 * 1000 * 4
    assert largest_tensor(lambda: weights.expand(50, 1000, 10).sum()) == 4, "views are not made"


def test_likelihoods_of_one_measure_are_compared_and_those_that_are_not_normalised_with_their_own_family_only() -> None:
    grey = {"likelihood": "Categorical", "measure": "probability of 256 grey values", "samples": 5}
    must_agree({Path("a"): grey, Path("b"): grey | {"likelihood": "DiscretizedLogistic"}})
    loose = grey | {"measure": "not normalised", "likelihood": "Bernoulli"}
    must_agree({Path("a"): loose, Path("b"): loose})
    with pytest.raises(InputError, match='likelihood = "Bernoulli" or "ContinuousBernoulli"; give'):
        must_agree({Path("a"): loose, Path("b"): loose | {"likelihood": "ContinuousBernoulli"}})
    with pytest.raises(InputError, match="measure = "):
        must_agree({Path("a"): grey, Path("b"): loose})
