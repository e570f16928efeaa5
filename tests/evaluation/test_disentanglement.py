"""Images with known factors, and scores of how codes stand for them: against geometry, closed forms and draws."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.helpers.folders import write_data, write_run
from vae import __main__ as cli
from vae.data import factors, shapes, sources
from vae.data.dataset import Split
from vae.data.factors import Factor, Factors
from vae.data.reading import Reading
from vae.data.shapes import Grid
from vae.errors import InputError
from vae.evaluation.disentanglement import dci, mig, sap
from vae.evaluation.disentanglement.runs import middle_of
from vae.evaluation.disentanglement.scoring import active_alone, parts_of, scores_of
from vae.evaluation.disentanglement.traversal import PLACES, traverse
from vae.model import VAE

# --- images -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fine() -> tuple[Grid, Factors]:
    grid = Grid(size=64, scales=3, orientations=12, positions=3, grey=True)
    return grid, shapes.make(grid)


def moments(data: Factors) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return area (N,), centroid x + iy (N,), and sum over pixels of w |w|^2, w being the place from there, (N,)."""
    mass = data.images[:, 0].astype(float) / 255
    rows, columns = np.indices(mass.shape[1:])
    place = columns + 1j * rows
    area = mass.sum((1, 2))
    centroid = (mass * place).sum((1, 2)) / area
    away = place - centroid[:, None, None]
    return area, centroid, (mass * away * np.abs(away) ** 2).sum((1, 2))


def test_a_grid_holds_every_combination_once_and_is_always_the_same() -> None:
    data = shapes.make(Grid())
    assert data.levels == [3, 4, 8, 12, 12]
    assert len(np.unique(data.values, axis=0)) == len(data.values) == 3 * 4 * 8 * 12 * 12 == Grid().count
    pixels = {image.tobytes() for image in data.images}
    assert len(pixels) == len(data.values), "no two combinations look the same"
    assert set(np.unique(data.images)) == {0, 255}
    assert not data.images[..., 0, :].any(), "nothing is cut off, or comes back in at the other side"
    assert not data.images[..., :, 0].any()
    assert np.array_equal(data.images, shapes.make(Grid()).images)


def test_centroids_are_the_places_and_areas_the_scales(fine: tuple[Grid, Factors]) -> None:
    grid, data = fine
    area, centroid, _ = moments(data)
    values = grid.values()
    _, scale, _, x, y = data.values.T
    np.testing.assert_allclose(np.real(centroid), values["x"][x], atol=1 / 16)  # half of what points are apart
    np.testing.assert_allclose(np.imag(centroid), values["y"][y], atol=1 / 16)
    assert values["x"].mean() == (grid.size - 1) / 2
    np.testing.assert_allclose(area / values["scale"][scale] ** 2, area[scale == 2].mean(), rtol=0.02)  # of any shape


def test_orientations_are_full_turns_of_shapes_without_symmetry(fine: tuple[Grid, Factors]) -> None:
    """The third moment turns with a shape, once in a turn; mirror symmetry has it lie along the axis or against it."""
    grid, data = fine
    _, _, third = moments(data)
    shape, _, orientation, _, _ = data.values.T
    turned = third * np.exp(-1j * grid.values()["orientation"][orientation])
    for kind in range(3):
        own = turned[shape == kind]
        side = np.sign(np.real(own).mean())
        assert np.abs(np.angle(side * own)).max() < math.radians(1)


def test_the_file_is_a_data_set_whose_training_knows_nothing_of_factors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "small.npz"
    options = ["--size", "16", "--scales", "2", "--orientations", "4", "--positions", "4"]
    assert cli.main(["shapes", str(path), *options]) == 0
    assert str(path) in capsys.readouterr().out
    made, read = shapes.make(Grid(16, 2, 4, 4)), factors.read(str(path), Reading(tmp_path))
    assert np.array_equal(read.values, made.values)
    assert np.array_equal(read.images, made.images)
    assert read.factors == made.factors
    assert [factor.name for factor in read.factors if not factor.ordered] == ["shape", "orientation"]
    data = sources.load(str(path), tmp_path)
    assert len(data.train) + len(data.test) == len(made.values)
    assert set(vars(data.train)) == {"images", "labels"}
    assert data.classes == 3


# --- scores -----------------------------------------------------------------------------------------------------------


def full_grid(*levels: int) -> np.ndarray:
    return np.indices(levels).reshape(len(levels), -1).T


