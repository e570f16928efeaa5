"""Records of a run: TensorBoard, metrics.jsonl, the progress bar. On all ranks but the main one, calls do nothing."""

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor
from torch.utils.tensorboard.summary import histogram, hparams, text
from torch.utils.tensorboard.writer import SummaryWriter
from tqdm import tqdm

from vae.canvas import tile
from vae.config import Config, flatten
from vae.config.schema import NOT_A_SETTING
from vae.distributed.launch import on_main
from vae.engine import Interval
from vae.errors import InputError
from vae.evaluation import Evaluation, LatentMeasures
from vae.run.contents import METRICS, TENSORBOARD
from vae.training.records import Board, Journal, cut, outwait_event_files

SPRITE_SIZE = 32  # pixels a side, at most: browsers take no larger canvas than some 8,000, and there are 45 on a side


class Stopwatch:
    """Seconds spent on training, and on what.

    Args:
        device: whose queued work is waited for before a pause.
        seconds: to start from, when a run is continued.
        lap_started: what the watch showed when the lap began that is continued.
        spent: seconds by purpose, to add to.
    """

    def __init__(
        self,
        device: torch.device,
        seconds: float = 0.0,
        lap_started: float = 0.0,
        spent: dict[str, float] | None = None,
    ):
        self.device, self._seconds, self.lap_started = device, seconds, lap_started
        self.spent: dict[str, float] = {} if spent is None else spent
        self._started: float | None = time.perf_counter()  # None: paused

    @property
    def seconds(self) -> float:
        """Seconds of training until now."""
        return self._seconds + (0.0 if self._started is None else time.perf_counter() - self._started)

    def lap(self) -> float:
        """Return the seconds since the last call."""
        now = self.seconds
        passed, self.lap_started = now - self.lap_started, now
        return passed

    @contextlib.contextmanager
    def counting(self, purpose: str) -> Iterator[None]:
        """Add the seconds meanwhile to those of a purpose; the watch goes on."""
        started = time.perf_counter()
        yield
        self.spent[purpose] = self.spent.get(purpose, 0.0) + time.perf_counter() - started

    @contextlib.contextmanager
    def paused(self, purpose: str) -> Iterator[None]:
        """Stop the watch meanwhile, and add the seconds to those of a purpose."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._seconds, self._started = self.seconds, None
        with self.counting(purpose):
            yield
        self._started = time.perf_counter()


class Tracker:
    """Writes what the run measures; `with Tracker(...) as tracker:` closes everything however the run ends.

    Args:
        accelerator: starts the TensorBoard tracker on the main process.
        folder: the run folder.
        step: updates made already; records of later steps, left by a run that was cut off, are removed.
        total_steps: of the whole run, for the progress bar.
    """

    def __init__(self, accelerator: Accelerator, folder: Path, *, step: int, total_steps: int):
        self.enabled = accelerator.is_main_process
        on_main(accelerator, lambda: self._open(accelerator, folder, step))
        if self.enabled:
            self.bar = tqdm(
                total=total_steps, initial=step, unit="step", disable=None, dynamic_ncols=True, smoothing=0.05
            )

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *_: object) -> None:
        if self.enabled:
            self.bar.close()
            self.journal.close()
            self.board.close()

    def _open(self, accelerator: Accelerator, folder: Path, step: int) -> None:
        resumed = (folder / METRICS).exists()
        writer_settings: dict[str, Any] = {"flush_secs": 30}
        if resumed:
            writer_settings["purge_step"] = step + 1  # TensorBoard drops later steps of the run that was cut off
        accelerator.project_configuration.logging_dir = str(folder)
        try:
            if resumed:
                cut(folder / METRICS, step)
            outwait_event_files(folder / TENSORBOARD)
            self.journal = Journal(folder / METRICS, self.warn)
            accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": writer_settings})
        except OSError as error:
            raise InputError(f"{folder}: cannot be written: {error.strerror}; make room or set run.dir") from None
        self.board = Board(cast(SummaryWriter, accelerator.get_tracker("tensorboard", unwrap=True)), self.warn)

    def advance(self, steps: int) -> None:
        """Move the progress bar."""
        if self.enabled:
            self.bar.update(steps)

    def say(self, line: str) -> None:
        """Print a line above the progress bar."""
        if self.enabled:
            tqdm.write(line)

    def warn(self, sentence: str) -> None:
        """Print a warning to stderr, above the progress bar."""
        if self.enabled:
            tqdm.write(f"warning: {sentence}", file=sys.stderr)

    def log_training(
        self, interval: Interval, *, step: int, epoch: float, beta: float, lr: float, images_per_second: float
    ) -> None:
        """Record the means since the last logging point."""
        if not self.enabled:
            return
        if interval.skipped:
            self.board.add("scalar", "SkippedSteps/Train", interval.skipped, step)
        if not interval.examples:
            self.say(f"step {step}: all {interval.skipped} steps since the last line were skipped: not finite")
            return
        row = {"loss": interval.loss, "reconstruction": interval.reconstruction, "kl": interval.kl}
        self._write_row(
            "train", step, epoch, row, beta=beta, lr=lr, grad_norm=interval.grad_norm,
            images_per_second=images_per_second, skipped=interval.skipped, **interval.extra,
        )  # fmt: skip
        self._write_scalars("Train", row, step)
        for name, value in interval.extra.items():
            self.board.add("scalar", f"Loss/Train/{name}", value, step)
        self.board.add("scalar", "KL/beta", beta, step)
        self.board.add("scalar", "GradNorm/Train", interval.grad_norm, step)
        self.board.add("scalar", "LearningRate", lr, step)
        self.board.add("scalar", "ImagesPerSecond", images_per_second, step)
        shown = {key: f"{value:.1f}" for key, value in row.items()}
        self.bar.set_postfix(shown | {"img/s": f"{images_per_second:,.0f}"}, refresh=False)

    def log_evaluation(
        self, split: str, result: Evaluation, *, step: int, epoch: float, beta: float, lr: float, collapsed: bool
    ) -> None:
        """Record an evaluation; `split` is `test` or `val`, `collapsed` whether too few dimensions are active."""
        if not self.enabled:
            return
        row = {"loss": result.loss, "reconstruction": result.reconstruction, "kl": result.kl}
        bits = {} if result.bits_per_dim is None else {"bits_per_dim": result.bits_per_dim}
        accuracy = {} if result.accuracy is None else {"accuracy": result.accuracy}
        self._write_row(
            split, step, epoch, row, beta=beta, lr=lr,
            reconstruction_mean_z=result.reconstruction_mean_z, examples=result.examples, **bits,
            **accuracy, active_units=result.latents.active, **result.latents.of_codes,
            kl_by_dimension=result.latents.kl, collapsed=collapsed,
        )  # fmt: skip
        self._write_scalars(split.capitalize(), row, step)
        self.board.add("scalar", f"Loss/{split.capitalize()}/BCE_at_mean_z", result.reconstruction_mean_z, step)
        self._add_latents("Latents" if split == "test" else f"Latents/{split.capitalize()}", result.latents, step)
        loss = f"loss {result.loss:.2f} (reconstruction {result.reconstruction:.2f} + KL {result.kl:.2f} nats)"
        for name, value in bits.items():
            self.board.add("scalar", f"Loss/{split.capitalize()}/{name}", value, step)
            loss += f", {value:.4f} bits per dimension"
        for share in accuracy.values():
            self.board.add("scalar", f"Accuracy/{split.capitalize()}", share, step)
            loss += f", accuracy {share:.2%}"
        active = f"{result.latents.active} of {len(result.latents.variance)} active"
        active += "".join(f", perplexity of the codes {value:.1f}" for value in result.latents.of_codes.values())
        self.say(f"epoch {epoch:6.2f}  {split} {loss}, {active}")

    def remark(self, sentence: str, step: int) -> None:
        """Say something that deserves notice, above the progress bar and among TensorBoard's texts."""
        if self.enabled:
            self.warn(sentence)
            self.board.add("summary", "", text("Latents/Collapse", sentence), step)

    def log_images(self, images: dict[str, Tensor], step: int) -> None:
        """Record images (N, C, H, W) in [0, 1] under `Test/<name>`."""
        if not self.enabled:
            return
        for name, batch in images.items():
            columns = math.isqrt(len(batch) - 1) + 1
            self.board.add("canvas", f"Test/{name}", tile(batch.float().cpu().numpy(), columns=columns, gap=2), step)

    def log_hyperparameters(self, config: Config, results: dict[str, float], step: int) -> None:
        """Record settings and final results for TensorBoard's HPARAMS page, once, at the end.

        Args:
            config: what may differ between runs of one setting is left out, except for the seed.
            results: by name; with those of other runs they make the columns of the page.
            step: updates made.
        """
        if not self.enabled:
            return
        settings = {key: value for key, value in flatten(config).items() if key not in NOT_A_SETTING}
        plain = {key: value if isinstance(value, (int, float, str)) else str(value) for key, value in settings.items()}
        # without the first, a list of columns, TensorBoard makes one from all runs, with what differs at the front
        _, *summaries = hparams(plain, {})
        # a step that a start which repeats the end of the run tells TensorBoard to forget
        for summary in summaries:
            self.board.add("summary", "", summary, step + 1)
        for name, value in results.items():
            self.board.add("scalar", f"Final/{name}", value, step + 1)

    def log_embedding(self, means: Tensor, images: Tensor, names: list[str] | None, step: int) -> None:
        """Record codes with their images for TensorBoard's projector, once for a step; never raises for want of room.

        Args:
            means: E[z|x] (N, D).
            images: (N, 1 or 3, H, W) in [0, 1].
            names: of the images' classes.
            step: updates made.
        """
        if not self.enabled:
            return
        sprites = images.float().cpu()
        if max(sprites.shape[-2:]) > SPRITE_SIZE:
            sprites = F.interpolate(sprites, size=(SPRITE_SIZE, SPRITE_SIZE), mode="area")
        points = F.pad(means.double().cpu(), (0, max(0, 3 - means.shape[1])))  # the projector shows nothing of fewer
        try:
            self.board.embed(points.numpy().round(4), names, sprites, step)  # as text
        except OSError as error:
            self.warn(f"the embedding for TensorBoard's projector is not written ({error.strerror})")

    def flush(self) -> None:
        """Write everything out, down to the disk, so that no checkpoint is ahead of it; raises OSError."""
        if self.enabled:
            self.journal.flush()
            self.board.flush()

    def _add_latents(self, name: str, latents: LatentMeasures, step: int) -> None:
        self.board.add("scalar", f"{name}/ActiveUnits", latents.active, step)
        for value in latents.of_codes.values():
            self.board.add("scalar", f"{name}/Perplexity", value, step)
        finite = np.array([nats for nats in latents.kl or () if math.isfinite(nats)])
        if finite.size:  # one picture for any number of dimensions
            self.board.add("summary", "", histogram(f"{name}/KL", finite, "auto"), step)

    def _write_row(self, split: str, step: int, epoch: float, row: dict[str, float], **more: Any) -> None:
        self.journal.append({"split": split, "step": step, "epoch": epoch, **row, **more})

    def _write_scalars(self, name: str, row: dict[str, float], step: int) -> None:
        self.board.add("scalar", f"Loss/{name}", row["loss"], step)
        self.board.add("scalar", f"Loss/{name}/BCE", row["reconstruction"], step)
        self.board.add("scalar", f"Loss/{name}/KLD", row["kl"], step)
