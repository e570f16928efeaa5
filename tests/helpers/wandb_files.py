"""Reader of W&B's offline files: LevelDB's log format with W&B's protobuf records, of which wandb has no reader."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

HEADER, BLOCK = 7, 32 * 1024  # of the file and of each chunk alike; chunks lie in blocks
LAST_CHUNKS = (1, 4)  # a whole record, or the last part of one


def records(file: Path) -> Iterator[Any]:
    """Yield the records of an offline file, as far as they are whole."""
    data, at, parts = file.read_bytes(), HEADER, b""
    while at + HEADER <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEADER:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        if not kind:  # room that was never written
            return
        parts += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in LAST_CHUNKS:
            record: Any = wandb_internal_pb2.Record()  # pyright: ignore[reportAttributeAccessIssue] (generated)
            record.ParseFromString(parts)
            parts = b""
            yield record


def files_of(folder: Path) -> list[Path]:
    """Return the offline files of a run folder, in the order of its starts."""
    return sorted(folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda file: file.stat().st_ctime_ns)


def rows_of(file: Path) -> list[dict[str, Any]]:
    """Return the rows of curves in an offline file, `_step` among their keys."""
    return [_values(record.history.item) for record in records(file) if record.WhichOneof("record_type") == "history"]


def merged(file: Path, kind: str) -> dict[str, Any]:
    """Return the last `config` or `summary` of an offline file, its updates merged."""
    found = {}
    for record in records(file):
        if record.WhichOneof("record_type") == kind:
            found |= _values(getattr(record, kind).update)
        elif kind == "config" and record.WhichOneof("record_type") == "run":
            found |= _values(record.run.config.update)
    return found


def _values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
