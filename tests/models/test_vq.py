"""The VQ-VAE: codes against brute force, the codebook against closed forms, ranks and interruptions against none."""

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers import ROOT
from tests.helpers.programs.codes import FAMILIES, WAYS, engine_of, trained
from tests.helpers.runs import rows, scalars
from tests.helpers.starts import Outcome, on_ranks
from vae import assemble
from vae.components import build
from vae.config import load
from vae.data import randomness
from vae.data.dataset import Split
from vae.distributed import launch
from vae.errors import InputError
from vae.evaluation import measure_latents
from vae.evaluation.encoding import encode
from vae.families.codebook import Codebook
from vae.families.codes import CodeSequences, Quantized, nearest, perplexity
from vae.families.distributions import kl
from vae.families.likelihoods import LIKELIHOODS
from vae.families.posteriors import POSTERIORS, VectorQuantized
from vae.families.priors import AutoregressiveCodes, Given
from vae.model import VAE
from vae.objectives import VectorQuantization, negative_elbo
from vae.report.explorer import obstacle
from vae.run import checkpoint

K, DIM, POSITIONS = 5, 2, 3  # codes, numbers of each, codes of a z
D = DIM * POSITIONS
POSTERIOR = {"name": "VectorQuantized", "codes": K, "code_dim": DIM}
PRIOR = {"name": "AutoregressiveCodes", "embedding": 3, "width": 8}
CODE_PRIORS = ["UniformCodes", "AutoregressiveCodes"]
NO = torch.tensor(False)


def numbers(*shape: int, name: str = "test") -> Tensor:
    return randomness.normal(math.prod(shape), 1, 7, name).double().view(shape)


def make(**pieces: Any) -> VAE:
    """Return a model in float64 whose weights have been moved, so that its codes differ in how likely they are."""
    torch.manual_seed(3)
    settings: dict[str, Any] = {"posterior": POSTERIOR, "prior": PRIOR, **pieces}
    model = VAE(image_shape=(1, 4, 4), latent_dim=D, hidden_dim=8, **settings).double()
    with torch.no_grad():
        for weight in model.prior.parameters():
            weight.add_(0.5 * torch.randn_like(weight))
        for buffer in model.buffers():
            buffer.copy_(torch.rand_like(buffer) - 0.5)
    return model


def codes_of(model: VAE, x: Tensor) -> Tensor:
    q = model.encode(x)
    assert isinstance(q, Quantized)
    return q.codes


def all_sequences() -> Tensor:
    return torch.tensor(list(itertools.product(range(K), repeat=POSITIONS)))


def prior_of(model: VAE) -> CodeSequences:
    p = model.prior(Given(torch.zeros(()), model.encode, None, model.posterior.vectors()))
    assert isinstance(p, CodeSequences)
    return p


@pytest.fixture
def accelerator() -> Iterator[Any]:
    yield launch.make_accelerator("cpu", "no", {})
    launch.leave()


# --- q(z|x) -----------------------------------------------------------------------------------------------------------


def test_each_vector_becomes_the_closest_of_the_codebook() -> None:
    family = build(POSTERIORS, POSTERIOR, D).double()
    with torch.no_grad():
        family.codebook.vectors.copy_(numbers(K, DIM, name="codebook"))
    given = numbers(20, D)
    q = family(given)
    z = family.transform(q, given.new_zeros(20, 0))
    for row, place in itertools.product(range(20), range(POSITIONS)):
        vector = given[row, place * DIM : (place + 1) * DIM].tolist()
        distances = [math.dist(vector, code) for code in family.codebook.vectors.tolist()]
        assert q.codes[row, place] == distances.index(min(distances))
        # to the bit, or a z could not be told to be a sequence of codes
        assert torch.equal(z[row, place * DIM : (place + 1) * DIM], family.codebook.vectors[q.codes[row, place]])


