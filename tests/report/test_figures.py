import json
import math
import sys
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle, StepPatch

from vae import __main__ as cli
from vae import figures
from vae.config import load, to_yaml
from vae.data.sources import load as load_data
from vae.errors import InputError
from vae.evaluation import measure_latents, visible
from vae.families.priors import PRIORS
from vae.figures.latents import CLASS_ORDER
from vae.figures.style import PALETTE
from vae.model import VAE
from vae.report import draw_figures, report
from vae.run import checkpoint
from vae.run.contents import read_metrics

CURVES = {"loss_curves.png", "gradient_norm.png"}
PICTURES = {"reconstructions.png", "samples.png", "interpolation.png", "latent_marginals.png", "latent_use.png"}
PLANE_PICTURES = {"latent_scatter.png", "latent_histogram.png", "latent_plane.png"}


def images(count: int, channels: int = 1, size: int = 28) -> torch.Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(count))


def normal(count: int, dim: int = 2) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(0))


def rows(split: str, epochs: list[float]) -> list[dict]:
    """Rows whose loss falls from 1000 to 150, as a training run's do."""
    losses = [150 + 850 * math.exp(-5 * epoch) for epoch in epochs]
    return [
        {"split": split, "step": int(100 * epoch), "epoch": epoch, "loss": loss, "reconstruction": loss - 6, "kl": 6.0}
        | ({"beta": min(epoch / 10, 1.0), "lr": 1e-3, "grad_norm": 40.0 / epoch} if split == "train" else {})
        for epoch, loss in zip(epochs, losses, strict=True)
    ]


TRAIN = rows("train", [0.1 * n for n in range(1, 200)])
TEST = rows("test", [float(n) for n in range(1, 20)])
VAL = rows("val", [float(n) for n in range(1, 20)])
RAW = rows("test_raw", [float(n) for n in range(1, 20)])
LABELS = torch.arange(300) % 10

DIMENSIONS = np.array([0.001, 2.0, 0.5, 1.5, 0.002, 1.0])
ONE = np.ones(1)
LONG = "posterior = DiagonalNormal, beta = LinearWarmup, hidden_dim = 1024, latent_dim = 32, lr = 0.001"
EPOCHS = np.arange(1.0, 21)
CURVES_OF_3 = {
    "latent_dim = 2": [(EPOCHS, 140 + 60 / EPOCHS), (EPOCHS, 144 + 60 / EPOCHS)],
    "latent_dim = 4": [(EPOCHS, 120 + 60 / EPOCHS), (EPOCHS[:5], 125 + 60 / EPOCHS[:5])],
    LONG: [(EPOCHS, 100 + 60 / EPOCHS)],
}
CURVES_OF_12 = {f"{LONG}, depth = {n}": [(EPOCHS, 100 + n + 60 / EPOCHS)] for n in range(12)}
AGAINST = {64.0: [190.0, 191.0], 65.0: [185.0, 188.0], 1024.0: [150.0, 151.0]}


def other_prior(*, known: bool = True) -> figures.ShownPrior:
    """N((1, 0), diag(4, 1/4)), with or without its density."""
    std = np.array([2.0, 0.5])

    def marginals(places: np.ndarray) -> np.ndarray:
        return np.exp(-0.5 * ((places[:, None] - [1, 0]) / std) ** 2) / (std * math.sqrt(2 * math.pi))

    def density(points: np.ndarray) -> np.ndarray:
        return np.exp(-0.5 * (((points - [1, 0]) / std) ** 2).sum(1))

    return figures.ShownPrior(marginals, normal(20_000).numpy() * std + [1, 0], density if known else None)


def draws_and_density() -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    prior = other_prior()
    assert prior.density is not None
    return prior.draws, prior.density


