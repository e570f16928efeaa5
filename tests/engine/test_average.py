"""The average of the weights against torch's own, in each engine, and what leaves it alone."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vae import assemble
from vae.config import load
from vae.data.batches import TrainingBatches
from vae.distributed import launch
from vae.engine import Engine
from vae.engine.eager import Eager
from vae.model import VAE
from vae.training.snapshot import Snapshot

IMAGES = torch.rand(50, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SETTINGS = ["model.hidden_dim=8", "train.precision=fp64", "train.batch_size=20", "train.on_nonfinite=skip"]
CODES = ["model.posterior={name: VectorQuantized, codes: 5, code_dim: 2}", "objective=VectorQuantization"]
CODES += ["model.prior=UniformCodes", "model.latent_dim=4"]


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("vae.engine.static.compiled", lambda function, *_, **__: function)
    yield
    launch.leave()


def build(*settings: str) -> tuple[VAE, Engine]:
    config = load(None, [*SETTINGS, *settings])
    vae = assemble.build_model(config, (1, 6, 6))
    batches = TrainingBatches(IMAGES, batch_size=20, noise_dim=vae.noise_dim, seed=0, dtype=torch.float64)
    accelerator = launch.make_accelerator("cpu", "no", {})
    return vae, assemble.build_engine(config, accelerator, vae, assemble.build_objective(config), batches)


def copies(model: VAE) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], weight) for name, weight in other.items())


@pytest.mark.parametrize("engine", ["eager", "compile"])
@pytest.mark.parametrize("decay", [0.05, 0.8])
def test_it_is_torchs_average_with_a_decay_that_grows(engine: str, decay: float) -> None:
    """With 0.05 the decay is whole from the beginning on; with 0.8 from step 35 on, for 9 of 35 is more than 0.2."""
    vae, trained = build(f"optim.ema={decay}", f"train.engine={engine}")
    average, raw = trained.models(vae)
    assert raw is vae
    witness = AveragedModel(vae)
    witness.update_parameters(vae)  # the first update copies
    for step in range(60):
        witness.multi_avg_fn = get_ema_multi_avg_fn(min(decay, (1 + step) / (10 + step)))
        trained.advance(step, step + 1)
        witness.update_parameters(vae)
    for weight, expected in zip(average.parameters(), witness.module.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-12, atol=1e-14)
    apart = max((a - b).abs().max().item() for a, b in zip(average.parameters(), vae.parameters(), strict=True))
    assert apart > 1e-5


def test_without_it_the_model_that_is_trained_is_the_one_that_is_reported() -> None:
    vae, engine = build("optim.ema=null")
    assert engine.models(vae) == (vae, None)


@pytest.mark.parametrize("engine", ["eager", "compile"])
def test_an_update_that_is_left_out_changes_no_average(engine: str) -> None:
    vae, trained = build("optim.ema=0.9", f"train.engine={engine}")
    average, _ = trained.models(vae)
    for step in range(4):
        trained.advance(step, step + 1)
    before, raw = copies(average), copies(vae)
    good = trained.batches.images[:].clone()
    trained.batches.images.fill_(math.nan)
    trained.advance(4, 5)
    assert same(copies(average), before)
    assert same(copies(vae), raw)
    trained.batches.images.copy_(good)
    trained.advance(5, 6)
    assert not same(copies(average), before)
    assert trained.drain().skipped == 1


def test_codes_are_the_trained_models_own_in_the_average_and_copied_once_in_a_snapshot() -> None:
    vae, engine = build(*CODES, "optim.ema=0.9")
    assert isinstance(engine, Eager)
    average, raw = engine.models(vae)
    assert raw is vae
    before = copies(average)
    for step in range(3):
        engine.advance(step, step + 1)
    buffers = dict(vae.named_buffers())
    assert buffers.keys() == dict(average.named_buffers()).keys() != set()
    assert any(not torch.equal(before[name], buffer) for name, buffer in buffers.items())
    snapshot = Snapshot(average, vae)
    snapshot.take({})
    snapshot.wait()
    for model in (average, *snapshot.models):
        assert same(dict(model.named_buffers()), buffers)
    for name, buffer in snapshot.models[0].named_buffers():
        assert buffer is dict(snapshot.models[1].named_buffers())[name]
        assert buffer is not buffers[name]
    assert same(copies(snapshot.models[0]), copies(average))
    assert same(copies(snapshot.models[1]), copies(vae))
