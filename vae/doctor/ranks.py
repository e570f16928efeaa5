"""Checks of all ranks together: they meet, agree, and add up. Each check is a collective, run by all ranks."""

import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from accelerate.utils import gather_object
from torch import Tensor, distributed

from vae import assemble, plugins
from vae.data.dataset import DataSet, Split
from vae.distributed.launch import cores, make_accelerator, set_threads
from vae.doctor.findings import Context, Finding, Peer, failure, ok, warning
from vae.doctor.machine import check_model
from vae.doctor.storage import check_sharing
from vae.engine import Engine
from vae.engine.memory import naming_a_way_out
from vae.errors import InputError
from vae.model import VAE
from vae.run.versions import versions

TIMEOUT = 30.0  # seconds a rank may keep the others waiting
CLOCKS_APART = 2.0  # seconds
SMALL_REPEATS, LARGE_REPEATS = 50, 10  # all-reduces to take the median of


def check_rendezvous(context: Context) -> Finding:
    """Check that the processes meet, without a device or precision that has been found impossible."""
    train, started = context.config.train, time.perf_counter()
    device = train.device if context.on_cuda else "cpu"
    precision = "no" if context.wants_impossible_fp16 else assemble.MIXED_PRECISION[train.precision]
    try:
        context.accelerator = make_accelerator(device, precision, context.environment, TIMEOUT, tf32=train.tf32)
    except InputError:
        raise
    except Exception as error:  # torch raises many kinds
        waited = (
            f"rank {context.rank} on {context.host} waited {time.perf_counter() - started:.0f} s at {context.place}"
        )
        advice = (
            f"start all {context.world_size} processes; MASTER_PORT must be free there, and every node must reach it"
        )
        return failure(f"{waited}: {first_line(error)}", advice)
    context.threads = set_threads(assemble.choose_threads(context.config), context.environment)
    if context.accelerator.num_processes == 1:
        return ok(f"one process on {context.host}: no group to form")
    backend, milliseconds = distributed.get_backend(), 1000 * (time.perf_counter() - started)
    return ok(f"{context.world_size} processes met at {context.place} by {backend} in {milliseconds:,.0f} ms")


def introduce(context: Context, findings: Sequence[Finding]) -> None:
    """Gather the facts of all ranks, and drop the data if they are not the same on each (all ranks)."""
    assert context.accelerator is not None
    fingerprint = context.data.fingerprint if context.data else None
    context.accelerator.wait_for_everyone()
    clock = time.time()
    me = Peer(context.rank, context.host, versions(), cores(), context.threads, clock, fingerprint, tuple(findings))
    context.peers = gather_object([me])
    if len({peer.fingerprint for peer in context.peers}) > 1:
        context.data = None
        check_model(context)  # of one size on all ranks


def check_ranks(context: Context) -> Finding:
    """Check that the ranks have the same software, data and time, and list their machines."""
    return judge_peers(context.peers)


def judge_peers(peers: Sequence[Peer]) -> Finding:
    """Return whether the ranks' software, data and clocks are the same."""
    names = {name for peer in peers for name in peer.versions}
    for name in sorted(names):
        values = {peer.rank: peer.versions.get(name, "none") for peer in peers}
        if len(set(values.values())) > 1:
            level = failure if name in ("torch", "vae", *plugins.versions()) else warning
            return level(f"{name} differs: {by_value(values)}", "give all nodes one environment")
    prints = {peer.rank: peer.fingerprint for peer in peers if peer.fingerprint is not None}
    if len(set(prints.values())) > 1:
        return failure(f"the data differ: {by_value(prints)}", "give all nodes the same files")
    apart = max(peer.clock for peer in peers) - min(peer.clock for peer in peers)
    hosts = by_value({peer.rank: peer.host for peer in peers})
    if apart > CLOCKS_APART:
        return warning(
            f"{hosts}; their clocks are {apart:.0f} s apart", "have the clocks set (NTP): logs would mislead"
        )
    same = "; same software, data and time" if len(peers) > 1 else ""
    return ok(hosts + same)


def by_value(values: Mapping[int, object]) -> str:
    """Return which ranks have which value, e.g. `node1 (ranks 0, 1), node2 (rank 2)`."""
    ranks: dict[object, list[int]] = defaultdict(list)
    for rank, value in values.items():
        ranks[value].append(rank)
    return ", ".join(f"{value} ({say_ranks(having)})" for value, having in ranks.items())


def say_ranks(ranks: Sequence[int]) -> str:
    """Return numbers of ranks in words, shortened where there are many."""
    shown = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}"


def check_threads(context: Context) -> Finding:
    """Check that the threads of a machine's processes are about as many as its cores."""
    return judge_threads(context.peers, chosen=bool(context.config.train.threads), on_cuda=context.on_cuda)