DRAWN = {
    "reconstructions": lambda: figures.reconstructions(images(10), images(10)),
    "reconstructions, wrapped": lambda: figures.reconstructions(images(15), images(15)),
    "reconstructions, colour": lambda: figures.reconstructions(images(10, 3), images(10, 3)),
    "samples": lambda: figures.samples(images(64)),
    "samples_side_by_side": lambda: figures.samples_side_by_side({"z ~ p(z):\nof it": images(64), "not": images(64)}),
    "samples_side_by_side, colour": lambda: figures.samples_side_by_side({"a": images(9, 3), "b": images(9, 3)}),
    "samples, colour": lambda: figures.samples(images(64, 3)),
    "interpolation": lambda: figures.interpolation(images(10)),
    "interpolation, colour": lambda: figures.interpolation(images(10, 3)),
    "loss_curves": lambda: figures.loss_curves(TRAIN, TEST),
    "loss_curves, val": lambda: figures.loss_curves(TRAIN, TEST + VAL),
    "loss_curves, one row": lambda: figures.loss_curves(TRAIN[:1], []),
    "loss_curves, no rows": lambda: figures.loss_curves([], []),
    "gradient_norm": lambda: figures.gradient_norm(TRAIN, 1.0),
    "gradient_norm, no clipping": lambda: figures.gradient_norm(TRAIN, None),
    "latent_scatter": lambda: figures.latent_scatter(normal(300), LABELS),
    "latent_scatter, no labels": lambda: figures.latent_scatter(normal(300), None),
    "latent_scatter, long names": lambda: figures.latent_scatter(normal(300), LABELS, class_names=["T-shirt/top"] * 10),
    "latent_scatter, 47 classes": lambda: figures.latent_scatter(normal(300), torch.arange(300) % 47),
    "latent_scatter, 100 classes": lambda: figures.latent_scatter(normal(300), torch.arange(300) % 100),
    "latent_histogram": lambda: figures.latent_histogram(normal(300)),
    "latent_histogram, one point": lambda: figures.latent_histogram(torch.zeros(1, 2)),
    "latent_histogram, another prior": lambda: figures.latent_histogram(normal(300), prior=other_prior()),
    "latent_histogram, no density": lambda: figures.latent_histogram(normal(300), prior=other_prior(known=False)),
    "latent_mixture": lambda: figures.latent_mixture(normal(300), *draws_and_density(), standard=True),
    "latent_mixture, another prior": lambda: figures.latent_mixture(normal(9), *draws_and_density(), standard=False),
    "latent_marginals": lambda: figures.latent_marginals(normal(300)),
    "latent_marginals, another prior": lambda: figures.latent_marginals(normal(300), prior=other_prior()),
    "latent_marginals, 1 dimension": lambda: figures.latent_marginals(normal(300, 1)),
    "latent_marginals, 5 dimensions": lambda: figures.latent_marginals(normal(300, 5)),
    "latent_marginals, 32 dimensions": lambda: figures.latent_marginals(normal(300, 32)),
    "latent_plane": lambda: figures.latent_plane(images(25), torch.linspace(-3, 3, 5)),
    "latent_plane, another prior": lambda: figures.latent_plane(images(25), torch.linspace(-7, 7, 5), standard=False),
    "latent_use": lambda: figures.latent_use(DIMENSIONS, DIMENSIONS / 3),
    "latent_use, variance alone": lambda: figures.latent_use(None, DIMENSIONS),
    "latent_use, 1 dimension": lambda: figures.latent_use(DIMENSIONS[:1], DIMENSIONS[:1]),
    "latent_use, nothing active": lambda: figures.latent_use(np.zeros(64), np.zeros(64)),
    "loss_curves_by_setting": lambda: figures.loss_curves_by_setting(CURVES_OF_3),
    "loss_curves_by_setting, 12 settings": lambda: figures.loss_curves_by_setting(CURVES_OF_12),
    "loss_curves_by_setting, one point": lambda: figures.loss_curves_by_setting({LONG: [(ONE, 100 * ONE)]}),
    "loss_curves_by_setting, nothing": lambda: figures.loss_curves_by_setting({LONG: [], "b": []}),
    "loss_against": lambda: figures.loss_against("latent_dim", {"": {2.0: [3.0, 5.0], 4.0: [2.0], 8.0: []}}),
    "loss_against, lines": lambda: figures.loss_against("width", {LONG + key: AGAINST for key in "abcdefg"}),
    "loss_against, nothing": lambda: figures.loss_against("latent_dim", {"": {2.0: [], 4.0: [math.nan]}}),
    "loss_by_setting": lambda: figures.loss_by_setting({f"{LONG}{n}": [n, n + 1.0] for n in range(8)}),
    "loss_by_setting, nothing": lambda: figures.loss_by_setting({"a": [], "b": []}),
    "rate_distortion": lambda: figures.rate_distortion({"a": (ONE, 9 * ONE), LONG: (DIMENSIONS, 9 - DIMENSIONS)}),
    "rate_distortion, one run": lambda: figures.rate_distortion({"a": (ONE, 9 * ONE)}),
    "rate_distortion, nothing": lambda: figures.rate_distortion({"a": (ONE[:0], ONE[:0])}),
    "images_by_setting": lambda: figures.images_by_setting("Samples", "how", {"a": images(10), LONG: images(10)}),
    "images_by_setting, 20": lambda: figures.images_by_setting(
        "Samples", "how", {f"{LONG}{n}": images(10, 3) for n in range(20)}
    ),
    "latent_use_by_setting": lambda: figures.latent_use_by_setting(
        {"a": [DIMENSIONS, DIMENSIONS / 2], LONG: []}, {"a": [(4, 6), (3, 6)], LONG: []}
    ),
    "latent_plane, colour": lambda: figures.latent_plane(images(25, 3), torch.linspace(-3, 3, 5)),
}


