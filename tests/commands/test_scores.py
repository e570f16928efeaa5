"""`score`: log p(x) of each image against draws made by hand, the area under the ROC curve against all pairs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.distributions import Bernoulli, Normal

from tests.helpers.folders import SIZE, in_float64, write_data, write_run
from tests.helpers.starts import on_ranks
from tests.helpers.stopping import StopAfter
from vae import __main__ as cli
from vae.data import randomness
from vae.data.sources import load
from vae.distributed.signals import StopRequest
from vae.errors import Stopped
from vae.evaluation.log_likelihood.importance import Estimates
from vae.evaluation.log_likelihood.runs import Resources
from vae.model import VAE
from vae.uses import score
from vae.uses.scores import Scores, area_under_roc


def all_pairs(positives: Tensor, negatives: Tensor) -> float:
    """The definition: the share of pairs in which the positive is above, equal ones counting half."""
    a, b = positives[:, None], negatives[None]
    return ((a > b).double() + (a == b).double() / 2).mean().item()


@pytest.mark.parametrize("levels", [3, 1000])
def test_the_area_is_the_share_of_pairs_in_the_right_order(levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    a, b = (
        torch.randint(low, low + levels, (count,), generator=generator).double() for low, count in ((1, 57), (0, 83))
    )
    assert area_under_roc(a, b) == pytest.approx(all_pairs(a, b), abs=1e-14)
    assert area_under_roc(b, a) == pytest.approx(1 - all_pairs(a, b), abs=1e-14)
    assert area_under_roc(a + levels, b - levels) == 1
    assert area_under_roc(b - levels, a + levels) == 0
    assert area_under_roc(torch.zeros(4), torch.zeros(9)) == 0.5
    assert area_under_roc((a / levels).exp(), (b / levels).exp()) == area_under_roc(a, b), "only the order counts"


def test_the_most_likely_images_come_first_and_the_least_likely_ones_too() -> None:
    values = torch.tensor([-3.0, -1.0, -7.0, -5.0])
    scores = Scores({}, Estimates(*[values] * 7), (1, 2, 2), has_bits=False)
    least, most = scores.extremes(2)
    assert (least.tolist(), most.tolist()) == ([2, 3], [1, 0])
    assert [len(places) for places in scores.extremes(9)] == [4, 4]
    assert "bits_per_dim" not in scores.arrays()


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(archive: Path) -> Path:
    return in_float64(archive.parent / "run", archive, "model.latent_dim=3", "data.binarize=none", "data.val_size=0")


@pytest.fixture(scope="module")
def other(archive: Path) -> Path:
    """Images of nothing but grey, some of them white."""
    pixels = np.full((24, SIZE, SIZE), 0.5, dtype=np.float32)
    pixels[:3] = 1.0
    np.savez(archive.parent / "flat.npz", images=pixels, test_images=pixels)
    return archive.parent / "flat.npz"


def by_hand(run: Path, images: Tensor, place: int, samples: int) -> Tensor:
    """log w of each draw for one image, (K,), written out."""
    model = VAE.from_pretrained(run / "model").double().eval()
    noise = randomness.generator(0, "importance/test", block=place).standard_normal((samples, 3), dtype=np.float32)
    with torch.no_grad():
        q = model.encode(images[place : place + 1].double())
        z = q.mean + q.stddev * torch.from_numpy(noise).double()
        log_p_x = Bernoulli(probs=model.decode(z).mean, validate_args=False).log_prob(images[place].double())
        log_p, log_q = Normal(0.0, 1.0).log_prob(z).sum(1), Normal(q.mean, q.stddev).log_prob(z).sum(1)
    return log_p_x.sum((1, 2, 3)) + log_p - log_q


def test_each_image_has_the_scores_that_its_draws_give_it(
    run: Path, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["score", str(run), "--samples", "7", "--count", "20", "--batch", "9"]) == 0
    found = np.load(run / "uses" / "scores-data-test.npz")
    assert found["index"].tolist() == list(range(20))
    images = load(str(archive), ".").test.images
    for place in (0, 13):
        log_w = by_hand(run, images, place, 7)
        assert found["log_likelihood"][place] == pytest.approx(log_w.exp().mean().log().item(), abs=1e-8)
        assert found["elbo"][place] == pytest.approx(log_w.mean().item(), abs=1e-8)
        size = (log_w.exp().sum().square() / (2 * log_w).exp().sum()).item()
        assert found["effective_sample_size"][place] == pytest.approx(size, rel=1e-6)
    assert found["bias"].mean() > 0
    lines = capsys.readouterr().out.splitlines()
    assert any(f"K = 7 leaves it too low by {found['bias'].mean():.3f} or more" in line for line in lines)
    assert any("below 10 for 100% of the images: there the bias is larger than said" in line for line in lines)
    protocol = json.loads(str(found["protocol"]))
    assert (protocol["measure"], protocol["samples"], protocol["examples"]) == ("not normalised", 7, 20)
    assert "bits_per_dim" not in found, "grey pixels have no probabilities"


def test_two_data_sets_are_held_against_each_other(
    run: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--against", str(other), "--samples", "3", "--output", str(tmp_path)]
    assert cli.main(["score", str(run), *options]) == 0
    printed = capsys.readouterr().out.splitlines()
    files = [tmp_path / name for name in ("scores-data-test.npz", "scores-flat-test.npz")]
    picture = tmp_path / "scores-data-against-flat-test.png"
    assert printed[-3:] == [str(path) for path in (*files, picture)]
    own, flat = (torch.from_numpy(np.load(path)["log_likelihood"]) for path in files)
    assert (len(own), len(flat)) == (70, 24)
    assert printed[-4].startswith(
        f"area under the ROC curve {all_pairs(own, flat):.4f}: the chance that an image of data"
    )
    assert "not normalised" in printed[0]
    assert np.asarray(Image.open(picture)).std() > 10, "a picture is not one colour"
    assert not list(tmp_path.glob(".*"))


def test_a_script_gets_the_scores_that_the_command_writes(run: Path, other: Path, tmp_path: Path) -> None:
    told: list[str] = []
    twice = [score(run, against=str(other), samples=3, count=20, say=told.append) for _ in range(2)]
    assert cli.main(["score", str(run), "--against", str(other), "--samples", "3", "--count", "20"]) == 0
    for found in twice:
        assert list(found.scores) == ["data", "flat"]
        assert found.files == ()
        own, flat = (each.estimates.log_likelihood for each in found.scores.values())
        assert found.area == pytest.approx(all_pairs(own, flat), abs=1e-14)
        assert np.array_equal(np.load(run / "uses" / "scores-data-test.npz")["log_likelihood"], own.numpy())
    assert told[0].startswith("data")
    assert score(run, samples=2, count=3).area is None


def test_black_and_white_pixels_have_bits(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 2, (40, SIZE, SIZE), dtype=np.uint8) * 255
    np.savez(tmp_path / "bits.npz", images=pixels, test_images=pixels[:10])
    run = write_run(tmp_path / "run", tmp_path / "bits.npz")
    assert cli.main(["score", str(run), "--samples", "2"]) == 0
    found = np.load(run / "uses" / "scores-bits-test.npz")
    assert found["bits_per_dim"] == pytest.approx(-found["log_likelihood"] / (SIZE * SIZE) / np.log(2), rel=1e-12)


def test_drawn_pixels_of_the_training_set_are_those_of_the_run(tmp_path: Path, archive: Path) -> None:
    run = write_run(tmp_path / "run", archive, "data.binarize=static", "run.seed=4")
    assert cli.main(["score", str(run), "--samples", "2", "--split", "train"]) == 0
    protocol = json.loads(str(np.load(run / "uses" / "scores-data-train.npz")["protocol"]))
    assert (protocol["measure"], protocol["draw"]) == ("probability of 0/1 pixels", 4)
    assert protocol["pixels"] == "0/1, one fixed draw"


def test_stopped_scores_continue_to_the_same_bits(run: Path, other: Path, tmp_path: Path) -> None:
    """The signal comes within the second data set, of which two images are done then, one in each pass."""

    def scores(folder: Path, stop: StopRequest | None = None) -> dict[str, Scores]:
        resources = Resources({}, stop or StopRequest(), at_once=5)
        return score(run, against=str(other), samples=5, count=6, output=folder, resources=resources).scores

    whole, folder = scores(tmp_path / "whole"), tmp_path / "stopped"
    with pytest.raises(Stopped, match="the same command continues it"):
        scores(folder, StopAfter(9))
    held = sorted(len(np.load(file)["places"]) for file in folder.glob(".evaluating/*/*.npz"))
    assert held == [2, 6]
    assert [path.name for path in folder.iterdir()] == [".evaluating"]
    for name, each in scores(folder).items():
        assert torch.equal(each.estimates.log_likelihood, whole[name].estimates.log_likelihood)
    assert not (folder / ".evaluating").exists()


def test_two_processes_write_what_one_writes(run: Path, tmp_path: Path) -> None:
    words = ["score", str(run), "--samples", "5", "--count", "7", "--device", "cpu"]
    assert cli.main([*words, "--output", str(tmp_path / "one")]) == 0
    done = on_ranks(2, "-m", "vae", *words, "--output", tmp_path / "two")
    assert done.codes == (0, 0), done
    assert done.ranks[1].out == "", "the main process speaks"
    one, two = (np.load(tmp_path / name / "scores-data-test.npz") for name in ("one", "two"))
    assert set(one) == set(two)
    for name in ("index", "log_likelihood", "elbo", "effective_sample_size"):
        assert one[name] == pytest.approx(two[name], rel=0, abs=1e-12)


def test_what_cannot_be_scored_is_one_line_and_nothing_is_written(
    run: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    binary = tmp_path / "binary.npz"
    np.savez(binary, images=np.zeros((20, SIZE, SIZE), dtype=np.uint8))
    small = tmp_path / "small.npz"
    np.savez(small, images=np.zeros((20, 4, 4), dtype=np.uint8))
    broken = write_run(tmp_path / "broken", archive)
    model = VAE.from_pretrained(broken / "model")
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    model.save_pretrained(broken / "model")
    cases = [
        (
            [run, "--against", binary],
            f"--against {binary}: log p(x) is probability of 0/1 pixels there, and not normalised",
        ),
        ([run, "--against", small], f"--against {small}: its images have shape (1, 4, 4), the model's (1, 8, 8)"),
        ([run, "--against", "MNITS"], "'MNITS': no such data set; did you mean 'MNIST'?"),
        ([run, "--data-root", "x"], "--data-root x: goes with --data"),
        ([run, "--samples", "0"], "argument --samples: '0': must be a whole number from 1"),
        ([broken], "data: log p(x) of 70 of 70 images is not finite"),
    ]
    for words, problem in cases:
        assert cli.main(["score", *map(str, words), "--output", str(tmp_path / "out")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert problem in line
        assert not list((tmp_path / "out").glob("*"))
