"""The stopwatch, records that outlive a full disk, and what a finished run leaves for TensorBoard."""

import contextlib
import errno
import io
import json
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.plugins.hparams import metadata
from torch.utils.tensorboard.writer import SummaryWriter

from tests.helpers import ROOT
from tests.helpers.runs import events, rows, scalars
from tests.helpers.starts import JOB, SMALL, Outcome, Program, arguments
from vae.bars import Bar, Pace, following
from vae.config import load
from vae.data import sources
from vae.distributed import launch
from vae.errors import InputError
from vae.evaluation.latents_file import measure
from vae.model import VAE
from vae.report.writing import write_report
from vae.training.records import Lines, cut
from vae.training.sinks import SINKS
from vae.training.sinks.tensorboard import TensorBoard, outwait_event_files
from vae.training.tags import Tags
from vae.training.tracking import Stopwatch, Tracker


def test_a_paused_stopwatch_stands_still_and_goes_on_from_there() -> None:
    began = time.perf_counter()
    watch = Stopwatch(torch.device("cpu"), seconds=100.0, lap_started=90.0)
    time.sleep(0.02)
    with watch.paused("evaluation"):
        before, now = watch.seconds, time.perf_counter()
        assert 100.02 <= before <= 100 + now - began
        time.sleep(0.05)
        assert watch.seconds == before
        pausing = time.perf_counter()
    time.sleep(0.02)
    assert before + 0.02 <= watch.seconds <= before + time.perf_counter() - pausing
    earliest, lap, latest = watch.seconds - 90, watch.lap(), watch.seconds - 90
    assert earliest <= lap <= latest
    assert watch.lap() <= watch.seconds - 90 - lap


class FullDisk:
    """A file on a disk with room for so many bytes more, which takes what it can before it says so."""

    def __init__(self, path: Path, room: int):
        self.file, self.room = path.open("ab", buffering=0), room
        self.truncate, self.seek, self.fileno, self.close = (
            self.file.truncate, self.file.seek, self.file.fileno, self.file.close,
        )  # fmt: skip

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = self.file.write(data[: self.room])
        self.room -= taken
        return taken


def test_lines_that_find_no_room_are_written_later_in_order_and_none_is_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, warnings = tmp_path / "metrics.jsonl", list[str]()
    journal = Lines(path, warnings.append)
    journal.append('{"step": 1}')
    journal.close()
    disk = FullDisk(path, room=5)
    monkeypatch.setattr(journal, "_file", disk)
    for step in (2, 3):
        journal.append(json.dumps({"step": step}))
        assert [json.loads(line) for line in path.read_text().splitlines()] == [{"step": 1}]
    with pytest.raises(OSError, match="No space left"):
        journal.flush()
    assert len(warnings) == 1
    disk.room = 1000
    journal.append('{"step": 4}')
    journal.flush()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]
    disk.close()