@pytest.fixture(params=DRAWN, scope="module")
def figure(request) -> Figure:
    drawn = DRAWN[request.param]()
    drawn.draw_without_rendering()
    return drawn


# --- every picture ----------------------------------------------------------------------------------------------------


def test_everything_is_titled_and_every_scale_is_labelled(figure):
    assert figure.get_suptitle()
    for axes in (axes for axes in figure.axes if axes.get_visible() and not axes.images):
        assert axes.get_xlabel() or axes.get_label() == "<colorbar>" or not axes.xaxis.get_visible()  # a second y axis
        assert any(panel.get_ylabel() for panel in axes.get_shared_y_axes().get_siblings(axes))


def test_nothing_is_cut_off(figure):
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert drawn.x0 >= 0
    assert drawn.y0 >= 0
    assert drawn.x1 <= width
    assert drawn.y1 <= height


def test_no_title_or_label_covers_another(figure):
    texts = list(figure.texts)
    for axes in figure.axes:
        if axes.get_visible():
            texts += [axes.title, axes.xaxis.label, axes.yaxis.label]
            low, high = axes.get_xlim()
            ticks = axes.xaxis.get_major_ticks() if axes.xaxis.get_visible() else []
            texts += [tick.label1 for tick in ticks if low <= tick.get_loc() <= high]
    boxes = [text.get_window_extent() for text in texts if text.get_text() and text.get_visible()]
    assert [(a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)] == []


def test_it_fits_a_page(figure):
    width, height = figure.get_size_inches() * figure.dpi
    assert 600 <= width <= 1600
    assert 200 <= height <= 1600


def test_pyplot_knows_nothing_of_it(figure):
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


# --- images -----------------------------------------------------------------------------------------------------------


def shown(figure: Figure) -> np.ndarray:
    """The pixels (H, W, C) that the figure's one image shows, with the range that is black to white."""
    (image,) = figure.axes[0].images
    assert image.get_clim() == (0, 1)
    array = np.asarray(image.get_array())
    return array[..., None] if array.ndim == 2 else array


