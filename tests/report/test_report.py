import base64
import io
import json
import math
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from tests.helpers.folders import write_data, write_run
from tests.helpers.starts import Outcome
from vae import __main__ as cli
from vae.data.dataset import Split
from vae.errors import InputError
from vae.evaluation.latents_file import measure
from vae.families.likelihoods import Bernoulli
from vae.markdown import escape_markdown
from vae.model import VAE
from vae.report import comparison, explorer, writing
from vae.report.rendering import sentence
from vae.report.table import result_tables
from vae.run.finished import Loader
from vae.run.settings import Run, Setting, Spread, compare, find, number, read, seconds, short, word


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("archive"))


@pytest.fixture
def sweep(tmp_path: Path, archive: Path) -> Path:
    """Two latent sizes, two seeds each; the second seed of the second is not finished."""
    losses = {(10, 0): 90.0, (2, 0): 100.0, (2, 1): 104.0}
    for (dim, seed), loss in losses.items():
        folder = tmp_path / "sweep" / f"latent_dim={dim},seed={seed}"
        write_run(folder, archive, f"model.latent_dim={dim}", f"run.seed={seed}", test={"loss": loss})
    unfinished = tmp_path / "sweep" / "latent_dim=10,seed=1"
    write_run(unfinished, archive, "model.latent_dim=10", "run.seed=1", finished=False)
    return tmp_path / "sweep"


def settings_of(*paths: Path) -> list[Setting]:
    return compare([read(folder) for folder in find(paths)])