def judge_threads(peers: Sequence[Peer], *, chosen: bool, on_cuda: bool) -> Finding:
    """Return whether some machine's threads are too many or, on a CPU and not chosen by the user, far too few."""
    text = ""
    for host in dict.fromkeys(peer.host for peer in peers):
        here = [peer for peer in peers if peer.host == host]
        threads, there = sum(peer.threads for peer in here), len(frozenset[int]().union(*(peer.cores for peer in here)))
        line = f"{threads} threads of {len(here)} process{'es' if len(here) > 1 else ''} on {there} cores of {host}"
        if threads > there:
            way_out = f"train.threads={there // len(here)}" if there >= len(here) else f"{there} processes at most"
            return warning(line, f"they get in each other's way, several times slower: {way_out}")
        if 2 * threads <= there and not on_cuda and not chosen:
            return warning(line, f"cores are left idle: train.threads={there // len(here)}")
        text = text or line
    return ok(text)


def check_all_reduce(context: Context) -> Finding:
    """Check a sum over the ranks, and time it for one number and for the model's gradient."""
    assert context.accelerator is not None
    count, device = context.accelerator.num_processes, context.accelerator.device
    if count == 1:
        return ok("one process: nothing to add up")
    total = torch.tensor([context.accelerator.process_index + 1.0], device=device)
    distributed.all_reduce(total)
    expected = count * (count + 1) / 2
    if total.item() != expected:
        advice = "the network or its library is broken: try NCCL_DEBUG=INFO, or train.device=cpu to compare"
        return failure(f"the sum of rank + 1 is {total.item():g}, must be {expected:g}", advice)
    parameters = context.model.count_parameters() if context.model else 1
    gradient = torch.zeros(parameters, dtype=assemble.DTYPES[context.config.train.precision], device=device)
    small, large = _milliseconds(torch.zeros(1, device=device), SMALL_REPEATS), _milliseconds(gradient, LARGE_REPEATS)
    size = gradient.numel() * gradient.element_size() / 1e6
    return ok(f"right; {small:.2f} ms for one number, {large:.2f} ms for the gradient ({size:.1f} MB)")


def _milliseconds(tensor: Tensor, repeats: int) -> float:
    """Return the median duration of an all-reduce of this size (all ranks)."""
    durations = []
    for _ in range(repeats):
        started = time.perf_counter()
        distributed.all_reduce(tensor)
        if tensor.is_cuda:
            torch.cuda.synchronize()
        durations.append(time.perf_counter() - started)
    return 1000 * statistics.median(durations)


def check_gradients(context: Context) -> Finding:
    """Make one real training step, eagerly, and compare the gradient norms of the ranks."""
    if context.model is None:
        return failure("no model to train", "see above")
    engine, chosen = _one_step(context, context.model)
    norm = engine.update.grad_norm.item()
    if not engine.update.grad_norm.isfinite():
        return failure(f"the norm is {norm} in the first step", "look at the data, model.* and train.precision")
    try:
        engine.assert_ranks_agree()
    except RuntimeError as error:  # on all ranks alike
        return failure(str(error), "train through the prepared model only; DDP must see every parameter")
    same = ", the same on all ranks" if len(context.peers) > 1 else ""
    return ok(f"norm {norm:.4g} after one eager step{same}; a run takes engine {chosen}")


def _one_step(context: Context, model: VAE) -> tuple[Engine, str]:
    """Return an engine that has made a step, and in words the one that a run would take; raises `InputError`.

    The step is eager: compiling takes one rank seconds and another one minutes, longer than the others wait here.
    """
    accelerator, config = context.accelerator, context.config
    assert accelerator is not None
    data = context.data or _random_images(model.image_shape, model.classes)
    objective, rank = assemble.build_objective(config), accelerator.process_index
    parts = (config, data, model, objective, accelerator.device)
    batches = assemble.build_batches(*parts, rank, accelerator.num_processes)
    choice = assemble.choose_engine(config, objective, batches, accelerator.device.type, accelerator.num_processes)
    eagerly = config.model_copy(update={"train": config.train.model_copy(update={"engine": "eager"})})
    engine = assemble.build_engine(eagerly, accelerator, model, objective, batches)
    with naming_a_way_out(config.train, batches.rows):
        engine.advance(0, until=1)
    return engine, f"{choice.name} ({choice.why})"


def _random_images(shape: Sequence[int], classes: int) -> DataSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1024, *shape), dtype=torch.uint8, generator=generator)
    split = Split(images, torch.arange(len(images)) % classes if classes else None)
    return DataSet("random", split, split)


def first_line(error: BaseException) -> str:
    """Return what an exception says, in one line and not at length."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


CHECKS = {
    "ranks": check_ranks,
    "threads": check_threads,
    "all-reduce": check_all_reduce,
    "gradients": check_gradients,
    "shared folder": check_sharing,
}