def cell(canvas: np.ndarray, row: int, column: int, size: int = 28, gap: int = 2) -> torch.Tensor:
    top, left = row * (size + gap), column * (size + gap)
    return torch.from_numpy(canvas[top : top + size, left : left + size]).permute(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_reconstructions_stand_under_their_originals(channels):
    above, below = images(15, channels), images(15, channels).flip(-1)
    canvas = shown(figures.reconstructions(above, below))
    for index in range(15):
        row, column = divmod(index, 10)
        assert torch.equal(cell(canvas, 2 * row, column), above[index])
        assert torch.equal(cell(canvas, 2 * row + 1, column), below[index])


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_and_interpolations_show_the_given_pixels(channels):
    x = images(64, channels)
    canvas = shown(figures.samples(x))
    assert all(torch.equal(cell(canvas, *divmod(index, 8)), x[index]) for index in range(64))
    canvas = shown(figures.interpolation(x[:10]))
    assert all(torch.equal(cell(canvas, 0, index), x[index]) for index in range(10))


def test_each_image_of_the_plane_stands_at_its_z():
    z = torch.linspace(-2, 2, 5)
    grey = torch.arange(25) / 25
    figure = figures.latent_plane(grey[:, None, None, None].expand(25, 1, 6, 6), z)
    canvas = shown(figure)[..., 0]
    left, right, bottom, top = figure.axes[0].images[0].get_extent()
    for i, j in np.ndindex(5, 5):
        row = int((top - z[i]) / (top - bottom) * canvas.shape[0])
        column = int((z[j] - left) / (right - left) * canvas.shape[1])
        assert canvas[row, column] == grey[i * 5 + j]


def test_means_outside_the_range_are_shown_as_black_and_white():
    canvas = shown(figures.samples(torch.full((1, 3, 4, 4), 1.5)))
    assert canvas.max() == 1
    canvas = shown(figures.samples(torch.full((1, 3, 4, 4), -0.5)))
    assert cell(canvas, 0, 0, size=4).max() == 0


def test_images_of_two_channels_are_refused():
    with pytest.raises(ValueError, match="C = 1 or 3"):
        figures.samples(images(4, 2))


# --- curves -----------------------------------------------------------------------------------------------------------


def points(line: Line2D) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(line.get_xdata(), dtype=float), np.asarray(line.get_ydata(), dtype=float)


def test_curves_are_the_rows():
    figure = figures.loss_curves(TRAIN, TEST + RAW + VAL + rows("val_raw", [1.0]))
    for axes, key in zip(figure.axes, ("loss", "reconstruction", "kl"), strict=False):
        for line, given in zip(axes.lines, (TRAIN, VAL, RAW, TEST), strict=True):
            epochs, values = points(line)
            assert epochs.tolist() == [row["epoch"] for row in given]
            assert values.tolist() == [row[key] for row in given]
    (beta,) = figure.axes[3].lines
    assert points(beta)[1].tolist() == [row["beta"] for row in TRAIN]


def test_the_steep_beginning_does_not_squash_the_rest():
    axes = figures.loss_curves(TRAIN, TEST).axes[0]
    low, high = axes.get_ylim()
    settled = [row["loss"] for row in [*TRAIN, *TEST] if row["epoch"] >= 1]
    assert low < min(settled)
    assert max(settled) < high < min(settled) + 1.2 * (max(settled) - min(settled))


def test_non_finite_rows_do_not_spoil_the_curves():
    bad = [{**row, "loss": math.nan, "kl": math.inf} for row in TRAIN[:5]]
    figure, without = figures.loss_curves(bad + TRAIN, TEST), figures.loss_curves(TRAIN, TEST)
    for each in (figure, without, nothing := figures.loss_curves(bad, [])):
        each.draw_without_rendering()
    for axes, expected in zip(figure.axes, without.axes, strict=True):
        assert axes.get_ylim() == pytest.approx(expected.get_ylim())
    assert np.isfinite([axes.get_ylim() for axes in nothing.axes]).all()


def test_gradient_norm_has_a_log_scale_and_the_threshold():
    axes = figures.gradient_norm(TRAIN, 2.5).axes[0]
    assert axes.get_yscale() == "log"
    curve, threshold = axes.lines
    assert points(curve)[1].tolist() == [row["grad_norm"] for row in TRAIN]
    assert points(threshold)[1].tolist() == [2.5, 2.5]
    assert len(figures.gradient_norm(TRAIN, None).axes[0].lines) == 1


# --- the aggregate posterior ------------------------------------------------------------------------------------------


def test_palette_has_ten_colours():
    assert len({to_hex(color) for color in PALETTE}) == 10
    assert sorted(CLASS_ORDER) == list(range(10))


@pytest.mark.parametrize("classes", [1, 2, 10, 47])
def test_every_point_has_the_colour_of_its_class(classes):
    z, labels = normal(300), torch.arange(300) % classes + 3
    axes = figures.latent_scatter(z, labels, class_names=[f"name {n}" for n in range(classes + 3)]).axes[0]
    (scatter,) = (artist for artist in axes.collections if isinstance(artist, PathCollection))
    color_at = {
        tuple(place): to_hex(tuple(color))
        for place, color in zip(
            np.asarray(scatter.get_offsets()).tolist(), np.asarray(scatter.get_facecolor()), strict=True
        )
    }
    colors = [color_at[tuple(place)] for place in z.double().tolist()]
    assert len(set(colors)) == classes
    assert len(set(zip(colors, labels.tolist(), strict=True))) == classes
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [f"name {n + 3}" for n in range(classes)]


def test_histogram_counts_every_point_on_a_log_scale():
    axes, bar = figures.latent_histogram(normal(5000)).axes
    counts = np.ma.masked_invalid(np.ma.asarray(axes.collections[0].get_array()))
    assert counts.sum() == 5000
    assert bar.get_yscale() == "log"


def test_circles_hold_the_prior_mass_they_name():
    radii = np.linalg.norm(normal(200_000).numpy(), axis=1)
    for line in figures.latent_histogram(normal(100)).axes[0].lines:
        radius = np.hypot(*points(line))
        named = float(str(line.get_label()).split("%")[0].split()[-1]) / 100
        assert (radii < radius.mean()).mean() == pytest.approx(named, abs=0.005)


@pytest.mark.parametrize("whose", ["the prior", "the mixture"])
def test_lines_of_another_prior_are_ellipses_that_hold_the_mass_they_name(whose):
    """Of a normal whose axes are not alike, which lines of equal density are known for."""
    z, mixture = 5 * normal(1000), draws_and_density()
    if whose == "the prior":
        axes = figures.latent_histogram(z, prior=other_prior()).axes[0]
    else:
        axes = figures.latent_mixture(z, *mixture, standard=False).axes[0]
        labels = [str(line.get_label()) for line in figures.latent_mixture(z, *mixture, standard=True).axes[0].lines]
        assert [label.partition(" of ")[2] for label in labels] == ["N(0, I)"] * 2 + [whose] * 2
    outlines = [item for item in axes.collections if isinstance(item, ContourSet)]
    named = [float(str(line.get_label()).split("%")[0].split()[-1]) / 100 for line in axes.lines]
    assert [str(line.get_label()).partition(" of ")[2] for line in axes.lines] == [whose] * 2
    assert named == [0.5, 0.95]
    for mass, outline in zip(named, outlines, strict=True):
        (path,) = outline.get_paths()
        radii = np.hypot(*((np.asarray(path.vertices) - [1, 0]) / [2.0, 0.5]).T)
        assert radii == pytest.approx(np.full(len(radii), math.sqrt(-2 * math.log(1 - mass))), rel=0.03)


def test_a_prior_without_a_known_density_has_no_lines():
    figure = figures.latent_histogram(normal(100), prior=other_prior(known=False))
    assert not figure.axes[0].lines
    assert not figure.legends


def test_the_density_of_another_prior_is_drawn_dimension_by_dimension():
    prior = other_prior()
    for dim, axes in enumerate(figures.latent_marginals(5 * normal(5000), prior=prior).axes):
        z, density = points(axes.lines[0])
        assert density == pytest.approx(prior.marginals(z)[:, dim])
        assert np.trapezoid(density, z) == pytest.approx(1, abs=1e-3)
        assert axes.lines[0].get_label() == "the prior"


def test_marginals_and_prior_are_densities():
    for axes in figures.latent_marginals(normal(5000, 3)).axes:
        (cells,) = (patch for patch in axes.patches if isinstance(patch, StepPatch))
        values, edges, _ = cells.get_data()
        assert np.sum(values * np.diff(edges)) == pytest.approx(1)
        z, density = points(axes.lines[0])
        assert np.trapezoid(density, z) == pytest.approx(1, abs=1e-3)
        assert np.trapezoid(density * np.square(z), z) == pytest.approx(1, abs=0.02)


def test_dimensions_are_ranked_by_their_kl_and_active_ones_marked():
    figure = figures.latent_use(DIMENSIONS, np.array([0.009, 2.0, 0.5, 1.5, 0.02, 1.0]))
    left, right = figure.axes
    assert "5 of 6 active" in figure.get_suptitle()
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["2", "4", "6", "3", "5", "1"]
    bars = [bar for bar in left.patches if isinstance(bar, Rectangle)]
    heights = {round(bar.get_center()[0]): (bar.get_height(), to_hex(bar.get_facecolor())) for bar in bars}
    assert [heights[place][0] for place in range(6)] == sorted(DIMENSIONS, reverse=True)
    assert len({heights[place][1] for place in range(5)}) == 1
    assert heights[5][1] != heights[0][1]
    assert points(right.lines[0])[1].tolist() == [0.01, 0.01]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["active", "not active", "active above 0.01"]


# --- report -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def make_run(tmp_path_factory):
    """A finished run on 70 small random images, made without training."""

    def make(latent_dim: int = 2, channels: int = 1, *settings: str):
        folder = tmp_path_factory.mktemp("run")
        archive = folder / "data.npz"
        pixels = images(80, channels, size=8).numpy()
        np.savez(
            archive, images=pixels, labels=np.arange(80) % 4, test_images=pixels[:70], test_labels=np.arange(70) % 4
        )
        model = {"model.latent_dim": latent_dim, "model.hidden_dim": 8}
        overrides = [f"{key}={value}" for key, value in model.items()]
        config = load(overrides=[f"data.name={archive}", *overrides, *settings])
        (folder / "config.yaml").write_text(to_yaml(config))
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*TRAIN, *TEST]))
        vae = VAE(image_shape=(channels, 8, 8), classes=4, **config.model.model_dump())
        checkpoint.save_model(folder / "model", vae)
        return folder

    return make


