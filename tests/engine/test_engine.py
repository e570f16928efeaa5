"""The training step: against plain torch, and what all ranks do when one of them has a fault."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.helpers import ROOT
from tests.helpers.starts import on_ranks
from vae import assemble
from vae.config import load
from vae.data.batches import TrainingBatches
from vae.distributed import launch
from vae.engine import NonFiniteError
from vae.engine.choice import Choice, choose
from vae.engine.eager import Eager
from vae.engine.gradients import sum_own, sum_tree
from vae.errors import InputError
from vae.model import VAE
from vae.schedules import LinearWarmup

IMAGES = torch.rand(50, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SETTINGS = ["model.hidden_dim=16", "train.precision=fp64", "train.batch_size=20", "objective.beta={name: LinearWarmup}"]
SETTINGS += ["optim.max_grad_norm=0.1"]


def batches() -> TrainingBatches:
    return TrainingBatches(IMAGES, batch_size=20, noise_dim=2, seed=0, dtype=torch.float64)


# more exact parts than the last batch has examples: some are empty; chunks that are ragged, and chunks of a part
ENGINES = ["train.exact=0", "train.exact=1", "train.exact=3", "train.exact=16"]
ENGINES += ["train.micro_batch=1", "train.micro_batch=3", "train.exact=3 train.micro_batch=2"]


def build(*settings: str) -> tuple[VAE, Eager]:
    config = load(None, [*SETTINGS, *settings])
    accelerator = launch.make_accelerator("cpu", "no", {})
    vae = assemble.build_model(config, (1, 6, 6))
    engine = assemble.build_engine(config, accelerator, vae, assemble.build_objective(config), batches())
    assert isinstance(engine, Eager)
    return vae, engine


@pytest.fixture(params=ENGINES)
def built(request: pytest.FixtureRequest) -> Iterator[tuple[VAE, Eager]]:
    yield build(*request.param.split())
    launch.leave()


@pytest.fixture
def engine(built: tuple[VAE, Eager]) -> Eager:
    return built[1]


def test_a_step_is_what_plain_torch_does(built: tuple[VAE, Eager]) -> None:
    """The article's loop written out: mean over the batch, clip, AdamW, with autograd's own formulas."""
    vae, engine = built
    model = VAE(image_shape=(1, 6, 6), hidden_dim=16).double()
    model.load_state_dict(vae.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2, fused=False)
    source, norms, losses = batches(), [], []
    for step in range(9):
        batch = source(step)
        beta = step // 3 / 10 + step % 3 * 20 / 50 / 10
        loc, raw = model.encoder(batch.x).chunk(2, -1)
        std = torch.log1p(raw.exp()) + 1e-6
        logits = model.decoder(loc + std * batch.noise)
        bce = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.x, reduction="sum")
        kld = 0.5 * (loc**2 + std**2 - 1 - 2 * std.log()).sum()
        loss = (bce + beta * kld) / len(batch.x)
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1).item())
        optimizer.step()
        losses.append(loss.item() * len(batch.x))
        engine.step(batch, step, source.progress(step))
    for name, weight in vae.state_dict().items():
        torch.testing.assert_close(weight, model.state_dict()[name], rtol=1e-9, atol=1e-12)
    interval = engine.drain()
    assert min(norms) > 0.1
    assert interval.loss == pytest.approx(sum(losses) / 150, rel=1e-10)
    assert interval.grad_norm == pytest.approx(sum(norms) / 9, rel=1e-10)
    assert (interval.examples, interval.skipped) == (150, 0)


def test_in_float32_the_clip_factor_is_folded_into_the_update_and_changes_nothing() -> None:
    """The moments show it: AdamW's weights hardly depend on the scale of a gradient."""
    vae, engine = build("train.precision=fp32")
    model = VAE(image_shape=(1, 6, 6), hidden_dim=16)
    model.load_state_dict(vae.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2, fused=False)
    source = TrainingBatches(IMAGES.float(), batch_size=20, noise_dim=2, seed=0)
    for step in range(3):
        batch = source(step)
        objective = assemble.build_objective(load(None, SETTINGS))
        objective(model(batch.x, batch.noise), batch.x, 0.0).loss.mean().backward()
        assert torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-2) > 1e-2
        optimizer.step()
        optimizer.zero_grad()
        engine.update.max_grad_norm = 1e-2
        engine.step(batch, step, 0.0)
    moments = engine.state_dict()["optimizer"]
    for place, expected in optimizer.state_dict()["state"].items():
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(moments[place][name], expected[name], rtol=1e-4, atol=1e-9)
    launch.leave()


