"""Losses that look across examples: all ranks see the same global batch, and train what one process would."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.helpers import ROOT
from tests.helpers.programs.peers import BETWEEN, CHUNKS, COUNTS, SPECS, pairs, trained
from tests.helpers.starts import on_ranks
from vae.distributed import launch


@pytest.fixture(scope="module", params=[2, 3])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The findings of each of several ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    done = on_ranks(request.param, ROOT / "tests/helpers/programs/peers.py", folder)
    assert done.code == 0, done.err
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(request.param)]


@pytest.fixture(scope="module")
def alone() -> Iterator[dict[str, Any]]:
    """The training of one process with each objective."""
    accelerator = launch.make_accelerator("cpu", "no", {})
    yield {spec: trained(accelerator, spec) for spec in SPECS}
    launch.leave()


@pytest.mark.parametrize("count", COUNTS)
def test_gathered_examples_and_their_gradients_are_those_of_one_process(
    found: list[dict[str, Any]], count: int
) -> None:
    everyone = torch.linspace(-1, 2, count * 3, dtype=torch.float64).reshape(count, 3).sin().requires_grad_()
    loss = pairs(everyone, everyone).sum()
    (gradient,) = torch.autograd.grad(loss, everyone)
    ranks = [each["gathered"][count] for each in found]
    torch.testing.assert_close(sum(each["loss"] for each in ranks), loss.detach(), rtol=1e-13, atol=0)
    torch.testing.assert_close(torch.cat([each["gradient"] for each in ranks]), gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("most", CHUNKS)
@pytest.mark.parametrize("spec", SPECS)
def test_several_processes_train_the_same_model_as_one(
    found: list[dict[str, Any]], alone: dict[str, Any], spec: str, most: int
) -> None:
    """Two epochs in float64, the last batch of which is of one example, so that other ranks have none.

    The one process takes each batch as a whole, the several ones also in chunks, of which not all have equally many.
    """
    first, *others = [each["trained"][spec][most] for each in found]
    assert (first["weights"] - alone[spec]["weights"]).abs().max() < 1e-13
    assert first["logged"] == pytest.approx(alone[spec]["logged"], rel=1e-11)
    for each in others:
        assert torch.equal(each["weights"], first["weights"]), "ranks have drifted apart"
        assert each["logged"] == first["logged"]


@pytest.mark.parametrize("spec", BETWEEN)
def test_what_holds_for_the_global_batch_does_not_hold_for_each_share(
    found: list[dict[str, Any]], alone: dict[str, Any], spec: str
) -> None:
    """Else that ranks agree on free bits and on a capacity would say nothing."""
    assert (found[0]["by shares"][spec] - alone[spec]["weights"]).abs().max() > 1e-4


def test_objectives_train_different_models(alone: dict[str, Any]) -> None:
    """Else that they agree would say nothing."""
    weights = [each["weights"] for each in alone.values()]
    assert min((a - b).abs().max().item() for i, a in enumerate(weights) for b in weights[:i]) > 1e-5
