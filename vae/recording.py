"""What a run reports of itself, when, and what it leaves when it is finished."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from vae.config import Config, TrainConfig
from vae.data.batches import count_steps
from vae.data.sources import DataSet
from vae.distributed.signals import Stopped
from vae.engine import Engine, NonFiniteError
from vae.evaluation import (
    CollapseWatch,
    Evaluation,
    LatentMeasures,
    embedding,
    evaluate,
    measure_latents,
    pictures,
)
from vae.files import write_text
from vae.measures import kept
from vae.model import VAE
from vae.run import checkpoint
from vae.run.contents import MODEL, SUMMARY
from vae.run.state import RunState
from vae.saving import SaveError
from vae.tracking import Stopwatch, Tracker

FINAL_RESULTS = {"Loss": "loss", "Loss/BCE": "reconstruction", "Loss/KLD": "kl"}  # TensorBoard's name, summary.json's


@dataclass
class Recorder:
    """Reports how a run goes: how it learns, and what it is worth on held-out data.

    Attributes:
        accelerator: precision and reduction.
        config: the run's.
        data: what it is trained and evaluated on.
        vae: the unwrapped model.
        engine: whose steps are reported.
        state: how far the run is; what is found out is noted there.
        tracker: where it is written.
        watch: of the run.
        collapse: looks whether the latent dimensions are used.
    """

    accelerator: Accelerator
    config: Config
    data: DataSet
    vae: VAE
    engine: Engine
    state: RunState
    tracker: Tracker
    watch: Stopwatch
    collapse: CollapseWatch = field(init=False)

    def __post_init__(self) -> None:
        self.collapse = CollapseWatch(self.config.train.min_active, self.engine.objective.beta.ends_at)

    def report_training(self) -> None:
        """Record the means since the last time (all ranks); raises `NonFiniteError`."""
        interval = self.engine.drain()
        self.state.skipped += interval.skipped
        with self.watch.counting("logging"):
            self.tracker.log_training(interval, images_per_second=interval.examples / self.watch.lap(), **self._now())

    def report_evaluation(self) -> bool:
        """Evaluate on held-out data and record it (all ranks); returns whether this step is the best so far.

        Raises:
            NonFiniteError: an update was not finite, or the test loss is not.
        """
        self.engine.raise_faults()
        now = self._now()
        test = self._evaluate("test")
        if not math.isfinite(test.loss):
            raise NonFiniteError(self.state.step, "test loss")
        self.state.note_test(test.numbers())
        self._log("test", test, now)
        self._watch_collapse(test, now["epoch"])
        images = pictures(self.vae, self.data.test, self.config.run.seed)
        self.tracker.log_images(images, self.state.step)
        if self.data.val is None:
            return False
        val = self._evaluate("val")
        self._log("val", val, now)
        return self.state.note_best(val.loss, test.loss, now["epoch"])

    def _evaluate(self, split: str) -> Evaluation:
        part = self.data.val if split == "val" else self.data.test
        assert part is not None
        return evaluate(self.accelerator, self.vae, part, seed=self.config.run.seed, split=split)

    def _log(self, split: str, result: Evaluation, now: dict[str, Any]) -> None:
        collapsed = self.collapse.collapsed(result.latents, now["epoch"])
        self.tracker.log_evaluation(split, result, collapsed=collapsed, **now)

    def _watch_collapse(self, test: Evaluation, epoch: float) -> None:
        """Warn of a posterior collapse, or that it is over; every rank finds the same, the main process says it."""
        if not self.collapse.collapsed(test.latents, epoch):
            self.state.collapsed_since = None
        elif self.state.collapsed_since is None:
            self.state.collapsed_since = epoch
        if remark := self.collapse.remark(test.latents, epoch, self.state.collapsed_since or epoch):
            self.tracker.remark(remark, self.state.step)

    def _now(self) -> dict[str, Any]:
        """Return what stands beside every number: step, epochs, and the beta and learning rate of the last update."""
        progress = self.engine.batches.progress(self.state.step - 1)
        now = {"step": self.state.step, "epoch": self.engine.batches.progress(self.state.step)}
        return now | {"beta": self.engine.objective.beta(progress), "lr": self.engine.learning_rate(progress)}


@dataclass(frozen=True)
class Agenda:
    """What there is to do after which step.

    Attributes:
        total_steps: updates in the whole run.
        steps_per_epoch: updates in an epoch.
        log_every, save_every: steps between two lines of training metrics, and between two checkpoints.
        eval_every: epochs between two evaluations; 0: only at the end.
    """

    total_steps: int
    steps_per_epoch: int
    log_every: int
    save_every: int
    eval_every: int

    @classmethod
    def of(cls, train: TrainConfig, examples: int) -> "Agenda":
        """Return the agenda of a run on so many examples."""
        steps, total = count_steps(examples, train.batch_size, train.epochs, train.max_steps)
        save_every = train.checkpoint_every or steps
        return cls(total, steps, train.log_every, save_every, train.eval_every)

    def next_stop(self, step: int) -> int:
        """Return the first step after `step` with something to do, or the last one of the run."""
        intervals = (self.log_every, self.steps_per_epoch, self.save_every)
        return min(self.total_steps, *(step - step % interval + interval for interval in intervals))

    def logs(self, step: int) -> bool:
        """Whether training metrics are recorded after `step`."""
        return step == self.total_steps or step % self.log_every == 0

    def evaluates(self, step: int) -> bool:
        """Whether the run is evaluated after `step`."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return step == self.total_steps or (position == 0 and self.eval_every > 0 and epoch % self.eval_every == 0)

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is saved after `step`, however its evaluation went."""
        return step == self.total_steps or step % self.save_every == 0


def write_results(
    folder: Path,
    config: Config,
    summary: dict[str, Any],
    vae: VAE,
    data: DataSet,
    tracker: Tracker,
    obey: Callable[[], None],
) -> None:
    """Write what a finished run leaves beside its records and checkpoints (main process only); the summary is last.

    Args:
        folder: of the run.
        config: of the run.
        summary: what summary.json is to hold.
        vae: the unwrapped model.
        data: what it was trained and evaluated on.
        tracker: where settings and results are recorded.
        obey: called before each picture; raises `Stopped` if a signal has come.

    Raises:
        SaveError: something could not be written.
    """
    try:
        checkpoint.save_model(folder / MODEL, vae)
        results = {name: summary["test"][key] for name, key in FINAL_RESULTS.items()}
        if "accuracy" in summary["test"]:
            results["Accuracy"] = summary["test"]["accuracy"]
        measures = kept(folder, lambda: measure_latents(vae, data.test, seed=config.run.seed))
        results["active dimensions"] = measures.active
        tracker.log_hyperparameters(config, results, step=summary["steps"])
        tracker.log_embedding(*embedding(vae, data), step=summary["steps"])
        if config.run.figures:
            _draw(folder, vae, data, measures, config.run.seed, tracker, obey)
        write_text(folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
    except OSError as error:
        raise SaveError(
            f"{folder}: results not written ({error}); make room, then run the same command again"
        ) from None


def _draw(
    folder: Path,
    vae: VAE,
    data: DataSet,
    measures: LatentMeasures,
    seed: int,
    tracker: Tracker,
    obey: Callable[[], None],
) -> None:
    tracker.say("drawing figures")
    try:
        from vae.report import draw_figures  # imports matplotlib

        draw_figures(folder, vae, data, measures, seed, before_each=obey)
    except Stopped:
        raise
    except Exception as error:  # the numbers do not depend on the pictures
        tracker.warn(f"figures not drawn ({error}); again: python -m vae report {folder}")
