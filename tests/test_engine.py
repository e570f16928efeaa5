"""The training step: against plain torch, and what all ranks do when one of them has a fault."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from tests.conftest import ROOT, environment
from vae import assemble, launch
from vae.config import load
from vae.data.batches import TrainingBatches
from vae.engine import Engine
from vae.model import VAE

IMAGES = torch.rand(50, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SETTINGS = ["model.hidden_dim=16", "train.precision=fp64", "train.batch_size=20", "objective.beta={name: LinearWarmup}"]


def batches() -> TrainingBatches:
    return TrainingBatches(IMAGES, batch_size=20, latent_dim=2, seed=0, dtype=torch.float64)


@pytest.fixture
def engine() -> Iterator[Engine]:
    config = load(None, SETTINGS)
    accelerator = launch.make_accelerator("cpu", "no", {})
    vae = assemble.build_model(config, (1, 6, 6))
    model, optimizer = accelerator.prepare(vae, assemble.build_optimizer(config, vae))
    yield assemble.build_engine(config, accelerator, model, assemble.build_objective(config), optimizer)
    launch.leave()


def test_a_step_is_what_plain_torch_does(engine: Engine) -> None:
    """The article's loop written out: mean over the batch, clip, AdamW, with autograd's own formulas."""
    model = VAE(image_shape=(1, 6, 6), hidden_dim=16).double()
    assert isinstance(engine.model, VAE)
    model.load_state_dict(engine.model.state_dict())
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
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        optimizer.step()
        losses.append(loss.item() * len(batch.x))
        engine.step(batch, step, source.progress(step))
    for name, weight in engine.model.state_dict().items():
        torch.testing.assert_close(weight, model.state_dict()[name], rtol=1e-9, atol=1e-12)
    interval = engine.drain()
    assert interval.loss == pytest.approx(sum(losses) / 150, rel=1e-10)
    assert interval.grad_norm == pytest.approx(sum(norms) / 9, rel=1e-10)
    assert (interval.examples, interval.skipped) == (150, 0)


def test_draining_starts_anew(engine: Engine) -> None:
    source = batches()
    engine.step(source(0), 0, 0.0)
    first = engine.drain()
    engine.step(source(1), 1, 0.4)
    second = engine.drain()
    assert first.examples == second.examples == 20
    assert first.loss != second.loss


def test_sums_survive_a_change_of_world_size(engine: Engine) -> None:
    source = batches()
    engine.step(source(0), 0, 0.0)
    state = engine.state_dict()
    parts = torch.cat([state["sums"] * 0.25, state["sums"] * 0.75])  # as two ranks would have saved them
    expected = engine.drain()
    engine.load_state_dict(state | {"sums": parts})
    assert engine.drain() == expected


def test_the_learning_rate_follows_its_schedule(engine: Engine) -> None:
    from vae.schedules import LinearWarmup

    engine.lr_schedule = LinearWarmup(epochs=2.0)
    engine.step(batches()(0), 0, 1.0)
    assert engine.optimizer.param_groups[0]["lr"] == pytest.approx(0.5e-3)


def on_two_ranks(*arguments: str) -> list[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    variables = {key: value for key, value in environment().items() if key != "PYTHONWARNINGS"}
    variables |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    script = ROOT / "tests" / "engine_on_two_ranks.py"
    done = subprocess.run(
        [*command, str(script), *arguments], env=variables, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return sorted(line for line in done.stdout.splitlines() if line.startswith("rank "))


def test_gradients_that_are_not_synchronised_are_noticed_on_both_ranks() -> None:
    lines = on_two_ranks("unsynchronised")
    assert len(lines) == 2
    assert all("gradients are not synchronised: their norms differ between ranks" in line for line in lines)


def test_a_fault_on_one_rank_stops_both_before_the_update() -> None:
    expected = "step 3: not finite: reconstruction, kl weights True"
    assert on_two_ranks("fault", "stop") == [f"rank 0: {expected}", f"rank 1: {expected}"]


def test_a_fault_on_one_rank_is_skipped_by_both_and_counted_once() -> None:
    expected = "skipped 1 of 6, 100 examples, finite True"
    assert on_two_ranks("fault", "skip") == [f"rank 0: {expected}", f"rank 1: {expected}"]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "fp64"])
def test_training_on_a_gpu_reads_nothing_back_between_logging_points(precision: str) -> None:
    config = load(None, [*SETTINGS, f"train.precision={precision}"])
    accelerator = launch.make_accelerator("cuda", assemble.MIXED_PRECISION[precision], {})
    try:
        vae = assemble.build_model(config, (1, 6, 6))
        model, optimizer = accelerator.prepare(vae, assemble.build_optimizer(config, vae))
        engine = assemble.build_engine(config, accelerator, model, assemble.build_objective(config), optimizer)
        source = TrainingBatches(
            IMAGES.float().cuda(), batch_size=20, latent_dim=2, seed=0, dtype=assemble.DTYPES[precision]
        )
        source(0)  # an epoch's order and noise are copied to the device once
        engine.step(source(0), 0, 0.0)
        torch.cuda.set_sync_debug_mode("error" if precision != "fp16" else "default")  # the scaler's step must wait
        engine.step(source(1), 1, 0.0)
        engine.step(source(2), 2, 0.0)
        torch.cuda.set_sync_debug_mode("default")
        assert torch.isfinite(torch.tensor(engine.drain().loss))
    finally:
        torch.cuda.set_sync_debug_mode("default")
        launch.leave()
