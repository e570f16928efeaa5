"""Reports of a run in progress: training metrics, and evaluations on held-out data."""

import math
from dataclasses import dataclass, field
from typing import Any

from accelerate import Accelerator

from vae.config import Config
from vae.data.dataset import DataSet
from vae.distributed.launch import on_main
from vae.engine import Engine, NonFiniteError
from vae.evaluation import CollapseWatch, Evaluation, HeldOut, pictures
from vae.model import VAE
from vae.run.state import RunState
from vae.training.tracking import Stopwatch, Tracker


@dataclass
class Recorder:
    """Records training metrics and evaluations of a run.

    Attributes:
        accelerator: precision and reduction.
        config: the run's.
        data: the training and held-out data.
        vae: the unwrapped model that is trained.
        engine: its steps are reported; an average of the weights, if it keeps one, is evaluated as the model, and the
            raw weights beside it.
        state: progress of the run, and the best evaluations so far.
        tracker: writes the records.
        watch: of the run.
        collapse: notices a posterior collapse.
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
    _model: VAE = field(init=False)  # that is reported
    _raw: VAE | None = field(init=False)  # with the raw weights, if the other has averages
    _held_out: dict[str, HeldOut] = field(init=False, default_factory=dict)  # by the name of the split

    def __post_init__(self) -> None:
        self._model, self._raw = self.engine.models(self.vae)
        self.collapse = CollapseWatch.of(self.engine.objective, min_active=self.config.train.min_active)

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
        pictured = pictures(self._model, self.data.test, self.config.run.seed)
        # a GPU is done with these copies when the numbers of the evaluation, which come later, have been read
        images = {name: batch.to("cpu", non_blocking=True) for name, batch in pictured.items()}
        on_test = self._evaluate("test")
        if not all(math.isfinite(result.loss) for result in on_test.values()):
            raise NonFiniteError(self.state.step, "test loss")
        self.state.note_test(*(result.numbers() for result in on_test.values()))
        self._log(on_test, now)
        self._watch_collapse(on_test["test"], now["epoch"])
        self.tracker.log_images(images, self.state.step)
        if self.data.val is None:
            return False
        on_val = self._evaluate("val")
        self._log(on_val, now)
        return self._judge(on_val["val"].loss, on_test["test"].loss, now["epoch"])

    def _judge(self, val_loss: float, test_loss: float, epoch: float) -> bool:
        """Have the state note the losses of the main process (all ranks); returns whether they are the best so far.

        All ranks decide by the same bits: those of unlike machines may add up the same sums otherwise.
        """
        val_loss, test_loss = on_main(self.accelerator, lambda: (val_loss, test_loss))
        if epoch >= self.engine.objective.settled_at:
            self.state.note_settled(val_loss, epoch)
        return self.state.note_best(val_loss, test_loss, epoch)

    def _evaluate(self, split: str) -> dict[str, Evaluation]:
        """Return the evaluation on `split`, test or val, and under `split`_raw that of raw weights (all ranks)."""
        if split not in self._held_out:
            part = self.data.val if split == "val" else self.data.test
            assert part is not None
            self._held_out[split] = HeldOut(self.accelerator, self._model, part, seed=self.config.run.seed, split=split)
        held_out = self._held_out[split]
        results = {split: held_out.evaluate()}
        return results if self._raw is None else results | {f"{split}_raw": held_out.evaluate(self._raw)}

    def _log(self, results: dict[str, Evaluation], now: dict[str, Any]) -> None:
        for split, result in results.items():
            collapsed = self.collapse.collapsed(result.latents, now["epoch"])
            self.tracker.log_evaluation(split, result, collapsed=collapsed, **now)

    def _watch_collapse(self, test: Evaluation, epoch: float) -> None:
        """Warn of a posterior collapse, or that it is over; every rank finds the same, the main process says it."""
        if not self.collapse.collapsed(test.latents, epoch):
            self.state.collapsed_since = None
        elif self.state.collapsed_since is None:
            self.state.collapsed_since = epoch
        if remark := self.collapse.remark(test.latents, epoch, self.state.collapsed_since or epoch):
            self.tracker.remark("Latents/Collapse", remark, self.state.step)

    def _now(self) -> dict[str, Any]:
        """Return step, epochs, and the beta and learning rate of the last update, which stand beside every number."""
        progress = self.engine.batches.progress(self.state.step - 1)
        now = {"step": self.state.step, "epoch": self.engine.batches.progress(self.state.step)}
        return now | {"beta": self.engine.objective.beta(progress), "lr": self.engine.learning_rate(progress)}
