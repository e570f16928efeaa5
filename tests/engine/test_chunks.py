"""Chunks of a batch: the gradient of the whole, the memory of one, and a way out where there is too little of it."""

import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from tests.helpers import ROOT
from tests.helpers.pieces import build_model, combinations, named, refused
from tests.helpers.programs.combinations import COUNT, SHAPE, gradients_alone, whole_batch
from tests.helpers.runs import rows
from tests.helpers.starts import SMALL, Outcome, arguments, on_ranks
from vae import assemble
from vae.components import build
from vae.config import load
from vae.data.dataset import HIDDEN, DataSet, Split
from vae.distributed import launch
from vae.distributed.peers import Peers
from vae.engine.gradients import AllReduced
from vae.engine.memory import naming_a_way_out
from vae.errors import OutOfMemory
from vae.evaluation import HeldOut, embedding, measure_latents, pictures
from vae.model import VAE, VAEOutput
from vae.objectives import OBJECTIVES, Objective, Scheduled, Terms, negative_elbo

TABLES = ("posterior", "prior", "likelihood", "hierarchy")
EXACT = 1e-12  # float64, of the largest number of a weight's gradient


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    yield launch.make_accelerator("cpu", "no", {})
    launch.leave()


@pytest.mark.parametrize("pieces", [one for table in TABLES for one in combinations(table)], ids=named)
def test_chunks_have_the_gradient_of_the_whole_batch_for_every_piece_and_objective(
    pieces: dict[str, Any], accelerator: Accelerator
) -> None:
    vae = build_model(pieces, SHAPE, hidden_dim=8, depth=1).double()
    for name in [each for each in OBJECTIVES if not refused(pieces, each)]:
        objective = build(OBJECTIVES, name)
        batch = whole_batch(vae, objective)
        expected = gradients_alone(vae, objective, batch)
        for most in (1, 3, COUNT + 1):
            gradients = AllReduced(accelerator, vae, objective, examples=COUNT, micro_batch=most)
            (found, nats), _ = gradients(batch, objective.at(1.0))
            for one, other in zip(expected, found, strict=True):
                assert (one - other).abs().max() <= EXACT * one.abs().max(), (name, most)
            assert nats.isfinite().all()


def test_chunks_of_hidden_and_given_labels_have_the_gradient_of_the_whole_batch(accelerator: Accelerator) -> None:
    vae = build_model({"condition": True, "infer_labels": True}, SHAPE, hidden_dim=8, depth=1).double()
    objective = build(OBJECTIVES, "SemiSupervised")
    batch = replace(whole_batch(vae, objective), labels=torch.tensor([HIDDEN, 0, 2, HIDDEN, 1]))
    expected = gradients_alone(vae, objective, batch)
    for most in (1, 2):
        gradients = AllReduced(accelerator, vae, objective, examples=COUNT, micro_batch=most)
        (found, _), _ = gradients(batch, objective.at(1.0))
        for one, other in zip(expected, found, strict=True):
            assert (one - other).abs().max() <= EXACT * one.abs().max()


class Twice(Objective):
    """A loss that gathers twice; `chained`: the second time what depends on the first."""

    across_examples = True

    def __init__(self, *, chained: bool):
        self.chained = chained

    def terms(self, output: VAEOutput, x: Tensor, now: Scheduled, peers: Peers) -> Terms:
        bound, z = negative_elbo(output, x), output.latents[0].z
        others = peers.gather(z)
        kls = peers.gather(bound.kl - others.mean() if self.chained else bound.kl)
        near = (z[:, None] - others).square().sum(-1).neg().exp()
        return Terms(bound.loss + (near * kls).sum(1), bound.reconstruction, bound.kl)


@pytest.mark.parametrize("chained", [False, True])
def test_a_loss_may_gather_several_times_and_what_depends_on_gathered_numbers_is_not_wrong_in_silence(
    chained: bool, accelerator: Accelerator
) -> None:
    vae, objective = build_model({}, SHAPE, hidden_dim=8, depth=1).double(), Twice(chained=chained)
    batch = whole_batch(vae, objective)
    (found, nats), _ = AllReduced(accelerator, vae, objective, examples=COUNT, micro_batch=2)(batch, {})
    for one, other in zip(gradients_alone(vae, objective, batch), found, strict=True):
        assert other.isnan().all() if chained else (one - other).abs().max() <= EXACT * one.abs().max()
    assert bool(nats[0].isfinite()) == (not chained)


