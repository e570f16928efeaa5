"""A mixture fitted to the codes: densities by hand, fits in closed form, what a run keeps, what commands say of it."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.mixture import GaussianMixture
from torch import Tensor

from tests.helpers.folders import write_data, write_run
from vae import __main__ as cli
from vae import uses
from vae.data import randomness
from vae.data.dataset import Split
from vae.errors import InputError
from vae.evaluation.mixture import fitting
from vae.evaluation.mixture.drawing import draw
from vae.evaluation.mixture.fitting import RIDGE, FitError, fit
from vae.evaluation.mixture.kept import Fitted, fitted
from vae.evaluation.mixture.text import in_words
from vae.evaluation.quality.samples import reconstructions
from vae.families.priors import FittedMixture, Given
from vae.model import VAE
from vae.networks import Sizes
from vae.run import checkpoint
from vae.run.finished import Loader, Opened

D, K, CLASSES = 3, 4, 2


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def parts(*batch: int, dim: int = D) -> dict[str, Tensor]:
    """Return weights, means and covariances of mixtures whose normals overlap, and are neither round nor aligned."""
    raw, roots = np.exp(numbers(*batch, K)), numbers(*batch, K, dim, dim, seed=1)
    arrays = {
        "weights": raw / raw.sum(-1, keepdims=True),
        "means": numbers(*batch, K, dim, seed=2),
        "covariances": roots @ np.swapaxes(roots, -1, -2) + 0.1 * np.eye(dim),
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def by_hand(z: np.ndarray, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> float:
    density = 0.0
    for weight, mean, covariance in zip(weights, means, covariances, strict=True):
        distance = (z - mean) @ np.linalg.inv(covariance) @ (z - mean)
        density += weight * math.exp(-distance / 2) / math.sqrt(np.linalg.det(2 * math.pi * covariance))
    return math.log(density)


def mixture(*batch: int, dim: int = D) -> FittedMixture:
    return FittedMixture(Sizes(latent_dim=dim), **parts(*batch, dim=dim))


# --- the density ------------------------------------------------------------------------------------------------------


def test_the_density_is_the_weighted_sum_of_normals_and_with_labels_that_of_the_class() -> None:
    one, each = parts(), parts(CLASSES)
    z, labels = torch.from_numpy(numbers(7, D, seed=5)), torch.arange(7) % CLASSES
    expected = [by_hand(row, **{name: part.numpy() for name, part in one.items()}) for row in z.numpy()]
    assert mixture().log_prob(z).numpy() == pytest.approx(expected, rel=1e-12)
    for row, label, got in zip(z.numpy(), labels, mixture(CLASSES).log_prob(z, labels), strict=True):
        own = {name: part[label].numpy() for name, part in each.items()}
        assert got.item() == pytest.approx(by_hand(row, **own), rel=1e-12)
    shares = torch.tensor([0.25, 0.75])
    together = mixture(CLASSES).over_classes(shares).log_prob(z)
    logs = torch.stack([mixture(CLASSES).log_prob(z, torch.full((7,), label)) for label in range(CLASSES)])
    expected = (logs.exp() * shares[:, None]).sum(0).log()
    torch.testing.assert_close(together, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batch", [(), (CLASSES,)])
def test_noise_makes_draws_that_have_the_mixtures_mean_and_covariance(batch: tuple[int, ...]) -> None:
    count, prior, made = 100_000, mixture(*batch), parts(*batch)
    noise = randomness.normal(count, prior.noise_dim, 3, "test").double()
    labels = torch.ones(count, dtype=torch.int64)
    given = Given(noise, lambda _: NotImplemented, labels if batch else None)
    with torch.no_grad():
        z = torch.cat([prior.transform(prior(Given(noise[rows], given.encode, labels[rows])), noise[rows])
                       for rows in (slice(i, i + 5000) for i in range(0, count, 5000))])  # fmt: skip
    weights, means, covariances = (part[1] if batch else part for part in made.values())
    mean = weights @ means
    spread = means - mean
    covariance = (weights[:, None, None] * (covariances + spread[:, :, None] * spread[:, None])).sum(0)
    error = 5 / math.sqrt(count)
    assert ((z.mean(0) - mean) / covariance.diag().sqrt()).abs().max() < error
    scale = covariance.diag().sqrt()
    assert ((torch.cov(z.T) - covariance) / torch.outer(scale, scale)).abs().max() < 4 * error


@pytest.mark.parametrize("hierarchy", ["Flat", "BottomUp", "Ladder"])
def test_a_mixture_that_is_the_prior_makes_the_models_own_samples(hierarchy: str) -> None:
    """N(0, I) in the place of N(0, I): z of the highest layer, from which the layers below follow."""
    model = VAE(image_shape=(1, 4, 4), latent_dim=3, hidden_dim=8, hierarchy=hierarchy)
    dim = model.hierarchy.top_dim
    unit = torch.ones(1).double(), torch.zeros(1, dim).double(), torch.eye(dim)[None].double()
    prior = FittedMixture(Sizes(latent_dim=dim), *unit)
    noise = randomness.normal(6, model.hierarchy.draw_dim(prior), 0, "test")
    torch.testing.assert_close(model.sample(noise=noise, prior=prior), model.sample(noise=noise[:, :-1]))
    assert model.sample(5, prior=prior).shape == (5, 1, 4, 4)


@pytest.mark.parametrize("hierarchy", ["BottomUp", "Ladder"])
def test_of_several_layers_the_highest_one_is_fitted(hierarchy: str) -> None:
    layers = {"name": hierarchy, "latent_dims": [2], "hidden_dims": [4], "depth": 1}
    model = VAE(image_shape=(1, 4, 4), latent_dim=3, hidden_dim=8, hierarchy=layers)
    images = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    drawn = draw(model, Split(images), seed=0, split="test")
    with torch.no_grad():
        top = model.infer(images, randomness.normal(5, model.noise_dim, 0, "mixture/test"))[1]
    assert drawn.z.shape == (5, 2)
    torch.testing.assert_close(drawn.z, top.z.double())
    torch.testing.assert_close(drawn.log_prior, -0.5 * drawn.z.square().sum(1) - math.log(2 * math.pi))


# --- the fit ----------------------------------------------------------------------------------------------------------


def test_one_normal_is_fitted_in_closed_form() -> None:
    z = numbers(500, D) @ numbers(D, D, seed=1) + 3
    found = fit(z, 1, seed=0)
    assert found.weights == pytest.approx(1)
    assert found.means[0] == pytest.approx(z.mean(0), rel=1e-12)
    exact = np.cov(z.T, bias=True) + RIDGE * np.eye(D)
    assert found.covariances[0].ravel() == pytest.approx(exact.ravel(), rel=1e-9)
    assert found.converged


def codes() -> np.ndarray:
    truth = mixture()
    noise = randomness.normal(600, truth.noise_dim, 1, "test").double()
    return truth.transform(truth(Given(noise, lambda _: NotImplemented)), noise).numpy()


def test_a_fit_in_rounds_is_scikit_learns_in_one_go() -> None:
    z = codes()
    found = fit(z, K, seed=0)
    assert found.iterations > 10, "more than one round"
    first = int(randomness.generator(0, "mixture/fit").integers(2**32))
    whole = GaussianMixture(K, max_iter=1000, random_state=first).fit(z)
    assert (found.iterations, found.converged) == (whole.n_iter_, True)
    for name in ("weights", "means", "covariances"):
        assert np.array_equal(getattr(found, name), getattr(whole, f"{name}_"))
    again = FittedMixture(
        Sizes(latent_dim=D), *(torch.from_numpy(part) for part in (found.weights, found.means, found.covariances))
    )
    own = again.log_prob(torch.from_numpy(z))
    assert own.numpy() == pytest.approx(whole.score_samples(z), rel=1e-9)
    assert not np.array_equal(fit(z, K, seed=1).means, found.means)


def test_a_fit_that_has_not_converged_says_so(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = made(run, components=1)
    monkeypatch.setattr(fitting, "MOST_ITERATIONS", fitting.ROUND)
    monkeypatch.setattr(fitting, "TOLERANCE", 0.0)
    found = fit(codes(), K, seed=0)
    assert (found.iterations, found.converged) == (fitting.ROUND, False)
    assert "not converged" not in " ".join(in_words(whole))
    stopped = replace(whole, results={**whole.results, "iterations": 200, "converged": False})
    assert "  the fit had not converged after 200 iterations" in in_words(stopped)


def test_equal_codes_make_no_warning_and_codes_without_a_covariance_are_refused() -> None:
    collapsed = np.zeros((40, 2))
    assert fit(collapsed, 2, seed=0).covariances[0] == pytest.approx(RIDGE * np.eye(2))
    with pytest.raises(FitError, match="covariance"):
        fit(1e6 * numbers(40, 1) * np.ones(2), 2, seed=0)  # on a line, beside which a ridge of 1e-6 is rounded away


# --- the file that a run keeps ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def run(archive: Path, tmp_path: Path) -> Path:
    return write_run(tmp_path / "runs" / "a", archive, "data.binarize=static")


def made(folder: Path, components: int = 2, seed: int = 0) -> Fitted:
    return fitted(folder, Loader().open(folder), components=components, seed=seed)


def test_the_fit_is_of_draws_of_the_posterior_and_compared_with_the_prior_on_test_images(run: Path) -> None:
    found, opened = made(run), Loader().open(run)
    pixels = randomness.binarize(opened.data.train.images, 0, "train")
    for name, images in (("train", pixels), ("test", opened.data.test.images)):
        noise = randomness.normal(len(images), 2, 0, f"mixture/{name}")
        with torch.no_grad():
            q = opened.model.encode(images.float())
        z = (q.mean + q.stddev * noise).double()
        results = found.results[name]
        own, prior = found.prior.log_prob(z), -0.5 * z.square().sum(1) - math.log(2 * math.pi)
        assert results["log_mixture"] == pytest.approx(own.mean().item(), rel=1e-5)
        assert results["log_prior"] == pytest.approx(prior.mean().item(), rel=1e-5)
        assert results["gain"] == pytest.approx((own - prior).mean().item(), rel=1e-4)
        assert results["gain_error"] == pytest.approx((own - prior).std().item() / len(images) ** 0.5, rel=1e-4)
    gain = made(run, components=1).results["train"]["gain"]
    assert gain > 0, "N(0, I) is a normal too, and no likelier than the likeliest one"
    assert found.protocol["images"] == 80
    assert found.protocol["weights_sha256"] == checkpoint.sha256_of(run / "model" / "model.safetensors")


def test_a_fit_is_made_once_for_the_weights_a_seed_and_a_number_of_components(run: Path) -> None:
    first, file = made(run), run / "uses" / "mixture-2-0.npz"
    assert first.file == file
    content, changed = file.read_bytes(), file.stat().st_mtime_ns
    again = made(run)
    assert file.stat().st_mtime_ns == changed
    assert again.results == first.results
    assert torch.equal(again.prior.means, first.prior.means)
    file.unlink()
    made(run)
    assert file.read_bytes() == content, "the same seed makes the same file"
    assert not torch.equal(made(run, seed=1).prior.means, first.prior.means)
    assert made(run, components=3).prior.means.shape == (3, 2)
    file.write_bytes(content[:-300])
    assert made(run).results == first.results
    assert file.read_bytes() == content, "a damaged file is written anew"
    model = VAE.from_pretrained(run / "model")
    with torch.no_grad():
        next(model.parameters()).mul_(1.1)
    checkpoint.save_model(run / "model", model)
    other = made(run)
    assert other.protocol["weights_sha256"] != first.protocol["weights_sha256"]
    assert not torch.equal(other.prior.means, first.prior.means), "of other weights"


def test_where_nothing_can_be_kept_images_are_made_all_the_same(run: Path) -> None:
    (run / "uses").write_text("a file where the folder would be")
    done = uses.sample(run, count=3, prior="gmm", components=2)
    assert done.mixture is not None
    assert (done.mixture.file, done.images.shape) == (None, (3, 1, 8, 8))


def semi_supervised(folder: Path, archive: Path) -> Path:
    settings = ["data.labelled=8", "data.repeat_labelled=5", "objective=SemiSupervised"]
    return write_run(folder, archive, "model.infer_labels=true", "model.condition=true", *settings, classes=4)


def test_of_inferred_labels_each_image_counts_once_with_the_most_probable_one(archive: Path, tmp_path: Path) -> None:
    folder = semi_supervised(tmp_path / "semi", archive)
    opened = Loader().open(folder)
    with torch.no_grad():
        inferred = opened.model.labels_of(opened.data.train.images[:80])
    assert inferred is not None
    counts = inferred.bincount(minlength=4)
    if counts.min() < 2:
        label = int((counts < 2).nonzero()[0])
        with pytest.raises(InputError, match=f"class {label}, which has a mixture of its own, has {counts[label]}"):
            made(folder, components=1)
        opened = with_even_labels(opened)
    found = fitted(folder, opened, components=1, seed=0)
    assert (found.protocol["images"], found.protocol["classes"]) == (80, 4)
    assert len(uses.encode(folder, split="train").codes.mean) == 80
    assert found.prior.means.shape == (4, 1, 2)


def with_even_labels(opened: Opened) -> Opened:
    """Return the run with a q(y|x) that tells images apart by the brightness of their first pixels."""

    class Classifier(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :4]

    opened.model.classifier = Classifier()
    return opened


# --- the commands -----------------------------------------------------------------------------------------------------


def test_sample_writes_images_by_the_mixture_and_says_that_they_are_not_the_models(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["sample", str(run), "--prior", "gmm", "--components", "2", "--count", "5"]
    assert cli.main([*asked, "--output", str(tmp_path / "a")]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = ["samples-gmm.npz", "samples-gmm.png", "mixture-2-0.png"]
    assert lines[-3:] == [str(tmp_path / "a" / name) for name in names]
    assert "images are no samples of the model" in "".join(lines)
    found = np.load(tmp_path / "a" / "samples-gmm.npz")
    assert "images are no samples of the model" in str(found["note"])
    assert json.loads(str(found["protocol"]))["components"] == 2
    mixed, own = uses.sample(run, count=5, prior="gmm", components=2), uses.sample(run, count=5)
    assert np.array_equal(found["images"], mixed.images.numpy())
    assert not torch.equal(mixed.images, own.images)
    assert own.mixture is None
    assert mixed.mixture is not None
    with torch.no_grad():
        noise = randomness.normal(5, 3, 0, "samples")
        prior, model = mixed.mixture.prior, VAE.from_pretrained(run / "model").eval()
        z = prior.transform(prior(Given(noise, model.encode)), noise)
        torch.testing.assert_close(mixed.images, model.decode(z).mean)
    for name in names[1:]:
        assert np.asarray(Image.open(tmp_path / "a" / name)).std() > 10, "a picture is not one colour"
    assert cli.main([*asked, "--output", str(tmp_path / "b")]) == 0
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_model_that_sees_labels_has_a_mixture_for_each_class(archive: Path, tmp_path: Path) -> None:
    for name, setting in (("decoder", "model.condition=true"), ("prior", "model.prior=ClassNormal")):
        folder = write_run(tmp_path / name, archive, setting, classes=4)
        done = uses.sample(folder, count=4, label=2, prior="gmm", components=2, output=tmp_path / f"{name}-out")
        assert done.mixture is not None
        assert done.mixture.prior.means.shape == (4, 2, 2)
        assert len(done.files) == 3
        turns = uses.sample(folder, count=4, prior="gmm", components=2)
        equal = [torch.equal(one, other) for one, other in zip(done.images, turns.images, strict=True)]
        assert equal == [False, False, True, False], "without a label the classes take turns"


def test_quality_measures_both_and_reconstructions_in_one_table(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["quality", str(run), "--count", "66"]) == 0
    alone = json.loads((run / "quality.json").read_text())["evaluations"]
    capsys.readouterr()
    assert cli.main(["quality", str(run), "--count", "66", "--prior", "gmm", "--components", "2"]) == 0
    printed = capsys.readouterr().out
    own, by_mixture = json.loads((run / "quality.json").read_text())["evaluations"]
    assert (own["protocol"], own["results"]) == (alone[0]["protocol"], alone[0]["results"]), "the samples are the same"
    assert by_mixture["protocol"].pop("z").endswith("; not the model's p(z)")
    assert by_mixture["protocol"] == own["protocol"]
    results, name = by_mixture["results"], "classifier_frechet_distance"
    row = next(line for line in printed.splitlines() if line.startswith("  classifier Frechet"))
    shown = (own["results"], results, results["reconstructions"])
    assert row.split()[4:7] == [f"{each[name]:.3f}" for each in shown]
    assert len({each[name] for each in shown}) == 3
    assert results["mixture"]["test"] == made(run).results["test"]
    assert np.asarray(Image.open(run / "uses" / "quality-gmm.png")).std() > 10, "a picture is not one colour"


def test_reconstructions_are_decoded_draws_of_the_posterior(run: Path) -> None:
    opened = Loader().open(run)
    images, noise = opened.data.test.images, randomness.normal(70, 2, 4, "quality/reconstructions")
    with torch.no_grad():
        q = opened.model.encode(images.float())
        expected = opened.model.decode(q.mean + q.stddev * noise).mean
    torch.testing.assert_close(reconstructions(opened.model, opened.data.test, seed=4), expected)
    assert set(reconstructions(opened.model, opened.data.test, seed=4, draws=True).unique().tolist()) == {0, 1}


def test_several_runs_with_mixtures_make_a_table(run: Path, archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_run(run.parent / "b", archive, "run.seed=1")
    mixed = ["--prior", "gmm", "--components", "2"]
    assert cli.main(["quality", str(run), str(other), *mixed]) == 0
    head, *rows = capsys.readouterr().out.splitlines()[-3:]
    assert head.split("  ")[0] == "classifier Frechet distance (squared) of"
    found = {}
    for folder in (run, other):
        one, two = json.loads((folder / "quality.json").read_text())["evaluations"]
        each = (one["results"], two["results"], two["results"]["reconstructions"])
        found[str(folder)] = [f"{results['classifier_frechet_distance']:.3f}" for results in each]
    assert {row.split()[0]: row.split()[1:4] for row in rows} == found
    conditional = write_run(run.parent / "c", archive, "model.condition=true", classes=4)
    assert cli.main(["quality", str(run), str(conditional), *mixed]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("no table, for these numbers are not to be compared: ")


def test_a_mixture_that_cannot_be_is_one_line_and_nothing_is_written(
    run: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = ["model.posterior={name: VectorQuantized, codes: 9, code_dim: 2}", "model.prior=UniformCodes"]
    quantized = write_run(tmp_path / "vq", archive, *codes, "model.latent_dim=4", "objective=VectorQuantization")
    conditional = write_run(tmp_path / "conditional", archive, "model.condition=true", classes=4)
    of_class = "but class 0, which has a mixture of its own, has 20"
    cases = [
        ([run, "--components", 3], "--components 3: goes with --prior gmm"),
        ([run, "--prior", "gmm", "--components", 0], "argument --components: '0': must be a whole number from 1"),
        ([run, "--prior", "gmm", "--components", 81], "two or more, but the training set has 80"),
        ([conditional, "--prior", "gmm", "--components", 21], of_class),
        ([quantized, "--prior", "gmm"], f"--prior gmm: {quantized}: its z is a sequence of codes"),
        ([run, "--prior", "vamp"], "argument --prior: invalid choice: 'vamp'"),
    ]
    for words, problem in cases:
        for command in ("sample", "quality"):
            assert cli.main([command, *map(str, words)]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert problem in line
    assert not any((folder / "uses").exists() for folder in (run, quantized, conditional))
    with pytest.raises(InputError, match=r"^prior vamp: must be own or gmm$"):
        uses.sample(run, prior="vamp")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"^components 0: must be at least 1$"):
        uses.sample(run, prior="gmm", components=0)
    with pytest.raises(InputError, match=r"^components 3: goes with prior gmm$"):
        uses.sample(run, components=3)
