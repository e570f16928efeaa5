"""Files a run appends to, through a disk that fills up: what cannot be written now is kept and written later.

The thread that writes checkpoints flushes them while the main one adds to them, hence the locks.
"""

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch.nn.functional as F
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue] (generated)
from torch import Tensor
from torch.utils.tensorboard.writer import FileWriter, SummaryWriter

from vae.canvas import png
from vae.files import write_text

EMBEDDING = "latents"  # its name in TensorBoard's projector


class Journal:
    """A file of JSON lines. A line is there whole or not at all; those that find no room wait in memory.

    Args:
        path: the file; lines are added at its end.
        warn: called with a sentence when lines begin to wait.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]):
        self.path, self._warn = path, warn
        self._file = path.open("ab", buffering=0)
        self._waiting: list[bytes] = []
        self._lock = threading.Lock()

    def append(self, row: dict[str, Any]) -> None:
        """Add a line; never raises for want of room."""
        with self._lock:
            self._waiting.append(json.dumps(row).encode() + b"\n")
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
    """Remove the lines of a journal that belong to later steps, and a last line that was cut short."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if line.endswith("\n") and row["step"] <= step:
            kept.append(line)
    write_text(path, "".join(kept))


def outwait_event_files(folder: Path) -> None:
    """Wait until a new event file is read after those in `folder`; names, which tell the order, have whole seconds."""
    names = [path.name.split(".") for path in folder.glob("events.out.tfevents.*")]
    newest = max((int(parts[3]) for parts in names if parts[3].isdecimal()), default=0)
    if int(time.time()) == newest:
        time.sleep(newest + 1 - time.time())


class Board:
    """TensorBoard's event file. After a failure, what was added since the last flush goes into a new file.

    Args:
        writer: TensorBoard's writer.
        warn: called with a sentence when events begin to wait.
    """

    def __init__(self, writer: SummaryWriter, warn: Callable[[str], None]):
        self.writer, self._warn = writer, warn
        self._since_flush: list[tuple[str, str, Any, int]] = []
        self._failed = False
        self._lock = threading.Lock()

    def add(self, kind: str, tag: str, value: Any, step: int) -> None:
        """Add a `scalar`, a `canvas` (H, W, 1 or 3) in [0, 1] or a `summary`; never raises for want of room."""
        with self._lock:
            self._since_flush.append((kind, tag, value, step))
            try:
                if not self._failed:
                    self._write(kind, tag, value, step)
            except OSError as error:
                self._note(error)

    def embed(self, points: np.ndarray, names: list[str] | None, sprites: Tensor, step: int) -> None:
        """Write the files of the projector, once for a step; those of another step are removed.

        Args:
            points: (N, D).
            names: of the points' classes.
            sprites: images (N, 1 or 3, H, W) in [0, 1], on the CPU.
            step: updates made.

        Raises:
            OSError: they cannot be written.
        """
        folder = Path(self.writer.log_dir)
        index, place = folder / "projector_config.pbtxt", f"{step:05d}/{EMBEDDING}"
        if index.exists() and place in index.read_text():  # it is written last
            return
        index.unlink(missing_ok=True)
        for old in folder.glob(f"*/{EMBEDDING}"):  # perhaps half written
            shutil.rmtree(old.parent)
        side, (height, width) = max(sprites.shape[-2:]), sprites.shape[-2:]
        square = F.pad(sprites, (0, side - width, 0, side - height))  # the projector takes no others
        self.writer.add_embedding(points, metadata=names, label_img=square, global_step=step, tag=EMBEDDING)

    def flush(self) -> None:
        """Write everything out; raises OSError if that fails."""
        with self._lock:
            try:
                if self._failed:
                    self._begin_new_file()
                self.writer.flush()
            except OSError as error:
                self._note(error)
                raise
            self._failed = False
            self._since_flush.clear()

    def close(self) -> None:
        """Close the file; what still waits is lost with the process."""
        with contextlib.suppress(OSError):
            self.writer.close()

    def _write(self, kind: str, tag: str, value: Any, step: int) -> None:
        if kind == "scalar":
            self.writer.add_scalar(tag, value, step)
            return
        if kind == "canvas":
            height, width, channels = value.shape
            image = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png(value))
            value = Summary(value=[Summary.Value(tag=tag, image=image)])
        self.writer.get_logdir()  # opens the file if it is closed
        cast(FileWriter, self.writer.file_writer).add_summary(value, step)

    def _begin_new_file(self) -> None:
        """Open another event file, which tells TensorBoard to forget the steps that it begins with, and fill it."""
        self.close()
        outwait_event_files(Path(self.writer.log_dir))
        self.writer.file_writer = self.writer.all_writers = None
        if self._since_flush:
            self.writer.purge_step = self._since_flush[0][-1]
        for event in self._since_flush:
            self._write(*event)

    def _note(self, error: OSError) -> None:
        if not self._failed:
            self._warn(f"TensorBoard's file cannot be written ({error.strerror}); its events are kept until it can")
        self._failed = True