def test_the_gradient_goes_straight_through() -> None:
    """That of the encoder's numbers is the decoder's at the codes, and the codebook has none."""
    model = make()
    given = numbers(4, D).requires_grad_()
    q = model.posterior(given)
    z = model.posterior.transform(q, given.new_zeros(4, 0))
    x = (numbers(4, 1, 4, 4, name="images") > 0).double()
    (through,) = torch.autograd.grad(model.decode(z).log_prob(x).sum(), given)
    at_code = z.detach().requires_grad_()
    (expected,) = torch.autograd.grad(model.decode(at_code).log_prob(x).sum(), at_code)
    assert torch.equal(through, expected)
    assert through.abs().sum() > 0


def test_q_is_a_point_of_which_all_draws_are_copies() -> None:
    family = make().posterior
    q = family(numbers(4, D))
    assert isinstance(q, Quantized)
    z = family.transform(q, torch.zeros(3, 4, 0))
    assert z.shape == (3, 4, D)
    assert torch.equal(z[2], q.mean)
    assert torch.equal(q.rsample(torch.Size([2]))[1], q.mean)
    pairs = q.log_prob(q.mean[:, None])  # each z against each q
    same = (q.codes[:, None] == q.codes).all(-1)
    assert torch.equal(pairs.exp(), same.double())


def test_under_autocast_the_codes_are_those_of_float32() -> None:
    family, given = make().float().posterior, numbers(200, D).float()
    expected = family(given).codes
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(family(given).codes, expected)
        assert family(given.bfloat16()).mean.dtype == torch.float32


# --- p(z) -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", CODE_PRIORS)
def test_probabilities_of_all_sequences_sum_to_one_and_draws_come_as_often(prior: str) -> None:
    model = make(prior=prior)
    p, sequences, draws = prior_of(model), all_sequences(), 20_000
    with torch.no_grad():
        probability = p.log_prob_of(sequences).exp()
        z = model.draw(numbers(draws, model.draw_dim, name="draws"))
    assert probability.sum().item() == pytest.approx(1, abs=1e-12)
    drawn = nearest(z.unflatten(-1, (POSITIONS, DIM)), p.codebook)
    place = (drawn * torch.tensor([K**2, K, 1])).sum(-1)
    often = place.bincount(minlength=K**POSITIONS) / draws
    error = (probability * (1 - probability) / draws).sqrt()
    assert ((often - probability).abs() < 5 * error).all()
    if prior == "UniformCodes":
        torch.testing.assert_close(probability, torch.full_like(probability, K**-POSITIONS))
    else:
        assert probability.max() > 3 * probability.min()  # else the frequencies would say little


def test_a_code_depends_on_those_before_it_alone() -> None:
    prior = make().prior
    assert isinstance(prior, AutoregressiveCodes)
    for place in range(POSITIONS):
        logits = prior.logits(all_sequences())
        for before in itertools.product(range(K), repeat=place):
            alike = (all_sequences()[:, :place] == torch.tensor(before)).all(-1)
            assert (logits[alike, place] - logits[alike, place][:1]).abs().max() < 1e-12
        if place:
            assert logits[:, place].std(0).min() > 1e-6


def test_the_kl_is_the_cost_of_the_codes_and_a_z_between_codes_is_impossible() -> None:
    model = make()
    q, p = model.posterior(numbers(6, D)), prior_of(model)
    expected = [-p.log_prob_of(codes).item() for codes in q.codes]
    assert kl(q, p, q.mean).tolist() == pytest.approx(expected)
    torch.testing.assert_close(q.log_prob(q.mean) - p.log_prob(q.mean), kl(q, p, q.mean))
    assert p.log_prob(q.mean + 1e-9).tolist() == [-math.inf] * 6
    assert p.sample(torch.Size([4])).shape == (4, D)
    assert p.log_prob(p.sample(torch.Size([4]))).isfinite().all()


@torch.no_grad()
def test_the_elbo_bounds_the_evidence_by_all_sequences() -> None:
    model = make()
    x = (numbers(6, 1, 4, 4, name="images") > 0).double()
    p, sequences = prior_of(model), all_sequences()
    decoded = model.decode(p.codebook[sequences].flatten(1))
    joint = torch.stack([decoded.log_prob(image) for image in x]) + p.log_prob_of(sequences)
    bound = -negative_elbo(model(x, x.new_zeros(6, 0)), x).loss
    assert (bound < joint.logsumexp(-1)).all()
    each = [joint[row, (sequences == codes).all(-1)].item() for row, codes in enumerate(codes_of(model, x))]
    assert bound.tolist() == pytest.approx(each)


