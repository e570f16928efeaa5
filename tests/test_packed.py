"""Members of a sweep trained together against the same members trained apart, by the engine of train_ddp.py."""

import json
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import train_packed
from tests.helpers import DATA, ROOT
from tests.helpers.runs import largest_difference, rows, scalars, weights
from tests.helpers.starts import Outcome, Program
from tests.test_startup import TORCH, without
from vae import assemble, launch
from vae.config import Config, flatten, load, merged
from vae.config.help import component_keys
from vae.data.batches import TrainingBatches
from vae.engine import Engine, NonFiniteError
from vae.engine.packed import Pack
from vae.engine.stepwise import Stepwise
from vae.model import VAE
from vae.signals import StopRequest
from vae.sweep import load as load_sweep
from vae.sweep.packing import PIECES as PACKED
from vae.sweep.packing import obstacle, packable

IMAGES = torch.randint(0, 256, (103, 1, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SETTINGS = ["model.hidden_dim=16", "train.batch_size=20", "train.engine=eager"]  # six steps an epoch, the last of three
MEMBERS = [
    ["run.seed=0"],
    ["run.seed=1", "objective.beta=4", "optim.lr=3e-3"],
    ["run.seed=0", "objective.beta={name: Cyclical, epochs: 6}", "optim.weight_decay=0.5"],
    ["run.seed=7", "optim.max_grad_norm=0.1", "optim.lr_schedule={name: LinearWarmup, epochs: 3}"],
]


@pytest.fixture(autouse=True)
def leaving() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # what is small here is not worth two
    yield
    torch.set_num_threads(threads)
    launch.leave()


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vae.report.draw_figures", lambda *_, **__: [])


# --- the engine -------------------------------------------------------------------------------------------------------


def batches_of(config: Config) -> TrainingBatches:
    dtype, seed = assemble.DTYPES[config.train.precision], config.run.seed
    binarize, latent_dim = config.data.binarize, config.model.latent_dim
    samples = assemble.build_objective(config).samples
    return TrainingBatches(
        IMAGES, batch_size=20, noise_dim=latent_dim, samples=samples, seed=seed, binarize=binarize, dtype=dtype
    )


def build(*settings: str, members: Sequence[list[str]] = MEMBERS) -> tuple[list[Engine], list[Stepwise], Pack]:
    """Return each member's engine of its own, its engine in a pack, and the pack."""
    configs = [load(None, [*SETTINGS, *member, *settings]) for member in members]
    precision = configs[0].train.precision
    accelerator = launch.make_accelerator("cpu", assemble.MIXED_PRECISION[precision], {})

    def parts(config: Config) -> tuple[VAE, Any, TrainingBatches]:
        model = assemble.build_model(config, (1, 6, 6))
        return model, assemble.build_objective(config), batches_of(config)

    apart = [assemble.build_engine(config, accelerator, *parts(config)) for config in configs]
    inside = [(config, parts(config)) for config in configs]
    together = [assemble.build_member(config, accelerator, *own) for config, own in inside]
    return apart, together, assemble.build_pack(configs[0], together, [own[0] for _, own in inside])


def run(apart: Sequence[Engine], pack: Pack | None, steps: int, first: int = 0) -> None:
    for step in range(first, steps):
        if pack:
            pack.advance(step)
        for engine in apart:
            engine.advance(step, step + 1)


def difference(one: Engine, other: Engine) -> float:
    pairs = zip(one.update.parameters, other.update.parameters, strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


PIECES = ["model.posterior=FullNormal", "model.likelihood=Normal", "objective.free_bits=0.1", "model.latent_dim=3"]


@pytest.mark.parametrize(
    ("precision", "tolerance", "settings"),
    [
        ("fp64", 1e-12, []),
        ("fp64", 1e-12, ["data.binarize=dynamic"]),
        ("fp64", 1e-12, PIECES),
        ("fp32", 1e-5, []),
        ("bf16", 1e-2, []),
    ],
)
def test_forty_steps_together_are_forty_steps_apart(precision: str, tolerance: float, settings: list[str]) -> None:
    apart, together, pack = build(f"train.precision={precision}", *settings)
    run(apart, pack, 40)
    for own, packed in zip(apart, together, strict=True):
        assert difference(own, packed) < tolerance
        expected, found = own.drain(), packed.drain()
        assert found.examples == expected.examples == 6 * 103 + 80
        for name in ("loss", "reconstruction", "kl", "grad_norm"):
            assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=max(tolerance, 1e-9))
    # it would have been noticed
    assert min(difference(a, b) for i, a in enumerate(together) for b in together[:i]) > 1e-3


def test_each_member_is_clipped_by_its_own_norm() -> None:
    """The first moment after one step is (1 - beta1) times the clipped gradient, whose norm the threshold gives."""
    thresholds = [1e-3, 1e-1, 10.0, 1e9]
    members = [[f"run.seed={seed}", f"optim.max_grad_norm={c}"] for seed, c in enumerate(thresholds)]
    _, together, pack = build("train.precision=fp64", members=members)
    pack.advance(0)
    norms = [member.update.grad_norm.item() for member in together]
    assert len(set(norms)) == 4
    for member, norm, threshold in zip(together, norms, thresholds, strict=True):
        moments = [state["exp_avg"].flatten() for state in member.state_dict()["optimizer"].values()]
        clipped = norm * min(1.0, threshold / (norm + 1e-6))
        assert torch.cat(moments).norm().item() == pytest.approx(0.1 * clipped, rel=1e-9)


def spoil(member: Stepwise, step: int) -> None:
    """Give a member a batch with a NaN in it at a step."""
    batches, calls = member.batches, member.batches.__call__

    def spoilt(at: int) -> Any:
        batch = calls(at)
        return replace(batch, x=batch.x.where(batch.x.isfinite() & (at != step), math.nan))

    member.batches = spoilt  # type: ignore[assignment]
    for name in ("progress", "steps_per_epoch"):
        setattr(spoilt, name, getattr(batches, name))


def test_a_member_that_is_not_finite_stops_alone() -> None:
    apart, together, pack = build("train.precision=fp64")
    run(apart, pack, 5)
    before = [weight.detach().clone() for weight in together[1].update.parameters]
    spoil(together[1], 7)
    run(apart, pack, 7, first=5)
    before = [weight.detach().clone() for weight in together[1].update.parameters]
    run(apart, pack, 12, first=7)
    with pytest.raises(NonFiniteError, match="step 7: not finite: reconstruction, kl"):
        together[1].drain()
    assert all(map(torch.equal, before, together[1].update.parameters))
    for place in (0, 2, 3):
        assert difference(apart[place], together[place]) < 1e-12
        assert together[place].drain().loss == pytest.approx(apart[place].drain().loss, rel=1e-12)


def test_a_step_that_is_not_finite_is_skipped_by_its_member_alone_and_counted() -> None:
    apart, together, pack = build("train.precision=fp64", "train.on_nonfinite=skip")
    for engines in (apart, together):
        spoil(engines[2], 7)  # type: ignore[arg-type]
    run(apart, pack, 12)
    assert [member.drain().skipped for member in together] == [0, 0, 1, 0]
    assert max(map(difference, apart, together)) < 1e-12


def test_a_state_is_exchanged_in_the_middle_of_an_epoch() -> None:
    """From a pack to engines of their own and back."""
    apart, together, pack = build("train.precision=fp64")
    others, _, _ = build("train.precision=fp64")
    run(apart, pack, 21)
    for packed, other in zip(together, others, strict=True):
        for weight, value in zip(other.update.parameters, packed.update.parameters, strict=True):
            weight.data.copy_(value)
        other.load_state_dict(packed.state_dict())
        assert str(other.state_dict()) == str(packed.state_dict())
    run([*apart, *others], None, 33, first=21)
    for packed, other in zip(together, others, strict=True):
        for weight, value in zip(packed.update.parameters, other.update.parameters, strict=True):
            weight.data.copy_(value)
        packed.load_state_dict(other.state_dict())
    run(apart, pack, 40, first=33)
    assert max(map(difference, apart, together)) < 1e-12


# --- the job ----------------------------------------------------------------------------------------------------------

SWEEP = """
set: {model.hidden_dim: 16, train.batch_size: 64, train.max_steps: 40, train.log_every: 5, train.precision: fp64,
      train.checkpoint_every: 7, train.engine: eager, train.threads: 1}
zip: {objective.beta: [{name: LinearWarmup, epochs: 1}, 4], optim.lr: [1e-3, 3e-3], optim.weight_decay: [0.01, 0.1]}
seeds: [0, 5]
"""  # 16 steps an epoch of `small`, the last one of 40 examples


@pytest.fixture
def file(tmp_path: Path, small: Path) -> Path:
    path = tmp_path / "s.yaml"
    path.write_text(SWEEP.replace("set: {", f"set: {{data.name: {small}, data.root: {DATA}, "))
    return path


@pytest.fixture
def packed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Outcome]:
    """Run the packed job in this process, in a working directory by name: `packed("together", FILE, 0, 1)`."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def run(place: str, *args: Any) -> Outcome:
        (tmp_path / place).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / place)
        monkeypatch.setattr(train_packed, "STOP", StopRequest())
        capsys.readouterr()
        code = train_packed.main([*map(str, args)])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def alone(
    job: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[str, Path, int], Path]:
    """Run a member by train_ddp.py; returns its folder."""

    def run(place: str, file: Path, index: int, *settings: str) -> Path:
        (tmp_path / place).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / place)
        member = load_sweep(file, settings).member(index)
        done = job(*member.arguments, "run.figures=true")
        assert done.code == 0, done.err
        return tmp_path / place / member.folder

    return run


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Have a SIGTERM come while members make this step."""
    advance = Pack.advance

    def interrupted(pack: Pack, at: int) -> None:
        if at == step:
            train_packed.STOP.note(signal.SIGTERM)
        advance(pack, at)

    monkeypatch.setattr(Pack, "advance", interrupted)


def assert_same_run(one: Path, other: Path) -> None:
    """What a packed member leaves is what its own run leaves."""
    assert largest_difference(one, other) < 1e-12
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
    mine, its = rows(one, timeless=True), rows(other, timeless=True)
    assert [row.keys() for row in mine] == [row.keys() for row in its]
    for row, expected in zip(mine, its, strict=True):
        assert row.pop("split") == expected.pop("split")
        assert row == pytest.approx(expected, rel=1e-9)
    curves, others = scalars(one), scalars(other)
    assert curves.keys() == others.keys()
    for tag, points in others.items():
        assert [step for step, _ in curves[tag]] == [step for step, _ in points]
        assert [value for _, value in curves[tag]] == pytest.approx([value for _, value in points], rel=1e-6)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, other)]
    assert summaries[0].keys() - {"packed_members"} == summaries[1].keys()
    mine, its = (summary["test"] for summary in summaries)
    for key in ("protocol", "bits_per_dim"):
        assert mine.pop(key) == its.pop(key)
    assert mine == pytest.approx(its, rel=1e-9)