def draws_of_information(mean: np.ndarray, std: np.ndarray, values: np.ndarray, count: int) -> float:
    """Return I(z; v) of a dimension and a factor as Chen et al. 2018 estimate it: means of log densities of draws."""
    rng = np.random.default_rng(0)
    chosen = np.arange(count) % len(mean)
    z = mean[chosen] + std[chosen] * rng.standard_normal(count)
    density = np.exp(-0.5 * ((z[:, None] - mean) / std) ** 2) / std
    alike = values[chosen][:, None] == values
    return float(np.mean(np.log((density * alike).sum(1) / alike.sum(1)) - np.log(density.mean(1))))


def test_information_is_that_of_draws_and_of_a_closed_form() -> None:
    rng = np.random.default_rng(1)
    values = full_grid(4, 3)
    mean = np.stack([values[:, 0] + 0.3 * values[:, 1], rng.standard_normal(12)], 1)
    std = rng.uniform(0.2, 0.8, mean.shape)
    found = mig.information(torch.from_numpy(mean), torch.from_numpy(std), values)
    for factor in range(2):
        for dimension in range(2):
            expected = draws_of_information(mean[:, dimension], std[:, dimension], values[:, factor], 200_000)
            assert found.nats[factor, dimension] == pytest.approx(expected, abs=0.01)
    assert found.entropy == pytest.approx([math.log(4), math.log(3)])
    # Gaussians that do not meet: z tells the value; one and the same: it tells nothing. Between: two by quadrature
    apart = torch.tensor([[0.0, 0.0, -0.5], [40.0, 0.0, 0.5]], dtype=torch.float64)
    found = mig.information(apart, torch.ones(2, 3), full_grid(2))
    x, step = np.linspace(-12, 12, 20_001, retstep=True)
    halves = [np.exp(-0.5 * (x - m) ** 2) / math.sqrt(2 * math.pi) for m in (-0.5, 0.5)]
    both = sum(halves) / 2
    entropy = -(both * np.log(both)).sum() * step
    expected = [math.log(2), 0, entropy - 0.5 * math.log(2 * math.pi * math.e)]
    assert found.nats[0] == pytest.approx(expected, abs=1e-9)


def test_each_dimension_for_one_factor_scores_one_and_turned_together_they_have_no_gap() -> None:
    values = full_grid(5, 6, 7)
    code = torch.from_numpy((values - values.mean(0)) / values.std(0))
    code = torch.cat([code, torch.zeros(len(code), 1)], 1).double()
    std = torch.full_like(code, 0.02)
    assert mig.information(code, std, values).gaps == pytest.approx(np.ones(3), abs=1e-6)
    # along the diagonal of two factors both dimensions say the same of each
    half = math.sqrt(0.5)
    turn = torch.tensor([[half, -half], [half, half]], dtype=torch.float64)
    square = full_grid(6, 6)
    plane = torch.from_numpy((square - square.mean(0)) / square.std(0)) @ turn
    assert mig.information(plane, torch.full_like(plane, 0.02), square).gaps == pytest.approx(np.zeros(2), abs=1e-6)
    clean, mixed = code.numpy(), np.pad(plane.numpy(), ((0, 0), (0, 1)))
    for codes, truth, wanted in ((clean, values, 1.0), (mixed, square, 0.0)):
        found = dci.predict(codes, truth, codes, truth)
        assert dci.disentanglement(found.importance) == pytest.approx(wanted, abs=0.02)
        if wanted:
            assert dci.completeness(found.importance) == pytest.approx(1, abs=0.02)
            assert found.accuracy.min() > 0.99
    alone = sap.predictability(clean, values, clean, values, [True] * 3)
    assert mig.top_gaps(alone) == pytest.approx(np.ones(3))
    by_classes = sap.predictability(clean, values, clean, values, [False] * 3)
    assert mig.top_gaps(by_classes) == pytest.approx([1 - 1 / 5, 1 - 1 / 6, 1 - 1 / 7])  # the second best guesses
    assert mig.top_gaps(sap.predictability(mixed, square, mixed, square, [True] * 2)) == pytest.approx([0, 0], abs=1e-9)


def test_an_ordered_factor_is_predicted_as_well_as_the_square_of_the_correlation_says() -> None:
    """Of a dimension that has one factor once and another twice, on a full grid: 1/5 and 4/5 of its variance."""
    values = full_grid(5, 5, 5)
    code = (values[:, [0]] + 2 * values[:, [1]]).astype(float)
    found = sap.predictability(code, values, code, values, [True] * 3)
    assert found == pytest.approx(np.array([[1 / 5], [4 / 5], [0]]), abs=1e-12)


