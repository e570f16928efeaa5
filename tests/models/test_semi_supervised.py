"""Labels that are hidden: the bound against sums written out, what training sees, the job on several processes."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from tests.helpers.folders import write_data, write_run
from tests.helpers.runs import largest_difference, rows, scalars
from tests.helpers.starts import Outcome, launch
from vae import __main__ as cli
from vae import assemble
from vae.config import load
from vae.data import randomness
from vae.data.dataset import HIDDEN, DataSet, Split
from vae.distributed import launch as processes
from vae.distributed.signals import StopRequest
from vae.engine.ledger import Ledger
from vae.engine.static import Static
from vae.errors import InputError
from vae.evaluation import evaluate, measure_latents
from vae.evaluation.log_likelihood.importance import estimate
from vae.evaluation.log_likelihood.progress import Progress
from vae.evaluation.log_likelihood.weights import log_weights
from vae.model import VAE, VAEOutput
from vae.objectives import ELBO, SemiSupervised, negative_elbo

CLASSES, D = 3, 2
GIVEN = torch.tensor([HIDDEN, 0, 2, HIDDEN])
INFERRING = ["model.infer_labels=true", "model.condition=true"]
WEIGHTED = "objective={name: SemiSupervised, alpha: 2, labelled: 0.5}"
TINY = [*INFERRING, WEIGHTED, "model.hidden_dim=8", "train.batch_size=16"]


@pytest.fixture(autouse=True)
def leaving() -> Iterator[None]:
    yield
    processes.leave()


def build(**pieces: Any) -> VAE:
    """Return a model in float64, whose images depend on labels."""
    torch.manual_seed(1)
    settings: dict[str, Any] = {"latent_dim": D, "hidden_dim": 8, "depth": 1, "condition": True} | pieces
    model = VAE(image_shape=(1, 3, 3), classes=CLASSES, infer_labels=True, **settings).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)
    return model


def images(count: int) -> Tensor:
    return (torch.from_numpy(randomness.generator(7, "test").random((count, 1, 3, 3))) > 0.5).double()


def noise(*shape: int) -> Tensor:
    return randomness.normal(math.prod(shape), 1, 7, "test noise").view(shape).double()


def one_label(model: VAE, x: Tensor, eps: Tensor, label: int) -> tuple[Tensor, Tensor]:
    """Return -log p(x|y, z) and KL(q(z|x, y) || p(z)), (B,), for one y, from the networks themselves."""
    seen = F.one_hot(torch.full((len(x),), label), CLASSES).double()
    loc, raw = model.encoder(x, seen).chunk(2, -1)
    q = Independent(Normal(loc, F.softplus(raw) + 1e-6), 1)
    logits = model.decoder(loc + q.base_dist.scale * eps, seen)
    reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)
    return reconstruction, kl_divergence(q, Independent(Normal(torch.zeros(D), torch.ones(D)), 1))


# --- the bound --------------------------------------------------------------------------------------------------------


def test_the_loss_is_equation_6_for_a_label_and_equation_7_without_in_one_batch() -> None:
    """Kingma et al. 2014: L(x, y), U(x) = sum_y q(y|x) L(x, y) - H(q(y|x)), and alpha -log q(y|x), in loops over y."""
    model, x, eps = build(), images(4), noise(4, D)
    beta, alpha, weights = 0.7, 1.3, {True: 0.4, False: 0.9}
    got = SemiSupervised(beta=beta, alpha=alpha, labelled=0.4, unlabelled=0.9)(model(x, eps, GIVEN), x, 0.0)
    assert model.classifier is not None
    q = model.classifier(x).softmax(-1)
    nats = [one_label(model, x, eps, label) for label in range(CLASSES)]
    for i, given in enumerate(GIVEN.tolist()):
        share = q[i] if given == HIDDEN else torch.eye(CLASSES).double()[given]
        reconstruction = sum(share[y] * nats[y][0][i] for y in range(CLASSES))
        divergence = math.log(CLASSES) + sum(share[y] * nats[y][1][i] for y in range(CLASSES))
        if given == HIDDEN:
            divergence += sum(share[y] * share[y].log() for y in range(CLASSES))
        entropy = 0.0 if given == HIDDEN else -q[i, given].log()
        expected = weights[given != HIDDEN] * (reconstruction + beta * divergence) + alpha * entropy
        torch.testing.assert_close(got.loss[i], expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(got.reconstruction[i], reconstruction, rtol=1e-12, atol=0)
        torch.testing.assert_close(got.kl[i], divergence, rtol=1e-12, atol=0)
        torch.testing.assert_close(got.extra["cross_entropy"][i], torch.as_tensor(entropy).double())
    assert got.extra["labelled"].tolist() == [0, 1, 1, 0]


PIECES = [
    {},
    {"posterior": "FullNormal"},
    {"posterior": {"name": "SplineFlow", "layers": 2, "width": 8}},
    {"posterior": {"name": "InverseAutoregressiveFlow", "layers": 2, "width": 8}},
    {"prior": "GaussianMixture"},
    {"prior": "ClassNormal"},
    {"prior": "ClassNormal", "condition": False},
    {"prior": {"name": "Flow", "layers": 2, "width": 8}},
    {"hierarchy": {"name": "BottomUp", "latent_dims": [2], "hidden_dims": [4], "depth": 1}},
    {"hierarchy": {"name": "Ladder", "latent_dims": [2], "hidden_dims": [4], "depth": 1}},
    {"encoder": "ResidualMLPEncoder", "decoder": "ResidualMLPDecoder"},
    {"center_input": True},
]


@pytest.mark.parametrize("pieces", PIECES, ids=str)
def test_enumerated_labels_are_those_of_as_many_passes(pieces: dict[str, Any]) -> None:
    """Whatever the families are, and for several draws; the model given a label is the witness."""
    model, x, eps = build(**pieces), images(4), noise(4, 5, 0)
    eps = noise(4, 5, model.noise_dim)
    with torch.no_grad():
        every, inferred = model(x, eps), model.classify(x)
        assert inferred is not None
        log_w = log_weights(every, x).log_w
        each = [conditional(model, x, eps, label) for label in range(CLASSES)]
        ratios = torch.stack([log_weights(one, x)[0] for one in each])  # (C, K, B)
        torch.testing.assert_close(log_w, ratios.logsumexp(0) - math.log(CLASSES))
        share = inferred.log_q.exp()[:, None]
        minus_u = (share * (ratios - math.log(CLASSES) - share.log())).sum(0)  # Kingma et al. 2014, eq. 7
        torch.testing.assert_close(log_weights(every, x).bound, minus_u)
        assert (minus_u < log_w).all()
        single, eps = model(x, eps[:, 0]), eps[:, 0]
        bounds = torch.stack([negative_elbo(conditional(model, x, eps, y), x).loss for y in range(CLASSES)])
    q = inferred.log_q.exp()
    expected = (q * (bounds + math.log(CLASSES) + q.log())).sum(0)
    torch.testing.assert_close(negative_elbo(single, x).loss, expected)


def test_an_evaluation_reports_u_of_x_and_its_parts_add_up() -> None:
    """-U(x) is -(reconstruction + KL), y included, but for the noise of the draws; log p(x) is another number."""
    model, x = build(), images(4)
    accelerator = processes.make_accelerator("cpu", "no", {})
    progress = Progress(accelerator, StopRequest())
    found = estimate(accelerator, model, Split(x), samples=20_000, seed=0, split="test", progress=progress)
    measures = evaluate(accelerator, model, Split(x), seed=0, split="test").latents
    assert found.elbo.mean().item() == pytest.approx(
        -(found.reconstruction.mean().item() + measures.total_kl), abs=0.05
    )
    assert (found.log_likelihood - found.elbo).min() > 0.3


def conditional(model: VAE, x: Tensor, eps: Tensor, label: int) -> VAEOutput:
    """Return the output of the same networks as a model that is given one label."""
    labels = torch.full((len(x),), label)
    latents = model.infer(x, eps, labels)
    return VAEOutput(latents, model.decode(latents[0].z, labels))


def test_the_bound_lies_below_the_likelihood_that_importance_weights_find() -> None:
    """log p(x) by brute force over a grid of z and all y."""
    model, x = build(latent_dim=1), images(3)
    z = torch.linspace(-10, 10, 4001, dtype=torch.float64)
    with torch.no_grad():
        log_p_z = Normal(0.0, 1.0).log_prob(z)
        joint = torch.stack(
            [
                model.decode(z[:, None, None].expand(-1, 3, 1), torch.full((3,), y)).log_prob(x) + log_p_z[:, None]
                for y in range(CLASSES)
            ]
        )
        evidence = joint.flatten(0, 1).logsumexp(0) + math.log(20 / 4000 / CLASSES)
        log_w = log_weights(model(x, noise(3, 20_000, 1)), x).log_w
        bound = torch.stack([-negative_elbo(model(x, noise(3, 200, 1)[:, k]), x).loss for k in range(200)]).mean(0)
    error = log_w.exp().std(0) / log_w.exp().mean(0) / 20_000**0.5
    assert ((log_w.logsumexp(0) - math.log(20_000) - evidence).abs() < 4 * error + 1e-6).all()
    assert (error < 0.1).all(), "too rough to tell"
    assert (bound < evidence).all()


def test_an_epoch_with_repeats_is_the_sum_of_the_paper() -> None:
    """Kingma et al. 2014, eq. 8 and 9: L of labelled images, U of the others, each once, and 0.1 N mean(-log q)."""
    count, kept, repeats = 12, 6, 5
    model, whole = build(), Split(images(count), torch.arange(count) % CLASSES)
    hidden = DataSet("d", whole, whole).hide_labels(kept, repeats, seed=0).train
    labels = hidden.labels
    assert labels is not None
    settings = {"alpha": 0.1 * count / (kept * repeats), "labelled": 1 / repeats}
    got = SemiSupervised(**settings)(
        model(hidden.images, noise(1, D).expand(len(labels), D), labels), hidden.images, 0.0
    )
    x, once, eps = hidden.images[:count], labels[:count], noise(1, D).expand(count, D)
    given = once != HIDDEN
    assert model.classifier is not None
    q = model.classifier(x).softmax(-1)
    nats = [one_label(model, x, eps, label) for label in range(CLASSES)]
    bounds = torch.stack([reconstruction + kl for reconstruction, kl in nats], 1) + math.log(CLASSES)
    supervised = bounds[given, once[given]].sum()
    unsupervised = (q * (bounds + q.log()))[~given].sum()
    expected = supervised + unsupervised - 0.1 * count * q[given, once[given]].log().mean()
    torch.testing.assert_close(got.loss.sum(), expected, rtol=1e-12, atol=0)


def test_free_bits_raise_the_mean_over_labels_and_images() -> None:
    model, x, eps = build(), images(4), noise(4, D)
    output = model(x, eps, GIVEN)
    assert output.labels is not None
    each = (output.labels.weights[..., None] * output.latents[0].kl_by_group()).sum(0)  # (B, D)
    free_bits = each.mean().item()
    got = ELBO(beta=1.0, free_bits=free_bits)(output, x, 0.0)
    raised = each.mean(0).clamp(min=free_bits).sum()
    expected = got.reconstruction.mean() + raised + output.labels.kl().mean()
    torch.testing.assert_close(got.loss.mean(), expected)
    assert got.loss.mean() > got.reconstruction.mean() + got.kl.mean()


def test_every_weight_has_a_gradient_and_the_classifier_one_from_either_kind_of_image() -> None:
    model, x, eps = build(), images(4), noise(4, D)
    assert model.classifier is not None
    weight = next(model.classifier.parameters())
    for chosen, alpha in ((GIVEN == HIDDEN, 0.0), (GIVEN != HIDDEN, 1.0)):
        terms = SemiSupervised(alpha=alpha)(model(x, eps, GIVEN), x, 0.0)
        (gradient,) = torch.autograd.grad(terms.loss[chosen].sum(), weight, retain_graph=True)
        assert gradient.abs().sum() > 0
        (none,) = torch.autograd.grad(SemiSupervised(alpha=0.0)(model(x, eps, GIVEN), x, 0.0).loss[1], weight)
        assert not none.any(), "the bound of an image whose label is given says nothing of q(y|x)"
    SemiSupervised()(model(x, eps, GIVEN), x, 0.0).loss.sum().backward()
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in model.parameters())


def test_pictures_are_made_with_the_most_probable_label() -> None:
    model, x = build(), images(4)
    labels = model.labels_of(x)
    assert model.classifier is not None
    assert labels is not None
    assert torch.equal(labels, model.classifier(x).argmax(-1))
    assert torch.equal(model.reconstruct(x), model.reconstruct(x, labels))
    completed = model.labels_of(x, GIVEN)
    assert completed is not None
    assert torch.equal(completed, torch.where(GIVEN >= 0, GIVEN, labels))
    assert not torch.equal(model.reconstruct(x, (labels + 1) % CLASSES), model.reconstruct(x))
    torch.testing.assert_close(model.interpolate(x[0], x[1])[0], model.reconstruct(x)[0])
    assert model.sample(5, noise(5, D)).shape == (5, 1, 3, 3)


def test_probabilities_stay_in_float32_when_networks_run_in_bfloat16() -> None:
    model, x = build().float(), images(4).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(x, noise(4, D).float(), GIVEN)
    assert SemiSupervised()(output, x, 0.0).loss.dtype == torch.float32


def test_a_saved_model_is_the_same(tmp_path: Path) -> None:
    model, x, eps = build().float(), images(4).float(), noise(4, D).float()
    model.save_pretrained(tmp_path)
    loaded = VAE.from_pretrained(tmp_path)
    assert torch.equal(negative_elbo(loaded(x, eps), x).loss, negative_elbo(model(x, eps), x).loss)


# --- data -------------------------------------------------------------------------------------------------------------


def data(count: int = 40) -> DataSet:
    labels = torch.arange(count) % 4
    pixels = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 1, 2, 2)
    return DataSet("d", Split(pixels, labels), Split(pixels, labels))


def test_a_few_labels_of_each_class_are_kept_and_all_others_are_gone() -> None:
    whole = data()
    hidden = whole.hide_labels(8, 5, seed=3)
    train = hidden.train
    assert hidden.test is whole.test
    assert train.labels is not None
    assert whole.train.labels is not None
    assert len(train) == 40 + 8 * 4
    given = train.labels[:40] != HIDDEN
    assert torch.equal(train.images[:40], whole.train.images)
    assert torch.equal(train.labels[:40][given], whole.train.labels[given])
    assert train.labels[:40][given].bincount().tolist() == [2] * 4
    once = sorted(train.images[:40][given][:, 0, 0, 0].tolist())
    assert sorted(train.images[40:, 0, 0, 0].tolist()) == sorted(once * 4)
    assert torch.equal(train.labels[40:], train.images[40:, 0, 0, 0].long() % 4)
    other = data().hide_labels(8, 1, seed=4).train.labels
    again = data().hide_labels(8, 1, seed=3).train.labels
    assert again is not None
    assert torch.equal(again, train.labels[:40])
    assert other is not None
    assert not torch.equal(other, again)


def test_images_without_a_label_stay_without() -> None:
    whole = data().train
    assert whole.labels is not None
    known = torch.where(torch.arange(40) < 20, whole.labels, HIDDEN)
    given = DataSet("d", replace(whole, labels=known), whole)
    kept = given.hide_labels(8, 1, seed=3).train.labels
    assert kept is not None
    assert kept[20:].unique().tolist() == [HIDDEN]
    assert kept[:20][kept[:20] != HIDDEN].bincount().tolist() == [2] * 4
    with pytest.raises(InputError, match=r"at most 20 .the smallest class has 5 labelled images"):
        given.hide_labels(24, 1, seed=3)


@pytest.mark.parametrize(("labelled", "words"), [(6, "a multiple of the 4 classes"), (44, "at most 40")])
def test_numbers_that_the_classes_do_not_allow_are_refused(labelled: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        data().hide_labels(labelled, 1, seed=0)


def test_data_without_labels_are_refused() -> None:
    bare = DataSet("bare", Split(data().train.images), Split(data().test.images))
    with pytest.raises(InputError, match=r"data.labelled = 4: bare has no labels"):
        bare.hide_labels(4, 1, seed=0)


# --- engines ----------------------------------------------------------------------------------------------------------


def engine_parts(*settings: str) -> tuple[Any, tuple[Any, ...]]:
    config = load(None, [*TINY, "train.precision=fp64", *settings])
    pixels = torch.from_numpy(randomness.generator(7, "pixels").integers(0, 256, (53, 1, 3, 3), dtype=np.uint8))
    hidden = DataSet("d", Split(pixels, torch.arange(53) % 3), Split(pixels)).hide_labels(6, 3, seed=0)
    model, objective = assemble.build_model(config, (1, 3, 3), CLASSES), assemble.build_objective(config)
    batches = assemble.build_batches(config, hidden, model, objective, torch.device("cpu"))
    return config, (model, objective, batches)


def test_exact_and_static_engines_train_the_same_model_as_the_eager_one() -> None:
    accelerator = processes.make_accelerator("cpu", "no", {})
    built = [engine_parts(*own) for own in ([], ["train.exact=4"], [])]
    eager, exact = (assemble.build_engine(config, accelerator, *own) for config, own in built[:2])
    config, (model, objective, batches) = built[2]
    update = assemble.build_update(config, accelerator, model, "compile")
    ledger = Ledger(accelerator, skip_nonfinite=False, extra=objective.extra, extra_of=objective.extra_of)
    static = Static("", "", accelerator, batches, objective, update, ledger, eager.learning_rate, model, captured=False)
    static.prepare()
    for engine in (eager, exact, static):
        for step in range(6):  # five of them an epoch, the last of one example
            engine.advance(step, step + 1)
    expected, labels = eager.drain(), batches.labels
    assert expected.extra["labelled"] == pytest.approx(float((labels != HIDDEN).double().mean()), abs=0.1)
    assert expected.extra["cross_entropy"] > 0.3  # near log 3: a mean over all images would be a fourth of that
    for other in (exact, static):
        pairs = zip(eager.update.parameters, other.update.parameters, strict=True)
        assert max((a - b).abs().max().item() for a, b in pairs) < 1e-12
        found = other.drain()
        assert found.extra == pytest.approx(expected.extra, rel=1e-9)
        assert found.loss == pytest.approx(expected.loss, rel=1e-9)


def test_a_term_that_few_examples_have_is_averaged_over_these() -> None:
    accelerator = processes.make_accelerator("cpu", "no", {})
    ledger = Ledger(accelerator, skip_nonfinite=False, extra=("has", "x"), extra_of={"x": "has"})
    for has, x in ((2.0, 10.0), (0.0, 0.0), (1.0, 2.0)):
        ledger.record(torch.tensor([1.0, 1.0, 0.0, has, x]).double(), 4, torch.tensor(1.0), 0)
    assert ledger.drain().extra == {"has": 0.25, "x": 4.0}
    ledger.record(torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0]).double(), 4, torch.tensor(1.0), 0)
    assert ledger.drain().extra == {"has": 0.0}


# --- the job ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 images of three classes, which q(y|x) can tell apart after a few steps, and 31 for testing."""
    path = tmp_path_factory.mktemp("data") / "bars.npz"
    generator = np.random.default_rng(0)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = generator.integers(0, 3, count)
        bars = np.zeros((count, 3, 3), np.float32)
        bars[np.arange(count), labels] = 0.6
        return np.clip(bars + 0.4 * generator.random(bars.shape, np.float32), 0, 1), labels

    (x, y), (test_x, test_y) = draw(120), draw(31)
    y[:6] = [0, 1, 2, 0, 1, 2]
    np.savez(path, images=x, labels=y, test_images=test_x, test_labels=test_y)
    return path


