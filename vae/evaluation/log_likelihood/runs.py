"""`python -m vae evaluate`: evaluates finished runs, keeps the results, and compares those of one protocol."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator

from vae.distributed import launch
from vae.distributed.signals import StopRequest
from vae.distributed.watchdog import Watchdog
from vae.errors import InputError
from vae.evaluation import results_file
from vae.evaluation.log_likelihood.evaluator import PreparedRun, Request, assess, prepare
from vae.evaluation.log_likelihood.importance import COLUMNS
from vae.evaluation.log_likelihood.progress import CONTINUES, Progress, watching
from vae.evaluation.log_likelihood.text import in_full, table, title
from vae.evaluation.log_likelihood.unfinished import UnfinishedEvaluation
from vae.evaluation.results_file import Kept, Protocol
from vae.run.contents import EVALUATION
from vae.run.finished import must_be_finished
from vae.run.settings import find


@dataclass(frozen=True)
class Resources:
    """Devices, signals, batch size: they never change the numbers.

    Attributes:
        environment: `os.environ`, in which a launcher describes the process.
        stop: notes signals.
        device: `auto`, `cpu` or `cuda`.
        at_once: draws in one pass; None: as many as fit in memory.
        again: whether to repeat evaluations that a run keeps already.
    """

    environment: Mapping[str, str]
    stop: StopRequest
    device: str = "auto"
    at_once: int | None = None
    again: bool = False


def start(resources: Resources, stopped: str) -> tuple[Accelerator, Watchdog, Progress]:
    """Start the processes of an evaluation, and the watch over them (all ranks); `stopped` is said after a signal."""
    accelerator = launch.make_accelerator(resources.device, "no", resources.environment)
    launch.set_threads(0, resources.environment)
    launch.warn_if_crowded(accelerator, resources.environment, "OMP_NUM_THREADS=1")
    watchdog = watching(accelerator, resources.environment)
    return accelerator, watchdog, Progress(accelerator, resources.stop, watchdog, stopped)


def evaluate_runs(paths: Sequence[Path], request: Request, resources: Resources) -> Iterator[str]:
    """Evaluate finished runs, one after another, and yield the lines to print (all ranks).

    Args:
        paths: run folders, or folders of runs.
        request: the evaluation that all runs get.
        resources: device, signals, batch size.

    Raises:
        InputError: a run cannot be evaluated, or several not by one protocol: found before any is evaluated.
        Stopped: a signal has come; complete evaluations are kept, and of this one the images that are done.
    """
    if resources.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: this machine has no CUDA device; use auto or cpu")
    prepared = prepare(find(paths), request)
    must_agree({run.folder: run.protocol for run in prepared})
    accelerator, watchdog, progress = start(resources, CONTINUES)
    found: dict[Path, Kept] = {}
    with watchdog.guarding():
        for run in prepared:
            launch.on_main(accelerator, partial(results_file.must_be_writable, run.folder))
        yield title([run.protocol for run in prepared])
        for run in prepared:
            look = partial(results_file.known, run.folder, run.protocol, run.checkpoint)
            known = None if resources.again else launch.on_main(accelerator, look)
            unfinished = UnfinishedEvaluation(accelerator, run.folder, COLUMNS, run.protocol, run.checkpoint)
            yield f"{run.folder}: {'evaluated already' if known else _begins(unfinished)}"
            result = found[run.folder] = known or _evaluated(
                accelerator, run, request, progress, unfinished, resources.at_once
            )
            launch.on_main(accelerator, unfinished.remove)
            yield from in_full(result)
            yield f"  in {run.folder / EVALUATION}"
    if len(found) > 1:
        yield from table(found)


def compare_runs(paths: Sequence[Path], wanted: Protocol) -> Iterator[str]:
    """Yield a table for each protocol by which all of these runs have been evaluated with the weights they have now.

    Args:
        paths: run folders, or folders of runs.
        wanted: the values that keys of the protocol must have, e.g. of `samples`.

    Raises:
        InputError: a run has not been evaluated so, or there is no protocol that all have in common.
    """
    found = {folder: _kept_by(folder, wanted) for folder in find(paths)}
    first, *others = found.values()
    wanted_by_all = [one for one in first if all(_alike(one, other) for other in others)]
    if not wanted_by_all:
        must_agree({folder: evaluations[-1].protocol for folder, evaluations in found.items()})
    for one in wanted_by_all:
        alike = {folder: kept_here for folder, each in found.items() if (kept_here := _alike(one, each))}
        yield title([each.protocol for each in alike.values()])
        yield from table(alike)


def must_agree(protocols: Mapping[Path, Protocol]) -> None:
    """Raise `InputError` unless there is only one protocol: numbers of different ones are not compared."""
    if different := results_file.differing([results_file.comparable(protocol) for protocol in protocols.values()]):
        hint = "give what belongs together, or see --draw, --samples, --split, --seed"
        raise InputError(f"{', '.join(map(str, protocols))}: not one protocol: {'; '.join(different)}; {hint}")


def _begins(unfinished: UnfinishedEvaluation) -> str:
    known = len(unfinished.places)
    return f"evaluating; {known:,} images are known from before" if known else "evaluating"


def _evaluated(
    accelerator: Accelerator,
    run: PreparedRun,
    request: Request,
    progress: Progress,
    unfinished: UnfinishedEvaluation,
    at_once: int | None,
) -> Kept:
    """Evaluate the images of a run that are missing, and keep the result in its folder (all ranks)."""
    try:
        result = assess(accelerator, run, request, progress, unfinished, at_once)
    except torch.OutOfMemoryError:
        raise InputError(
            "--batch: so many draws at once do not fit in the device's memory; give a smaller one"
        ) from None
    launch.on_main(accelerator, partial(results_file.keep, run.folder, result))
    return result


def _kept_by(folder: Path, wanted: Protocol) -> list[Kept]:
    """Return the evaluations of a run whose protocol has the wanted values; raises `InputError` if there is none."""
    must_be_finished(folder)
    checkpoint = results_file.checkpoint_of(folder)
    current = [one for one in results_file.read(folder) if one.checkpoint == checkpoint]
    found = [one for one in current if all(one.protocol.get(key) == value for key, value in wanted.items())]
    if not found:
        asked = ", ".join(f"{key} = {value}" for key, value in wanted.items())
        which = f" with {asked}" if current and asked else ""
        raise InputError(f"{folder}: keeps no evaluation of its weights{which}; python -m vae evaluate {folder}")
    return found


def _alike(one: Kept, evaluations: Sequence[Kept]) -> Kept | None:
    """Return the evaluation that may be compared with `one`, if there is one."""
    wanted = results_file.comparable(one.protocol)
    return next((other for other in evaluations if results_file.comparable(other.protocol) == wanted), None)