def test_members_trained_together_are_the_runs_of_train_ddp(
    file: Path, tmp_path: Path, packed: Callable[..., Outcome], alone: Callable[..., Path]
) -> None:
    done = packed("together", file, 0, 3)
    assert done.code == 0, done.err
    folders = sorted((tmp_path / "together" / "runs" / "s").iterdir())
    assert len(folders) == 2
    for index in (0, 3):
        folder = alone("apart", file, index)
        assert_same_run(tmp_path / "together" / folder.relative_to(tmp_path / "apart"), folder)
    summary = json.loads((folders[0] / "summary.json").read_text())
    assert (summary["engine"], summary["packed_members"], summary["steps"]) == ("packed", 2, 40)
    again = packed("together", file, 0, 3)
    assert (again.code, again.out.count("is finished")) == (0, 2)


@pytest.mark.usefixtures("no_figures")
def test_stopped_and_continued_alone_or_together_they_are_the_undisturbed_runs(
    file: Path,
    tmp_path: Path,
    packed: Callable[..., Outcome],
    alone: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, 9)
        stopped = packed("cut", file, 0, 1, 2)
    assert stopped.code == 85
    assert stopped.err.splitlines()[-1] == (
        "train_packed.py: SIGTERM: stopped after step 10, 3 members saved; the same command continues"
    )
    alone("cut", file, 0, "train.max_steps=20")  # further than the others, but not done
    alone("cut", file, 1)
    with monkeypatch.context() as patch:
        stop_at(patch, 30)
        assert packed("cut", file, 0, 1, 2).code == 85
    done = packed("cut", file, 0, 1, 2)
    assert (done.code, done.out.count("is finished")) == (0, 1)
    assert packed("whole", file, 0, 1, 2).code == 0
    for folder in (tmp_path / "whole" / "runs" / "s").iterdir():
        cut = tmp_path / "cut" / folder.relative_to(tmp_path / "whole")
        assert largest_difference(folder, cut) < 1e-12
        trained = [[row for row in rows(path, timeless=True) if row["step"] % 5 == 0] for path in (cut, folder)]
        assert [row["step"] for row in trained[0] if row["split"] == "train"] == list(range(5, 41, 5))