def contents(folder: Path) -> dict[Path, bytes]:
    """Return the contents of a folder's files, without the cached ones."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "latents.json"}


# --- runs and settings ------------------------------------------------------------------------------------------------


def test_find_takes_runs_and_folders_of_runs_each_once(sweep: Path) -> None:
    run = sweep / "latent_dim=2,seed=0"
    (sweep / "notes").mkdir()
    assert find([run]) == [run]
    assert find([run, sweep]) == [
        run,
        *(folder for folder in sorted(sweep.iterdir()) if folder not in (run, sweep / "notes")),
    ]
    assert find([run, sweep / ".." / "sweep" / run.name]) == [run]  # in other words
    shutil.rmtree(run)
    assert len(find([sweep])) == 3


@pytest.mark.parametrize("name", ["nowhere", "empty", "file"])
def test_find_names_what_holds_no_run(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=name):
        find([tmp_path / name])


def test_runs_that_differ_in_their_seed_are_one_setting_in_numerical_order(sweep: Path) -> None:
    small, large = settings_of(sweep)
    assert (small.label, large.label) == ("latent_dim = 2", "latent_dim = 10")
    assert [[run.seed for run in setting.runs] for setting in (small, large)] == [[0, 1], [0, 1]]
    assert [len(setting.finished) for setting in (small, large)] == [2, 1]


def test_what_does_not_change_a_result_makes_no_setting(tmp_path: Path, archive: Path) -> None:
    write_run(tmp_path / "a", archive, "run.name=a", "train.log_every=7")
    write_run(tmp_path / "b", archive, "run.name=b", "train.log_every=9")
    assert len(settings_of(tmp_path)) == 1
    write_run(tmp_path / "c", archive, "train.epochs=5")
    assert [setting.label for setting in settings_of(tmp_path)] == ["epochs = 4", "epochs = 5"]


def test_components_may_have_keys_that_others_lack(tmp_path: Path, archive: Path) -> None:
    write_run(tmp_path / "a", archive)
    write_run(tmp_path / "b", archive, "model.likelihood={name: Normal, std: 0.5}")
    labels = {setting.label for setting in settings_of(tmp_path)}
    assert labels == {"likelihood = Bernoulli", "likelihood = Normal, likelihood std = 0.5"}


def test_spread_is_mean_and_sample_deviation(tmp_path: Path, archive: Path) -> None:
    for seed, loss in enumerate([1.0, 2.0, 6.0, math.nan]):
        write_run(tmp_path / str(seed), archive, f"run.seed={seed}", test={"loss": loss})
    (setting,) = settings_of(tmp_path)
    spread = setting.spread("test", "loss")
    assert spread is not None
    assert spread.mean == pytest.approx(3)
    assert spread.deviation == pytest.approx(math.sqrt(7))  # (4 + 1 + 9) / (3 - 1)
    assert spread.count == 3
    assert number(spread, of=4) == "3.00 ± 2.65 (3 of 4 runs)"
    assert setting.spread("test", "nothing") is None
    assert setting.spread("versions", "torch") is None  # not a number


def test_one_run_has_no_deviation() -> None:
    spread = Spread.of([5.0])
    assert spread is not None
    assert math.isnan(spread.deviation)
    assert number(spread) == "5.00"
    assert number(Spread.of([])) == "–"


def test_keys_and_values_as_words() -> None:
    assert short("model.latent_dim") == "latent_dim"
    assert short("objective.beta.value") == "beta"
    assert short("model.posterior.scale") == "posterior scale"
    assert word(1e-3) == "0.001"
    assert word({"name": "LinearWarmup", "epochs": 5.0}) == "LinearWarmup (epochs 5)"


# --- tables -----------------------------------------------------------------------------------------------------------


def test_a_table_shows_log_p_of_the_largest_k_that_all_its_runs_have(sweep: Path) -> None:
    runs = [run.folder for setting in settings_of(sweep) for run in setting.finished]
    weighted = {folder: {10: -99.0 - place, 5000: -98.0 - place} for place, folder in enumerate(runs)}
    (table,) = result_tables(settings_of(sweep), {}, weighted)
    assert [dict(zip(table.head, row, strict=True))["log p(x)"] for row in table.rows] == ["-98.50 ± 0.71", "-100.00"]
    assert "K = 5,000 draws" in table.protocol
    weighted[runs[0]] = {10: -99.0, 50: -98.5}
    (table,) = result_tables(settings_of(sweep), {}, weighted)
    assert "K = 10 draws" in table.protocol
    del weighted[runs[0]]
    (table,) = result_tables(settings_of(sweep), {}, weighted)
    assert "log p(x)" not in table.head


def test_table_holds_means_deviations_and_marks_the_lowest_loss(sweep: Path) -> None:
    (table,) = result_tables(settings_of(sweep), {sweep / "latent_dim=2,seed=0": 2, sweep / "latent_dim=2,seed=1": 1})
    small, large = (dict(zip(table.head, row, strict=True)) for row in table.rows)
    assert small["test loss"] == "102.00 ± 2.83"  # 100, 104
    assert small["seeds"] == "0, 1"
    assert small["active dimensions"] == "1.5 ± 0.71 of 2"
    assert small["wall time"] == "3.2 ± 0.0 min"
    assert (large["test loss"], large["seeds"], large["active dimensions"]) == ("90.00", "0 (1 of 2)", "–")
    assert table.best == 1
    writing.write_report([sweep])
    text = (sweep / "report.md").read_text()
    assert "**90.00**" in text
    assert "**102" not in text


def test_protocols_are_never_in_one_table(tmp_path: Path, archive: Path) -> None:
    drawn = {"pixels": "0/1, one fixed draw", "normalised": True, "measure": "probability of 0/1 pixels"}
    write_run(tmp_path / "grey", archive)
    write_run(tmp_path / "0", archive, "data.binarize=static", protocol={**drawn, "pixels_crc32": "a"})
    write_run(tmp_path / "1", archive, "data.binarize=static", "run.seed=1", protocol={**drawn, "pixels_crc32": "b"})
    write_run(tmp_path / "other", archive, "run.seed=2", protocol={"pixels_crc32": "c"})  # the file was exchanged
    tables = result_tables(settings_of(tmp_path), {})
    assert [[row[2] for row in table.rows] for table in tables] == [["0"], ["2"], ["0, 1"]]
    assert "not a normalised likelihood, not to be compared with NLL tables" in tables[0].protocol
    assert "binarised" in tables[2].protocol
    assert all(table.best is None for table in tables)


def write_failure(folder: Path) -> None:
    """Note, as a sweep does, that the run in `folder` has failed."""
    (folder.parent / "logs").mkdir(exist_ok=True)
    note = {"exit_code": 1, "problem": "training in ...\nstep 7: not finite: kl"}
    (folder.parent / "logs" / f"{folder.name}.failed.json").write_text(json.dumps(note))


def test_a_setting_of_which_no_run_survived_has_a_row_that_says_of_how_many(tmp_path: Path, archive: Path) -> None:
    rates = {1e-2: [False] * 3, 1e-3: [True, True, False], 1e-4: [True]}
    for lr, finished in rates.items():
        for seed, done in enumerate(finished):
            run = tmp_path / f"lr={lr},seed={seed}"
            write_run(run, archive, f"optim.lr={lr}", f"run.seed={seed}", finished=done)
            if not done:
                write_failure(run)
    write_run(tmp_path / "running", archive, "optim.lr=1", finished=False)
    (table,) = result_tables(settings_of(tmp_path), {})
    rows = [dict(zip(table.head, row, strict=True)) for row in table.rows]
    assert [row["setting"] for row in rows] == ["lr = 0.0001", "lr = 0.001", "lr = 0.01"]
    assert [row["seeds"] for row in rows] == ["0", "0, 1 (2 of 3)", "none of 3"]
    assert {key for key, cell in rows[2].items() if cell != "–"} == {"setting", "seeds"}
    assert table.best == 0
    writing.write_report([tmp_path])
    check((tmp_path / "report.html").read_text())
    assert f"| lr = 0.01 | – | none of 3 |{' – |' * 6}\n" in (tmp_path / "report.md").read_text()
    for folder in tmp_path.glob("lr=0.0001,*"):
        shutil.rmtree(folder)
    (table,) = result_tables(settings_of(tmp_path), {})
    assert (len(table.rows), table.best) == (2, None)  # one of them with results


def test_a_setting_that_failed_stands_where_its_own_protocol_does(tmp_path: Path, archive: Path) -> None:
    other = "model.likelihood=Normal"
    write_run(tmp_path / "grey", archive)
    write_run(tmp_path / "density", archive, other, protocol={"likelihood": "Normal", "measure": "density"})
    for name, settings in {"a": [], "b": [other], "c": ["data.binarize=static"]}.items():
        write_run(tmp_path / name, archive, *settings, "optim.lr=1", finished=False)
        write_failure(tmp_path / name)
    tables = result_tables(settings_of(tmp_path), {})
    shown = {"Normal" in table.title: [row[2] for row in table.rows] for table in tables}
    assert shown == {False: ["0", "none of 1"], True: ["0", "none of 1"]}  # c has no table
    for name in ("grey", "density"):
        shutil.rmtree(tmp_path / name)
    assert result_tables(settings_of(tmp_path), {}) == []


BINS = {"likelihood": "DiscretizedLogistic", "normalised": True, "measure": "probability of 256 grey values"}


def test_likelihoods_share_a_table_if_their_numbers_have_one_measure(tmp_path: Path, archive: Path) -> None:
    """Densities and probabilities do not."""
    density = {"likelihood": "Normal", "normalised": True, "measure": "density"}
    own = {"likelihood": "OptimalNormal", "normalised": False, "measure": "not normalised"}
    cases: dict[str, dict[str, Any]] = {
        "Bernoulli": {},
        "Categorical": BINS | {"likelihood": "Categorical"},
        "DiscretizedLogistic": BINS,
        "Normal": density,
        "NormalLearnedStd": density | {"likelihood": "NormalLearnedStd"},
        "OptimalNormal": own,
    }
    for name, made in cases.items():
        bits = {"bits_per_dim": 1.5 if made.get("measure") == BINS["measure"] else None}
        write_run(tmp_path / name, archive, f"model.likelihood={name}", protocol=made, test=bits)
    write_run(tmp_path / "new", archive, "run.seed=1")
    tables = result_tables(settings_of(tmp_path), {})
    found = {table.title.removeprefix("data, test set, grey in [0, 1], "): table for table in tables}
    assert len(tables) == 4
    assert [row[2] for row in found["Bernoulli"].rows] == ["0, 1"]
    assert "Grey pixels under OptimalNormal: not a normalised likelihood" in found["OptimalNormal"].protocol
    assert "Log-densities" in found["Normal or NormalLearnedStd"].protocol
    discrete = found["Categorical or DiscretizedLogistic"]
    assert "any others of the same 8-bit pixels" in discrete.protocol
    assert [dict(zip(discrete.head, row, strict=True))["bits per dimension"] for row in discrete.rows] == ["1.5000"] * 2
    assert "bits per dimension" not in found["Bernoulli"].head


@pytest.mark.parametrize(("value", "text"), [(1.234, "1.2 s"), (192, "3 min 12 s"), (7500, "2 h 05 min")])
def test_durations(value: float, text: str) -> None:
    assert seconds(value) == text


def test_markdown_cells_stay_cells() -> None:
    assert escape_markdown("a|b\n`c`") == "a\\|b \\`c\\`"


# --- the command ------------------------------------------------------------------------------------------------------


class Checker(HTMLParser):
    """The references of a page, its headings, and the attributes that its tags lack."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.levels: list[int] = []
        self.problems: list[str] = []
        self.ids: list[str] = []
        self.scripts: list[dict[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.references += [value or "" for key, value in attrs if key in ("src", "href", "srcset", "action")]
        self.ids += [given["id"] or ""] if "id" in given else []
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag == "img" and not given.get("alt"):
            self.problems.append("an image without a text")
        if tag == "script":
            self.scripts.append(given)


def check(text: str) -> Checker:
    page = Checker(text)
    assert page.problems == []
    assert all(link.startswith(("#", "data:")) for link in page.references), page.references
    assert {link[1:] for link in page.references if link.startswith("#")} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    assert page.levels[0] == 1
    assert page.levels.count(1) == 1
    assert all(below - above <= 1 for above, below in zip(page.levels, page.levels[1:], strict=False))
    assert "default-src 'none'" in text
    return page


def pixels(picture: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(picture)) as image:
        return np.asarray(image.convert("RGB"))


def test_a_finished_run_gets_pictures_page_and_table(
    tmp_path: Path, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", archive)
    assert cli.main(["report", str(run)]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert written[-2:] == [run / "report.html", run / "report.md"]
    assert set(written[:-2]) == set((run / "figures").iterdir())
    text = (run / "report.html").read_text()
    page = check(text)
    assert text.count("<figure") >= len(written) - 2
    inside = [pixels(base64.b64decode(data)) for data in re.findall(r'src="data:image/webp;base64,([^"]+)"', text)]
    for picture in written[:-2]:
        assert any(np.array_equal(pixels(picture.read_bytes()), shown) for shown in inside)
    assert [script.get("id") for script in page.scripts] == ["model-0", None]
    table = (run / "report.md").read_text()
    assert "| run | " in table
    assert "100.00" in table
    assert "not a normalised likelihood" in table


def test_a_sweep_gets_a_page_and_its_members_are_left_alone(
    sweep: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(sweep)
    monkeypatch.setattr("vae.bars.SECONDS_BETWEEN_LINES", 0.0)
    assert cli.main(["report", str(sweep)]) == 0
    assert "measuring: 3 of 3 runs, 00:00 left\n" in capsys.readouterr().err
    pages = {sweep / "report.html", sweep / "report.md"}
    assert {path: text for path, text in contents(sweep).items() if path not in pages} == before
    text = (sweep / "report.html").read_text()
    page = check(text)
    assert "epoch 2.0 of 4" in text
    assert "3 of 4 are finished" in text
    assert "latent_dim = 10, seed 1" in text
    assert [script.get("id") for script in page.scripts] == ["model-0", "model-1", None]
    assert "latent_dim=2,seed=0, test loss 100.00" in text  # the better seed
    shutil.rmtree(sweep / "latent_dim=10,seed=1")
    assert cli.main(["report", str(sweep)]) == 0
    text = (sweep / "report.html").read_text()
    assert "All are finished" in text
    assert "seed=1" in text
    assert "latent_dim=10,seed=1" not in text


def test_a_run_that_failed_says_why(sweep: Path) -> None:
    write_failure(sweep / "latent_dim=10,seed=1")
    writing.write_report([sweep])
    assert "failed after epoch 2.0: step 7: not finite: kl" in (sweep / "report.html").read_text()
    (sweep / "logs" / "latent_dim=10,seed=1.failed.json").write_text("{")
    writing.write_report([sweep])
    assert "not finite" not in (sweep / "report.html").read_text()


def test_figures_that_compare_settings_come_first(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "draw", lambda *_: {"Title < of it": (Figure(), "What one sees.")})
    writing.write_report([sweep])
    text = (sweep / "report.html").read_text()
    check(text)
    assert text.index("Title &lt; of it") < text.index("What one sees.") < text.index('id="latent-space"')


def test_several_arguments_are_compared_in_runs_report_or_where_output_says(
    sweep: Path, tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = write_run(tmp_path / "other", archive, "model.latent_dim=3")
    assert cli.main(["report", str(other), str(sweep)]) == 0
    assert "latent_dim = 3" in (tmp_path / "runs" / "report" / "report.html").read_text()
    assert (other / "figures" / "samples.png").is_file()  # a finished run that was named
    assert not (other / "report.html").exists()
    assert cli.main(["report", str(other), str(sweep), "--output", "here/and/there"]) == 0
    assert {path.name for path in (tmp_path / "here/and/there").iterdir()} == {"report.html", "report.md"}


def test_an_unfinished_run_shows_what_there_is(tmp_path: Path, archive: Path) -> None:
    run = write_run(tmp_path / "run", archive, finished=False)
    assert cli.main(["report", str(run)]) == 0
    assert {path.name for path in run.iterdir()} == {"config.yaml", "metrics.jsonl", "report.html", "report.md"}
    text = (run / "report.html").read_text()
    check(text)
    assert "Not finished: epoch 2.0 of 4" in text
    assert "Loss during training" in text
    assert "nothing to explore yet" in text
    assert "epoch 2.0 of 4" in (run / "report.md").read_text()
    (run / "metrics.jsonl").unlink()
    assert sentence("progress", run=read(run)) == "has logged nothing yet"
    assert cli.main(["report", str(run)]) == 0
    check((run / "report.html").read_text())


def test_a_run_whose_weights_were_deleted_keeps_its_numbers(tmp_path: Path, archive: Path) -> None:
    run = write_run(tmp_path / "run", archive)
    shutil.rmtree(run / "model")
    assert cli.main(["report", str(run)]) == 0
    text = (run / "report.html").read_text()
    assert "100.00" in text
    assert "nothing to explore yet" in text


DAMAGE = {
    "config.yaml": "model: {latent_dmi: 3}",
    "metrics.jsonl": "{\n{\n",
    "summary.json": "{",
    "summary.json ": "[]",
    "summary.json  ": '{"test": {"loss": 1.0}}',
    "summary.json   ": '{"test": {"protocol": {"data": "MNIST", "split": "test"}}}',
    "model/model.safetensors": "x",
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_named_in_one_line_and_nothing_is_written(
    sweep: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    file = sweep / "latent_dim=2,seed=1" / name.strip()
    file.write_text(DAMAGE[name])
    before = contents(sweep)
    assert cli.main(["report", str(sweep), str(sweep / "latent_dim=2,seed=0")]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert str(file) in shown.err
    assert contents(sweep) == before


@pytest.mark.parametrize("argument", ["nowhere", "empty"])
def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], argument: str) -> None:
    (tmp_path / "empty").mkdir()
    assert cli.main(["report", str(tmp_path / argument)]) == 2
    assert argument in capsys.readouterr().err
    assert contents(tmp_path) == {}


def test_an_output_that_cannot_be_written_is_said(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (sweep / "taken").touch()
    assert cli.main(["report", str(sweep), "--output", str(sweep / "taken")]) == 2
    assert "taken/report.html: cannot be written" in capsys.readouterr().err


def test_names_cannot_become_markup(tmp_path: Path, archive: Path) -> None:
    name = "<script>alert(1)<!-- &\"'|`"
    run = write_run(tmp_path / name, archive, f"data.name={archive}", "run.name='<b>{{ 7 * 7 }}'")
    writing.write_report([run])
    text = (run / "report.html").read_text()
    page = check(text)
    assert "<script>alert" not in text
    assert "<b>" not in text
    assert "{{ 7 * 7 }}" in text
    assert len(page.scripts) == 2


def test_a_real_run_is_reported(job: Callable[..., Outcome], small: Path, tmp_path: Path) -> None:
    done = job(f"data.name={small}", "train.max_steps=3", "model.hidden_dim=16", f"run.dir={tmp_path / 'real'}")
    assert done.code == 0
    assert cli.main(["report", str(tmp_path / "real")]) == 0
    text = (tmp_path / "real" / "report.html").read_text()
    check(text)
    summary = json.loads((tmp_path / "real" / "summary.json").read_text())
    assert f"{summary['test']['loss']:.2f}" in text


# --- what the page computes with --------------------------------------------------------------------------------------


def unpack(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


def decode(packed: dict[str, Any], z: np.ndarray) -> np.ndarray:
    """Decode latents (N, D) from what the page holds, in float64."""
    x = z.astype(np.float64)
    for index, layer in enumerate(packed["layers"]):
        weight = unpack(layer["weight"], "<i2").reshape(layer["outputs"], layer["inputs"])
        if index:
            x = x / (1 + np.exp(-x))
        x = x @ (weight * unpack(layer["scale"], "<f4")[:, None]).T + unpack(layer["bias"], "<f4")
    means = {
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "clamp": lambda x: x.clip(0, 1),
        "continuousBernoulli": lambda x: 1 / (1 - np.exp(-x)) - 1 / x,
    }
    return means[packed["mean"]](x)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model.latent_dim=5", "model.depth=3", "model.likelihood=Normal"],
        ["model.likelihood=ContinuousBernoulli"],
        ["model.likelihood=NormalLearnedStd"],
        ["model.likelihood=NormalPixelStd"],
        ["model.likelihood=OptimalNormal"],
    ],
    ids=str,
)
def test_packed_weights_decode_as_the_model_does(tmp_path: Path, archive: Path, overrides: list[str]) -> None:
    run = write_run(tmp_path / "run", archive, *overrides)
    opened = Loader().open(run)
    packed = explorer.pack(opened, measure(run))
    z = torch.randn(500, opened.model.latent_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = opened.model.decode(z).mean.flatten(1).clamp(0, 1).numpy()
    assert np.ptp(expected, axis=0).max() > 0.5
    assert np.abs(decode(packed, z.numpy()) - expected).max() < 1 / 255


def test_examples_come_with_their_codes_and_the_plane_with_all(tmp_path: Path, archive: Path) -> None:
    run = write_run(tmp_path / "run", archive)
    opened = Loader().open(run)
    packed, test = explorer.pack(opened, measure(run)), opened.data.test
    with torch.no_grad():
        means = opened.model.encode(test.images).mean.numpy()
    chosen = packed["examples"]["index"]
    assert np.array_equal(unpack(packed["examples"]["z"], "<f4").reshape(-1, 2), means[chosen])
    assert packed["examples"]["names"] == [str(index % 4) for index in chosen]
    pixels = unpack(packed["examples"]["pixels"], "u1").reshape(-1, 1, 8, 8)
    assert np.abs(pixels / 255 - test.images[chosen].numpy()).max() <= 0.5 / 255 + 1e-6
    points = unpack(packed["plane"]["z"], "<f4").reshape(-1, 2)
    order = np.lexsort(means.T)
    assert np.array_equal(points[np.lexsort(points.T)], means[order])
    classes = unpack(packed["plane"]["classes"], "<u2")
    label_at = {tuple(z): label for z, label in zip(means.tolist(), np.arange(70) % 4, strict=True)}
    assert [label_at[tuple(z)] for z in points.tolist()] == classes.tolist()
    assert packed["limit"] >= np.abs(means[chosen]).max()


def test_sliders_are_the_most_active_dimensions_first(tmp_path: Path, archive: Path) -> None:
    run = write_run(tmp_path / "run", archive, "model.latent_dim=20")
    packed = explorer.pack(Loader().open(run), measure(run))
    variances = np.array(packed["variances"])
    assert packed["plane"] is None
    assert len(packed["sliders"]) == explorer.SLIDERS
    assert variances[packed["sliders"]].tolist() == sorted(variances, reverse=True)[: explorer.SLIDERS]
    assert measure(run).active == packed["active"] == (variances > 0.01).sum()


@pytest.mark.parametrize("count", [3, 8, 30])
def test_examples_are_spread_over_the_classes(count: int) -> None:
    labels = torch.tensor([0] * 20 + [1] * 2 + [2] * 20)
    chosen = explorer._some_of_each(Split(torch.zeros(42, 1, 2, 2), labels), count)
    assert len(set(chosen.tolist())) == count
    found = labels[chosen].bincount(minlength=3).tolist()
    assert found[1] == min(2, math.ceil(count / 3))
    assert abs(found[0] - found[2]) <= 1
    assert labels[chosen].tolist() == sorted(labels[chosen].tolist())


class Other(nn.Module):
    """Not an MLPDecoder."""


class Fancy(Bernoulli):
    """A likelihood whose mean the page does not know."""


def test_what_the_page_cannot_run_is_said() -> None:
    assert explorer.obstacle(VAE()) is None
    assert "MB" in str(explorer.obstacle(VAE(image_shape=(3, 64, 64), hidden_dim=1024)))
    model = VAE()
    model.decoder = Other()  # pyright: ignore[reportAttributeAccessIssue]
    assert "cannot run a Other" in str(explorer.obstacle(model))
    assert "cannot run a ConvDecoder" in str(explorer.obstacle(VAE(decoder="ConvDecoder")))
    normalised = VAE(decoder={"name": "MLPDecoder", "normalization": "layer"})
    assert "normalised" in str(explorer.obstacle(normalised))
    model = VAE()
    model.likelihood = Fancy((1, 28, 28))
    assert "Fancy" in str(explorer.obstacle(model))
    assert "the mean of a DiscretizedLogistic" in str(explorer.obstacle(VAE(likelihood="DiscretizedLogistic")))


def test_a_run_that_cannot_be_explored_has_a_sentence(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", archive)
    monkeypatch.setattr(explorer, "MEANS", {})
    writing.write_report([run])
    text = (run / "report.html").read_text()
    page = check(text)
    assert "cannot be explored: the page does not know the mean of a Bernoulli likelihood" in text
    assert page.scripts == []


def test_a_page_holds_as_many_decoders_as_there_is_room_for(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "EXPLORER_BYTES", 1)
    writing.write_report([sweep])
    text = (sweep / "report.html").read_text()
    assert [script.get("id") for script in check(text).scripts] == ["model-0", None]
    assert "leaves out the weights" in text


def test_the_best_of_each_latent_size_are_explored_first(tmp_path: Path, archive: Path) -> None:
    cases = {"a": (5, 1e-3, 80.0), "b": (5, 1e-4, 70.0), "c": (2, 1e-3, 110.0), "d": (2, 1e-4, 120.0)}
    for name, (dim, lr, loss) in cases.items():
        write_run(tmp_path / name, archive, f"model.latent_dim={dim}", f"optim.lr={lr}", test={"loss": loss})
    order = [run.folder.name for run in writing.candidates(settings_of(tmp_path))]
    assert order[:2] == ["c", "b"]
    assert set(order[2:]) == {"a", "d"}


def test_runs_are_values(sweep: Path) -> None:
    run = read(sweep / "latent_dim=2,seed=0")
    assert isinstance(run, Run)
    assert [row["epoch"] for row in run.of_split("test")] == [1.0, 2.0, 3.0, 4.0]
    assert run.epoch == 4.0
    assert run.protocol is not None
    assert "seed" not in dict(run.protocol)