@pytest.fixture(scope="module")
def run(make_run):
    return make_run()


def test_report_draws_all_pictures_and_the_command_draws_the_same_again(run, capsys):
    written = report(run)
    assert {path.name for path in written} == CURVES | PICTURES | PLANE_PICTURES
    assert set((run / "figures").iterdir()) == set(written)
    assert capsys.readouterr() == ("", "")
    before = {path: path.read_bytes() for path in written}
    assert all(content.startswith(b"\x89PNG") and len(content) < 400_000 for content in before.values())

    assert cli.main(["report", str(run)]) == 0
    pages = [run / "report.html", run / "report.md"]
    assert capsys.readouterr().out.splitlines() == [str(path) for path in [*written, *pages]]
    assert {path: path.read_bytes() for path in written} == before


@pytest.mark.parametrize("prior", [name for name in PRIORS if name != "StandardNormal" and not PRIORS[name].of_codes])
def test_pictures_are_drawn_of_models_with_any_prior(prior, make_run):
    by_class = {"samples_by_class.png"} if PRIORS[prior].needs_labels else set()
    written = report(make_run(2, 1, f"model.prior={prior}"))
    assert {path.name for path in written} == CURVES | PICTURES | PLANE_PICTURES | by_class


@pytest.mark.parametrize("codes", ["codes: 9, code_dim: 2", "codes: 4, code_dim: 1"])
def test_pictures_are_drawn_of_models_with_codes(codes, make_run):
    prior = "UniformCodes" if "code_dim: 2" in codes else "AutoregressiveCodes"
    pieces = [f"model.posterior={{name: VectorQuantized, {codes}}}", f"model.prior={prior}"]
    written = report(make_run(2, 1, *pieces, "objective=VectorQuantization"))
    assert {path.name for path in written} == CURVES | PICTURES | PLANE_PICTURES