def job_settings(archive: Path, *more: str) -> list[str]:
    own = [f"data.name={archive}", "data.labelled=6", "data.repeat_labelled=4", "train.precision=fp64", *more]
    return [*TINY, *own, "train.log_every=3", "train.checkpoint_every=4", "train.max_steps=13"]


def test_one_two_and_three_processes_train_alike_and_count_the_accuracy_exactly(
    job: Callable[..., Outcome], archive: Path, tmp_path: Path
) -> None:
    """Nine steps an epoch, the last one of ten examples; 31 test images."""
    folders = {count: tmp_path / str(count) for count in (1, 2, 3)}
    outcome = job(*job_settings(archive), f"run.dir={folders[1]}")
    assert outcome.code == 0, outcome.err
    for count in (2, 3):
        outcome = launch(count, *job_settings(archive), f"run.dir={folders[count]}")
        assert outcome.code == 0, outcome.err
        assert largest_difference(folders[1], folders[count]) < 1e-12
        for alone, together in zip(*(rows(folders[n], timeless=True) for n in (1, count)), strict=True):
            assert together.pop("split") == alone.pop("split")
            assert together == pytest.approx(alone, rel=1e-9)
    model, held_out = VAE.from_pretrained(folders[1] / "model").double(), np.load(archive)
    assert model.classifier is not None
    best = model.classifier(torch.from_numpy(held_out["test_images"])[:, None].double()).argmax(-1)
    right = int((best.numpy() == held_out["test_labels"]).sum())
    assert 0 < right <= 31
    for folder in folders.values():
        assert json.loads((folder / "summary.json").read_text())["test"]["accuracy"] == right / 31
    assert scalars(folders[1])["Accuracy/Test"][-1][1] == pytest.approx(right / 31)
    assert rows(folders[1])[-1]["accuracy"] == right / 31
    assert f"accuracy {right / 31:.2%}" in outcome.out