def test_draining_starts_anew(engine: Eager) -> None:
    source = batches()
    engine.step(source(0), 0, 0.0)
    first = engine.drain()
    engine.step(source(1), 1, 0.4)
    second = engine.drain()
    assert first.examples == second.examples == 20
    assert first.loss != second.loss


def test_sums_survive_a_change_of_world_size(engine: Eager) -> None:
    source = batches()
    engine.step(source(0), 0, 0.0)
    state = engine.judged(engine.state_dict())
    expected = engine.drain()
    share = torch.tensor([0.25, 0.25, 0.25, 0.25, 0.0, 0.0, 0.0])  # what the second of two ranks would have saved
    skipped = torch.tensor([[0.0] * 6 + [1.0]])
    first, second = state["sums"] * (1 - share) + skipped, state["sums"] * share
    engine.load_state_dict(state | {"sums": torch.cat([first, second])})
    assert engine.drain() == replace(expected, skipped=1)


def test_an_interval_of_skipped_steps_alone_does_not_stop_the_run_but_a_thousand_do(
    engine: Eager, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.ledger.skip_nonfinite = engine.ledger.keeps_going = True
    bad = replace(batches()(0), x=torch.full((20, 1, 6, 6), math.nan, dtype=torch.float64))
    engine.step(bad, 0, 0.0)
    lost = engine.drain()
    assert (lost.examples, lost.skipped) == (0, 1)
    assert math.isnan(lost.loss)
    engine.step(batches()(1), 1, 0.0)
    assert engine.drain().examples == 20
    monkeypatch.setattr("vae.engine.ledger.MAX_SKIPPED", 3)
    for step in range(2, 4):
        engine.step(bad, step, 0.0)
    assert engine.drain().skipped == 2
    engine.step(bad, 4, 0.0)
    with pytest.raises(NonFiniteError, match="step 4: not finite: the last 3 losses or gradients"):
        engine.drain()


def test_the_learning_rate_follows_its_schedule(engine: Eager) -> None:
    """The first update of AdamW is lr times the sign of the gradient, but for weight decay and its epsilon."""
    before = [weight.detach().clone() for weight in engine.update.parameters]
    engine.learning_rate = LinearWarmup(epochs=2.0, end=1e-3)
    engine.step(batches()(0), 0, 1.0)
    largest = max((new - old).abs().max() for new, old in zip(engine.update.parameters, before, strict=True))
    assert largest.item() == pytest.approx(0.5e-3, rel=0.01)


@pytest.mark.parametrize(("scaling", "factor"), [("none", 1.0), ("linear", 4.0), ("sqrt", 2.0)])
def test_the_learning_rate_grows_with_the_batch_size_within_its_warm_up(scaling: str, factor: float) -> None:
    settings = ["train.batch_size=512", f"optim.lr_scaling={scaling}", "optim.lr_scaling_epochs=2"]
    lr = assemble.build_learning_rate(load(None, settings))
    for epochs, expected in ((0.0, 1.0), (1.0, (1 + factor) / 2), (2.0, factor), (9.0, factor)):
        assert lr(epochs) == pytest.approx(1e-3 * expected)


@pytest.mark.parametrize(
    ("settings", "device", "world_size", "steps", "name", "words"),
    [
        ([], "cpu", 1, 469, "eager", "auto: on a CPU, fewer than 12,500 steps"),
        ([], "cpu", 1, 23_450, "compile", "auto: on a CPU, 12,500 steps and more repay"),
        ([], "cpu", 2, 23_450, "eager", "auto: on a CPU shared by several processes"),
        ([], "cuda", 1, 469, "graph", "auto: fastest on CUDA; fewer than 60,000 steps do not repay compiling"),
        ([], "cuda", 2, 60_000, "graph", "auto: fastest on CUDA"),
        (["train.engine=graph"], "cuda", 1, 469, "graph", "as asked for"),
        (["train.precision=fp16"], "cuda", 1, 469, "eager", "auto: no graph with train.precision = fp16"),
        (["train.exact=4"], "cuda", 1, 469, "eager", "auto: no graph with train.exact = 4"),
        (["train.exact=4"], "cpu", 1, 23_450, "eager", "auto: no compile with train.exact = 4"),
        (["train.micro_batch=99"], "cpu", 1, 23_450, "eager", "auto: no compile with train.micro_batch = 99, since"),
        (["train.micro_batch=63"], "cuda", 2, 60_000, "eager", "auto: no graph with train.micro_batch = 63, since"),
        (["train.micro_batch=64"], "cuda", 2, 60_000, "graph", "auto: fastest on CUDA"),
        (["train.engine=compile"], "cpu", 2, 1, "compile", "as asked for"),
    ],
)
def test_the_engine_is_chosen_and_the_reason_said(
    settings: list[str], device: str, world_size: int, steps: int, name: str, words: str
) -> None:
    choice = choose(load(None, settings).train, device, world_size, total_steps=steps)
    assert choice.name == name
    assert choice.why.startswith(words)
    assert choice.compiles == (name != "eager" and "do not repay" not in choice.why)


def test_a_compiler_that_fails_is_named_where_it_was_asked_for_and_done_without_where_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compile_badly(loss: object, **settings: object) -> Callable[..., None]:
        def fail(*arguments: object) -> None:
            raise RuntimeError("no C++ compiler\nwas found\nand much more")

        return fail

    monkeypatch.setattr(torch, "compile", compile_badly)
    try:
        with pytest.raises(InputError, match=r"train.engine = 'compile': torch.compile failed: RuntimeError: no C\+\+"):
            build("train.engine=compile")
        monkeypatch.setattr("vae.assemble.choose", lambda *_, **__: Choice("compile", "auto", compiles=True))
        _, engine = build("train.engine=auto")
        assert engine.name == "eager"
        assert engine.why == "auto: no compile: torch.compile failed: RuntimeError: no C++ compiler was found"
        engine.advance(0, 1)
    finally:
        launch.leave()


@pytest.mark.parametrize(("leaves", "ranks"), [(n, w) for n in range(1, 25) for w in range(1, n + 1) if n % w == 0])
def test_the_tree_of_sums_is_the_same_whoever_owns_the_leaves(leaves: int, ranks: int) -> None:
    rows = torch.randn(leaves, 50, generator=torch.Generator().manual_seed(leaves))
    own = [sum_own(part) for part in rows.split(leaves // ranks)]
    assert torch.equal(sum_tree(torch.cat(own)), sum_tree(rows))
    torch.testing.assert_close(sum_tree(rows).double(), rows.double().sum(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["train.exact=4", "train.precision=fp16"], "not with train.precision=fp16"),
        (
            ["train.exact=4", "train.engine=compile"],
            "train.engine = 'compile': with train.exact = 4; use eager or auto",
        ),
        (["train.engine=graph"], "train.engine = 'graph': on a CPU: it needs a CUDA device; use eager or auto"),
        (
            ["train.micro_batch=7", "train.engine=compile"],
            "train.engine = 'compile': with train.micro_batch = 7, since its steps have all 20 examples at once; use",
        ),
    ],
)
def test_what_cannot_go_together_is_refused(settings: list[str], words: str) -> None:
    config = load(None, [*SETTINGS, *settings])
    accelerator = launch.make_accelerator("cpu", "no", {})
    try:
        vae = assemble.build_model(config, (1, 6, 6))
        with pytest.raises(InputError, match=words):
            assemble.build_engine(config, accelerator, vae, assemble.build_objective(config), batches())
    finally:
        launch.leave()


def on_two_ranks(folder: Path, *arguments: str) -> list[str]:
    """Return the text that each of two ranks has written."""
    done = on_ranks(2, ROOT / "tests/helpers/programs/engine.py", folder, *arguments)
    assert done.code == 0, done.err
    return [(folder / rank).read_text() for rank in ("0", "1")]


def test_gradients_that_are_not_synchronised_are_noticed_on_both_ranks(tmp_path: Path) -> None:
    for answer in on_two_ranks(tmp_path, "unsynchronised"):
        assert "gradients are not synchronised: their norms differ between ranks" in answer


@pytest.mark.parametrize("setting", ["train.exact=0", "train.exact=4", "train.engine=compile"])
def test_a_fault_on_one_rank_stops_both_before_the_update(setting: str, tmp_path: Path) -> None:
    expected = "step 3: not finite: reconstruction, kl weights True"
    assert on_two_ranks(tmp_path, "fault", "train.on_nonfinite=stop", setting) == [expected] * 2


@pytest.mark.parametrize("setting", ["train.exact=0", "train.exact=4", "train.micro_batch=3"])
def test_a_fault_on_one_rank_is_skipped_by_both_and_counted_once(setting: str, tmp_path: Path) -> None:
    expected = "skipped 1 of 6, 100 examples, finite True"
    assert on_two_ranks(tmp_path, "fault", "train.on_nonfinite=skip", setting) == [expected] * 2