# --- the objective, and what all models keep --------------------------------------------------------------------------


def test_the_loss_is_the_bound_and_the_distance_to_the_codes() -> None:
    model, x = make(), (numbers(4, 1, 4, 4, name="images") > 0).double()
    output = model(x, x.new_zeros(4, 0))
    bound, terms = negative_elbo(output, x), VectorQuantization(commitment=0.7)(output, x, 0.0)
    q, vectors = output.latents[0].q, model.get_buffer("posterior.codebook.vectors")
    assert isinstance(q, Quantized)
    for row in range(4):
        distance = 0.0
        for vector, code in zip(q.before[row].tolist(), q.codes[row].tolist(), strict=True):
            distance += math.dist(vector, vectors[code].tolist()) ** 2
        assert terms.extra["commitment"][row].item() == pytest.approx(distance)
        assert terms.loss[row].item() == pytest.approx(bound.loss[row].item() + 0.7 * distance)
    torch.testing.assert_close(terms.kl, bound.kl)
    moved = torch.autograd.grad(terms.extra["commitment"].sum(), list(model.encoder.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in moved)  # it keeps the encoder near, the codes follow anyway


def test_perplexity_is_that_of_so_many_codes_used_alike() -> None:
    assert perplexity(torch.tensor([3.0, 3.0, 0.0, 3.0])).item() == pytest.approx(3)
    shares = np.array([1, 2, 5]) / 8
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert perplexity(torch.tensor([1.0, 2.0, 5.0])).item() == pytest.approx(expected)
    assert perplexity(torch.zeros(4)).item() == 1


def test_the_perplexity_of_a_test_set_counts_all_positions_of_all_images() -> None:
    model = make().float()
    images = torch.rand(1203, 1, 4, 4, generator=torch.Generator().manual_seed(0))  # two chunks
    with torch.no_grad():
        codes = codes_of(model, images).flatten().tolist()
    shares = np.array([codes.count(code) for code in set(codes)]) / len(codes)
    found = measure_latents(model, Split(images), seed=0).perplexity
    assert found == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert measure_latents(VAE(image_shape=(1, 4, 4), hidden_dim=8), Split(images), seed=0).perplexity is None


@pytest.mark.parametrize("prior", CODE_PRIORS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_weight_gets_a_gradient_and_the_model_is_saved_whole(prior: str, likelihood: str, tmp_path: Path) -> None:
    model = make(prior=prior, likelihood=likelihood).float()
    x = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    terms = VectorQuantization()(model(x, x.new_zeros(8, 0)), x, 0.0)
    assert terms.loss.isfinite().all()
    terms.loss.sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.abs().sum() > 0, name
    model.save_pretrained(tmp_path)
    loaded, noise = VAE.from_pretrained(tmp_path), numbers(4, model.draw_dim).float()
    assert torch.equal(loaded.sample(noise=noise), model.sample(noise=noise))
    assert torch.equal(loaded.code(x), model.code(x))
    assert model.interpolate(x[0], x[1], steps=4).shape == (4, 1, 4, 4)


def test_codes_are_encoded_and_the_page_says_why_it_cannot_show_them() -> None:
    model = make().float()
    images = torch.rand(7, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    arrays = encode(model, Split(images)).arrays()
    with torch.no_grad():
        assert np.array_equal(arrays["codes"], codes_of(model, images).numpy())
    assert arrays.keys() == {"mean", "codes"}
    assert "sequence of codes" in (obstacle(model) or "")


# --- the codebook -----------------------------------------------------------------------------------------------------


def codebook(*, decay: float = 0.9, restart: float = 0.0) -> Codebook:
    """Return one in float64 that has been used before."""
    made = Codebook(K, DIM, decay=decay, restart=restart).double()
    made.counts.copy_(torch.arange(1.0, K + 1))
    made.sums.copy_(numbers(K, DIM, name="sums"))
    return made


def test_vectors_are_moving_averages_of_what_is_assigned_to_them() -> None:
    """Against the sum over all steps, each with its weight, code by code."""
    made, steps, decay = codebook(), 6, 0.9
    given = numbers(steps, 11, DIM)
    codes = torch.from_numpy(np.random.default_rng(0).integers(0, K - 1, (steps, 11)))  # the last one is never used
    counts, sums = made.counts.clone(), made.sums.clone()
    for step in range(steps):
        made.follow(given[step], codes[step], torch.arange(K), NO)
    weights = [(1 - decay) * decay ** (steps - 1 - step) for step in range(steps)]
    for code in range(K):
        chosen = [given[step][codes[step] == code] for step in range(steps)]
        count = decay**steps * counts[code].item() + sum(w * len(c) for w, c in zip(weights, chosen, strict=True))
        total = decay**steps * sums[code] + sum(w * c.sum(0) for w, c in zip(weights, chosen, strict=True))
        assert made.counts[code].item() == pytest.approx(count, rel=1e-13)
        torch.testing.assert_close(made.sums[code], total, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(made.vectors[code], total / count, rtol=1e-12, atol=1e-13)


def test_a_code_that_has_not_been_used_for_long_stays_where_it_is() -> None:
    """Counts and sums become 0 in float32, and a vector that follows from them nothing."""
    made = codebook(decay=0.5).float()
    made.follow(numbers(2, DIM).float(), torch.tensor([0, 1]), torch.zeros(K).long(), NO)
    vector = made.vectors[4].clone()
    for _ in range(200):
        made.follow(numbers(2, DIM).float(), torch.tensor([0, 1]), torch.zeros(K).long(), NO)
    assert made.counts[4] == 0
    torch.testing.assert_close(made.vectors[4], vector, rtol=1e-5, atol=0)


def test_a_code_that_is_hardly_used_starts_anew_and_others_stay() -> None:
    plain, restarting = codebook(), codebook(restart=0.5)  # a mean count of 3: code 0 has 1, of which 0.9 remain
    given, codes = numbers(8, DIM), torch.tensor([1, 2, 3, 4] * 2)
    seeds = torch.tensor([6, 0, 0, 0, 0])
    for each in (plain, restarting):
        each.follow(given, codes, seeds, NO)
    torch.testing.assert_close(restarting.vectors[0], given[6], rtol=1e-13, atol=0)
    assert restarting.counts[0] == plain.counts.mean()
    assert (plain.vectors[0] - given[6]).abs().max() > 0.1
    assert torch.equal(restarting.vectors[1:], plain.vectors[1:])
    assert torch.equal(restarting.sums[1:], plain.sums[1:])


@pytest.mark.parametrize(("share", "restarts"), [(0.008, True), (0.012, False)])
def test_by_itself_a_code_starts_anew_below_a_hundredth_of_the_mean_use(share: float, restarts: bool) -> None:
    made = VectorQuantized(DIM, codes=100, code_dim=DIM).double().codebook
    made.counts.fill_(1.0)
    made.counts[0] = share
    made.sums.copy_(numbers(100, DIM, name="sums"))
    before = made.sums[0] / share
    made.follow(numbers(99, DIM), torch.arange(1, 100), torch.zeros(100).long(), NO)  # each other code is used once
    expected = numbers(99, DIM)[0] if restarts else before
    torch.testing.assert_close(made.vectors[0], expected)


def test_the_perplexity_of_training_is_that_of_a_batch_and_counts_no_code_that_only_starts_anew() -> None:
    """Of 64 codes 4 are ever chosen, equally often, at the end 2; the others start anew in each step, far away."""
    model, x = make(posterior=POSTERIOR | {"codes": 64}), torch.rand(2, 1, 4, 4).double()
    family = model.posterior
    assert isinstance(family, VectorQuantized)
    centres = 10 * numbers(4, DIM, name="centres")
    family.codebook.vectors.copy_(torch.cat([centres, centres.repeat(15, 1) + 1000]))
    family.codebook.counts.fill_(1.0)
    family.codebook.sums.copy_(family.codebook.vectors)

    def logged_after(steps: int, chosen: int) -> list[float]:
        for _ in range(steps):
            q = family(centres[torch.arange(300) % chosen].view(100, -1))
            family.codebook.follow(q.before.flatten(0, 1), q.codes.flatten(), torch.zeros(64).long(), NO)
            family.codebook.vectors[4:] += 1000
        return VectorQuantization()(model(x, x.new_zeros(2, 0)), x, 0.0).extra["perplexity"].tolist()

    assert logged_after(50, chosen=4) == pytest.approx([4, 4], rel=1e-12)
    assert perplexity(family.codebook.counts).item() > 10, "restarted codes have the mean count"
    assert logged_after(1, chosen=2) == pytest.approx([2, 2], rel=1e-12)


def test_dead_codes_come_to_life() -> None:
    """Vectors lie in K groups, and all codes but one far away from them."""
    torch.manual_seed(0)
    centres = 10 * numbers(K, DIM, name="centres")
    for restart, alive in ((0.0, 1), (0.2, K)):
        family = VectorQuantized(DIM, codes=K, code_dim=DIM, decay=0.5, restart=restart).double()
        family.codebook.counts.fill_(1.0)
        family.codebook.vectors.copy_(torch.cat([centres[:1], centres[1:] + 1000]))
        family.codebook.sums.copy_(family.codebook.vectors)
        used = torch.empty(0)
        for step in range(60):
            group = torch.arange(100) % K
            q = family(centres[group] + 0.1 * numbers(100, DIM, name=f"step {step}"))
            used = q.codes.unique()
            family.observe(family.observed(q), NO, randomness.generator(0, "observe", 0, step))
        assert len(used) == alive


def test_the_first_step_seeds_all_codes_with_vectors_of_its_own() -> None:
    for count in (20, 3):  # with fewer vectors than codes, some of them twice
        family = VectorQuantized(DIM, codes=K, code_dim=DIM, restart=0.0).double()
        given = numbers(count, DIM)
        family.observe(family.observed(family(given)), NO, randomness.generator(0, "observe", 0, 0))
        found = nearest(family.codebook.vectors, given)
        torch.testing.assert_close(family.codebook.vectors, given[found], rtol=1e-13, atol=0)
        assert len(found.unique()) == min(count, K)


def state(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_neither_a_forward_pass_nor_a_skipped_step_changes_the_codebook(accelerator: Any) -> None:
    vae, engine = engine_of(accelerator, "train.on_nonfinite=skip")
    engine.advance(0, 1)
    before, clean = state(vae), engine.batches.images.clone()
    vae(clean[:5], clean.new_zeros(5, 0))
    vae.sample(3)
    engine.batches.images[:] = math.nan
    engine.advance(1, 2)
    assert all(torch.equal(before[name], tensor) for name, tensor in vae.state_dict().items())
    engine.batches.images.copy_(clean)
    engine.advance(2, 3)
    changed = {name for name, tensor in vae.state_dict().items() if not torch.equal(before[name], tensor)}
    assert changed == before.keys()


# --- ranks, engines, interruptions ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone() -> Iterator[dict[str, Any]]:
    accelerator = launch.make_accelerator("cpu", "no", {})
    yield {way: trained(accelerator, *settings) for way, settings in WAYS.items()}
    launch.leave()


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_train_the_same_model_and_codebook_as_one(
    processes: int, alone: dict[str, Any], tmp_path: Path
) -> None:
    """The last batch is of one example, so that other ranks have none; in fixed parts it is the same to the bit."""
    done = on_ranks(processes, ROOT / "tests/helpers/programs/codes.py", tmp_path)
    assert done.code == 0, done.err
    assert "Warning" not in done.err
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(processes)]
    for way, tolerance in {"plain": 1e-13, "exact": 0.0, "chunks": 1e-13, "exact chunks": 0.0}.items():
        expected, first = alone[way], ranks[0][way]
        for each in ranks:
            for name, tensor in each[way]["model"].items():
                assert torch.equal(tensor, first["model"][name]), "ranks have drifted apart"
                assert (tensor - expected["model"][name]).abs().max() <= tolerance, (way, name)
            assert each[way]["logged"] == pytest.approx(expected["logged"], rel=1e-11)
            assert each[way]["test"] == pytest.approx(expected["test"], rel=1e-11)
    assert alone["plain"]["test"]["perplexity"] > 2


@pytest.mark.parametrize("way", ["exact", "chunks", "exact chunks"])
def test_gradients_and_codebook_in_parts_are_those_of_the_whole_batch(alone: dict[str, Any], way: str) -> None:
    for name, tensor in alone["plain"]["model"].items():
        assert (tensor - alone[way]["model"][name]).abs().max() < 1e-12, name


def test_a_run_that_is_cut_off_goes_on_to_the_bit(job: Callable[..., Outcome], small: Path, tmp_path: Path) -> None:
    """Two steps before a checkpoint in the middle of an epoch; and what it logs."""
    settings = [f"data.name={small}", *FAMILIES, "model.hidden_dim=16", "train.batch_size=64", "train.log_every=5"]
    settings += ["train.checkpoint_every=9", "train.threads=1"]
    for name, ends in {"whole": (40,), "cut": (23, 40)}.items():
        for end in ends:
            done = job(*settings, f"run.dir={tmp_path / name}", f"train.max_steps={end}", "train.eval_every=0")
            assert done.code == 0, done.err
    files = [tmp_path / name / "model" / checkpoint.WEIGHTS for name in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()
    whole, cut = ({row["step"]: row for row in rows(tmp_path / name, timeless=True)} for name in ("whole", "cut"))
    for step in (30, 35, 40):
        assert whole[step] == cut[step]
    assert {"commitment", "perplexity"} < whole[35].keys()
    tags = scalars(tmp_path / "whole")
    assert tags["Latents/Perplexity"][-1][1] == pytest.approx(whole[40]["perplexity"], rel=1e-6)
    assert len(tags["Loss/Train/perplexity"]) == 8


def test_the_engine_is_eager_and_says_why(accelerator: Any) -> None:
    _, engine = engine_of(accelerator, "train.max_steps=100000", "train.epochs=100000")
    assert engine.name == "eager"
    assert "learns from all ranks' examples" in engine.why
    with pytest.raises(InputError, match="use eager or auto"):
        engine_of(accelerator, "train.engine=compile")


# --- what is refused --------------------------------------------------------------------------------------------------

OF_CODES = ["model.latent_dim=16", "model.posterior=VectorQuantized"]
WHOLE = [*OF_CODES, "model.prior=AutoregressiveCodes", "objective=VectorQuantization"]
REFUSED = {
    "a prior of vectors": (OF_CODES, "take UniformCodes or AutoregressiveCodes"),
    "another objective": ([*OF_CODES, "model.prior=UniformCodes"], "take VectorQuantization"),
    "several draws": ([*WHOLE, "objective=IWAE"], "take VectorQuantization"),
    "several layers": ([*WHOLE, "model.hierarchy=BottomUp"], "take Flat"),
    "a prior without codes": (["model.prior=UniformCodes"], "only model.posterior=VectorQuantized"),
    "an objective without codes": (["objective=VectorQuantization"], "only model.posterior=VectorQuantized"),
    "half a code": ([*WHOLE, "model.latent_dim=12"], "must be a multiple of model.posterior.code_dim = 8"),
    "one code that follows from others": ([*WHOLE, "model.latent_dim=8"], "take UniformCodes"),
    "one vector": ([*WHOLE, "model.posterior={name: VectorQuantized, codes: 1}"], "model.posterior.codes = 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_one_line(name: str) -> None:
    overrides, said = REFUSED[name]
    with pytest.raises(InputError) as refusal:
        load(None, overrides)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_objective_of_codes_takes_one_draw_of_each_image() -> None:
    assert assemble.build_objective(load(None, WHOLE)).samples == 1
