"""Trackers that Accelerate knows: what the real W&B (offline) and the real MLflow (files) hold, and refusals."""

import io
import json
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from mlflow import MlflowClient
from PIL import Image

from tests.helpers.runs import events, rows
from tests.helpers.starts import JOB, SMALL, Job, Program, arguments, launch
from tests.helpers.wandb_files import files_of, merged, rows_of
from vae.components import build
from vae.config import flatten, load
from vae.errors import InputError
from vae.training.sinks import SINKS, Sink
from vae.training.sinks import accelerate as sink_module
from vae.training.sinks.accelerate import Accelerated, Memory, is_installed
from vae.training.tags import Tags

# The job, killed before its 23rd step, when each tracker has what it was given; W&B keeps step 20 until a later one.
KILLED_AT_REST = """
import json, os, runpy, signal, sys, time
from pathlib import Path
from vae.engine.eager import Eager
folder, script = Path(sys.argv[1]), sys.argv[2]
steps, step = 0, Eager.step
def at_rest(*args, **kwargs):
    global steps
    steps += 1
    if steps == 23:
        while {name: json.loads((folder / f"{name}.json").read_text())["step"] for name in ("wandb", "mlflow")} != {
            "wandb": 16, "mlflow": 20
        }:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*args, **kwargs)
Eager.step = at_rest
sys.argv = sys.argv[2:]
runpy.run_path(script, run_name="__main__")
"""
NO_CLOCK = "ImagesPerSecond"  # each start has its own