class Watch:
    """Counts the images in each pass of a network, and the earlier passes of which something is still in memory."""

    def __init__(self, network: nn.Module):
        self.sizes, self.most_kept, self._alive = list[int](), 0, list[weakref.ref[Tensor]]()
        network.register_forward_hook(self._note)

    def _note(self, network: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        self.most_kept = max(self.most_kept, sum(each() is not None for each in self._alive))
        self.sizes.append(len(given[0]))
        self._alive.append(weakref.ref(made))


@pytest.mark.parametrize("objective", ["ELBO", "IWAE", "BetaTCVAE"])
@pytest.mark.parametrize("exact", [0, 3])
def test_neither_training_nor_evaluation_has_more_at_once_nor_keeps_an_earlier_chunk(
    objective: str, exact: int, accelerator: Accelerator
) -> None:
    if exact and OBJECTIVES[objective].across_examples:
        return
    settings = [f"objective={objective}", f"train.exact={exact}", "train.micro_batch=3", "train.batch_size=20"]
    config = load(None, ["model.hidden_dim=8", "data.val_size=1", *settings])
    split = Split(torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(0)), None)
    data = DataSet("random", split, split)
    vae, loss = assemble.build_model(config, data.image_shape), assemble.build_objective(config)
    batches = assemble.build_batches(config, data, vae, loss, accelerator.device)
    engine = assemble.build_engine(config, accelerator, vae, loss, batches)
    watch = Watch(vae.encoder)
    engine.advance(0, 1)
    times = 3 if loss.across_examples else 1  # looks at each chunk
    parts = [6, 7, 7] if exact else [20]
    one_look = [size for part in parts for size in [3] * (part // 3) + [part % 3] if size]
    assert watch.sizes == one_look * times
    assert watch.most_kept == 0
    watch.sizes.clear()
    HeldOut(accelerator, vae, data.test, seed=0, split="test").evaluate()
    measure_latents(vae, data.test, seed=0)
    embedding(vae, data)
    assert watch.sizes == ([3] * 16 + [2]) * 3
    watch.sizes.clear()
    shown = pictures(vae, data.test, 0)
    assert {name: len(images) for name, images in shown.items()} == {
        "Originals": 50,
        "Reconstructions": 50,
        "Samples": 64,
    }
    assert max(watch.sizes) == 3


def test_the_numbers_and_pictures_of_an_evaluation_do_not_depend_on_what_is_taken_at_once(
    accelerator: Accelerator,
) -> None:
    vae = VAE(image_shape=(1, 4, 4), hidden_dim=8, condition=True, classes=3).double()
    images = torch.rand(70, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    part = Split(images, torch.arange(70) % 3)
    found = []
    for most in (0, 9):
        vae.most_at_once = most
        numbers = HeldOut(accelerator, vae, part, seed=0, split="test").evaluate().numbers()
        found.append(({name: value for name, value in numbers.items() if value is not None}, pictures(vae, part, 0)))
    (whole, shown), (parts, shown_in_parts) = found
    assert parts == pytest.approx(whole, rel=1e-12)
    for name, images in shown.items():
        torch.testing.assert_close(shown_in_parts[name], images, rtol=1e-12, atol=1e-12)


def test_a_run_that_is_cut_off_goes_on_to_the_bit_and_may_take_fewer_at_once(
    job: Callable[..., Outcome], small: Path, tmp_path: Path
) -> None:
    """In chunks of 20 of 64 examples, or of 20 and then of 9; between them the run ends in the middle of an epoch."""
    settings = [*SMALL, f"data.name={small}", "train.precision=fp64", "train.log_every=2", "train.eval_every=0"]
    starts = {"whole": [(10, 20)], "cut": [(6, 20), (10, 20)], "whole batch": [(10, 0)], "fewer": [(6, 20), (10, 9)]}
    for name, parts in starts.items():
        for steps, most in parts:
            ends = [f"train.max_steps={steps}", f"train.micro_batch={most}"]
            done = job(*settings, f"run.dir={tmp_path / name}", *ends)
            assert done.code == 0, done.err
            assert "10 steps of 64 images (9 at once in a process), 1 process" in done.out or most != 9
    weights = {name: (tmp_path / name / "model" / "model.safetensors").read_bytes() for name in starts}
    assert weights["whole"] == weights["cut"]
    logged = {name: rows(tmp_path / name, timeless=True) for name in starts}
    trained = {name: [row for row in each if row["split"] == "train"] for name, each in logged.items()}
    assert trained["whole"] == trained["cut"]
    for name in ("whole", "fewer"):
        for row, expected in zip(trained[name], trained["whole batch"], strict=True):
            assert row.pop("split") == "train"
            assert row == pytest.approx({key: value for key, value in expected.items() if key != "split"}, rel=1e-10)


@pytest.mark.parametrize(
    ("most", "words"),
    [
        (
            0,
            "train.micro_batch = 0: out of memory with 64 examples at once; the same command with train.micro_batch=32",
        ),
        (8, "train.micro_batch = 8: out of memory with 8 examples at once; the same command with train.micro_batch=4"),
        (1, "train.micro_batch = 1: out of memory with one example at once; take a smaller model"),
    ],
)
def test_too_little_memory_is_one_line_with_the_way_out(most: int, words: str) -> None:
    train = load(None, [f"train.micro_batch={most}"]).train
    with pytest.raises(OutOfMemory, match=words) as caught, naming_a_way_out(train, share=64):
        torch.empty(2**59)  # more than any machine has
    assert "tried to allocate 2305843009213693952 bytes" in str(caught.value)
    with pytest.raises(OutOfMemory, match=words), naming_a_way_out(train, share=64):
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ..."
        )
    with pytest.raises(RuntimeError, match=r"^of another kind$"), naming_a_way_out(train, share=64):
        raise RuntimeError("of another kind")


@pytest.mark.skipif(sys.platform != "linux", reason="sets a limit of Linux's")
def test_a_rank_without_memory_ends_with_one_line_and_the_other_one_names_it(tmp_path: Path) -> None:
    script = ROOT / "tests/helpers/programs/short_of_memory.py"
    done = on_ranks(
        2, script, 1, *arguments("train.batch_size=60000", "model.hidden_dim=8", f"run.dir={tmp_path / 'run'}")
    )
    assert done.codes == (1, 1)
    other, short = done.ranks
    found = "out of memory with 30,000 examples at once; the same command with train.micro_batch=15000 goes on"
    assert f"train_ddp.py: train.micro_batch = 0: {found}" in short.line
    assert "rank 1" in other.err
    assert "Traceback" not in done.err