@pytest.mark.usefixtures("no_figures")
def test_a_member_that_fails_is_named_and_the_others_are_what_they_are_alone(
    file: Path, tmp_path: Path, packed: Callable[..., Outcome], alone: Callable[..., Path]
) -> None:
    file.write_text(file.read_text().replace("3e-3]", "1e30]").replace("fp64", "fp32"))
    done = packed("together", file, 0, 2)
    assert done.code == 1
    failed = "beta=4,lr=1e+30,weight_decay=0.1,seed=0: step "
    assert done.err.splitlines()[-1].startswith(f"train_packed.py: 1 of 2 members failed: {failed}")
    assert "last good checkpoint: none yet" in done.err.splitlines()[-1]
    summaries = list((tmp_path / "together").rglob("summary.json"))
    assert len(summaries) == 1
    folder = alone("apart", file, 0)
    assert largest_difference(summaries[0].parent, folder) < 1e-5


def test_a_real_signal_saves_all_members(file: Path, tmp_path: Path) -> None:
    words = [
        ROOT / "train_packed.py",
        file,
        0,
        1,
        "train.max_steps=100000",
        "train.epochs=100000",
        "train.engine=eager",
    ]
    running = Program(*words, cwd=tmp_path)
    running.wait_until(lambda: len(list(tmp_path.glob("runs/s/*/checkpoints/step-*"))) >= 2)
    running.send_signal(signal.SIGUSR1)
    done = running.wait(60)
    assert done.code == 85, done.err
    step = int(done.err.splitlines()[-1].split("stopped after step ")[1].split(",")[0].replace(",", ""))
    assert len(list(tmp_path.glob(f"runs/s/*/checkpoints/step-{step:08d}/manifest.json"))) == 2