def mlflow_at(store: Path) -> dict[str, str]:
    return {
        "MLFLOW_TRACKING_URI": store.as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def expected(folder: Path) -> dict[str, dict[int, float]]:
    """Return the curves as metrics.jsonl has them: value by step."""
    tags, curves = Tags.of(load(folder / "config.yaml")), defaultdict[str, dict[int, float]](dict)
    for row in rows(folder):
        names = tags.of_training([]) if row["split"] == "train" else tags.of_evaluation(row["split"])
        for key, tag in names.items():
            if key in row:
                curves[tag][row["step"]] = row[key]
    return curves


def picture_in_tensorboard(folder: Path, tag: str, step: int) -> np.ndarray:
    (encoded,) = [image.encoded_image_string for image in events(folder).Images(tag) if image.step == step]
    return np.asarray(Image.open(io.BytesIO(encoded)))


def test_wandb_and_mlflow_hold_a_killed_and_continued_run_once(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, store = tmp_path / "run", tmp_path / "mlruns"
    env = {"WANDB_MODE": "offline", **mlflow_at(store)}
    settings = arguments(
        f"data.name={small}", *SMALL, "train.engine=eager", f"run.dir={folder}", "train.checkpoint_every=16",
        "objective.beta=1", "train.min_active=0",
        "run.trackers=[tensorboard, {name: wandb, project: digits}, {name: mlflow, project: digits}]",
    )  # fmt: skip
    killed = Program("-c", KILLED_AT_REST, folder / "trackers", JOB, *settings, env=env)
    assert killed.wait(120).code == -9, killed.err
    done = Program(JOB, *settings, env=env).wait(120)
    assert (done.code, done.err) == (0, "")
    assert "wandb: wandb sync " in done.out

    curves, (first, second) = expected(folder), files_of(folder)
    logged = [row for file in (first, second) for row in rows_of(file)]
    steps = [row["_step"] for row in logged]
    assert steps == sorted({step for curve in curves.values() for step in curve})
    assert steps[:5] == [5, 10, 15, 16, 20]
    assert [row["_step"] for row in rows_of(first)] == [5, 10, 15, 16]
    for tag, curve in curves.items():
        held = {row["_step"]: row[tag] for row in logged if tag in row}
        assert held.keys() == curve.keys()
        assert tag == NO_CLOCK or held == curve

    for key, value in mlflow_at(store).items():
        monkeypatch.setenv(key, value)
    client = MlflowClient()
    (experiment,) = [found for found in client.search_experiments() if found.name == "digits"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    for tag, curve in curves.items():
        group, slash, rest = tag.partition("/")
        history = client.get_metric_history(run.info.run_id, group + slash + rest.replace("/", "."))
        assert sorted(point.step for point in history) == sorted(curve), tag
        assert tag == NO_CLOCK or {point.step: point.value for point in history} == curve

    settings_of_run = flatten(load(folder / "config.yaml"))
    config = merged(second, "config")
    assert (config["model.latent_dim"], config["optim.lr"]) == (2, 1e-3)
    assert settings_of_run.keys() <= config.keys()
    assert run.data.params.keys() == settings_of_run.keys()
    assert run.data.params["train.epochs"] == "2"
    test = json.loads((folder / "summary.json").read_text())["test"]
    assert merged(second, "summary")["Final/Loss"] == run.data.metrics["Final/Loss"] == test["loss"]
    assert run.data.metrics["Final/Loss.KLD"] == test["kl"]

    for name in ("Originals", "Reconstructions", "Samples"):
        for step in (16, 32):
            shown = picture_in_tensorboard(folder, f"Test/{name}", step)
            (kept,) = folder.glob(f"wandb/offline-run-*/files/media/images/Test/{name}_{step}_*.png")
            np.testing.assert_array_equal(np.asarray(Image.open(kept)), shown)
            (kept,) = store.glob(f"*/{run.info.run_id}/artifacts/images/Test~{name}+step+{step}+*.png")
            np.testing.assert_array_equal(np.asarray(Image.open(kept)), shown)

    other = "run.trackers=[{name: mlflow, project: digits}, {name: wandb, project: later}]"
    longer = Program(JOB, *settings, "train.epochs=3", other, env=env).wait(120)
    assert (longer.code, longer.err) == (0, "")
    curves, (*_, later) = expected(folder), files_of(folder)
    held = {row["_step"]: row["Loss/Train"] for row in rows_of(later) if "Loss/Train" in row}
    assert held == curves["Loss/Train"], "a tracker that is new to a run has its curves from the beginning"
    (run,) = client.search_runs([experiment.experiment_id], filter_string="attributes.run_name = 'run'")
    assert (run.data.params["train.epochs"], run.data.tags["train.epochs"]) == ("2", "3")


def test_a_project_of_another_name_is_another_run(tmp_path: Path) -> None:
    file = tmp_path / "trackers" / "wandb.json"
    memory = Memory(file, "vae")
    memory.begin("abc")
    for at in ((9, 10), (10, 1)):  # the shorter line leaves nothing of the longer one
        memory.note(at)
        assert (Memory(file, "vae").identity, Memory(file, "vae").last) == ("abc", at)
    assert Memory(file, "digits").identity == ""
    assert Memory(file, "digits").last < (0, 1)
    file.write_text(file.read_text()[:30])
    assert Memory(file, "vae").identity == ""


def opened(name: str, folder: Path, warnings: list[str]) -> Accelerated:
    sink: Sink = build(SINKS, name, folder, 0, warnings.append)
    assert isinstance(sink, Accelerated)
    return sink


def test_a_tracker_that_fails_later_is_warned_of_once_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, warnings = tmp_path / "mlruns", list[str]()
    for key, value in mlflow_at(store).items():
        monkeypatch.setenv(key, value)
    sink = opened("mlflow", tmp_path, warnings)
    sink.configuration({"model.note": "x" * 7000})
    sink.scalar("Loss/Train", 1.0, 5)
    sink._worker.submit(int).result()
    client = MlflowClient(store.as_uri())
    assert client.get_run(sink.memory.identity).data.metrics == {"Loss/Train": 1.0}
    assert client.get_run(sink.memory.identity).data.params["model.note"] == "x" * 6000
    (run,) = store.glob(f"*/{sink.memory.identity}")
    run.rename(tmp_path / "gone")
    for step in (10, 15):
        sink.scalar("Loss/Train", 2.0, step)
    sink.image("Test/Samples", np.zeros((4, 4, 1)), 15)
    sink.flush()
    sink._worker.submit(int).result()
    assert len(warnings) == 1
    assert warnings[0].startswith("mlflow: ")
    assert "metrics.jsonl" in warnings[0]

    monkeypatch.setattr(sink_module, "SECONDS_TO_CLOSE", 0.01)
    answered = threading.Event()
    sink._worker.submit(answered.wait)
    sink.flush()
    sink.close()
    answered.set()
    assert "not done in 0.01 s" in warnings[1]


def test_a_tracker_that_is_not_there_is_refused_before_anything_is_written(
    tmp_path: Path, job: Job, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = [name for name, sink in SINKS.items() if issubclass(sink, Accelerated) and not is_installed(sink.module)]
    assert missing, "of eight trackers the tests install two"
    for name in missing:
        with pytest.raises(InputError, match=rf"run.trackers = '{name}': the package .* pip install {name}, or leave"):
            opened(name, tmp_path, [])
    monkeypatch.delitem(LOGGER_TYPE_TO_CLASS, "wandb")
    with pytest.raises(InputError, match=r"run.trackers = 'wandb': this version of Accelerate .* --upgrade accelerate"):
        opened("wandb", tmp_path, [])
    assert list(tmp_path.iterdir()) == []

    here = list(tmp_path.iterdir())
    refused = job(f"data.name={small}", *SMALL, f"run.trackers=[tensorboard, {missing[0]}]", "run.dir=a/b")
    assert (refused.code, list(tmp_path.iterdir())) == (2, here)
    assert refused.line.startswith(f"train_ddp.py: run.trackers = '{missing[0]}': the package is not installed")


def test_a_tracker_that_does_not_let_us_in_is_one_line_on_all_ranks_and_leaves_nothing(
    tmp_path: Path, small: Path
) -> None:
    (home := tmp_path / "home").mkdir()
    stranger = {"HOME": str(home), "WANDB_MODE": "online", "WANDB_API_KEY": "", "NETRC": str(home / "none")}
    unreachable = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "DO_NOT_TRACK": "true"}
    refusals: dict[str, tuple[dict[str, str], Any]] = {
        "wandb": (stranger, "wandb login"),
        "mlflow": (unreachable, "http://127.0.0.1:9"),
    }
    before = list(tmp_path.iterdir())
    for name, (env, words) in refusals.items():
        asked = [f"data.name={small}", *SMALL, f"run.trackers=[tensorboard, {name}]", f"run.dir={tmp_path / 'a' / 'b'}"]
        refused = launch(2 if name == "wandb" else 1, *asked, env=env)
        assert set(refused.codes) == {2}, refused.err
        assert refused.line.startswith(f"train_ddp.py: run.trackers = '{name}': cannot be opened: ")
        assert words in refused.line
        assert list(tmp_path.iterdir()) == before
