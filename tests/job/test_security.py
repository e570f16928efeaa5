"""Run names, a loose umask and YAML files: things they must not do. Crafted checkpoint files: test_checkpoint.py."""

import ast
import stat
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.helpers.starts import JOB, SMALL, Job, Outcome, arguments, run


@pytest.mark.parametrize("name", ["../out", "a/b", "..", ".hidden", "/tmp/x", "a\\\\b", '"a\\nb"', '"a\\u0000b"', '""'])
def test_a_run_name_that_could_leave_the_runs_folder_is_refused(job: Job, name: str) -> None:
    refused = job(f"run.name={name}")
    assert refused.code == 2
    assert refused.line.startswith("train_ddp.py: run.name"), refused.line
    assert not list(Path().iterdir())


def test_a_run_name_with_spaces_quotes_and_shell_syntax_is_just_a_name(job: Job, small: Path) -> None:
    name = 'it\'s $(touch pwned) `touch pwned` & "so" on;'
    done: Outcome = job(f"data.name={small}", f"run.name={name}", *SMALL)
    assert done.code == 0, done.err
    assert (Path("runs") / name / "summary.json").exists()
    assert not Path("pwned").exists()


def test_nothing_is_writable_by_others_even_without_a_umask(tmp_path: Path, small: Path) -> None:
    code = "import os, runpy, sys; os.umask(0); sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
    done = run("-c", code, JOB, *arguments(f"data.name={small}", f"run.dir={tmp_path / 'run'}", *SMALL))
    assert done.code == 0, done.err
    loose = [path for path in [tmp_path / "run", *(tmp_path / "run").rglob("*")] if path.stat().st_mode & stat.S_IWOTH]
    assert not loose


def test_yaml_that_builds_objects_is_refused(job: Job, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(f"run: !!python/object/apply:os.system ['touch {tmp_path}/pwned']\n")
    refused = job("--config", str(tmp_path / "bad.yaml"))
    assert refused.code == 2
    assert "bad.yaml line 1: not valid YAML" in refused.line
    assert not (tmp_path / "pwned").exists()


def test_nothing_in_the_sources_unpickles_or_calls_a_shell() -> None:
    """No pickle.load, no torch.load without weights_only=True, no shell=True."""
    for path in [ROOT / "train_ddp.py", *(ROOT / "vae").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name, keywords = ast.unparse(node.func), {keyword.arg: keyword.value for keyword in node.keywords}
                safe = isinstance(value := keywords.get("weights_only"), ast.Constant) and value.value is True
                runs_code = name == "exec" and path.parent.name != "plugins"  # see test_plugins.py
                unsafe = ("pickle.load", "pickle.loads", "os.system", "eval", "yaml.unsafe_load")
                assert not runs_code, path
                assert name not in unsafe, path
                assert name != "torch.load" or safe, path
                assert "shell" not in keywords, path