def rows_of(*counts: tuple[float, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return a code (N, 1) and one factor (N, 1): of each code and value so many images."""
    code, value, count = np.array(counts).T
    return np.repeat(code, count.astype(int))[:, None], np.repeat(value.astype(int), count.astype(int))[:, None]


def test_other_factors_are_predicted_for_new_images_by_thresholds_that_weigh_each_class_alike() -> None:
    two_places = rows_of((0.0, 0, 100), (1.0, 0, 8), (1.0, 1, 5))
    (score,), unbalanced = sap.predictability(*two_places, *two_places, [False]), [[(1 + 100 / 108) / 2]]
    assert score == pytest.approx(unbalanced[0]), "the few of class 1 count as much as the many of class 0"
    turned = rows_of((0.0, 0, 2), (0.0, 1, 1), (1.0, 0, 6))
    assert sap.predictability(*two_places, *turned, [False])[0] == pytest.approx([2 / 8 / 2]), "new images"
    in_turn = rows_of((0.0, 0, 10), (1.0, 1, 10), (2.0, 0, 10), (3.0, 1, 10))
    assert sap.predictability(*in_turn, *in_turn, [False])[0] == pytest.approx([3 / 4]), "two classes, one threshold"


def test_informativeness_is_the_share_of_new_images_that_are_right() -> None:
    learnt, new = rows_of((0.0, 0, 40), (1.0, 1, 40)), rows_of((0.0, 0, 3), (0.0, 1, 1), (1.0, 0, 4))
    assert dci.predict(*learnt, *new).accuracy == pytest.approx([3 / 8])
    assert dci.predict(*learnt, *learnt).accuracy == pytest.approx([1])


def test_a_leaf_has_four_images() -> None:
    """Of two classes in turn along a line, eight images together are told apart; single ones are not learnt."""
    code = np.arange(200.0)[:, None]
    eights, ones = (np.arange(200)[:, None] // count % 2 for count in (8, 1))
    assert dci.predict(code, eights, code, eights).accuracy == pytest.approx([1])
    assert dci.predict(code, ones, code, ones).accuracy[0] < 0.75


def grid_of_factors(repeats: int, *levels: int) -> Factors:
    """Return the factors of so many images of each combination; the images themselves are empty."""
    values = np.repeat(full_grid(*levels), repeats, 0)
    images = np.zeros((len(values), 1, 1, 1), dtype=np.uint8)
    return Factors(images, values, tuple(Factor(f"{place}", ordered=True) for place in range(len(levels))))


@pytest.mark.parametrize(("variance", "seen"), [(0.0101, True), (0.0099, False)])
def test_scores_of_a_code_leave_out_dimensions_that_are_not_active(variance: float, seen: bool) -> None:
    """The second dimension tells the second factor without fault, by means that hardly move."""
    found_in = grid_of_factors(100, 2, 2)
    unit = 2.0 * found_in.values - 1  # of variance 1
    mean = torch.from_numpy(unit * np.sqrt([1.0, variance]))
    found = scores_of(mean, torch.full_like(mean, 0.1), found_in)
    assert found["by_factor"]["sap"] == pytest.approx({"0": 1.0, "1": float(seen)}, abs=0.01)
    informative = found["by_factor"]["informativeness"]
    assert informative["0"] == 1
    assert informative["1"] == (1 if seen else pytest.approx(0.5, abs=0.2))  # else: 100 images are guessed
    information = found["matrices"]["information"]["1"]
    assert information[1] > 0.2, "by its noise too; MIG counts all dimensions"


def test_a_forest_is_tried_on_images_that_it_has_not_seen() -> None:
    """A code that tells nothing: half of the guesses are right, and more of images that are known by heart."""
    found_in = grid_of_factors(1000, 2)
    mean = torch.from_numpy(np.random.default_rng(0).standard_normal((2000, 3)))
    found = scores_of(mean, torch.ones_like(mean), found_in)
    assert found["informativeness"] == pytest.approx(0.5, abs=4 * 0.5 / 500**0.5)
    learnt, new = parts_of(2000)
    assert sorted([*learnt, *new]) == list(range(2000))
    assert (len(learnt), len(new)) == (1500, 500)
    correlation = np.corrcoef(mean[learnt].T, found_in.values[learnt, 0])[:3, 3]
    assert found["matrices"]["predictability"]["0"] == pytest.approx(correlation**2), "of what is learnt from"


def test_dci_of_an_importance_matrix_by_hand() -> None:
    """Two factors, three dimensions: shared evenly, all for the second factor, never used."""
    importance = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    two_to_one = 1 - (-(2 / 3) * math.log2(2 / 3) - (1 / 3) * math.log2(1 / 3))
    assert dci.disentanglement(importance) == pytest.approx((1.5 * two_to_one + 0.5 * 1) / 2)
    assert dci.completeness(importance) == pytest.approx((1 + 1 - math.log(2) / math.log(3)) / 2)
    assert dci.disentanglement(np.ones((2, 3))) == pytest.approx(0)
    assert dci.disentanglement(np.zeros((2, 3))) == 0


def test_gaps_with_one_dimension_are_to_nothing_and_dimensions_that_rest_predict_nothing() -> None:
    assert mig.top_gaps(np.array([[0.4], [0.1]])) == pytest.approx([0.4, 0.1])
    values = full_grid(4, 5)
    code = active_alone(np.stack([values[:, 0] * 1e-3, values[:, 1]], 1))
    found = sap.predictability(code, values, code, values, [True, False])
    assert found == pytest.approx(np.array([[0, 0], [1 / 5, 1]]), abs=1e-12)


def test_a_dimension_that_tells_nothing_scores_nothing_however_few_are_active() -> None:
    """Noise, and three unordered classes, of which a guess has a third right: alone, beside 0, or beside more noise."""
    generator = np.random.default_rng(0)
    values = np.repeat(np.arange(3), 3000)[:, None]
    found_in = Factors(np.zeros((9000, 1, 1, 1), dtype=np.uint8), values, (Factor("shape", ordered=False),))
    noise = generator.standard_normal((9000, 2))
    for code in (noise[:, :1], noise * [1, 0], noise):
        mean = torch.from_numpy(code)
        assert scores_of(mean, torch.ones_like(mean), found_in)["sap"] < 0.03


def test_a_traversal_moves_one_dimension_and_leaves_the_others() -> None:
    """Pixel d is sigmoid(z_d), and an image's code its pixels."""

    class Encoder(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x.flatten(1), torch.zeros(len(x), 4)], 1)

    class Decoder(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z.unflatten(1, (1, 2, 2))

    model = VAE(image_shape=(1, 2, 2), latent_dim=4, hidden_dim=4, depth=1)
    model.encoder, model.decoder = Encoder(), Decoder()  # pyright: ignore[reportAttributeAccessIssue]
    model.anchor = nn.Parameter(torch.zeros(1))  # tells the device and the precision
    images = torch.linspace(0, 1, 12).view(3, 1, 2, 2)
    (moved,) = traverse(model, Split(images), 1, [2])
    expected = images[1].flatten().repeat(len(PLACES), 1)
    expected[:, 2] = PLACES
    torch.testing.assert_close(moved.flatten(1), expected.sigmoid())


def test_a_traversal_starts_from_the_image_whose_factors_are_in_the_middle() -> None:
    known = grid_of_factors(1, 3, 5, 2)
    assert known.values[middle_of(known)].tolist() == [1, 2, 0]


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shapes") / "shapes.npz"
    factors.write(path, shapes.make(Grid(16, 2, 4, 4)))
    return path


def small_run(folder: Path, data: Path, *overrides: str) -> Path:
    return write_run(folder, data, "model.latent_dim=3", *overrides, shape=(1, 16, 16))


def test_runs_are_scored_once_and_compared_over_seeds(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for beta, seed in ((1, 0), (1, 1), (4, 0)):
        small_run(tmp_path / "sweep" / f"{beta}-{seed}", data, f"run.seed={seed}", f"objective.beta={beta}")
    assert cli.main(["disentangle", str(tmp_path / "sweep")]) == 0
    first = capsys.readouterr().out
    assert re.search(r"beta = 1 +0, 1 ", first)
    assert first.count(": scoring") == 3
    run = tmp_path / "sweep" / "1-0"
    for name in ("factor_information", "latent_traversal"):
        assert (run / "figures" / f"{name}.png").stat().st_size > 1000
    (entry,) = json.loads((run / "disentanglement.json").read_text())["evaluations"]
    gaps = []
    for name, nats in entry["results"]["matrices"]["information"].items():
        second, best = sorted(nats)[-2:]
        gaps.append((best - second) / entry["results"]["by_factor"]["entropy"][name])
    assert entry["results"]["mig"] == pytest.approx(sum(gaps) / 5)
    assert cli.main(["disentangle", str(tmp_path / "sweep")]) == 0
    second = capsys.readouterr().out
    assert second.count(": scored already") == 3
    assert second.splitlines()[-6:] == first.splitlines()[-6:]
    assert second.count("latent_traversal.png") == 3
    monkeypatch.setattr("vae.evaluation.disentanglement.runs.ACTIVE", math.inf)
    assert cli.main(["disentangle", str(run)]) == 0
    assert "latent_traversal.png" not in capsys.readouterr().out, "no dimension is active"


def test_what_cannot_be_scored_is_refused_in_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    plain = write_run(tmp_path / "plain", write_data(tmp_path))
    flow = small_run(tmp_path / "flow", data, "model.posterior=InverseAutoregressiveFlow")
    unfinished = write_run(tmp_path / "unfinished", data, finished=False)
    for run, problem in (
        (plain, "has no factors, which the scores need; see python -m vae shapes"),
        (flow, "the scores need one stochastic layer with a normal q(z|x)"),
        (unfinished, "not finished"),
        (tmp_path / "other", "neither a run nor a folder of runs"),
    ):
        assert cli.main(["disentangle", str(run)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert problem in line
        assert not (run / "disentanglement.json").exists()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--positions", "17"], "--positions 17: an image of 32 pixels has at most 16"),
        (["--scales", "0"], "--scales 0: must be at least 1"),
        (["--size", "8"], "--size 8: must be at least 16"),
        (["--name"], "--name"),
    ],
)
def test_impossible_shapes_are_refused_in_one_line(
    options: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["shapes", str(tmp_path / "a.npz"), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"factors": np.zeros((10, 2))}, "`factors` has shape (10, 2) (float64); must be (10, F), integers"),
        ({"factors": np.zeros((9, 2), int)}, "`factors` has shape (9, 2) (int64); must be (10, F), integers"),
        ({"factors": np.zeros((10, 1), int)}, "factor 0 has 1 different values; must have 2 to 1000"),
        ({"factors": full_grid(2, 5), "factor_names": np.array(["a"])}, "`factor_names` has shape (1,); must be (2,)"),
    ],
)
def test_unusable_factors_are_named(arrays: dict[str, np.ndarray], problem: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", images=np.zeros((10, 4, 4), np.uint8), **arrays)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError) as caught:
        factors.read(str(tmp_path / "bad.npz"), Reading(tmp_path))
    assert problem in str(caught.value)


def test_values_of_factors_are_counted_in_their_order(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", images=np.zeros((4, 4, 4), np.uint8), factors=np.array([[30], [10], [10], [20]]))
    found = factors.read(str(tmp_path / "own.npz"), Reading(tmp_path))
    assert found.values[:, 0].tolist() == [2, 0, 0, 1]
    assert found.levels == [3]
    assert found.names == ("0",)


def test_dsprites_is_read_in_its_own_layout(tmp_path: Path) -> None:
    """As its authors' file has it: 0/1 pixels, a colour that never changes, a pickled description that nobody opens."""
    shape, scale, orientation, x, y = np.indices((3, 2, 2, 4, 4)).reshape(5, -1)
    classes = np.stack([np.zeros_like(x), shape, scale, orientation, x, y], 1)
    pixels = np.random.default_rng(0).integers(0, 2, (len(x), 16, 16), dtype=np.uint8)
    arrays = {"imgs": pixels, "latents_values": classes / 7, "latents_classes": classes}
    np.savez(tmp_path / "d.npz", metadata=np.array({"title": "dSprites"}, object), **arrays)  # pyright: ignore[reportArgumentType]
    found = factors.read(str(tmp_path / "d.npz"), Reading(tmp_path))
    assert np.array_equal(found.images, 255 * pixels[:, None])
    assert np.array_equal(found.values, classes[:, 1:])
    assert {factor.name: factor.ordered for factor in found.factors} == {
        "shape": False, "scale": True, "orientation": False, "x": True, "y": True,
    }  # fmt: skip
    data = sources.load(str(tmp_path / "d.npz"), tmp_path)
    assert (data.image_shape, data.classes, len(data.train) + len(data.test)) == ((1, 16, 16), 0, len(pixels))
    np.savez(tmp_path / "d.npz", **(arrays | {"latents_classes": classes[:, 1:]}))  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"`latents_classes` has shape \(192, 5\); must be \(192, 6\)"):
        factors.read(str(tmp_path / "d.npz"), Reading(tmp_path))