def test_more_latent_dimensions_have_no_plane(make_run):
    assert {path.name for path in report(make_run(latent_dim=3, channels=3))} == CURVES | PICTURES


@pytest.mark.parametrize("channels", [2, 5])
def test_of_other_channel_counts_the_first_is_shown(make_run, channels):
    assert {path.name for path in report(make_run(latent_dim=3, channels=channels))} == CURVES | PICTURES
    images = torch.linspace(-0.2, 1.2, 4 * channels * 9).reshape(4, channels, 3, 3)
    assert torch.equal(visible(images), images[:, :1].clamp(0, 1))


def test_the_model_is_left_as_it_was(run):
    data = load_data(str(run / "data.npz"), run)
    model = VAE(image_shape=(1, 8, 8), latent_dim=1, hidden_dim=8).train()
    draw_figures(run, model, data, measure_latents(model, data.test, seed=0), seed=0)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("missing", ["config.yaml", "metrics.jsonl", "model/model.safetensors"])
def test_a_folder_that_lacks_something_is_refused(run, tmp_path, missing):
    for name in {"config.yaml", "metrics.jsonl", "model/model.safetensors"} - {missing}:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((run / name).read_bytes())
    with pytest.raises(InputError) as refused:
        report(tmp_path)
    assert str(tmp_path) in str(refused.value)
    assert missing in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("missing", ["nowhere", "."])
def test_what_is_no_run_folder_is_refused(tmp_path, missing):
    with pytest.raises(InputError, match="not a run folder"):
        report(tmp_path / missing)


GOOD = json.dumps(TEST[0])


@pytest.mark.parametrize("line", ["{", "", "[1]", "{}", '{"split": "tset"}', GOOD.replace("6.0", '"6"'), GOOD[:-9]])
def test_a_malformed_line_is_named(tmp_path, line):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(f"{GOOD}\n{line}\n{GOOD}\n")
    with pytest.raises(InputError) as refused:
        read_metrics(metrics)
    assert f"{metrics} line 2" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_last_line_cut_short_is_left_out(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    for end in range(len(GOOD)):
        metrics.write_text(f"{GOOD}\n{GOOD[:end]}")
        assert read_metrics(metrics) == [TEST[0]]
    metrics.write_text(f"{GOOD}\n{GOOD}")
    assert read_metrics(metrics) == [TEST[0]] * 2


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [[], ["report"], ["reprot", "x"], ["report", "nowhere"], ["report", "x", "--nothing"]])
def test_command_refuses_in_one_line(argv, capsys):
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