def test_hidden_labels_do_not_change_a_bit(job: Callable[..., Outcome], archive: Path, tmp_path: Path) -> None:
    """All labels behind the last one that is kept, in the order of the choice, are exchanged for others."""
    arrays = dict(np.load(archive))
    order, labels = randomness.permutation(120, 0, "labelled").numpy(), arrays["labels"]
    last = max(np.flatnonzero(labels[order] == label)[1] for label in range(3))  # two are kept of each
    scrambled = labels.copy()
    scrambled[order[last + 1 :]] = (labels[order[last + 1 :]] + 1) % 3
    assert (scrambled != labels).sum() > 90
    np.savez(tmp_path / "scrambled.npz", **(arrays | {"labels": scrambled}))
    for name, path in (("true", archive), ("scrambled", tmp_path / "scrambled.npz")):
        assert job(*job_settings(path), f"run.dir={tmp_path / name}").code == 0
    models = [(tmp_path / name / "model/model.safetensors").read_bytes() for name in ("true", "scrambled")]
    assert models[0] == models[1]
    assert rows(tmp_path / "true", timeless=True) == rows(tmp_path / "scrambled", timeless=True)


def test_cut_off_in_mid_epoch_it_goes_on_bitwise(job: Callable[..., Outcome], archive: Path, tmp_path: Path) -> None:
    settings = job_settings(archive)
    assert job(*settings, f"run.dir={tmp_path / 'whole'}").code == 0
    for steps in (5, 13):  # a logging interval is cut
        done = job(*settings, f"train.max_steps={steps}", f"run.dir={tmp_path / 'cut'}")
        assert done.code == 0, done.err
    assert "from step 5" in done.out
    models = [(tmp_path / name / "model/model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert models[0] == models[1]
    train = [
        {row["step"]: row for row in rows(tmp_path / name, timeless=True) if row["split"] == "train"}
        for name in ("whole", "cut")
    ]
    assert train[0][9] == train[1][9]


def test_latent_measures_are_those_of_the_evaluation(archive: Path) -> None:
    """And E[z|x] is the mean over q(y|x), written out."""
    model, held_out = build(), Split(images(31), torch.arange(31) % 3)
    found = evaluate(processes.make_accelerator("cpu", "no", {}), model, held_out, seed=0, split="test")
    again = measure_latents(model, held_out, seed=0)
    assert again.kl == pytest.approx(found.latents.kl)
    assert again.total_kl == pytest.approx(found.kl)
    assert model.classifier is not None
    with torch.no_grad():
        q = model.classifier(held_out.images).softmax(-1)
        means = torch.stack([model.code(held_out.images, torch.full((31,), y)) for y in range(CLASSES)], 1)
    expected = (q[..., None] * means).sum(1).var(0, unbiased=False)
    assert found.latents.variance == pytest.approx(expected.tolist())


def test_an_evaluation_takes_the_mean_of_z_under_the_most_probable_label_and_counts_those_that_are_right() -> None:
    model, held_out = build(), Split(images(31), torch.arange(31) % 3)
    found = evaluate(processes.make_accelerator("cpu", "no", {}), model, held_out, seed=0, split="test")
    assert model.classifier is not None
    with torch.no_grad():
        best = model.classifier(held_out.images).argmax(-1)
        seen = F.one_hot(best, CLASSES).double()
        logits = model.decoder(model.encoder(held_out.images, seen)[:, :D], seen)
    each = F.binary_cross_entropy_with_logits(logits, held_out.images, reduction="none").flatten(1).sum(1)
    assert found.reconstruction_mean_z == pytest.approx(each.mean().item())
    right = (best == held_out.labels).double().mean().item()
    assert 0 < right < 1
    assert found.accuracy == pytest.approx(right)


INFER = "model.infer_labels=true model.condition=true"
REFUSED = {
    "model.infer_labels=true": "nothing sees a label",
    "objective=SemiSupervised": "set model.infer_labels=true model.condition=true",
    f"{INFER} objective=IWAE": "'IWAE' has no rule",
    "data.labelled=10": "set model.infer_labels=true model.condition=true objective=SemiSupervised",
    "data.repeat_labelled=2": "no label is hidden",
    f"{INFER} data.labelled=10 data.repeat_labelled=2 data.binarize=static": "they are drawn once",
    f"{INFER} data.labelled=15": "must be a multiple of the 10 classes",
}


@pytest.mark.parametrize("settings", REFUSED)
def test_refused_with_one_line_and_code_2(job: Callable[..., Outcome], settings: str, tmp_path: Path) -> None:
    refused = job(*settings.split(), f"run.dir={tmp_path / 'r'}")
    assert refused.code == 2
    assert REFUSED[settings] in refused.line
    assert not (tmp_path / "r").exists()


def test_a_finished_run_is_of_use_without_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command, on data whose labels it is not told."""
    path = write_data(tmp_path)
    run = write_run(tmp_path / "run", path, *INFERRING, WEIGHTED, "data.labelled=8", classes=4)
    arrays = dict(np.load(path))
    bare = tmp_path / "bare.npz"
    np.savez(bare, images=arrays["images"], test_images=arrays["test_images"])
    for command in ("encode", "interpolate", "impute --sweeps 3", "denoise"):
        assert cli.main([*command.split(), str(run), "--data", str(bare)]) == 0, capsys.readouterr().err
    assert cli.main(["sample", str(run), "--label", "2", "--count", "4"]) == 0
    assert cli.main(["evaluate", str(run), "--samples", "3", "--device", "cpu"]) == 0
    assert "of the labels are the most probable one" in capsys.readouterr().out