# --- what can be packed -----------------------------------------------------------------------------------------------


def test_members_are_grouped_by_what_they_share(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("grid: {model.latent_dim: [2, 8], objective.beta: [1, {name: LinearWarmup, epochs: 3}]}\nseeds: 2")
    members = load_sweep(path).members
    assert packable(members, 8) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert packable(members, 3) == [[0, 1, 2], [3], [4, 5, 6], [7]]
    path.write_text("grid: {optim.lr: [1e-3, 2e-3], train.precision: [fp32, fp16], train.batch_size: [64, 128]}")
    assert packable(load_sweep(path).members) == [[0, 4], [1, 5], [2], [3], [6], [7]]


def test_grouping_imports_no_torch() -> None:
    program = "from vae.sweep import load; from vae.sweep.packing import packable; "
    program += "print(packable(load('configs/sweeps/beta.yaml').members, 9))"
    shown = without(TORCH, program)
    assert shown.out.strip() == str([list(range(9)), list(range(9, 18))]), shown.err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["0", "4"], "members 0 to 3"),
        (["0", "1", "0"], "'0': must be the index of a member, each given once, or key=value"),
        (["0", "train.epochs"], "'train.epochs': must be the index of a member"),
        (["train.epochs=3"], "no member is given: s has the indices 0 to 3"),
        (["0", "train.epochz=3"], "seed=0: train.epochz: there is no such key"),
        (["0", "train.precision=fp16"], "train.precision = 'fp16': a pack has no loss scaler"),
        (["0", "train.exact=2"], "train.exact = 2: not in a pack; set it to 0, or train it by itself"),
        (
            ["0", "model.condition=true"],
            "model.condition = True: not in a pack; set it to false, or train it by itself",
        ),
        (["0", "train.engine=compile"], "train.engine = 'compile': a pack is an engine of its own; use auto"),
        (["0", "1", "2"], "model.latent_dim = 3 in latent_dim=3,seed=0, 2 in latent_dim=2,seed=0: members of a pack"),
    ],
)
def test_what_cannot_be_packed_is_refused_in_one_line(
    args: list[str], words: str, packed: Callable[..., Outcome], tmp_path: Path
) -> None:
    (tmp_path / "s.yaml").write_text("grid: {model.latent_dim: [2, 3]}\nseeds: 2")
    refused = packed("here", "../s.yaml", *args)
    assert refused.code == 2
    assert words in refused.line
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize(("key", "name"), [(key, name) for key, names in PACKED.items() for name in names])
def test_each_piece_that_a_pack_may_hold_trains_in_one_as_it_does_alone(key: str, name: str) -> None:
    apart, together, pack = build("train.precision=fp64", f"{key}={name}", members=MEMBERS[:2])
    run(apart, pack, 7)
    assert max(map(difference, apart, together)) < 1e-12


