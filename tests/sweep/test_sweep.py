"""Sweep files: what runs they describe, and what is said of those that cannot be used."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.helpers import ROOT
from vae import config
from vae.__main__ import main
from vae.errors import InputError
from vae.sweep import Sweep, load

SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))
RUNS_OF = {
    "bottleneck": 15,
    "capacity": 24,
    "beta": 18,
    "warmup": 9,
    "depth": 12,
    "quick": 4,
    "stability": 60,
    "loss_scale": 12,
    "disentanglement": 12,
}


def sweep_of(folder: Path, text: str, *overrides: str) -> Sweep:
    path = folder / "s.yaml"
    path.write_text(text)
    return load(path, overrides)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_each_sweep_that_comes_with_the_project_can_be_run(path: Path) -> None:
    sweep = load(path)
    assert len(sweep.members) == RUNS_OF[path.stem]
    sweep.check()


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_each_sweep_has_the_output_bias_and_the_clipping_of_its_published_numbers(path: Path) -> None:
    member = load(path).members[0]
    loaded = config.load(member.base, member.overrides)
    clipped_to = None if path.stem == "stability" else 1.0  # clipping would hide what it compares
    assert (loaded.model.output_bias, loaded.optim.max_grad_norm) == ("zero", clipped_to)


def test_members_are_the_product_of_points_zip_grid_and_seeds(tmp_path: Path) -> None:
    text = """
    set: {train.epochs: 7}
    points:
      exp: {model.posterior: {name: DiagonalNormal, scale: exp}}
      plain: {}
    zip: {train.batch_size: [128, 512], optim.lr: [1e-3, 2e-3]}
    grid: {model.latent_dim: [2, 8, 32], objective.beta: [{name: LinearWarmup, epochs: 2}]}
    seeds: [3, 5]
    """
    sweep = sweep_of(tmp_path, text, "train.log_every=9")
    assert len({member.folder for member in sweep.members}) == len(sweep.members) == 2 * 2 * 3 * 2
    found = [config.load(None, member.arguments) for member in sweep.members]
    expected = [
        (scale, batch, lr, latent, seed)
        for scale in ("exp", "softplus")
        for batch, lr in ((128, 1e-3), (512, 2e-3))
        for latent in (2, 8, 32)
        for seed in (3, 5)
    ]
    assert [
        (c.model.posterior["scale"], c.train.batch_size, c.optim.lr, c.model.latent_dim, c.run.seed) for c in found
    ] == expected
    assert {(c.train.epochs, c.train.log_every, c.objective["beta"]["epochs"]) for c in found} == {(7, 9, 2.0)}
    assert [c.run.dir for c in found] == [str(member.folder) for member in sweep.members]
    first = "exp,batch_size=128,lr=0.001,latent_dim=2,beta=LinearWarmup-epochs-2,seed=3"
    assert sweep.members[0].name == first
    assert sweep.members[0].folder == Path("runs/s") / first


def test_a_base_is_looked_for_beside_the_sweep_file(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("train: {epochs: 3}")
    (member,) = sweep_of(tmp_path, "base: base.yaml").members
    assert config.load(member.base, member.arguments[2:]).train.epochs == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("grids: {model.latent_dim: [2]}", "grids: there is no such key; did you mean 'grid'"),
        ("grid: {model.latent_dim: 2}", "grid.model.latent_dim = 2: must be a valid list"),
        ("grid: {model.latent_dim: []}", "grid.model.latent_dim = .*: must have at least one value"),
        ("zip: {model.latent_dim: [2], train.batch_size: [1, 2]}", "zip: its lists must have one length"),
        ("zip: {model.depth: [1]}\ngrid: {model.depth: [1]}", "stands in `zip` and in `grid`"),
        ("seeds: 0", "seeds = 0: must be a number from 1"),
        ("set: {run.seed: 1}", "set.run.seed: is the sweep's own"),
        ("grid: {data.root: [2020-01-01]}", "not JSON serializable: put the value in quotes"),
        ("points: {a: {model.posterior: exp}}\nseeds: [1, 1]", "two members are called a,seed=1"),
        ("grid: {train.epochs: [1]}", "train.epochs: is what .* varies; change it there"),
        (
            "set: {model.prior.pseudo_inputs: 9}\ngrid: {model.prior: [VampPrior]}",
            "set.model.prior.pseudo_inputs: is lost where model.prior varies; give it there",
        ),
        (f"points: {{{'a' * 240}: {{}}}}", "a member is called aa.*,seed=0: at most 234 bytes name a folder"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        sweep_of(tmp_path, text, "train.epochs=2")


def test_a_points_name_is_one_folder(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "points: {beta/4: {objective.beta: 4}, ../up: {}}")
    assert [str(member.folder) for member in sweep.members] == ["runs/s/beta-4,seed=0", "runs/s/..-up,seed=0"]


def test_a_member_that_would_be_refused_is_named_before_any_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.yaml").write_text("grid: {model.latent_dim: [2, 0]}")
    assert main(["sweep", str(tmp_path / "s.yaml"), "--list"]) == 2
    assert "member latent_dim=0,seed=0: model.latent_dim = 0: must be greater" in capsys.readouterr().err


def test_the_list_names_each_run_and_an_index_out_of_range_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    quick = next(str(path) for path in SWEEPS if path.stem == "quick")
    assert main(["sweep", quick, "--list", "train.log_every=7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].split()[:2] == ["3", "latent_dim=16,seed=1"]
    assert all("train.log_every=7" in line for line in lines)
    assert main(["sweep", quick, "--index", "4"]) == 2
    assert "4: quick has the members 0 to 3" in capsys.readouterr().err


def test_a_member_is_not_trained_in_the_launchers_precision_which_its_status_would_not_know(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = next(str(path) for path in SWEEPS if path.stem == "quick")
    started: list[Mapping[str, str]] = []
    monkeypatch.setattr("os.execve", lambda _program, _words, environment: started.append(environment))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setattr("vae.sweep.runner.Runner.run", lambda runner: started.append(runner.environment) or 0)
    monkeypatch.setattr("vae.commands.sweep._report", lambda _sweep: None)
    assert main(["sweep", quick, "--run"]) == 0
    assert "train.precision=bf16 sets it for all of them" in capsys.readouterr().err
    assert main(["sweep", quick, "--index", "0"]) == 0
    assert all("PATH" in variables and "ACCELERATE_MIXED_PRECISION" not in variables for variables in started)
    assert len(started) == 2
