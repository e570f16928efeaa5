"""One member of a pack while it is trained: its folder, records and checkpoints, as train_ddp.py would keep them."""

import contextlib
from collections.abc import Iterator, Sequence

from accelerate import Accelerator

from vae import assemble, checkpoint
from vae.config import Config, warnings
from vae.data.sources import DataSet
from vae.engine import NonFiniteError
from vae.engine.packed import unstack
from vae.files import CHECKPOINTS
from vae.recording import Agenda, Recorder, write_results
from vae.run import RunFolder, RunState, Start, restore, saying_how_to_go_on, summarise
from vae.saving import SaveError, Saver
from vae.signals import StopRequest
from vae.sweep.members import Member
from vae.sweep.packing import naming
from vae.tracking import Stopwatch, Tracker


class Training:
    """A member as far as it is: what it was saved with, or its initial weights. Nothing is written yet.

    Args:
        member: its name and folder.
        config: of its run.
        folder: claimed.
        start: where the run begins.
        data: as this member sees them.
        accelerator: the device and the precision.

    Attributes:
        failure: what ended this member, or None.
        companions: how many members the latest step was made with, itself included.

    Raises:
        InputError: it cannot be continued.
    """

    def __init__(
        self,
        member: Member,
        config: Config,
        folder: RunFolder,
        start: Start,
        data: DataSet,
        accelerator: Accelerator,
    ):
        self.member, self.config, self.folder, self.start = member, config, folder, start
        self.data, self.accelerator = data, accelerator
        self.vae, objective = assemble.build_model(config, data.image_shape), assemble.build_objective(config)
        batches = assemble.build_batches(config, data, self.vae, objective, accelerator.device)
        self.agenda = Agenda.of(config.train, len(data.train))
        self.engine = assemble.build_member(config, accelerator, self.vae, objective, batches)
        self.state = RunState()
        if start.checkpoint is not None:
            checkpoint.load_weights(start.checkpoint, self.vae)
            self.state, engine_state = restore(start.checkpoint, self.agenda.total_steps, data.fingerprint)
            self.engine.load_state_dict(engine_state)
        self.failure: Exception | None = None
        self.companions, self.startup_seconds = 0, 0.0

    def open(self) -> Tracker:
        """Record this start, begin the records; returns what closes them."""
        path, step, total_steps = self.folder.folder, self.state.step, self.agenda.total_steps
        self.folder.record(self.config, self.start, step, world_size=1)
        self.tracker = Tracker(self.accelerator, path, step=step, total_steps=total_steps, label=self.member.name)
        parts = (self.vae, self.engine, self.tracker, self.data.fingerprint)
        self.saver = Saver(self.accelerator, path / CHECKPOINTS, *parts, step=step)
        for note in [*self.start.notes, *warnings(self.config, self.engine.batches.progress(total_steps))]:
            self.tracker.warn(note)
        changes = f" ({'; '.join(self.start.changed)})" if self.start.changed else ""
        self.tracker.say(f"{path}, from step {step:,}{changes}")
        return self.tracker

    def start_watch(self) -> None:
        """Begin to count the seconds of training."""
        state = self.state
        self.watch = Stopwatch(self.accelerator.device, state.train_seconds, state.logged_seconds, state.spent)
        parts = (self.vae, self.engine, self.state, self.tracker, self.watch)
        self.recorder = Recorder(self.accelerator, self.config, self.data, *parts)

    @property
    def goes_on(self) -> bool:
        """Whether there are steps left to make."""
        return self.failure is None and self.state.step < self.agenda.total_steps

    def note_step(self, companions: int, startup_seconds: float) -> None:
        """Count an update that has been made, with so many members together, so long after the start."""
        self.startup_seconds = self.startup_seconds or startup_seconds
        self.companions = companions
        self.state.step += 1
        self.tracker.advance(1)

    def save(self) -> None:
        """Save a checkpoint, unless this step has one; see `Saver.save`."""
        if self.state.step > self.saver.step:
            self.saver.save(self.state, self.watch)

    def finish(self, request: StopRequest) -> None:
        """Write the results; raises `SaveError`, or `Stopped` if a signal comes before they are complete."""
        self.saver.finish()
        unstack(self.vae)
        batches, costs = self.engine.batches, self.saver.costs()
        place = {"world_size": 1, "device": self.accelerator.device.type, "engine": self.engine.name}
        summary = summarise(
            self.config, self.state, self.vae, self.data,
            epochs=batches.progress(self.state.step), startup_seconds=self.startup_seconds, checkpoints=costs, **place,
        )  # fmt: skip
        # seconds are the pack's, the same for all its members; images are each member's own
        summary["packed_members"] = self.companions
        write_results(self.folder.folder, self.config, summary, self.vae, self.data, self.tracker, request.obey)
        self.folder.release()
        pictures = "figures/, " if self.config.run.figures else ""
        self.tracker.say(f"done: {self.folder.folder} holds model/, {pictures}summary.json")

    @contextlib.contextmanager
    def failing_alone(self) -> Iterator[None]:
        """Note an error that ends this run, for the others to go on."""
        try:
            with saying_how_to_go_on(self.folder.folder, self.config):
                yield
        except (NonFiniteError, SaveError) as error:
            self.failure = error
            with contextlib.suppress(SaveError):
                self.saver.finish()  # what was saved before is worth keeping
            self.tracker.warn(f"{error}; the others go on")


@contextlib.contextmanager
def paused(trainings: Sequence[Training], purpose: str) -> Iterator[None]:
    """Stop the watches of several members meanwhile, see `Stopwatch.paused`."""
    with contextlib.ExitStack() as stack:
        for training in trainings:
            stack.enter_context(training.watch.paused(purpose))
        yield


def begin(
    members: Sequence[Member], configs: Sequence[Config], loaded: DataSet, accelerator: Accelerator, total_steps: int
) -> tuple[list[Training], list[str]]:
    """Claim the folders of all members, or of none, and build those that are not finished.

    Args:
        members, configs: as many of each.
        loaded: the data, as `assemble.load_data` gives them.
        accelerator: the device and the precision.
        total_steps: updates in the whole run of each.

    Returns:
        What is to be trained, and a line for each member that is finished.

    Raises:
        InputError: a folder is refused, see `RunFolder.claim`, or its run cannot be continued.
    """
    trainings, finished = [], []
    with contextlib.ExitStack() as undoing:
        for member, config in zip(members, configs, strict=True):
            folder = RunFolder(member.folder)
            with naming(member):
                start = folder.claim(config, "auto", total_steps)
                undoing.callback(folder.withdraw)
                if start.summary is not None:
                    finished.append(f"{member.name} is finished: test loss {start.summary['test']['loss']:.2f} nats")
                    continue
                data = assemble.build_data(config, loaded)
                trainings.append(Training(member, config, folder, start, data, accelerator))
        undoing.pop_all()
    return trainings, finished
