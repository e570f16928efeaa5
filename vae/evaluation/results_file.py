"""evaluation.json, quality.json, disentanglement.json: a run's evaluations, and the rule by which they are compared."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from vae.errors import InputError
from vae.families.likelihoods import NOT_NORMALISED
from vae.files import write_text
from vae.run.checkpoint import WEIGHTS, sha256_of
from vae.run.contents import EVALUATION, MODEL

FORMAT = 1
LOCK = ".evaluation.lock"

Protocol = Mapping[str, Any]


@dataclass(frozen=True)
class Kept:
    """One evaluation of one run.

    Attributes:
        protocol: evaluations with other protocols are not to be compared with this one.
        checkpoint: `file` and `sha256` of the weights.
        results: by name; nats, unless another unit is named.
        made: time, device, duration in seconds, versions of packages; of log p(x) also `taken_over`, the number of
            images that earlier attempts had evaluated: the others are those of the last attempt.
    """

    protocol: Protocol
    checkpoint: Mapping[str, str]
    results: Mapping[str, Any]
    made: Mapping[str, Any]

    def is_of(self, protocol: Protocol, checkpoint: Mapping[str, str]) -> bool:
        """Return true for an evaluation of these weights by this protocol."""
        return self.protocol == protocol and self.checkpoint == checkpoint


PARTS = tuple(Kept.__dataclass_fields__)


def checkpoint_of(folder: Path) -> dict[str, str]:
    """Return the name and the sha256 of the final weights of a run; the run must be finished."""
    return {"file": f"{MODEL}/{WEIGHTS}", "sha256": sha256_of(folder / MODEL / WEIGHTS)}


def read(folder: Path, name: str = EVALUATION) -> list[Kept]:
    """Return the evaluations that a run's folder keeps in a file, oldest first; none if there is no such file.

    Raises:
        InputError: the file holds something else.
    """
    path = folder / name
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise InputError(f"{path}: written by another version of this program; move it away")
        return [Kept(**{part: dict(entry[part]) for part in PARTS}) for entry in found["evaluations"]]
    except FileNotFoundError:
        return []
    except InputError:
        raise
    except (OSError, ValueError, TypeError, KeyError):
        raise InputError(f"{path}: not a list of evaluations; restore it, or move it away") from None


def known(folder: Path, protocol: Protocol, checkpoint: Mapping[str, str], name: str = EVALUATION) -> Kept | None:
    """Return the evaluation of these weights by this protocol that a run's folder keeps; None: there is none."""
    return next((one for one in read(folder, name) if one.is_of(protocol, checkpoint)), None)


def keep(folder: Path, new: Kept, name: str = EVALUATION) -> None:
    """Add an evaluation to those of a run; it replaces one of the same weights and protocol.

    Raises:
        InputError: the file cannot be read or written.
    """
    with _alone(folder):
        others = [each for each in read(folder, name) if not each.is_of(new.protocol, new.checkpoint)]
        entries = [{part: getattr(each, part) for part in PARTS} for each in [*others, new]]
        text = json.dumps({"format": FORMAT, "evaluations": entries}, indent=1, allow_nan=False)
        write_text(folder / name, text + "\n")


def log_likelihoods(folder: Path, draw: int) -> dict[int, float]:
    """Return the estimates of log p(x) of the test set with the present weights, nats, by their number of draws K.

    Args:
        folder: of a finished run.
        draw: the seed of the 0/1 pixels, where pixels are drawn: the run's own.

    Raises:
        InputError: evaluation.json is damaged.
    """
    evaluations = read(folder)
    if not evaluations:
        return {}
    now = checkpoint_of(folder)
    chosen = [
        each
        for each in evaluations
        if each.checkpoint == now and each.protocol["split"] == "test" and each.protocol["draw"] in (None, draw)
    ]
    return {each.protocol["samples"]: each.results["log_likelihood"] for each in chosen}


def must_be_writable(folder: Path, name: str = EVALUATION) -> None:
    """Raise `InputError` if evaluations cannot be kept in a folder: now rather than after hours of work."""
    with _alone(folder):
        read(folder, name)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder's evaluations; raises `InputError` if the folder cannot be written."""
    try:
        with FileLock(folder / LOCK):
            yield
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}; copy the run to where it can be") from None


def comparable(protocol: Protocol) -> dict[str, Any]:
    """Return the part of a protocol that two evaluations must share to be compared.

    It is the whole protocol but for the family of a normalised likelihood, whose `measure` decides.
    """
    free = {"likelihood"} if protocol["measure"] != NOT_NORMALISED else set()
    return {key: value for key, value in protocol.items() if key not in free}


def differing(protocols: Sequence[Protocol]) -> list[str]:
    """Return `key = value or other value` for each key in which protocols differ."""
    keys = dict.fromkeys(key for protocol in protocols for key in protocol)
    values = {key: list(dict.fromkeys(json.dumps(each.get(key)) for each in protocols)) for key in keys}
    return [f"{key} = {' or '.join(found)}" for key, found in values.items() if len(found) > 1]
