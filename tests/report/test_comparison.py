"""Latent measures of finished runs, and the pictures that compare settings."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch.distributions import MultivariateNormal

from tests.helpers.folders import PROTOCOL, write_run
from vae import figures
from vae.config import load, to_yaml
from vae.data import randomness
from vae.data.dataset import Split
from vae.data.sources import load as load_data
from vae.errors import InputError
from vae.evaluation import LatentMeasures, measure_latents
from vae.evaluation.latents_file import measure
from vae.model import VAE
from vae.report.axis import find_axis
from vae.report.compared import Compared
from vae.report.comparison import draw
from vae.report.table import DRAWN, result_tables
from vae.run import checkpoint
from vae.run.finished import Loader
from vae.run.settings import Setting, compare, find, read

EPOCHS = [1.0, 2.0, 3.0]


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(count))


def make_run(folder: Path, losses: list[float], *, kl: float = 6.0, finished: bool = True, **settings: Any) -> Path:
    """A run on 40 small random images, made without training, whose test losses are given."""
    folder.mkdir(parents=True)
    archive = folder.parent / f"{settings.pop('data', 'data')}.npz"
    if not archive.exists():
        pixels = images(50 + len(archive.stem)).numpy()
        labels = np.arange(len(pixels)) % 4
        np.savez(archive, images=pixels, labels=labels, test_images=pixels[:40], test_labels=labels[:40])
    overrides = [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]
    config = load(overrides=[f"data.name={archive}", "model.hidden_dim=8", *overrides])
    (folder / "config.yaml").write_text(to_yaml(config))
    rows = [
        {"split": "test", "step": int(epoch), "epoch": epoch, "loss": loss, "reconstruction": loss - kl, "kl": kl}
        for epoch, loss in zip(EPOCHS, losses, strict=False)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if finished:
        data = load_data(str(archive), "")
        torch.manual_seed(config.run.seed)
        checkpoint.save_model(folder / "model", VAE(image_shape=(1, 8, 8), **config.model.model_dump()))
        protocol = PROTOCOL | {"pixels_crc32": data.test.fingerprint, "seed": config.run.seed}
        test = {"loss": losses[-1], "reconstruction": losses[-1] - kl, "kl": kl, "protocol": protocol}
        (folder / "summary.json").write_text(json.dumps({"test": test}))
    return folder


LOSSES: dict[int, list[list[float]]] = {
    2: [[160, 150, 148], [164, 152, 150]],
    4: [[140, 130, 126], [142, 131, 127]],
    8: [[139, 120, 110]],
}


@pytest.fixture(scope="module")
def bottleneck(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three latent dimensions, of which two with two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    for dim, runs in LOSSES.items():
        for seed, losses in enumerate(runs):
            place = folder / f"latent_dim={dim},seed={seed}"
            make_run(place, losses, kl=dim + seed, model__latent_dim=dim, run__seed=seed)
    return folder


def settings_in(folder: Path) -> list[Setting]:
    return compare(read(path) for path in find([folder]))


@pytest.fixture(scope="module")
def drawn(bottleneck: Path) -> dict[str, tuple[Figure, str]]:
    return draw(settings_in(bottleneck), Loader())


# --- latent measures --------------------------------------------------------------------------------------------------


def kl_by_quadrature(mean: float, std: float) -> float:
    """KL(N(mean, std^2) || N(0, 1)) as the integral of q log(q / p), by the rectangle rule in float64."""
    z = np.linspace(mean - 12 * std, mean + 12 * std, 20_001)
    log_q = -0.5 * ((z - mean) / std) ** 2 - np.log(std)
    return float(np.sum(np.exp(log_q) * (log_q + 0.5 * z**2)) * (z[1] - z[0]) / math.sqrt(2 * math.pi))


@pytest.mark.parametrize("posterior", ["DiagonalNormal", "FullNormal"])
def test_measures_are_those_of_a_computation_by_hand_in_double_precision(posterior: str) -> None:
    torch.manual_seed(0)
    model, x = VAE(image_shape=(1, 8, 8), latent_dim=3, hidden_dim=8, posterior=posterior).double(), images(7)
    with torch.no_grad():
        model.encoder.get_parameter([name for name, _ in model.encoder.named_parameters()][-1]).normal_()
        q = model.encode(x.double())
    covariance = q.covariance_matrix if isinstance(q, MultivariateNormal) else torch.diag_embed(q.variance)
    means, covariance = q.mean.numpy(), covariance.numpy()
    by_hand = [[kl_by_quadrature(means[i, d], math.sqrt(covariance[i, d, d])) for i in range(len(x))] for d in range(3)]
    trace, log_det = np.trace(covariance, axis1=1, axis2=2), np.linalg.slogdet(covariance)[1]
    total = 0.5 * (trace + (means**2).sum(1) - 3 - log_det)
    measures = measure_latents(model, Split(x), seed=0)
    assert measures.kl == pytest.approx([fmean(each) for each in by_hand], rel=1e-9)
    assert measures.total_kl == pytest.approx(total.mean(), rel=1e-12)
    assert measures.variance == pytest.approx([np.mean((m - m.mean()) ** 2) for m in means.T], rel=1e-12)
    assert measures.examples == 7
    assert measures.shared_kl is not None
    if posterior == "DiagonalNormal":
        assert measures.shared_kl == pytest.approx(0, abs=1e-12)
    else:  # the total correlation
        correlation = 0.5 * (np.log(np.diagonal(covariance, axis1=1, axis2=2)).sum(1) - log_det)
        assert measures.shared_kl == pytest.approx(correlation.mean(), rel=1e-9)
        assert measures.shared_kl > 0.01


def test_dimensions_are_active_above_a_variance_of_a_hundredth() -> None:
    assert LatentMeasures((0.0101, 0.0099, 2.0), None, 0.0, 1).active == 2


def test_measures_are_kept_for_as_long_as_the_weights_stay(bottleneck: Path, tmp_path: Path) -> None:
    run = shutil.copytree(bottleneck / "latent_dim=2,seed=0", tmp_path / "run")
    first = measure(run)
    kept = json.loads((run / "latents.json").read_text())
    (run / "latents.json").write_text(json.dumps(kept | {"total_kl": 123.0}))
    assert measure(run).total_kl == 123.0, "read, not computed again"
    for damaged in ("{", "[]", "{}", json.dumps(kept | {"format": 0}), json.dumps(kept | {"variance": 1})):
        (run / "latents.json").write_text(damaged)
        assert measure(run) == first
    other = bottleneck / "latent_dim=2,seed=1" / "model" / "model.safetensors"
    shutil.copy(other, run / "model" / "model.safetensors")
    assert measure(run).variance != first.variance
    (run / "latents.json").unlink()
    (run / "latents.json").mkdir()  # nothing can be written there, by root either
    assert measure(run).variance == measure(other.parent.parent).variance


def test_an_unfinished_run_has_no_measures(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [150.0], finished=False)
    with pytest.raises(InputError, match="not finished"):
        measure(run)


# --- numbers ----------------------------------------------------------------------------------------------------------


def ydata(line: Line2D) -> list[float]:
    return np.asarray(line.get_ydata(), dtype=float).tolist()


def xdata(line: Line2D) -> list[float]:
    return np.asarray(line.get_xdata(), dtype=float).tolist()


def lines_of(figure: Figure, panel: int = 0) -> dict[str, Line2D]:
    return {str(line.get_label()).replace("\xa0", " "): line for line in figure.axes[panel].lines}


def test_each_picture_has_a_caption(drawn: dict[str, tuple[Figure, str]]) -> None:
    assert list(drawn) == [
        "loss_curves_by_setting", "test_loss", "rate_distortion", "reconstructions_by_setting", "samples_by_setting",
        "latent_use_by_setting",
    ]  # fmt: skip
    assert all(caption.endswith(".") and "eft out" not in caption for _, caption in drawn.values())


def test_curves_are_means_in_a_band_from_the_lowest_to_the_highest(drawn: dict[str, tuple[Figure, str]]) -> None:
    figure, _ = drawn["loss_curves_by_setting"]
    for dim, runs in LOSSES.items():
        assert ydata(lines_of(figure)[f"latent_dim = {dim}"]) == [fmean(values) for values in zip(*runs, strict=True)]
    bands = [band for band in figure.axes[0].collections if isinstance(band, PolyCollection)]
    for band, runs in zip(bands, [LOSSES[2], LOSSES[4]], strict=True):
        corners = {tuple(corner) for corner in np.asarray(band.get_paths()[0].vertices).tolist()}
        assert {(e, float(v)) for run in runs for e, v in zip(EPOCHS, run, strict=True)} <= corners


def test_where_not_all_runs_are_the_mean_ends_and_the_others_go_on_alone() -> None:
    epochs = np.array(EPOCHS)
    figure = figures.loss_curves_by_setting({"a": [(epochs, 10 + epochs), (epochs[:2], 20 + epochs[:2])]})
    mean, *alone = figure.axes[0].lines
    assert ydata(mean)[:2] == [16.0, 17.0]
    assert math.isnan(ydata(mean)[2])
    assert ydata(alone[0]) == [12.0, 13.0]


def test_losses_stand_at_their_value_with_the_standard_deviation(drawn: dict[str, tuple[Figure, str]]) -> None:
    axes = drawn["test_loss"][0].axes[0]
    assert axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["2", "4", "8"]
    (line,) = (line for line in axes.lines if line.get_linestyle() == "-")
    assert np.asarray(line.get_xdata()).tolist() == [2, 4, 8]
    assert ydata(line) == [fmean([148, 150]), fmean([126, 127]), 110]
    (bars,) = (part for part in axes.collections if isinstance(part, LineCollection))
    for segment, losses in zip(bars.get_segments(), [[148, 150], [126, 127]], strict=False):
        mean, deviation = fmean(losses), stdev(losses)
        assert np.asarray(segment)[:, 1].tolist() == pytest.approx([mean - deviation, mean + deviation])
    dots = sorted(value for dot in axes.lines if dot.get_linestyle() == "None" for value in ydata(dot))
    assert {148, 150, 126, 127, 110} <= set(dots)


@pytest.mark.parametrize(
    ("values", "scale", "ticks"),
    [
        ([0.25, 1, 8], "log", ["0.25", "1", "8"]),
        ([1e-4, 1e-3, 1e-2], "log", ["0.0001", "0.001", "0.01"]),
        ([1, 2, 3], "linear", ["1", "2", "3"]),
        ([0, 1, 2], "linear", ["0", "1", "2"]),
    ],
)
def test_the_scale_follows_from_the_values(values: list[float], scale: str, ticks: list[str]) -> None:
    axes = figures.loss_against("x", {"": {value: [value, value + 1] for value in values}}).axes[0]
    assert axes.get_xscale() == scale
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ticks


def test_many_settings_have_a_panel_each() -> None:
    curves = {f"depth = {n}": [(np.array(EPOCHS), n + np.array(EPOCHS))] for n in range(8)}
    panels = [axes for axes in figures.loss_curves_by_setting(curves).axes if axes.get_visible()]
    assert [axes.get_title().replace("\xa0", " ") for axes in panels] == list(curves)
    assert all(ydata(axes.lines[-1]) == [n + 1, n + 2, n + 3] for n, axes in enumerate(panels))


def test_runs_stand_at_their_rate_and_distortion_over_diagonals_of_the_elbo(
    drawn: dict[str, tuple[Figure, str]],
) -> None:
    axes = drawn["rate_distortion"][0].axes[0]
    for dim, runs in LOSSES.items():
        line = lines_of(drawn["rate_distortion"][0])[f"latent_dim = {dim}"]
        assert np.asarray(line.get_xdata()).tolist() == [dim + seed for seed in range(len(runs))]
        assert ydata(line) == [run[-1] - dim - seed for seed, run in enumerate(runs)]
    diagonals = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert len(diagonals) == len(axes.texts) > 2
    for line, text in zip(diagonals, axes.texts, strict=True):
        level = float(text.get_text().split("=")[1])
        x, y = np.asarray(line.get_xdata(), dtype=float), np.asarray(line.get_ydata(), dtype=float)
        assert (x + y).tolist() == pytest.approx([level, level])
        assert sum(text.get_position()) == pytest.approx(level)


def test_latent_use_is_what_is_measured(drawn: dict[str, tuple[Figure, str]], bottleneck: Path) -> None:
    figure, _ = drawn["latent_use_by_setting"]
    for dim, runs in LOSSES.items():
        measured = [measure(bottleneck / f"latent_dim={dim},seed={seed}") for seed in range(len(runs))]
        ranked = [sorted(one.kl or (), reverse=True) for one in measured]
        line = lines_of(figure)[f"latent_dim = {dim}"]
        assert ydata(line) == pytest.approx([fmean(values) for values in zip(*ranked, strict=True)])
        place = list(LOSSES).index(dim)
        assert xdata(figure.axes[1].lines[place]) == [one.active for one in measured]
    widths = [bar.get_width() for bar in figure.axes[1].patches[::2] if isinstance(bar, Rectangle)]
    assert widths == list(LOSSES), "all dimensions, in grey"


# --- images -----------------------------------------------------------------------------------------------------------


def rows_of(figure: Figure, count: int) -> np.ndarray:
    """The images (rows, columns, 8, 8) that a picture shows."""
    (shown,) = figure.axes[0].images
    canvas = np.asarray(shown.get_array())
    height = canvas.shape[0] // count
    columns = (canvas.shape[1] + 2) // 10
    return np.array(
        [[canvas[r * height :, c * 10 :][:8, :8] for c in range(columns)] for r in range(count)], dtype=np.float32
    )


def test_rows_are_the_lowest_seeds_reconstructions_and_samples(
    drawn: dict[str, tuple[Figure, str]], bottleneck: Path
) -> None:
    data = load_data(str(bottleneck / "data.npz"), "")
    x = data.test.images[:4]  # one of each class
    reconstructed = rows_of(drawn["reconstructions_by_setting"][0], 4)
    samples = rows_of(drawn["samples_by_setting"][0], 3)
    assert np.array_equal(reconstructed[0], x[:, 0].numpy())
    noise = randomness.normal(8, 10, 0, "comparison/samples").T
    for row, dim in enumerate(LOSSES):
        model = VAE.from_pretrained(bottleneck / f"latent_dim={dim},seed=0" / "model")
        assert reconstructed[row + 1] == pytest.approx(model.reconstruct(x)[:, 0].numpy(), abs=1e-6)
        assert samples[row] == pytest.approx(model.sample(noise=noise[:, :dim])[:, 0].numpy(), abs=1e-6)
    assert "lowest seed" in drawn["samples_by_setting"][1]


# --- what is left out -------------------------------------------------------------------------------------------------


def unfinished(folder: Path) -> None:
    make_run(folder / "unfinished", [170.0, 165.0], finished=False, model__latent_dim=4)


def diverged(folder: Path) -> None:
    make_run(folder / "nan", [170.0, math.nan], model__latent_dim=4, run__seed=7)


def far_off(folder: Path) -> None:
    for dim in (4, 8, 16):
        make_run(folder / f"far-{dim}", [170.0, 1e6 if dim == 16 else 150.0], model__latent_dim=dim)


def other_pixels(folder: Path) -> None:
    make_run(folder / "other", [10.0], data="other", model__latent_dim=4)


def other_likelihood(folder: Path) -> None:
    make_run(folder / "normal", [-900.0], model__latent_dim=4, model__likelihood="Normal")


def likelihood_of_its_own(folder: Path) -> None:
    make_run(folder / "optimal", [-900.0], model__latent_dim=4, model__likelihood="OptimalNormal")


def no_model(folder: Path) -> None:
    shutil.rmtree(make_run(folder / "gone", [120.0], model__latent_dim=4) / "model")


def unstarted(folder: Path) -> None:
    (make_run(folder / "unstarted", [], finished=False, model__latent_dim=4) / "metrics.jsonl").unlink()


@pytest.mark.parametrize(
    ("spoil", "picture", "said"),
    [
        (unfinished, "test_loss", "Left out: 1 run not finished."),
        (unfinished, "loss_curves_by_setting", "Unfinished so far: 1 run."),
        (diverged, "rate_distortion", "Left out: 1 run whose loss is not finite."),
        (far_off, "test_loss", "outside the picture: latent_dim = 16 (1e+06 nats)."),
        (other_pixels, "test_loss", "1 run on other data or with another likelihood."),
        (other_likelihood, "samples_by_setting", "1 run on other data or with another likelihood."),
        (likelihood_of_its_own, "rate_distortion", "1 run on other data or with another likelihood."),
        (no_model, "latent_use_by_setting", "Nothing to show of: latent_dim = 4."),
        (unstarted, "loss_curves_by_setting", "Nothing to show of: latent_dim = 4."),
    ],
)
def test_what_cannot_be_shown_is_left_out_and_named(
    spoil: Callable[[Path], None], picture: str, said: str, tmp_path: Path
) -> None:
    make_run(tmp_path / "good", [160.0, 150.0], model__latent_dim=2)
    spoil(tmp_path)
    drawn = draw(settings_in(tmp_path), Loader())
    assert len(drawn) == 6
    for figure, _ in drawn.values():
        figure.draw_without_rendering()
    assert said in drawn[picture][1]
    if picture == "test_loss" and spoil is far_off:
        assert drawn[picture][0].axes[0].get_ylim()[1] < 1000


def test_drawn_pixels_of_another_size_are_other_data(tmp_path: Path) -> None:
    """Each seed has its own draw, so that a checksum cannot say it."""
    drawn = {"pixels": DRAWN}
    sizes = [(f"size-{size}", f"data.image_size={size}", seed) for size in (8, 16) for seed in (0, 1)]
    settings = [
        write_run(tmp_path / f"{name}-{seed}", Path("photos"), "data.binarize=static", size, f"run.seed={seed}",
                  protocol=drawn | {"pixels_crc32": f"{seed}"})
        for name, size, seed in sizes
    ]  # fmt: skip
    assert settings
    tables = result_tables(settings_in(tmp_path), {})
    assert [len(table.rows) for table in tables] == [1, 1]
    assert Compared.of(settings_in(tmp_path)).others == 2


def test_runs_that_have_just_begun_have_curves_only(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [160.0], finished=False)
    make_run(tmp_path / "b", [], finished=False, model__latent_dim=4)
    assert list(draw(settings_in(tmp_path), Loader())) == ["loss_curves_by_setting"]


# --- what is swept ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("varied", "name", "lines"),
    [
        ([{"model.latent_dim": d} for d in (2, 4)], "latent_dim", [""]),
        (
            [{"model.latent_dim": d, "model.hidden_dim": h} for d in (2, 32) for h in (128, 256, 512)],
            "hidden_dim",
            ["latent_dim = 2", "latent_dim = 32"],
        ),
        (
            [{"optim.lr": r, "train.batch_size": b} for r, b in ((0.1, 128), (0.2, 256))],
            "lr (with batch_size in step)",
            [""],
        ),
        ([{"model.posterior.scale": s} for s in ("exp", "softplus")], None, []),
        ([{"model.center_input": s} for s in (True, False)], None, []),
        ([{"objective.beta.value": 1.0}, {"objective.beta.cycles": 2}], None, []),
        ([{}], None, []),
    ],
)  # fmt: skip
def test_settings_are_drawn_against_a_number_where_there_is_one(
    varied: list[dict[str, Any]], name: str | None, lines: list[str]
) -> None:
    axis = find_axis(varied)
    assert (axis and axis.name) == name
    if axis:
        assert sorted({axis.line_of(setting) for setting in varied}) == lines


def test_labels_leave_out_what_a_components_name_says(tmp_path: Path) -> None:
    warm_up, cyclical = "{name: LinearWarmup, epochs: 5}", "{name: Cyclical, epochs: 4, cycles: 2}"
    for number, beta in enumerate((1, warm_up, cyclical)):
        make_run(tmp_path / str(number), [150.0 - number], objective__beta=beta)
    (figure, _), *_ = draw(settings_in(tmp_path), Loader()).values()
    assert {label for label in lines_of(figure) if label[0] != "_"} == {
        "beta = Constant", "beta = LinearWarmup", "beta = Cyclical"
    }  # fmt: skip