def test_a_journal_is_cut_back_to_a_step_and_loses_a_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 5}\n{"step": 2}\n{"step": 2')
    cut(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_log_on_a_full_disk_costs_a_run_nothing_but_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w", buffering=1) as full:
        monkeypatch.setattr(sys, "stdout", full)
        monkeypatch.setattr(sys, "stderr", full)
        with Tracker(launch.make_accelerator("cpu", "no", {}), tmp_path, load(), step=0, total_steps=10) as tracker:
            tracker.say("a line")
            tracker.warn("a warning")
        with pytest.raises(OSError, match="No space left"):
            full.flush()
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()
    launch.leave()


def test_a_line_is_due_each_minute_and_says_the_time_left() -> None:
    now = 1000.0
    pace = Pace(total=500, clock=lambda: now)
    assert pace.left(100) == "time left unknown"
    said = []
    for now in (1000.0, 1059.9, 1060.0, 1061.0, 1119.9, 1200.0, 1259.0, 1260.0):
        if pace.due(100 + now - 1000):
            said.append(now)
    assert said == [1060.0, 1200.0, 1260.0]
    now = 1030.0  # 50 units in 30 s; 350 are left
    assert pace.left(150) == "03:30 left"
    assert pace.left(500) == "00:00 left"


class Terminal(io.StringIO):
    """A terminal, as far as `isatty` says so."""

    def isatty(self) -> bool:
        return True


def test_work_is_followed_by_lines_in_a_file_by_a_bar_on_a_terminal_and_elsewhere_not_at_all(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(following([4, 5], "imputing", "sweep")) == [4, 5]
    assert capsys.readouterr() == ("", ""), "shorter than a minute"
    monkeypatch.setattr("vae.bars.SECONDS_BETWEEN_LINES", 0.0)
    assert list(following(range(2000), "imputing", "sweep")) == list(range(2000))
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 2000
    assert re.fullmatch(r"imputing: 1,000 of 2,000 sweeps, \d\d:\d\d left", err.splitlines()[999])
    with Bar("log p(x)", 7, "draw", shown=False) as bar:
        bar.advance(7)
    assert capsys.readouterr() == ("", "")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert len(list(following(range(7), "imputing", "sweep", mininterval=0))) == 7
    assert "7/7 [" in terminal.getvalue()
    assert " left" not in terminal.getvalue()


def test_a_run_whose_output_is_a_file_says_where_it_is(tmp_path: Path, small: Path) -> None:
    settings = [
        f"data.name={small}",
        *SMALL,
        "train.epochs=100000",
        "train.engine=eager",
        f"run.dir={tmp_path / 'run'}",
    ]
    job = Program(JOB, *arguments(*settings), patches={"vae.bars:SECONDS_BETWEEN_LINES": 0.0})
    evaluation = r"^epoch +1\.00  test loss .*\n"
    where = r"^step [\d,]+ of 1,600,000  loss \d+\.\d\d, [\d,]+ images/s, \d.*:\d\d left\n"
    for line in (evaluation, where):
        job.wait_until(lambda line=line: re.search(line, job.out, re.MULTILINE), f"a line {line}")
    job.send_signal(signal.SIGTERM)
    done = job.wait(60)
    assert done.code == 85, done.err
    steps = [int(step.replace(",", "")) for step in re.findall(r"^step ([\d,]+) of", done.out, re.MULTILINE)]
    assert steps == [row["step"] for row in rows(tmp_path / "run") if row["split"] == "train"]


def test_no_line_is_lost_while_another_thread_flushes(tmp_path: Path) -> None:
    """As the thread that writes checkpoints does; switching threads often makes a lost line likely without a lock."""
    journal, over, interval = Lines(tmp_path / "metrics.jsonl", print), threading.Event(), sys.getswitchinterval()

    def flush() -> None:
        while not over.is_set():
            journal.flush()

    flushing = threading.Thread(target=flush)
    sys.setswitchinterval(1e-6)
    try:
        flushing.start()
        for step in range(3000):
            journal.append(json.dumps({"step": step}))
    finally:
        over.set()
        flushing.join()
        sys.setswitchinterval(interval)
        journal.close()
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(3000))


# --- TensorBoard at the end of a run ----------------------------------------------------------------------------------

Job = Callable[..., Outcome]
SHORT = ["run.dir=r", "model.hidden_dim=32", "train.batch_size=64", "train.epochs=2", "model.latent_dim=4"]


def hyperparameters(folder: Path) -> dict[str, Any]:
    """The settings of the run's HPARAMS entry, which there is one of."""
    log = events(folder)
    assert not [tag for tag in log.PluginTagToContent("hparams") if tag == metadata.EXPERIMENT_TAG], "of all runs"
    content = log.PluginTagToContent("hparams")[metadata.SESSION_START_INFO_TAG]
    started = metadata.parse_session_start_info_plugin_data(content)
    return {key: getattr(value, str(value.WhichOneof("kind"))) for key, value in started.hparams.items()}


def test_a_run_keeps_the_measures_that_a_report_would_make_and_no_report_makes_them_again(
    job: Job, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path("r")
    assert job(f"data.name={small}", *SHORT, "train.precision=bf16").code == 0
    assert (folder / "latents.json").exists()
    own = measure(folder)
    (folder / "latents.json").unlink()
    again = measure(folder)
    assert own.kl == pytest.approx(again.kl, rel=1e-5)
    assert own.variance == pytest.approx(again.variance, rel=1e-5)
    monkeypatch.setattr("vae.evaluation.latents_file.measure_latents", None)
    write_report([folder])


def test_a_run_ends_with_its_settings_results_and_codes_and_repeats_none_of_them(job: Job, small: Path) -> None:
    folder = Path("r")
    assert job(f"data.name={small}", *SHORT).code == 0
    settings, summary = hyperparameters(folder), json.loads((folder / "summary.json").read_text())
    assert (settings["model.latent_dim"], settings["run.seed"], settings["train.epochs"]) == (4, 0, 2)
    assert settings["model.posterior.name"] == "DiagonalNormal"
    assert not {"run.dir", "data.root", "train.threads", "train.log_every"} & settings.keys()
    log, measures = scalars(folder), measure(folder)
    for tag, key in (("Final/Loss", "loss"), ("Final/Loss/BCE", "reconstruction"), ("Final/Loss/KLD", "kl")):
        assert [(step, pytest.approx(value)) for step, value in log[tag]] == [(33, summary["test"][key])]
    assert log["Final/active dimensions"] == [(33, measures.active)]
    assert measures.total_kl == pytest.approx(summary["test"]["kl"], rel=1e-6)
    assert sum(measures.kl or ()) == pytest.approx(summary["test"]["kl"], rel=1e-5)

    place = folder / "tensorboard" / "00032" / "latents"
    data = sources.load(str(small), "").test
    codes = np.loadtxt(place / "tensors.tsv")
    means = VAE.from_pretrained(folder / "model").encode(data.images.float() / 255).mean.detach().numpy()
    assert codes == pytest.approx(means, abs=1e-4)
    assert data.labels is not None
    assert (place / "metadata.tsv").read_text().split() == [str(label) for label in data.labels.tolist()]
    with Image.open(place / "sprite.png") as sprites:  # 12 x 12 places for 130 images
        assert sprites.size == (12 * 28, 12 * 28)
        shown = np.asarray(sprites)[28:56, :28, 0]
        assert np.abs(shown.astype(int) - data.images[12, 0].numpy().astype(int)).max() <= 1

    (folder / "summary.json").unlink()
    written = {file: file.stat().st_mtime_ns for file in place.iterdir()}
    again = job(f"data.name={small}", *SHORT)
    assert (again.code, "mbedding" in again.out + again.err) == (0, False)
    assert {file: file.stat().st_mtime_ns for file in place.iterdir()} == written
    assert scalars(folder) == log
    assert hyperparameters(folder) == settings

    assert job(f"data.name={small}", *SHORT, "train.epochs=3").code == 0
    assert [path.parent.name for path in folder.glob("tensorboard/*/latents")] == ["00048"]
    assert [step for step, _ in scalars(folder)["Final/Loss"]] == [49]


def test_codes_that_find_no_room_are_warned_of_and_the_run_ends_well(
    job: Job, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_embedding", full)
    done = job(f"data.name={small}", *SHORT, "train.max_steps=2")
    assert done.code == 0
    assert "projector is not written (No space left on device)" in done.err
    assert (Path("r") / "summary.json").exists()


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_codes_half_written_are_replaced(tmp_path: Path, dims: int) -> None:
    place = tmp_path / "tensorboard" / "00007" / "latents"
    place.mkdir(parents=True)
    (place / "tensors.tsv").write_text("1\t2\n3")
    sink = TensorBoard(tmp_path, 7, print)
    sink.embedding(torch.ones(5, dims), torch.zeros(5, 1, 4, 4), None, 7)
    sink.close()
    assert np.loadtxt(place / "tensors.tsv", ndmin=2).shape == (5, 3)
    assert "00007/latents/tensors.tsv" in (tmp_path / "tensorboard" / "projector_config.pbtxt").read_text()


def test_a_new_event_file_is_read_after_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard reads them by name, which tells whole seconds, then the process."""
    clock = [1_800_000_000.25]
    monkeypatch.setattr("time.time", lambda: clock[0])
    monkeypatch.setattr("time.sleep", lambda seconds: clock.append(clock.pop() + seconds))
    outwait_event_files(tmp_path / "nowhere")
    (tmp_path / "events.out.tfevents.1799999999.host.99999.0").touch()
    outwait_event_files(tmp_path)
    assert clock == [1_800_000_000.25]
    (tmp_path / "events.out.tfevents.1800000000.host.99999.0").touch()
    outwait_event_files(tmp_path)
    assert clock == [1_800_000_001]


def test_the_documents_own_tracker_is_chosen_filled_and_cut_back(
    job: Job, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = (ROOT / "docs/extending.md").read_text().partition("## A tracker")[2]
    example, _ = re.findall(r"```python\n(.*?)```", section.partition("\n## ")[0], re.S)
    space: dict[str, Any] = {"__name__": "example"}
    exec(example, space)
    monkeypatch.setitem(SINKS, "csv", space["CSV"])
    settings = [f"data.name={small}", *SHORT, "train.log_every=4", "model.likelihood=Normal"]
    assert job(*settings, "run.trackers=[tensorboard, {name: csv, digits: 4}]").code == 0
    table = (Path("r") / "scalars.csv").read_text().splitlines()
    curves = scalars(Path("r"))
    assert "Loss/Test/Reconstruction" in curves
    assert not [tag for tag in curves if "BCE" in tag]
    points = [row.split(",") for row in table[1:] if ",ImagesPerSecond," not in row]
    assert len(points) == sum(map(len, curves.values()))
    for step, tag, value in points:
        assert dict(curves[tag])[int(step)] == pytest.approx(float(value), rel=1e-3)
    space["CSV"](Path("r"), 8, print).close()
    left = (Path("r") / "scalars.csv").read_text().splitlines()
    assert left == [table[0], *(row for row in table[1:] if int(row.split(",")[0]) <= 8)]


def test_a_tracker_brings_its_own_rules_as_any_piece_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        SINKS["tensorboard"], "conflicts", classmethod(lambda _, config: iter(["run.trackers: not here"]))
    )
    with pytest.raises(InputError, match="not here"):
        load()
    assert load(overrides=["run.trackers=[]"]).run.trackers == []


def test_a_capacity_is_no_beta_and_each_number_has_one_curve() -> None:
    tags = Tags.of(load(None, ["objective=CapacityVAE"])).of_training(["capacity", "capacity_gap"])
    assert tags["capacity"] == "KL/capacity"
    assert "KL/beta" not in tags.values()
    assert Tags.of(load()).of_training([])["beta"] == "KL/beta"
    assert len(set(tags.values())) == len(tags)
