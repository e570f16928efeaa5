"""Where one stands and what may be written: another working folder, a read-only checkout, nothing left by a failure."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.helpers import DATA
from tests.helpers.starts import JOB, Program, launch, run
from vae.data import places
from vae.data.places import locked, root_of
from vae.errors import InputError

SHORT = ["model.hidden_dim=8", "train.max_steps=2", "train.threads=1", "run.figures=false", "run.name=r"]
NOBODY = 65534
AS_NOBODY = """
import os, sys
if os.getuid() == 0:
    os.setgroups([])
    os.setgid({nobody})
    os.setuid({nobody})
import train_ddp
from pathlib import Path
from vae.data import places
places.PROJECT = Path({project!r})
sys.exit(train_ddp.main({words}))
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_real_job_started_from_elsewhere_has_the_data_that_ship_and_runs_lie_where_one_stands(
    tmp_path: Path,
) -> None:
    done = run(JOB, *SHORT, real=True, cwd=tmp_path)
    assert done.code == 0, done.err
    assert names(tmp_path) == ["runs"]
    saved = yaml.safe_load((tmp_path / "runs" / "r" / "config.yaml").read_text())
    assert saved["data"]["root"] is None


def test_a_run_of_an_older_version_finds_its_data_from_elsewhere(tmp_path: Path) -> None:
    """Older versions saved data.root: data, and left an empty data/ with a lock where they did not find it."""
    assert launch(1, *SHORT, cwd=tmp_path).code == 0
    config = tmp_path / "runs" / "r" / "config.yaml"
    older = yaml.safe_load(config.read_text())
    older["data"]["root"] = "data"
    config.write_text(yaml.safe_dump(older))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / ".lock").touch()
    done = run("-m", "vae", "encode", "runs/r", cwd=tmp_path)
    assert done.code == 0, done.err
    assert names(tmp_path / "data") == [".lock"]


def test_a_folder_that_is_given_counts_from_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert root_of(None, "MNIST") == DATA
    assert root_of("elsewhere", "MNIST") == Path("elsewhere")
    assert root_of("~/x", "MNIST") == Path.home() / "x"
    assert root_of("data", "MNIST") == DATA  # ./data is not there
    assert root_of("data", "no such set") == Path("data")
    (tmp_path / "data" / "MNIST").mkdir(parents=True)
    assert root_of("data", "MNIST") == Path("data")


def test_without_a_checkout_data_sets_are_kept_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "PROJECT", tmp_path)  # site-packages
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert root_of(None, "MNIST") == tmp_path / "home" / ".cache" / "vae"


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A checkout's data and job, which none may write to; beside it a folder that all may write to."""
    with tempfile.TemporaryDirectory(prefix="checkout-") as folder:  # pytest's own is closed to other users
        above = Path(folder)
        above.chmod(0o755)
        project = above / "project"
        (project / "data" / "MNIST" / "raw").mkdir(parents=True)
        for archive in (DATA / "MNIST" / "raw").glob("*.gz"):
            shutil.copy(archive, project / "data" / "MNIST" / "raw")
        shutil.copy(JOB, project)
        (above / "here").mkdir()
        (above / "here").chmod(0o777)
        inside = [project, *project.rglob("*")]
        for path in inside:
            path.chmod(0o555 if path.is_dir() else 0o444)
        yield project
        for path in inside:
            path.chmod(0o755)


def test_a_read_only_checkout_trains(checkout: Path) -> None:
    """As another user, whom permissions bind; a data set that is not there is refused in one line."""
    before, here = sorted(checkout.rglob("*")), checkout.parent / "here"

    def start(*words: str) -> Program:
        code = AS_NOBODY.format(nobody=NOBODY, words=[*SHORT, *words], project=str(checkout))
        return Program("-c", code, cwd=here, env={"HOME": str(here)})

    one, refused = start(), start("data.name=KMNIST", "run.name=other")
    done = one.wait()
    assert done.code == 0, done.err
    assert names(here) == ["runs"]
    assert names(here / "runs") == ["r"]
    assert (here / "runs" / "r").stat().st_uid == (NOBODY if os.getuid() == 0 else os.getuid())
    not_there = refused.wait()
    assert not_there.code == 2
    assert (
        f"data.root = '{checkout}/data': holds no KMNIST, and cannot be written (Permission denied)" in not_there.line
    )
    assert sorted(checkout.rglob("*")) == before


def test_what_fails_before_a_run_is_there_leaves_no_folder(small: Path, tmp_path: Path) -> None:
    """After the folder was claimed: the engine is refused, because no compiler is there."""
    script = f"""
import sys
import train_ddp
from vae import assemble
from vae.errors import InputError
def refuse(*args):
    raise InputError("no engine")
assemble.build_engine = refuse
sys.exit(train_ddp.main(["data.name={small}", "run.dir=deep/below/run"]))
"""
    refused = run("-c", script, cwd=tmp_path)
    assert (refused.code, refused.line) == (2, "train_ddp.py: no engine")
    assert names(tmp_path) == []


def test_a_folder_for_a_lock_goes_with_a_failure_and_stays_with_a_success(tmp_path: Path) -> None:
    def fail() -> None:
        with locked(tmp_path / "a" / "b"):
            assert names(tmp_path / "a" / "b") == [".lock"]
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert names(tmp_path) == []
    with locked(tmp_path / "a" / "b"):
        pass
    assert names(tmp_path / "a") == ["b"]
    assert names(tmp_path / "a" / "b") == []
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/a: cannot be written"), locked(tmp_path / "file" / "a"):
        pass
