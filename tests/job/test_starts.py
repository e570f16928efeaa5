"""A forked program and a real start leave the same files, bits, words and exit codes: why the tests may fork."""

import signal
import stat
from pathlib import Path

import pytest

from tests.helpers.runs import rows, scalars
from tests.helpers.starts import JOB, Program, arguments, launch, run, torchrun

SHORT = ["model.hidden_dim=32", "train.batch_size=64", "train.epochs=2", "train.log_every=5"]
BOTH = pytest.mark.parametrize("real", [False, True], ids=["forked", "real"])


def left(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Return the mode of each file of a run, and what is in those that do not depend on the clock."""
    steady = (".safetensors", ".yaml", "model/config.json")
    return {
        str(path.relative_to(folder)): (
            stat.filemode(path.stat().st_mode),
            path.read_bytes().replace(bytes(folder), b"RUN") if str(path).endswith(steady) else b"",
        )
        for path in sorted(folder.rglob("*"))
        if "tensorboard/" not in str(path)  # events are named after time and process
    }


def test_a_run_leaves_the_same_files_bits_and_words(tmp_path: Path, small: Path) -> None:
    ended = {}
    for real in (False, True):
        folder = tmp_path / str(real)
        done = run(JOB, *arguments(f"data.name={small}", *SHORT, f"run.dir={folder}"), real=real)
        assert done.code == 0, done.err
        said = (done.out.replace(str(folder), "RUN"), done.err.replace(str(folder), "RUN"))
        ended[real] = (said, left(folder), rows(folder, timeless=True), scalars(folder))
    assert ended[False] == ended[True]


def test_ranks_that_are_forked_train_what_those_of_torchrun_do(tmp_path: Path, small: Path) -> None:
    settings = [f"data.name={small}", *SHORT]
    done = launch(2, *settings, f"run.dir={tmp_path / 'forked'}")
    assert done.codes == (0, 0), done.err
    real = torchrun(2, *settings, f"run.dir={tmp_path / 'real'}")
    assert real.code == 0, real.err
    assert left(tmp_path / "forked") == left(tmp_path / "real")
    assert rows(tmp_path / "forked", timeless=True) == rows(tmp_path / "real", timeless=True)


def test_what_is_refused_is_said_alike(tmp_path: Path) -> None:
    settings = arguments("model.latent_dims=3")
    forked, real = (run(JOB, *settings, real=real, cwd=tmp_path) for real in (False, True))
    assert (forked.code, forked.out) == (2, "")
    assert forked == real
    assert not list(tmp_path.iterdir())


@BOTH
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 85), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_its_lines_are_in_a_file_while_it_runs_and_a_signal_ends_it_with_the_same_code(
    real: bool, sent: signal.Signals, code: int, tmp_path: Path, small: Path
) -> None:
    endless = ["train.epochs=100000", "train.engine=eager", "train.log_every=5", "train.eval_every=0"]
    settings = arguments(f"data.name={small}", *SHORT[:2], *endless, f"run.dir={tmp_path / 'run'}")
    job = Program(JOB, *settings, real=real)
    metrics = tmp_path / "run" / "metrics.jsonl"
    job.wait_until(lambda: metrics.exists() and metrics.stat().st_size, "training")
    assert "1,600,000 steps of 64 images" in job.out, "said before the first step"
    job.send_signal(sent)
    assert job.wait(30).code == code


@BOTH
def test_it_has_a_session_streams_and_a_place_of_its_own(real: bool, tmp_path: Path) -> None:
    code = (
        "import os, resource, sys, threading; print(os.getpid() == os.getsid(0), os.getcwd(), os.environ['WORD']);"
        "print(sys.argv, sys.stdin.read(), resource.getrlimit(resource.RLIMIT_FSIZE)[0], threading.active_count());"
        "print(sorted(key for key in os.environ if key.startswith('PYTEST')), file=sys.stderr); raise SystemExit(7)"
    )
    done = run("-c", code, "a", "b", real=real, env={"WORD": "word"}, cwd=tmp_path, largest_file=10_000)
    assert (done.code, done.out) == (7, f"True {tmp_path} word\n['-c', 'a', 'b']  10000 1\n")
    assert done.err == run("-c", code, real=not real, env={"WORD": ""}, cwd=tmp_path).err


@BOTH
def test_an_error_is_a_traceback_and_exit_code_1(real: bool) -> None:
    done = run("-c", "print('before'); raise ValueError('no')", real=real)
    assert (done.code, done.out) == (1, "before\n")
    assert done.err.endswith("ValueError: no\n")
