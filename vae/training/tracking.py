"""Records of a run: metrics.jsonl, trackers, the console. On all ranks but the main one, calls do nothing.

A console that takes no lines, such as a log on a full disk, costs the run nothing but these lines.
"""

import contextlib
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from vae.bars import Pace
from vae.canvas import tile
from vae.components import build
from vae.config import Config, flatten
from vae.config.schema import NOT_A_SETTING
from vae.distributed.launch import on_main
from vae.engine import Interval
from vae.errors import InputError
from vae.evaluation import Evaluation
from vae.run.contents import METRICS, read_metrics
from vae.training.records import Lines, cut
from vae.training.sinks import SINKS, Sink
from vae.training.tags import Tags

# of an evaluation, beside its losses, in the order of a row
EVALUATED = ("reconstruction_mean_z", "examples", "bits_per_dim", "accuracy", "active_units", "perplexity")
# of a line about training, in its order; the terms of the objective follow
TRAINED = (
    "split", "step", "epoch", "loss", "reconstruction", "kl", "beta", "lr", "grad_norm", "images_per_second", "skipped",
)  # fmt: skip


class Stopwatch:
    """Seconds spent on training, and on each purpose beside it.

    Args:
        device: its queued work is waited for before a pause.
        seconds: to start from, when a run is continued.
        lap_started: seconds on the watch when the continued lap began.
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
    """Records a run; `with tracker:` opens the files of the run's folder, and closes everything however the run ends.

    Numbers go to metrics.jsonl, to the trackers of `run.trackers` and to the console, all from one row. Trackers that
    may refuse, for want of a package or a login, are opened by the constructor, before anything is written.

    Args:
        accelerator: says which process is the main one; on the others all calls do nothing.
        folder: the run folder.
        config: of the run: its trackers, and what their tags are called.
        step: updates made already; records of later steps, left by a run that was cut off, are removed.
        total_steps: of the whole run, for the progress bar and the time left.
    """

    def __init__(self, accelerator: Accelerator, folder: Path, config: Config, *, step: int, total_steps: int):
        self.enabled = accelerator.is_main_process
        self.config, self.tags, self._pace = config, Tags.of(config), Pace(total_steps)
        self.sinks: list[Sink] = []
        self._closing = contextlib.ExitStack()
        self._folder, self._step, self._total_steps = folder, step, total_steps
        on_main(accelerator, lambda: self._open_sinks(may_refuse=True))
        self._accelerator = accelerator

    def __enter__(self) -> "Tracker":
        on_main(self._accelerator, self._open_files)
        if self.enabled:
            self.bar = tqdm(
                total=self._total_steps, initial=self._step, unit="step", disable=None, dynamic_ncols=True,
                smoothing=0.05,
            )  # fmt: skip
            self._closing.callback(self.bar.close)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close everything that is open."""
        self._closing.close()

    def _open_files(self) -> None:
        """Open what lies in the run's folder."""
        metrics = self._folder / METRICS
        try:
            if metrics.exists():
                cut(metrics, self._step)
            self.metrics = Lines(metrics, self.warn)
            self._closing.callback(self.metrics.close)
            self._open_sinks(may_refuse=False)
            self._catch_up(metrics)
        except (InputError, OSError) as error:
            self.close()
            if isinstance(error, InputError):
                raise
            problem = f"cannot be written: {error.strerror}; make room or set run.dir"
            raise InputError(f"{self._folder}: {problem}") from None

    def _catch_up(self, metrics: Path) -> None:
        """Give trackers the curves that they lack: of a start that was killed, or all where the tracker is new."""
        for row in read_metrics(metrics):
            if behind := [sink for sink in self.sinks if sink.lacks(row["step"])]:
                split, extra = row["split"], [key for key in row if key not in TRAINED]
                tags = self.tags.of_training(extra) if split == "train" else self.tags.of_evaluation(split)
                for sink in behind:
                    sink.scalars({tag: row[key] for key, tag in tags.items() if key in row}, row["step"])

    def _open_sinks(self, *, may_refuse: bool) -> None:
        settings = plain(flatten(self.config))
        try:
            for spec in self.config.run.trackers:
                if SINKS[spec["name"]].may_refuse == may_refuse:
                    sink: Sink = build(SINKS, spec, self._folder, self._step, self.warn)
                    self.sinks.append(sink)
                    self._closing.callback(sink.close)
                    sink.configuration(settings)
                    if sink.place:
                        self.say(f"{spec['name']}: {sink.place}")
        except InputError:
            self.close()
            raise

    def advance(self, steps: int) -> None:
        """Move the progress bar."""
        if self.enabled:
            self.bar.update(steps)

    def say(self, line: str) -> None:
        """Print a line above the progress bar."""
        if self.enabled:
            with contextlib.suppress(OSError):
                tqdm.write(line)

    def warn(self, sentence: str) -> None:
        """Print a warning to stderr, above the progress bar."""
        if self.enabled:
            with contextlib.suppress(OSError):
                tqdm.write(f"warning: {sentence}", file=sys.stderr)

    def log_training(
        self, interval: Interval, *, step: int, epoch: float, beta: float, lr: float, images_per_second: float
    ) -> None:
        """Record the means since the last logging point; without a terminal, print a line about it once a minute."""
        if not self.enabled:
            return
        if interval.skipped:
            self._scalars({"SkippedSteps/Train": interval.skipped}, step)
        if not interval.examples:
            self.say(f"step {step}: all {interval.skipped} steps since the last line were skipped: not finite")
            return
        losses = {"loss": interval.loss, "reconstruction": interval.reconstruction, "kl": interval.kl}
        row = {
            "split": "train", "step": step, "epoch": epoch, **losses, "beta": beta, "lr": lr,
            "grad_norm": interval.grad_norm, "images_per_second": images_per_second, "skipped": interval.skipped,
            **interval.extra,
        }  # fmt: skip
        self._record(row, self.tags.of_training(list(interval.extra)))
        shown = {key: f"{value:.1f}" for key, value in losses.items()}
        self.bar.set_postfix(shown | {"img/s": f"{images_per_second:,.0f}"}, refresh=False)
        self._say_where(interval.loss, step, images_per_second)

    def log_evaluation(
        self, split: str, result: Evaluation, *, step: int, epoch: float, beta: float, lr: float, collapsed: bool
    ) -> None:
        """Record an evaluation.

        Args:
            split: `test` or `val`; `test_raw` or `val_raw`: with the raw weights, where the model's are averages.
            result: the evaluation.
            step, epoch: of the run.
            beta, lr: of the last update.
            collapsed: whether too few dimensions are active.
        """
        if not self.enabled:
            return
        numbers = {key: value for key, value in result.numbers().items() if value is not None}
        row = {
            "split": split, "step": step, "epoch": epoch,
            **{key: numbers[key] for key in ("loss", "reconstruction", "kl")}, "beta": beta, "lr": lr,
            **{key: numbers[key] for key in EVALUATED if key in numbers},
            "kl_by_dimension": result.latents.kl, "collapsed": collapsed,
        }  # fmt: skip
        self._record(row, self.tags.of_evaluation(split))
        finite = np.array([nats for nats in result.latents.kl or () if math.isfinite(nats)])
        if finite.size:  # one picture for any number of dimensions
            for sink in self.sinks:
                sink.histogram(f"{self.tags.latents(split)}/KL", finite, step)
        self.say(f"epoch {epoch:6.2f}  {split.replace('_', ' ')} {describe(result)}")

    def remark(self, subject: str, sentence: str, step: int) -> None:
        """Warn of something that deserves notice, and record the sentence under its subject, a tag."""
        if self.enabled:
            self.warn(sentence)
            for sink in self.sinks:
                sink.text(subject, sentence, step)

    def log_images(self, images: dict[str, Tensor], step: int) -> None:
        """Record images (N, C, H, W) in [0, 1] under `Test/<name>`."""
        if not self.enabled:
            return
        for name, batch in images.items():
            columns = math.isqrt(len(batch) - 1) + 1
            canvas = tile(batch.float().cpu().numpy(), columns=columns, gap=2)
            for sink in self.sinks:
                sink.image(f"Test/{name}", canvas, step)

    def log_results(self, test: dict[str, Any], active: int, step: int) -> None:
        """Record settings and final results, once, at the end, to compare runs by.

        Settings that may differ between runs of one setting are left out, except for the seed.

        Args:
            test: the numbers of the last evaluation, as summary.json has them.
            active: how many latent dimensions are active.
            step: updates made.
        """
        if not self.enabled:
            return
        settings = {key: value for key, value in flatten(self.config).items() if key not in NOT_A_SETTING}
        results = {tag: test[key] for key, tag in self.tags.of_results().items() if key in test}
        after = step + 1  # a start that repeats the end of the run removes what stands there
        for sink in self.sinks:
            sink.hyperparameters(plain(settings), after)
            sink.results({**results, "Final/active dimensions": active}, after)

    def log_embedding(self, means: Tensor, images: Tensor, names: list[str] | None, step: int) -> None:
        """Record codes with their images, once for a step.

        Args:
            means: E[z|x] (N, D).
            images: (N, 1 or 3, H, W) in [0, 1].
            names: of the images' classes.
            step: updates made.
        """
        if self.enabled:
            for sink in self.sinks:
                sink.embedding(means, images, names, step)

    def flush(self) -> None:
        """Write everything out, down to the disk, so that no checkpoint is ahead of it; raises OSError."""
        if self.enabled:
            self.metrics.flush()
            for sink in self.sinks:
                sink.flush()

    def _say_where(self, loss: float, step: int, images_per_second: float) -> None:
        """Print where the run is, if there is no bar to show it and the last such line is a minute ago."""
        if self.bar.disable and self._pace.due(step):
            speed, left = f"{images_per_second:,.0f} images/s", self._pace.left(step)
            self.say(f"step {step:,} of {self._pace.total:,}  loss {loss:.2f}, {speed}, {left}")

    def _record(self, row: dict[str, Any], tags: dict[str, str]) -> None:
        """Add a row to metrics.jsonl, and of each key that has a tag a point to its curve."""
        self.metrics.append(json.dumps(row))
        self._scalars({tag: row[key] for key, tag in tags.items() if key in row}, row["step"])

    def _scalars(self, values: dict[str, float], step: int) -> None:
        for sink in self.sinks:
            sink.scalars(values, step)


def plain(settings: Mapping[str, Any]) -> dict[str, bool | float | str]:
    """Return settings by dotted key as trackers take them: what is no number and no word becomes text."""
    return {key: value if isinstance(value, (int, float, str)) else str(value) for key, value in settings.items()}


def describe(result: Evaluation) -> str:
    """Return an evaluation as the console shows it."""
    line = f"loss {result.loss:.2f} (reconstruction {result.reconstruction:.2f} + KL {result.kl:.2f} nats)"
    if result.bits_per_dim is not None:
        line += f", {result.bits_per_dim:.4f} bits per dimension"
    if result.accuracy is not None:
        line += f", accuracy {result.accuracy:.2%}"
    line += f", {result.latents.active} of {len(result.latents.variance)} active"
    return line + "".join(f", perplexity of the codes {value:.1f}" for value in result.latents.of_codes.values())