def test_no_kind_of_piece_is_forgotten() -> None:
    """A schedule is a number that each member has of its own."""
    assert PACKED.keys() == set(component_keys()) - {"optim.lr_schedule"}


@pytest.mark.parametrize("key", PACKED)
@pytest.mark.parametrize("form", ["New", "{name: New, size: 3}"])
def test_a_piece_that_no_pack_is_known_to_hold_is_named_and_trained_alone(tmp_path: Path, key: str, form: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(f"points: {{old: {{}}, new: {{{key}: {form}}}}}\nseeds: 2")
    assert packable(load_sweep(path).members) == [[0, 1], [2], [3]]
    usable = " or ".join(PACKED[key])
    member = load_sweep(path).members[2]
    assert obstacle(flatten(merged(None, member.overrides))) == f"{key} = 'New': a pack cannot hold it; use {usable}"


def test_several_processes_are_refused(
    file: Path, packed: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused = packed("here", file, 0, 1)
    assert (refused.code, refused.line[:31]) == (2, "train_packed.py: WORLD_SIZE = 2")


@pytest.mark.usefixtures("no_figures")
def test_where_one_folder_is_refused_no_other_is_begun(
    file: Path, tmp_path: Path, packed: Callable[..., Outcome], alone: Callable[..., Path]
) -> None:
    taken = alone("here", file, 1, "train.max_steps=3", "model.hidden_dim=8")
    refused = packed("here", file, 0, 1, 2)
    assert refused.code == 2
    assert "lr=0.001,weight_decay=0.01,seed=5: runs/s/" in refused.line
    assert "holds a run with other settings (model.hidden_dim: 8 -> 16)" in refused.line
    assert [path.name for path in (tmp_path / "here" / "runs" / "s").iterdir()] == [taken.name]
    assert weights(taken)
