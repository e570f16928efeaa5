"""TensorBoard's event files, through a disk that fills up, and the files of its projector."""

import contextlib
import shutil
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np
import torch.nn.functional as F
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue] (generated)
from torch import Tensor
from torch.utils.tensorboard import summary
from torch.utils.tensorboard.writer import FileWriter, SummaryWriter

from vae.canvas import png
from vae.run.contents import TENSORBOARD
from vae.training.sinks.base import Sink, Warn

EMBEDDING = "latents"  # its name in the projector
FLUSH_SECONDS = 30
SPRITE_SIZE = 32  # pixels a side, at most: browsers take no larger canvas than some 8,000, and there are 45 on a side


class TensorBoard(Sink):
    """Event files in the run's `tensorboard/`. After a failure, events since the last flush go into a new file.

    Args:
        folder: of the run.
        step: updates made; TensorBoard is told to forget later steps of a start that was cut off.
        warn: called with a sentence when events begin to wait.
    """

    def __init__(self, folder: Path, step: int, warn: Warn):
        self.folder, self._warn = folder / TENSORBOARD, warn
        self._since_flush: list[tuple[Summary, int]] = []
        self._failed = False
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="pictures")  # milliseconds for each
        self._encoding: list[Future[None]] = []
        self._lock = threading.Lock()  # the thread that writes checkpoints flushes while the main one records
        continued = any(self.folder.glob("events.out.tfevents.*"))
        self._writer = self._new_writer(purge_step=step + 1 if continued else None)

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Record one point of the curve `tag`."""
        self._add(summary.scalar(tag, value), step)

    def image(self, tag: str, canvas: np.ndarray, step: int) -> None:
        """Record a picture (H, W, 1 or 3) in [0, 1], which a thread encodes while the run goes on."""
        self._encoding.append(self._encoder.submit(self._encode, tag, canvas, step))

    def _encode(self, tag: str, canvas: np.ndarray, step: int) -> None:
        """Record a picture, encoded by `vae.canvas`: five times as fast as TensorBoard's."""
        height, width, channels = canvas.shape
        image = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png(canvas))
        self._add(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

    def histogram(self, tag: str, values: np.ndarray, step: int) -> None:
        """Record the distribution of values (N,)."""
        self._add(summary.histogram(tag, values, "auto"), step)

    def text(self, tag: str, sentence: str, step: int) -> None:
        """Record a sentence."""
        self._add(summary.text(tag, sentence), step)

    def hyperparameters(self, settings: Mapping[str, bool | float | str], step: int) -> None:
        """Record the run's settings for the HPARAMS page; scalars of other runs make its columns."""
        # without the first, a list of columns, TensorBoard makes one from all runs, with what differs at the front
        _, *summaries = summary.hparams(dict(settings), {})
        for each in summaries:
            self._add(each, step)

    def embedding(self, points: Tensor, images: Tensor, names: list[str] | None, step: int) -> None:
        """Write the files of the projector, once for a step; those of another step are removed.

        Args:
            points: (N, D).
            images: (N, 1 or 3, H, W) in [0, 1].
            names: of the points' classes.
            step: updates made.
        """
        try:
            self._write_embedding(points, images, names, step)
        except OSError as error:
            self._warn(f"the embedding for TensorBoard's projector is not written ({error.strerror})")

    def flush(self) -> None:
        """Write everything out; raises OSError if that fails."""
        encoding, self._encoding = self._encoding, []
        for picture in encoding:
            picture.result()
        with self._lock:
            try:
                if self._failed:
                    self._begin_new_file()
                self._writer.flush()
            except OSError as error:
                self._note(error)
                raise
            self._failed = False
            self._since_flush.clear()

    def close(self) -> None:
        """Close the file; what still waits is lost with the process."""
        self._encoder.shutdown()
        self._close()

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self._writer.close()

    def _add(self, event: Summary, step: int) -> None:
        with self._lock:
            self._since_flush.append((event, step))
            try:
                if not self._failed:
                    self._write(event, step)
            except OSError as error:
                self._note(error)

    def _write(self, event: Summary, step: int) -> None:
        cast(FileWriter, self._writer.file_writer).add_summary(event, step)

    def _begin_new_file(self) -> None:
        """Open another event file, which tells TensorBoard to forget the steps that it begins with, and fill it."""
        self._close()
        self._writer = self._new_writer(purge_step=self._since_flush[0][1] if self._since_flush else None)
        for event, step in self._since_flush:
            self._write(event, step)

    def _new_writer(self, purge_step: int | None) -> SummaryWriter:
        outwait_event_files(self.folder)
        return SummaryWriter(str(self.folder), purge_step=purge_step, flush_secs=FLUSH_SECONDS)

    def _note(self, error: OSError) -> None:
        if not self._failed:
            self._warn(f"TensorBoard's file cannot be written ({error.strerror}); its events are kept until it can")
        self._failed = True

    def _write_embedding(self, points: Tensor, images: Tensor, names: list[str] | None, step: int) -> None:
        index, place = self.folder / "projector_config.pbtxt", f"{step:05d}/{EMBEDDING}"
        if index.exists() and place in index.read_text():  # it is written last
            return
        index.unlink(missing_ok=True)
        for old in self.folder.glob(f"*/{EMBEDDING}"):  # perhaps half written
            shutil.rmtree(old.parent)
        at_least_3d = F.pad(points.double().cpu(), (0, max(0, 3 - points.shape[1])))  # it shows nothing of fewer
        rounded = at_least_3d.numpy().round(4)  # written as text
        self._writer.add_embedding(rounded, metadata=names, label_img=_sprites(images), global_step=step, tag=EMBEDDING)


def _sprites(images: Tensor) -> Tensor:
    """Return images as the projector takes them: square, small, on the CPU."""
    sprites = images.float().cpu()
    if max(sprites.shape[-2:]) > SPRITE_SIZE:
        sprites = F.interpolate(sprites, size=(SPRITE_SIZE, SPRITE_SIZE), mode="area")
    side, (height, width) = max(sprites.shape[-2:]), sprites.shape[-2:]
    return F.pad(sprites, (0, side - width, 0, side - height))


def outwait_event_files(folder: Path) -> None:
    """Wait until a new event file is read after those in `folder`; names, which tell the order, have whole seconds."""
    names = [path.name.split(".") for path in folder.glob("events.out.tfevents.*")]
    newest = max((int(parts[3]) for parts in names if parts[3].isdecimal()), default=0)
    if int(time.time()) == newest:
        time.sleep(newest + 1 - time.time())
