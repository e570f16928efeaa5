"""Files of lines that a run adds to, through a disk that fills up: lines without room are kept and written later.

The thread that writes checkpoints flushes a file while the main one adds to it, hence the lock.
"""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

from vae.files import write_text


class Lines:
    """A text file that lines are added to. A line is there whole or not at all; those that find no room wait in memory.

    Args:
        path: the file; lines are added at its end.
        warn: called with a sentence when lines begin to wait.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]):
        self.path, self._warn = path, warn
        self._file = path.open("ab", buffering=0)
        self._waiting: list[bytes] = []
        self._lock = threading.Lock()

    def append(self, line: str) -> None:
        """Add a line, its end not included; never raises for want of room."""
        with self._lock:
            self._waiting.append(f"{line}\n".encode())
            try:
                self._write()
            except OSError as error:
                if len(self._waiting) == 1:
                    self._warn(f"{self.path}: cannot be written ({error.strerror}); its lines are kept until it can")

    def flush(self) -> None:
        """Write what waits, down to the disk; raises OSError if that fails."""
        with self._lock:
            self._write()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; lines that still wait are lost with the process."""
        self._file.close()

    def _write(self) -> None:
        lines = b"".join(self._waiting)
        end = self._file.seek(0, 2)
        try:
            written = self._file.write(lines) or 0
            while written < len(lines):  # a disk takes what it has room for, then says why it takes no more
                written += self._file.write(lines[written:]) or 0
        except OSError:
            self._file.truncate(end)
            raise
        self._waiting.clear()


def cut(path: Path, step: int) -> None:
    """Remove the lines of a metrics.jsonl that belong to later steps, and a last line that was cut short."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if line.endswith("\n") and row["step"] <= step:
            kept.append(line)
    write_text(path, "".join(kept))
