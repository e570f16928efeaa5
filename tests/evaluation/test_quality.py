"""Sample quality: distances and entropies against closed forms, classifier and command against what they promise."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.helpers.folders import SIZE, write_data, write_run
from vae import __main__ as cli
from vae import figures
from vae.data import randomness
from vae.data.dataset import DataSet, Split
from vae.data.sources import load
from vae.errors import InputError
from vae.evaluation.quality.classifier import FEATURES, Classifier, look, train
from vae.evaluation.quality.frechet import frechet_distance, moments
from vae.evaluation.quality.measures import Seen, entropy
from vae.evaluation.quality.runs import Real, results_of
from vae.evaluation.quality.samples import prior_samples
from vae.evaluation.quality.shelf import classifier_for
from vae.model import VAE


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def test_the_distance_of_independent_normals_is_that_of_means_and_deviations_also_when_both_are_turned() -> None:
    mean, its_mean = numbers(2, 6)
    std, its_std = numbers(2, 6, seed=1).abs()
    exact = (mean - its_mean).square().sum() + (std - its_std).square().sum()
    turned = torch.linalg.qr(numbers(6, 6, seed=2)).Q
    for turn in (torch.eye(6, dtype=torch.float64), turned):
        one, other = (turn @ each.square().diag() @ turn.T for each in (std, its_std))
        found = frechet_distance(turn @ mean, one, turn @ its_mean, other)
        assert found == pytest.approx(exact.item(), rel=1e-12)
        assert frechet_distance(turn @ its_mean, other, turn @ mean, one) == pytest.approx(found, rel=1e-12)


def test_the_distance_of_normals_that_do_not_share_their_axes_is_the_closed_form_in_the_plane() -> None:
    """tr (S S')^1/2 = (tr S S' + 2 (det S S')^1/2)^1/2 for 2 x 2, by Cayley and Hamilton."""
    one, other = (each @ each.T for each in numbers(2, 2, 2))
    product = one @ other
    trace_of_root = (product.trace() + 2 * product.det().sqrt()).sqrt()
    exact = 9 + one.trace() + other.trace() - 2 * trace_of_root
    shift, origin = torch.tensor([0.0, 3.0]).double(), torch.zeros(2).double()
    assert frechet_distance(shift, one, origin, other) == pytest.approx(exact.item(), rel=1e-12)
    flat = torch.ones(2, 2).double()  # on a line: the determinant is 0
    exact = one.trace() + flat.trace() - 2 * (one @ flat).trace().sqrt()
    assert frechet_distance(origin, one, origin, flat) == pytest.approx(exact.item(), rel=1e-7)


def test_features_have_the_moments_that_numpy_finds_and_no_distance_from_themselves() -> None:
    features = numbers(50, 5).float() * 3 + 7
    mean, covariance = moments(features)
    assert mean.numpy() == pytest.approx(features.double().numpy().mean(0), rel=1e-12)
    assert covariance.numpy() == pytest.approx(np.cov(features.double().numpy().T), rel=1e-9)
    assert frechet_distance(mean, covariance, mean, covariance) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(mean, covariance, mean + 2, covariance) == pytest.approx(20, rel=1e-9)


def test_the_entropy_of_a_prediction_lies_between_0_and_that_of_the_uniform_one() -> None:
    assert entropy(torch.full((3, 7), 1 / 7, dtype=torch.float64)).numpy() == pytest.approx(math.log(7), rel=1e-12)
    assert entropy(torch.eye(4)).tolist() == [0, 0, 0, 0]
    seen = Seen(numbers(4, 2), torch.tensor([[0.6, 0.4, 0.0], [0.1, 0.9, 0.0], [0.7, 0.3, 0.0], [1.0, 0.0, 0.0]]))
    assert seen.shares.tolist() == [0.75, 0.25, 0.0]
    half = -(0.6 * math.log(0.6) + 0.4 * math.log(0.4))
    assert seen.entropies[0].item() == pytest.approx(half, rel=1e-6)


def seen_as(probabilities: list[list[float]], seed: int) -> Seen:
    return Seen(numbers(len(probabilities), 1, seed=seed), torch.tensor(probabilities, dtype=torch.float64))


def test_results_hold_samples_and_training_images_against_test_images() -> None:
    """By hand, of one feature; a prediction of 0.8 and 0.2 is uncertain, one of 0.81 and 0.19 is not."""
    own = seen_as([[0.8, 0.2], [0.81, 0.19], [0.0, 1.0], [0.5, 0.5]], seed=1)
    test = seen_as([[1.0, 0.0], [0.81, 0.19], [0.3, 0.7], [0.0, 1.0], [0.6, 0.4]], seed=2)
    train = seen_as([[0.7, 0.3]] * 3, seed=3)
    found = results_of(own, Real(test, train))

    def entropy_of(*shares: float) -> float:
        return -sum(share * math.log(share) for share in shares if share)

    def distance(one: Seen, other: Seen) -> float:
        """Of two normals on a line: squared differences of means and of standard deviations."""
        a, b = one.features.numpy(), other.features.numpy()
        return (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2

    sure = entropy_of(0.81, 0.19)
    assert found == {
        "classifier_frechet_distance": pytest.approx(distance(own, test)),
        "classifier_frechet_distance_of_training_images": pytest.approx(distance(train, test)),
        "class_shares": [0.75, 0.25],
        "class_shares_of_test_images": [0.6, 0.4],
        "entropy_of_class_shares": pytest.approx(entropy_of(0.75, 0.25)),
        "entropy_of_class_shares_of_test_images": pytest.approx(entropy_of(0.6, 0.4)),
        "mean_entropy": pytest.approx((entropy_of(0.8, 0.2) + sure + entropy_of(0.5, 0.5)) / 4),
        "mean_entropy_of_test_images": pytest.approx((sure + entropy_of(0.3, 0.7) + entropy_of(0.6, 0.4)) / 5),
        "uncertain_share": 2 / 4,
        "uncertain_share_of_test_images": 2 / 5,
        "highest_entropy": pytest.approx(math.log(2)),
    }


def test_the_picture_shows_the_shares_and_all_predictions() -> None:
    shares = {"samples": torch.tensor([0.5, 0.3, 0.2]), "test images": torch.tensor([0.2, 0.2, 0.6])}
    entropies = {"samples": torch.tensor([0.0, math.log(3) + 1e-9, 0.4]), "test images": torch.zeros(5)}
    rows = {"some": torch.rand(3, 1, 4, 4)}
    names = ["coat", "bag", "boot"]
    figure = figures.sample_quality(shares, entropies, rows, class_names=names, note="")
    bars, histogram, _ = figure.axes
    heights = [bar.get_height() for bar in bars.patches]  # pyright: ignore[reportAttributeAccessIssue]
    assert heights == pytest.approx([0.5, 0.3, 0.2, 0.2, 0.2, 0.6])
    assert [text.get_text() for text in bars.get_xticklabels()] == names
    values = [patch.get_data().values for patch in histogram.patches]  # pyright: ignore[reportAttributeAccessIssue]
    assert [len(each.nonzero()[0]) for each in values] == [3, 1], "the highest entropy is in the last bin"
    assert [each.sum() for each in values] == pytest.approx([1, 1])


# --- the classifier ---------------------------------------------------------------------------------------------------


def corners(count: int, *, seed: int = 0) -> Split:
    """Dark noise, one corner of which is bright: the class."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = 0.3 * torch.rand(count, 1, SIZE, SIZE, generator=generator), torch.arange(count) % 4
    half = SIZE // 2
    for image, label in zip(images, labels.tolist(), strict=True):
        top, left = half * (label // 2), half * (label % 2)
        image[:, top : top + half, left : left + half] += 0.5
    return Split(images, labels)


def test_a_classifier_learns_and_is_the_same_each_time_it_is_trained() -> None:
    one, again = (train(corners(400), 4, seed=0) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    other = train(corners(400), 4, seed=1, epochs=1)
    assert not torch.equal(next(one.parameters()), next(other.parameters()))
    unseen = corners(100, seed=7)
    _, probabilities = look(one, unseen.images)
    assert unseen.labels is not None
    assert (probabilities.argmax(1) == unseen.labels).double().mean() > 0.95
    assert not one.training


def test_what_a_classifier_sees_does_not_depend_on_the_chunks() -> None:
    classifier, images = Classifier((1, SIZE, SIZE), 4), corners(150).images
    whole, parts = look(classifier, images), look(classifier, images, chunk=7)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    target = moments(numbers(200, FEATURES))
    distances = [frechet_distance(*moments(features), *target) for features, _ in (whole, parts)]
    assert distances[0] == pytest.approx(distances[1], rel=1e-6)
    assert whole[1].sum(1).numpy() == pytest.approx(1, rel=1e-12)


def test_a_classifier_is_trained_once_and_its_accuracy_is_counted(tmp_path: Path) -> None:
    data = DataSet("corners", corners(400), corners(101, seed=5))
    first = classifier_for(data, tmp_path)
    changed = first.file.stat().st_mtime_ns
    again = classifier_for(data, tmp_path)
    assert again.file.stat().st_mtime_ns == changed
    assert (again.accuracy, again.sha256) == (first.accuracy, first.sha256)
    elsewhere = {classifier_for(data, tmp_path / str(place)).sha256 for place in range(5)}
    assert elsewhere == {first.sha256}, "a protocol holds it: numbers of two machines can be compared"
    right = sum(
        int(first.classifier(image[None]).argmax()) == int(label)
        for image, label in zip(data.test.images, data.test.labels, strict=True)  # pyright: ignore[reportArgumentType]
    )
    assert again.accuracy == pytest.approx(right / 101)
    fewer = classifier_for(replace(data, train=corners(300)), tmp_path)
    assert fewer.file != first.file, "of other data"
    first.file.write_bytes(b"damaged")
    with pytest.raises(InputError, match="damaged, or of another version; delete it"):
        classifier_for(data, tmp_path)


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (None, "has no labels"),
        (torch.zeros(40, dtype=torch.int64), "of two classes or more"),
        (torch.arange(40) - 1, "needs labels 0, 1, ..."),
    ],
)
def test_labels_that_nothing_can_be_learned_from_are_refused(
    labels: Tensor | None, problem: str, tmp_path: Path
) -> None:
    part = Split(corners(40).images, labels)
    with pytest.raises(InputError, match=problem):
        classifier_for(DataSet("corners", part, part), tmp_path)


# --- the command ------------------------------------------------------------------------------------------------------


def test_samples_are_means_or_draws_of_what_the_prior_gives() -> None:
    torch.manual_seed(0)
    model = VAE(image_shape=(1, 4, 4), latent_dim=3, hidden_dim=8)
    means, draws = prior_samples(model, 30, seed=2), prior_samples(model, 30, seed=2, draws=True)
    torch.testing.assert_close(prior_samples(model, 12, seed=2), means[:12])
    assert set(draws.unique().tolist()) == {0, 1}
    assert torch.equal(draws, prior_samples(model, 30, seed=2, draws=True))
    spread = (means * (1 - means)).sum().sqrt().item()
    assert abs((draws - means).sum().item()) < 4 * spread, "the draws have these means"
    assert not torch.equal(means, prior_samples(model, 30, seed=3))
    wide = VAE(image_shape=(1, 4, 4), latent_dim=3, hidden_dim=8, likelihood={"name": "Normal", "std": 1.0})
    assert (prior_samples(wide, 30, seed=2, draws=True).aminmax()) == (0, 1), "values outside are set to the bound"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(archive: Path) -> Path:
    return write_run(archive.parent / "runs" / "a", archive, "data.binarize=static")


def kept(run: Path) -> list[dict]:
    return json.loads((run / "quality.json").read_text())["evaluations"]


def by_numpy(one: Tensor, other: Tensor) -> float:
    """The distance from the eigenvalues of S S', which is not symmetric."""
    a, b = one.double().numpy(), other.double().numpy()
    s, t = np.cov(a.T), np.cov(b.T)
    root = np.real(np.sqrt(np.linalg.eigvals(s @ t).astype(complex))).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * root)


def test_a_run_keeps_its_numbers_with_their_protocol(
    run: Path, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "quality.json").unlink(missing_ok=True)
    assert cli.main(["quality", str(run)]) == 0
    printed = capsys.readouterr().out
    (found,) = kept(run)
    data = load(str(archive), ".")
    trained = classifier_for(data, run.parent / "classifiers")
    model = VAE.from_pretrained(run / "model").eval()
    samples, _ = look(trained.classifier, prior_samples(model, 70, seed=0))
    real, predicted = look(trained.classifier, data.test.images)  # 70 of them, all
    distance = found["results"]["classifier_frechet_distance"]
    assert distance == pytest.approx(by_numpy(samples, real), rel=1e-4)
    counts = predicted.argmax(1).bincount(minlength=4)
    assert found["results"]["class_shares_of_test_images"] == pytest.approx((counts / 70).tolist())
    assert sum(found["results"]["class_shares"]) == pytest.approx(1)
    assert found["results"]["highest_entropy"] == pytest.approx(math.log(4))
    assert found["protocol"]["fed"] == "means of p(x|z)"
    assert found["protocol"]["count"] == 70
    assert f"{distance:.3f}; of as many training images" in printed
    assert f"{100 * trained.accuracy:.2f} % of the test set right" in printed
    assert np.asarray(Image.open(run / "uses" / "quality.png")).std() > 10, "a picture is not one colour"


def test_another_protocol_is_another_entry_and_the_same_one_takes_its_place(run: Path) -> None:
    (run / "quality.json").unlink(missing_ok=True)
    for options in ([], ["--seed", "1"], ["--feed", "draws"], []):
        assert cli.main(["quality", str(run), "--count", "66", *options]) == 0
    entries = kept(run)
    assert [(each["protocol"]["seed"], each["protocol"]["fed"][:5]) for each in entries] == [
        (1, "means"), (0, "draws"), (0, "means"),
    ]  # fmt: skip
    pixels = [each["protocol"]["pixels_crc32"] for each in entries]
    assert pixels[0] == pixels[2] != pixels[1], "draws are held against drawn test images, means against grey ones"
    assert len({each["results"]["classifier_frechet_distance"] for each in entries}) == 3


def test_draws_are_held_against_drawn_images_for_testing_and_for_training(run: Path, archive: Path) -> None:
    """Of as many training images, in the order of the seed; both with the 0/1 pixels of the run."""
    (run / "quality.json").unlink(missing_ok=True)
    assert cli.main(["quality", str(run), "--count", "66", "--feed", "draws"]) == 0
    data = load(str(archive), ".")
    trained, seen = classifier_for(data, run.parent / "classifiers"), {}
    for name, part in (("train", data.train), ("test", data.test)):
        drawn = randomness.binarize(part.images, 0, name)
        seen[name], _ = look(trained.classifier, drawn[randomness.permutation(len(part), 0, f"quality/{name}")[:66]])
    (found,) = kept(run)
    distance = found["results"]["classifier_frechet_distance_of_training_images"]
    assert distance == pytest.approx(by_numpy(seen["train"], seen["test"]), rel=1e-4)


def test_several_runs_make_a_table_best_first_unless_their_protocols_differ(
    run: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = run.parent / "b"
    if not other.exists():
        write_run(other, archive, "run.seed=1")
    assert cli.main(["quality", str(run), str(other)]) == 0
    table = capsys.readouterr().out.splitlines()[-3:]
    distances = {folder: kept(folder)[-1]["results"]["classifier_frechet_distance"] for folder in (run, other)}
    assert table[0].startswith("run")
    for line, folder in zip(table[1:], sorted(distances, key=lambda folder: distances[folder]), strict=True):
        assert line.split()[:2] == [str(folder), f"{distances[folder]:.3f}"]
    assert cli.main(["quality", str(run), str(other), "--feed", "draws"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("no table, for these numbers are not to be compared: pixels_crc32 = ")


def test_what_cannot_be_measured_is_one_line(
    run: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(0).random((90, SIZE, SIZE), dtype=np.float32)
    np.savez(tmp_path / "bare.npz", images=pixels, test_images=pixels)
    bare = write_run(tmp_path / "runs" / "bare", tmp_path / "bare.npz")
    moved = write_run(tmp_path / "runs" / "moved", tmp_path / "moved.npz")
    labels = np.arange(90) % 4
    np.savez(tmp_path / "moved.npz", images=pixels[:, :4], labels=labels, test_images=pixels[:, :4], test_labels=labels)
    cases = [
        ([run, "--count", "64"], "--count 64: the covariance of 64 features needs at least 65 images"),
        ([run, "--count", "71"], "--count 71: data has 70 test images to hold them against"),
        ([bare], "bare: has no labels, and the classifier that looks at samples is trained on them"),
        ([moved], "the checkpoint holds a different model"),
        ([tmp_path / "nowhere"], "nowhere"),
        ([run, "--seed", "-1"], "argument --seed: '-1': must be a whole number from 0"),
    ]
    for words, problem in cases:
        assert cli.main(["quality", *map(str, words)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert problem in line
