"""The three optimiser updates against torch's own AdamW, and which weights decay."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from vae import assemble
from vae.config import load
from vae.distributed import launch
from vae.engine.update import CompilableAdamW, FusedAdamW, LossScaledAdamW, Settings, Update

SHAPES = [(3, 4), (3,), (), (2, 3)]
DECAYS = [0.3, 0.0, 0.0, 0.3]  # the weights of a group are not side by side
STEPS, SKIPPED, MAX_NORM = 12, 4, 1.5


def loss_scaled(*arguments: object) -> Update:
    return LossScaledAdamW(launch.make_accelerator("cpu", "no", {}), *arguments)  # pyright: ignore[reportArgumentType]


KINDS: dict[str, Callable[..., Update]] = {
    "fused": FusedAdamW,
    "compilable": CompilableAdamW,
    "loss scaled": loss_scaled,
}


@pytest.fixture(autouse=True)
def leaving() -> Iterator[None]:
    yield
    launch.leave()


def weights() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


def gradients(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step + 1)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


def lr(step: int) -> float:
    return 0.1 / (1 + step)


def advance(update: Update, steps: range) -> None:
    """Make updates; the gradients of one step are not finite, and the step is left out."""
    for step in steps:
        own = [gradient * torch.nan for gradient in gradients(step)] if step == SKIPPED else gradients(step)
        skip = ~update.clip(own).isfinite()
        if not (isinstance(update, LossScaledAdamW) and skip):  # there Accelerate's scaler leaves it out
            update(own, skip, torch.tensor(lr(step), dtype=torch.float64))


@pytest.mark.parametrize(("betas", "eps"), [((0.9, 0.999), 1e-8), ((0.0, 0.9), 1e-2), ((0.99, 0.5), 1.0)])
@pytest.mark.parametrize("kind", KINDS)
def test_an_update_is_that_of_torchs_class_with_groups(kind: str, betas: tuple[float, float], eps: float) -> None:
    expected = weights()
    groups = [{"params": expected[0::3], "weight_decay": 0.3}, {"params": expected[1:3], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=betas, eps=eps, fused=False, foreach=False)
    for step in range(STEPS):
        if step != SKIPPED:
            for weight, gradient in zip(expected, gradients(step), strict=True):
                weight.grad = gradient
            torch.nn.utils.clip_grad_norm_(expected, MAX_NORM)
            for group in optimizer.param_groups:
                group["lr"] = lr(step)
            optimizer.step()
    update = KINDS[kind](weights(), MAX_NORM, Settings(DECAYS, betas, eps))
    advance(update, range(STEPS))
    for weight, other in zip(update.parameters, expected, strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-6, atol=1e-9)  # a fused update reads float32 numbers


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_goes_on_in_any_other_kind_of_update(kind: str) -> None:
    """Moments belong to the position of a weight, whatever group the weight is in."""
    settings = Settings(DECAYS, (0.8, 0.9), 1e-4)
    first = KINDS[kind](weights(), MAX_NORM, settings)
    advance(first, range(STEPS // 2))
    state = {
        place: {name: moment.detach().clone() for name, moment in moments.items()}
        for place, moments in first.state_dict().items()
    }
    others = [make([weight.clone() for weight in first.parameters], MAX_NORM, settings) for make in KINDS.values()]
    for other in others:
        other.load_state_dict(state)
        advance(other, range(STEPS // 2, STEPS))
    advance(first, range(STEPS // 2, STEPS))
    for other in others:
        for weight, expected in zip(other.parameters, first.parameters, strict=True):
            torch.testing.assert_close(weight, expected, rtol=1e-6, atol=1e-9)


def test_matrices_alone_decay_where_that_is_asked_for() -> None:
    """A list by hand: every kind of layer and of own parameter that a model may have."""
    settings = [
        "model.latent_dim=4", "model.hidden_dim=16", "model.encoder={name: ConvEncoder, normalization: group}",
        "model.decoder=ConvDecoder", "model.prior={name: VampPrior, pseudo_inputs: 3}",
        "model.posterior=InverseAutoregressiveFlow", "model.likelihood=NormalLearnedStd",
    ]  # fmt: skip
    loaded = load(None, [*settings, "optim.decayed=matrices", "optim.weight_decay=0.25", "optim.betas=[0.5, 0.75]"])
    accelerator = launch.make_accelerator("cpu", "no", {})
    vae = assemble.build_model(loaded, (1, 8, 8))
    update = assemble.build_update(loaded, accelerator, vae, "eager")
    names = [name for name, _ in vae.named_parameters()]
    decays = dict(zip(names, update.settings.weight_decay, strict=True))
    alone = {name for name, decay in decays.items() if decay == 0}
    assert (update.settings.betas, update.settings.eps) == ((0.5, 0.75), 1e-8)
    assert set(decays.values()) == {0.0, 0.25}
    assert {name for name in names if name.endswith("bias")} < alone
    vectors = {name for name, weight in vae.named_parameters() if weight.dim() < 2}
    assert alone - vectors == {"prior.raw"}  # the pseudo-inputs
    assert vectors <= alone
    everything = assemble.build_update(load(None, settings), accelerator, vae, "eager")
    assert set(everything.settings.weight_decay) == {0.01}
