"""evaluation.json, and files like it: a run's evaluations side by side, and which of them may be compared."""

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
        protocol: how it was made: with another it is another evaluation, not to be compared with this one.
        checkpoint: `file` and `sha256` of the weights.
        results: by name; nats, unless something else is said.
        made: when, on what, how long it took, with which versions.
    """

    protocol: Protocol
    checkpoint: Mapping[str, str]
    results: Mapping[str, Any]
    made: Mapping[str, Any]

    def is_of(self, protocol: Protocol, checkpoint: Mapping[str, str]) -> bool:
        """Whether it was made in this way of these weights."""
        return self.protocol == protocol and self.checkpoint == checkpoint


PARTS = tuple(Kept.__dataclass_fields__)


def checkpoint_of(folder: Path) -> dict[str, str]:
    """Return the name and the sha256 of the final weights of a run, which must be there."""
    return {"file": f"{MODEL}/{WEIGHTS}", "sha256": sha256_of(folder / MODEL / WEIGHTS)}


def read(folder: Path, name: str = EVALUATION) -> list[Kept]:
    """Return the evaluations that a run's folder keeps in a file, oldest first; none if there is no such file.

    Raises:
        InputError: it holds something else.
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
    """Return the evaluation that a run's folder keeps of these weights, made in this way, if there is one."""
    return next((one for one in read(folder, name) if one.is_of(protocol, checkpoint)), None)


def keep(folder: Path, new: Kept, name: str = EVALUATION) -> None:
    """Add an evaluation to a run's, in the place of one that is of the same weights and made in the same way, if any.

    Raises:
        InputError: the file cannot be read or written.
    """
    with _alone(folder):
        others = [each for each in read(folder, name) if not each.is_of(new.protocol, new.checkpoint)]
        entries = [{part: getattr(each, part) for part in PARTS} for each in [*others, new]]
        text = json.dumps({"format": FORMAT, "evaluations": entries}, indent=1, allow_nan=False)
        write_text(folder / name, text + "\n")


def log_likelihoods(folder: Path, draw: int) -> dict[int, float]:
    """Return log p(x) of the test set by K, nats, as far as it has been estimated with the weights that there are now.

    Args:
        folder: of a finished run.
        draw: the seed of 0/1 pixels, where pixels are drawn: the run's own.

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
    """Raise `InputError` now rather than after hours of work, if a folder cannot take or does not hold evaluations."""
    with _alone(folder):
        read(folder, name)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes from changing such a file meanwhile; raises `InputError` if it cannot be written."""
    try:
        with FileLock(folder / LOCK):
            yield
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}; copy the run to where it can be") from None


def comparable(protocol: Protocol) -> dict[str, Any]:
    """Return what evaluations must have in common to be compared: all, but for the family of a normalised likelihood.

    What its numbers measure, probabilities of what or which density, decides.
    """
    free = {"likelihood"} if protocol["measure"] != NOT_NORMALISED else set()
    return {key: value for key, value in protocol.items() if key not in free}


def differing(protocols: Sequence[Protocol]) -> list[str]:
    """Return `key = one value or another` for each key in which protocols differ."""
    keys = dict.fromkeys(key for protocol in protocols for key in protocol)
    values = {key: list(dict.fromkeys(json.dumps(each.get(key)) for each in protocols)) for key in keys}
    return [f"{key} = {' or '.join(found)}" for key, found in values.items() if len(found) > 1]
