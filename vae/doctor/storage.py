"""Checks of the run folder: it can be written, has room, and is the same for all ranks. Nothing is left behind."""

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from accelerate.utils import broadcast_object_list

from vae.config import differences
from vae.doctor.findings import Context, Finding, failure, ok, warning
from vae.errors import InputError
from vae.run.contents import CONFIG
from vae.run.needs import read_config
from vae.training.sinks import SINKS

COPIES = 3  # of each weight in a checkpoint: itself and AdamW's two moments; an average is one more
CHECKPOINTS = 3  # two are kept while a third is written
LOGS = 64 * 2**20  # bytes: metrics, TensorBoard, figures
PROBE = ".doctor-"
SECONDS_TO_APPEAR = 5.0  # network file systems remember for a while what was not there


def check_folder(context: Context) -> Finding | None:
    """Check that a file can be written, synced, locked and removed at the run folder (main process only)."""
    if context.rank:
        return None
    place = nearest_existing(context.folder)
    where = f"{context.folder} on {file_system(place.resolve())}" + (
        "" if place == context.folder else " (not there yet)"
    )
    try:
        with _probe(place) as (path, _):
            locks = _can_lock(path)
    except OSError as error:
        return failure(f"{where}: cannot be written ({error.strerror})", "set run.dir to a folder that you may write")
    if not locks:
        return warning(f"{where}: writable, but without flock", "see to it that no two jobs use one run.name")
    return ok(f"{where}: writable, locks work")


def check_run(context: Context) -> Finding | None:
    """Check that a run which the folder holds can be continued with these settings (main process only)."""
    if context.rank or not (context.folder / CONFIG).exists():
        return None
    altering, _ = differences(read_config(context.folder), context.config)
    if altering:
        problem = f"{context.folder} holds a run with other settings ({'; '.join(altering)})"
        return failure(problem, "keep to its settings, or choose another run.name")
    return ok(f"{context.folder} holds a run with these settings, which would be continued")


def check_trackers(context: Context) -> Finding | None:
    """Check that the packages of the run's trackers are installed (main process only)."""
    if context.rank:
        return None
    names = [tracker["name"] for tracker in context.config.run.trackers]
    for name in names:
        SINKS[name].must_exist()
    return ok(", ".join(names) or "none but metrics.jsonl")


def check_space(context: Context) -> Finding | None:
    """Check that the free space is enough for the files of the run (main process only)."""
    if context.rank or context.model is None:
        return None
    with contextlib.suppress(InputError):  # the check of the folder has said so
        place = nearest_existing(context.folder)
        weights = sum(p.numel() * p.element_size() for p in context.model.parameters())
        keeps_best, averages = context.config.data.val_size > 0, context.config.optim.ema > 0
        return judge_space(shutil.disk_usage(place).free, needed(weights, keeps_best=keeps_best, averages=averages))
    return None


def needed(weights: int, *, keeps_best: bool, averages: bool) -> int:
    """Return the bytes that a run takes on the disk, from those of its weights."""
    return ((CHECKPOINTS + keeps_best) * (COPIES + averages) + 1 + averages) * weights + LOGS


def judge_space(free: int, need: int) -> Finding:
    """Return the finding for the free bytes: twice the need is `ok`, since others may write too."""
    text = f"{_size(free)} free, the run takes about {_size(need)}"
    advice = "make room, or set run.dir to another disk"
    return failure(text, advice) if free < need else warning(text, advice) if free < 2 * need else ok(text)


def check_sharing(context: Context) -> Finding:
    """Check that all ranks can read a file that rank 0 writes beside the run folder (all ranks)."""
    assert context.accelerator is not None
    if context.accelerator.num_processes == 1:
        return ok("one process: nothing to share")
    with contextlib.ExitStack() as stack:
        offered: list[tuple[str, str] | None] = [None]
        if context.accelerator.is_main_process:
            with contextlib.suppress(OSError):  # the check of the folder has said so
                path, token = stack.enter_context(_probe(nearest_existing(context.folder)))
                offered = [(str(path), token)]
        broadcast_object_list(offered)
        seen = offered[0] is not None and _appears(Path(offered[0][0]), offered[0][1])
        context.accelerator.wait_for_everyone()  # before rank 0 removes it
    if offered[0] is None:
        return failure("rank 0 cannot write beside the run folder", "set run.dir")
    if not seen:
        advice = "put run.dir on a file system that all machines share, and start all processes in one folder"
        return failure(f"{context.host} does not see what rank 0 writes for {context.folder}", advice)
    return ok("all ranks see what rank 0 writes")


def nearest_existing(folder: Path) -> Path:
    """Return the folder, or the one above it that is there; raises `InputError` if it is a file."""
    place = next(path for path in (folder, *folder.parents) if path.exists() or path == path.parent)
    if not place.is_dir():
        raise InputError(f"{folder}: cannot be made: {place} is a file; set run.dir")
    return place


def file_system(path: Path) -> str:
    """Return the type of file system that holds an absolute path, e.g. `nfs4`."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return "an unknown file system"
    holding = [(target, kind) for _, target, kind, *_ in mounts if path.is_relative_to(target)]
    return max(enumerate(holding), key=lambda entry: (len(entry[1][0]), entry[0]))[1][1]  # the last mount hides others


@contextlib.contextmanager
def _probe(folder: Path) -> Iterator[tuple[Path, str]]:
    """Give a file with a random token in it, on the disk; removed afterwards."""
    token = secrets.token_hex(16)
    descriptor, name = tempfile.mkstemp(prefix=PROBE, dir=folder)
    path = folder / Path(name).name  # relative where the folder is: the ranks' working directories may differ
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(token)
            stream.flush()
            os.fsync(stream.fileno())
        path.chmod(0o644)
        yield path, token
    finally:
        Path(name).unlink()


def _can_lock(path: Path) -> bool:
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def _appears(path: Path, token: str) -> bool:
    until = time.monotonic() + SECONDS_TO_APPEAR
    while True:
        with contextlib.suppress(OSError):
            if path.read_text() == token:
                return True
        if time.monotonic() > until:
            return False
        time.sleep(0.2)


def _size(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"
