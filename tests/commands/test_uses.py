"""Uses of a trained model: library functions against formulas, commands against what they promise."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.helpers.folders import write_data, write_run
from tests.helpers.linear import PIXELS, STD, D, linear_gaussian, posterior_of
from tests.helpers.linear import images as pixel_rows
from vae import __main__ as cli
from vae import uses
from vae.data import randomness
from vae.data.dataset import Split
from vae.errors import InputError
from vae.evaluation.encoding import Codes, encode
from vae.model import VAE
from vae.uses.generation import slerp
from vae.uses.repair import denoise, impute


def images(count: int) -> Tensor:
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(0))


# --- damaged images ---------------------------------------------------------------------------------------------------

MISSING = torch.tensor([[False, True, False, False, True]])  # of five pixels
MEAN_IMAGE = torch.tensor([[[0.5, 3.0, 0.5, 0.5, -2.0]]]).double()


def test_missing_pixels_settle_at_their_conditional_mean() -> None:
    """Of jointly normal x and z the most likely pair, found by turns, is the mean; that of p(x) is a closed form."""
    (model, p_x), x = linear_gaussian(), pixel_rows(6)
    done = impute(model, x, MISSING, MEAN_IMAGE, sweeps=200, draw=False)
    gone, covariance = MISSING[0], p_x.covariance_matrix
    slope = covariance[gone][:, ~gone] @ torch.linalg.inv(covariance[~gone][:, ~gone])
    expected = p_x.mean[gone] + (x[..., ~gone] - p_x.mean[~gone]) @ slope.T
    torch.testing.assert_close(done.repaired[..., gone], expected, rtol=0, atol=1e-9)
    assert torch.equal(done.repaired[..., ~gone], x[..., ~gone])
    assert done.error == pytest.approx((expected - x[..., gone]).square().mean().sqrt().item())
    assert done.baseline == pytest.approx((MEAN_IMAGE[..., gone] - x[..., gone]).square().mean().sqrt().item())
    assert torch.equal(done.damaged, torch.where(MISSING, MEAN_IMAGE, x))
    with pytest.raises(ValueError, match="no pixel is missing"):
        impute(model, x, torch.zeros(1, PIXELS, dtype=torch.bool), MEAN_IMAGE)


def test_with_draws_the_answer_is_the_mean_over_the_second_half_of_the_chain() -> None:
    """The chain of Rezende et al. 2014 in matrices, each sweep with noise of its own."""
    (model, _), x, sweeps = linear_gaussian(), pixel_rows(6), 7
    w, b = (weight.detach() for weight in model.decoder.parameters())
    to_mean, covariance = posterior_of(w, STD)
    at, chain = torch.where(MISSING, MEAN_IMAGE, x).flatten(1), []
    for sweep in range(sweeps):
        noise = randomness.normal(6, D, 4, "impute", sweep).double()
        z = (at - b) @ to_mean.T + noise @ torch.linalg.cholesky(covariance).T
        at = torch.where(MISSING, z @ w.T + b, x.flatten(1))
        chain.append(at)
    done = impute(model, x, MISSING, MEAN_IMAGE, sweeps=sweeps, draw=True, seed=4)
    torch.testing.assert_close(done.repaired.flatten(1), sum(chain[3:]) / 4, rtol=1e-9, atol=1e-9)
    assert done.error == pytest.approx((done.repaired - x)[..., MISSING[0]].square().mean().sqrt().item())


@pytest.mark.parametrize("draw", [False, True])
def test_an_answer_knows_nothing_of_the_pixels_that_are_missing(draw: bool) -> None:
    (model, _), x = linear_gaussian(), pixel_rows(6)
    one, other = (
        impute(model, torch.where(MISSING, truth, x), MISSING, MEAN_IMAGE, sweeps=3, draw=draw).repaired
        for truth in (0.0, 1.0)
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize(("kind", "level"), [("gaussian", 0.05), ("salt", 0.1)])
def test_noise_is_as_large_as_asked_for_and_taken_away_by_the_model_that_sees_it_alone(kind: str, level: float) -> None:
    """E[x|z] at E[z|noisy x] is a linear map of the noisy image; the errors are those of all pixels."""
    (model, _), x = linear_gaussian(), torch.full((20_000, 1, 1, PIXELS), 0.8).double()
    done = denoise(model, x, kind=kind, level=level)
    difference = done.damaged - x
    if kind == "gaussian":
        assert difference.std().item() == pytest.approx(level, rel=0.02)
        assert difference.mean().abs().item() < 4 * level / difference.numel() ** 0.5
    else:
        for value in (0, 1):
            assert (done.damaged == value).double().mean().item() == pytest.approx(level / 2, rel=0.05)
        assert (difference[(done.damaged != 0) & (done.damaged != 1)] == 0).all()
    w, b = (weight.detach() for weight in model.decoder.parameters())
    expected = b + (done.damaged - b) @ posterior_of(w, STD)[0].T @ w.T
    torch.testing.assert_close(done.repaired, expected, rtol=1e-9, atol=1e-9)
    assert done.error == pytest.approx((expected - x).square().mean().sqrt().item())
    assert done.baseline == pytest.approx(difference.square().mean().sqrt().item())


def test_noise_leads_out_of_no_pixels_range_and_is_that_of_its_seed() -> None:
    model, x = linear_gaussian()[0], pixel_rows(500)
    one, again, other = (denoise(model, x, level=2.0, seed=seed).damaged for seed in (1, 1, 2))
    assert one.aminmax() == (0, 1)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_model_that_sees_labels_repairs_by_those_that_are_given() -> None:
    """The networks themselves, given each label as one of three; one sweep."""
    torch.manual_seed(0)
    model = VAE(image_shape=(1, 4, 4), latent_dim=3, hidden_dim=8, condition=True, classes=3)
    x, labels = images(6), torch.arange(6) % 3
    seen, missing = torch.nn.functional.one_hot(labels, 3).float(), torch.zeros(4, 4, dtype=torch.bool)
    missing[2:] = True
    filled = impute(model, x, missing, torch.full((1, 4, 4), 0.5), sweeps=1, draw=False, labels=labels)
    for done in (denoise(model, x, labels=labels), filled):
        with torch.no_grad():
            expected = model.decoder(model.encoder(done.damaged, seen)[:, :3], seen).sigmoid()
        torch.testing.assert_close(done.repaired, torch.where(missing, expected, x) if done is filled else expected)


# --- paths and codes --------------------------------------------------------------------------------------------------


def test_arcs_turn_evenly_and_change_length_evenly() -> None:
    first, last = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.0, 4.0, 0.0]])
    points = torch.stack([slerp(first, last, torch.tensor(w)) for w in (0.0, 1 / 3, 0.5, 1.0)])[:, 0]
    torch.testing.assert_close(points[0], first[0])
    torch.testing.assert_close(points[3], last[0])
    third = (2 + 2 / 3) * torch.tensor([math.cos(math.pi / 6), math.sin(math.pi / 6), 0.0])
    torch.testing.assert_close(points[1], third)
    torch.testing.assert_close(points[2], 3 * torch.tensor([0.5, 0.5, 0.0]).sqrt())
    for end in (first, 3 * first, -first, torch.zeros(1, 3)):  # no one arc: the straight line
        torch.testing.assert_close(slerp(first, end, torch.tensor(0.25)), torch.lerp(first, end, 0.25))


def test_paths_begin_and_end_at_reconstructions() -> None:
    torch.manual_seed(0)
    model, x = VAE(image_shape=(1, 4, 4), latent_dim=3, hidden_dim=8), images(6)
    ends, codes = model.reconstruct(x), model.code(x)
    for path in (torch.lerp, slerp):
        for first, last in ((0, 3), (1, 4), (2, 5)):
            shown = model.interpolate(x[first], x[last], steps=5, path=path)
            assert shown.shape == (5, 1, 4, 4)
            torch.testing.assert_close(shown[0], ends[first])
            torch.testing.assert_close(shown[-1], ends[last])
            quarter = path(codes[first], codes[last], torch.tensor(0.25))  # one point, where the path has all at once
            torch.testing.assert_close(shown[1], model.decode(quarter[None]).mean.detach()[0])


def test_on_a_path_the_decoder_sees_the_label_of_the_nearer_end() -> None:
    torch.manual_seed(0)
    model = VAE(image_shape=(1, 4, 4), latent_dim=3, hidden_dim=8, condition=True, classes=3)
    (first, last), labels = images(2), torch.tensor([2, 0])
    shown = model.interpolate(first, last, steps=6, labels=labels)
    (start, end), seen = model.code(images(2), labels), torch.nn.functional.one_hot(labels, 3).float()
    for step, image in enumerate(shown):
        z = torch.lerp(start, end, step / 5)[None]
        with torch.no_grad():
            expected = model.decoder(z, seen[[0 if step < 3 else 1]]).sigmoid()
        torch.testing.assert_close(image[None], expected)


def test_codes_are_the_posteriors_and_their_plane_holds_the_most_variance() -> None:
    torch.manual_seed(0)
    model, x = VAE(image_shape=(1, 4, 4), latent_dim=4, hidden_dim=8), images(50)
    codes = encode(model, Split(x, torch.arange(50)))
    q = model.encode(x)
    torch.testing.assert_close(codes.mean, q.mean.detach())
    assert codes.std is not None
    torch.testing.assert_close(codes.std, q.stddev.detach())
    assert codes.z is None
    noise = randomness.normal(50, 4, 0, "test")
    torch.testing.assert_close(encode(model, Split(x), noise).z, (q.mean + q.stddev * noise).detach())
    points, shares = codes.plane()
    values = np.linalg.eigvalsh(np.cov(codes.mean.numpy().T, bias=True))
    assert points.var(0, correction=0).numpy() == pytest.approx(values[::-1][:2], rel=1e-4)
    assert shares == pytest.approx((values[::-1][:2] / values.sum()).tolist(), rel=1e-4)
    flat = Codes(codes.mean[:, :1])
    assert flat.plane()[0][:, 1].abs().max() == 0
    assert set(flat.arrays()) == {"mean"}


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    return write_run(folder / "run", write_data(folder), "model.latent_dim=3")


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conditional")
    return write_run(folder / "run", write_data(folder), "model.condition=true", classes=4)


def test_an_action_returns_what_its_command_writes_and_writes_nothing_unless_asked(run: Path, tmp_path: Path) -> None:
    codes, images = uses.encode(run), uses.sample(str(run), count=5, seed=3)
    paths = uses.interpolate(run, pairs=2, steps=4)
    mask = np.zeros((8, 8), dtype=bool)
    mask[:2] = True
    masked = uses.impute(run, sweeps=3, count=9, mask=mask)
    block = uses.impute(run, sweeps=3, count=9, block=(0, 0, 2, 8))
    noisy = uses.denoise(run, noise="salt", level=0.2, count=9)
    assert all(done.files == () for done in (codes, images, paths, masked, block, noisy))
    written = tmp_path / "out"
    assert cli.main(["encode", str(run), "--output", str(written)]) == 0
    assert cli.main(["sample", str(run), "--count", "5", "--seed", "3", "--output", str(written)]) == 0
    assert np.array_equal(np.load(written / "data-test.npz")["mean"], codes.codes.mean.numpy())
    assert np.array_equal(np.load(written / "samples.npz")["images"], images.images.numpy())
    assert paths.straight.shape == paths.spherical.shape == (2, 4, 1, 8, 8)
    torch.testing.assert_close(paths.straight[:, [0, -1]], paths.spherical[:, [0, -1]])
    assert torch.equal(masked.outcome.repaired, block.outcome.repaired)
    assert torch.equal(masked.outcome.repaired[:, :, 2:], masked.original[:, :, 2:])
    assert noisy.outcome.damaged.shape == noisy.original.shape == (9, 1, 8, 8)


def test_an_action_that_is_called_from_python_names_the_argument(run: Path) -> None:
    with pytest.raises(InputError, match=r"^data_root x: goes with data$"):
        uses.encode(run, data_root="x")
    with pytest.raises(InputError, match=r"^pairs 40: needs 80 images, and there are 70$"):
        uses.interpolate(run, pairs=40)
    with pytest.raises(InputError, match=r"^mask: shape \(3, 8\): must be \(8, 8\) or \(70, 8, 8\)$"):
        uses.impute(run, mask=np.ones((3, 8)))
    with pytest.raises(InputError, match=r"^split tset: must be one of test, train, val$"):
        uses.encode(run, split="tset")
    with pytest.raises(InputError, match=r"^noise pink: must be gaussian or salt$"):
        uses.denoise(run, noise="pink")  # pyright: ignore[reportArgumentType]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_each_command_writes_what_it_prints(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands: list[tuple[str, list[str], list[str]]] = [
        ("encode", [], ["data-test.npz", "data-test.png"]),
        ("sample", ["--count", "5"], ["samples.npz", "samples.png"]),
        ("interpolate", ["--pairs", "2", "--steps", "4"], ["interpolation.png"]),
        ("impute", ["--sweeps", "3", "--block", "0,0,2,8"], ["imputation.png"]),
        ("denoise", ["--noise", "salt", "--level", "0.2"], ["denoising.png"]),
    ]
    for command, options, names in commands:
        assert cli.main([command, str(run), *options]) == 0
        printed = capsys.readouterr().out.splitlines()
        assert printed[-len(names) :] == [str(run / "uses" / name) for name in names]
        assert pixels(run / "uses" / names[-1]).std() > 10, "a picture is not one colour"
    codes, samples = (np.load(run / "uses" / name) for name in ("data-test.npz", "samples.npz"))
    assert codes["mean"].shape == codes["std"].shape == (70, 3)
    assert codes["labels"].shape == (70,)
    assert samples["images"].shape == (5, 1, 8, 8)
    assert not list((run / "uses").glob(".partial-*"))


def test_the_same_seed_gives_the_same_files(run: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert cli.main(["sample", str(run), "--seed", str(seed), "--output", str(tmp_path / name)]) == 0
    first, second, other = (np.load(tmp_path / name / "samples.npz")["images"] for name in "abc")
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_a_model_that_sees_labels_is_given_them(conditional: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("encode", "interpolate", "impute", "denoise"):
        assert cli.main([command, str(conditional)]) == 0, capsys.readouterr().err
    samples = []
    for options in ([], ["--label", "2"]):
        assert cli.main(["sample", str(conditional), "--count", "4", *options]) == 0
        samples.append(np.load(conditional / "uses" / "samples.npz")["images"])
    equal = [np.array_equal(one, other) for one, other in zip(*samples, strict=True)]
    assert equal == [False, False, True, False]  # without --label the classes come one after another


def test_classes_are_named_as_the_files_name_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another file, of fewer classes and with other pixels, is encoded as the run's own images are."""
    pixels, words = np.random.default_rng(0).integers(0, 256, (80, 8, 8)), np.array(["cat", "dog", "eel", "fox"])
    own, other = tmp_path / "own.npz", tmp_path / "other.npz"
    np.savez(own, x_train=pixels, y_train=words[np.arange(80) % 4], x_test=pixels, y_test=words[np.arange(80) % 4])
    np.savez(other, x_train=pixels, x_test=pixels[3::4] / 127.5 - 1, y_test=np.full(20, "fox"), images=pixels)
    run = write_run(tmp_path / "run", own, "model.condition=true", classes=4)
    drawn = []
    for label in ("eel", "2", "fox"):
        assert cli.main(["sample", str(run), "--label", label, "--count", "4"]) == 0
        drawn.append(np.load(run / "uses" / "samples.npz")["images"])
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert cli.main(["sample", str(run), "--label", "gnu"]) == 2
    assert "--label gnu: must be one of cat, dog, eel, fox" in capsys.readouterr().err
    how = f"{{name: {other}, images: x_test, range: [-1, 1]}}"
    for options in ([], ["--data", how, "--split", "train"]):
        assert cli.main(["encode", str(run), *options]) == 0, capsys.readouterr().err
    ours, theirs = np.load(run / "uses" / "own-test.npz"), np.load(run / "uses" / "other-train.npz")
    assert ours["class_names"].tolist() == theirs["class_names"].tolist() == words.tolist()
    assert set(theirs["labels"].tolist()) == {3}
    assert len(theirs["mean"]) == 18  # two of twenty are held out for testing
    known = {tuple(mean) for mean in ours["mean"][3::4].round(3).tolist()}
    assert {tuple(mean) for mean in theirs["mean"].round(3).tolist()} <= known
    np.savez(other, x_train=pixels, y_train=np.full(80, "gnu"))
    assert cli.main(["encode", str(run), "--data", str(other)]) == 2
    assert "other: its class 'gnu' is none of own's: cat, dog, eel, fox" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (["encode", "RUN", "--data", "{name: OTHER, rnge: [0, 1]}"], "no setting 'rnge'; there are name, root, images"),
        (["encode", "RUN", "--data", "{name: MNIST, range: [1, 0]}"], "range = [1.0, 0.0]: must be [low, high]"),
        (
            ["encode", "RUN", "--data", "{range: [0, 1]}"],
            "--data {range: [0, 1]}: no name; must be a name, or '{name: ",
        ),
        (["encode", "RUN", "--data", "{name"], "{name line 1: not valid YAML"),
        (["encode", "RUN", "--data", "SIGNED"], "data.range=[-1, 1]; given as --data '{name: SIGNED, SETTING: VALUE}'"),
        (["sample", "RUN", "--label", "1"], "--label 1: RUN holds a model that sees no labels"),
        (["sample", "CONDITIONAL", "--label", "4"], "--label 4: must be one of 0 to 3"),
        (["impute", "RUN", "--block", "1,2"], "--block 1,2: must be TOP,LEFT,HEIGHT,WIDTH in pixels, e.g. 14,0,14,28"),
        (["impute", "RUN", "--block", "9,9,1,1"], "no pixel is missing: give a --mask or a --block that holds some"),
        (["impute", "RUN", "--mask", "nowhere.npy"], "--mask nowhere.npy: cannot be read"),
        (["impute", "RUN", "--mask", "EMPTY"], "--mask EMPTY: cannot be read: No data left in file"),
        (["impute", "RUN", "--mask", "TORN"], "--mask TORN: cannot be read: File is not a zip file"),
        (
            ["encode", "CONDITIONAL", "--data", "UNKNOWN"],
            "unknown: has images without a label (-1), and the model needs them",
        ),
        (["impute", "RUN", "--mask", "OTHER"], "--mask OTHER: cannot be read: must be a .npy, which holds one array"),
        (["denoise", "RUN", "--level", "0"], "--level 0: must be above 0, and of salt at most 1"),
        (["interpolate", "RUN", "--pairs", "40"], "--pairs 40: needs 80 images, and there are 70"),
        (["encode", "RUN", "--split", "val"], "--split val: RUN has held out nothing (data.val_size = 0)"),
        (["encode", "RUN", "--data", "OTHER"], "--data OTHER: its images have shape (1, 4, 4), the model's (1, 8, 8)"),
        (["encode", "RUN", "--data-root", "x"], "--data-root x: goes with --data"),
        (["encode", "nowhere"], "nowhere: not a run folder"),
        (["sample", "RUN", "--count", "0"], "argument --count: '0': must be a whole number from 1"),
        (["sample", "RUN", "--seed", "-1"], "argument --seed: '-1': must be a whole number from 0"),
    ],
)
def test_unusable_input_is_one_line_and_nothing_is_written(
    command: list[str], problem: str, run: Path, conditional: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.npz"
    np.savez(other, images=np.zeros((20, 4, 4), dtype=np.uint8))
    signed = tmp_path / "signed.npy"
    np.save(signed, np.linspace(-1, 1, 1280).reshape(20, 8, 8))
    (tmp_path / "empty.npy").touch()
    (tmp_path / "torn.npy").write_bytes(b"PK\x03\x04")
    unknown = tmp_path / "unknown.npz"
    np.savez(unknown, images=np.zeros((20, 8, 8), dtype=np.uint8), labels=np.repeat([0, 1, -1, -1], 5))
    names = {"RUN": run, "CONDITIONAL": conditional, "OTHER": other, "SIGNED": signed, "UNKNOWN": unknown}
    names |= {"EMPTY": tmp_path / "empty.npy", "TORN": tmp_path / "torn.npy"}
    output = [] if command[-1] == "nowhere" else ["--output", str(tmp_path / "out")]
    assert cli.main([str(names.get(word, word)) for word in command] + output) == 2
    error = capsys.readouterr().err
    for name, path in names.items():
        problem = problem.replace(name, str(path))
    assert problem in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()
