"""Train a variational autoencoder: one process or many, CPU or GPU, the same command and the same numbers.

    python train_ddp.py --config configs/mnist.yaml run.name=mnist
    torchrun --nproc-per-node 2 train_ddp.py --config configs/mnist.yaml run.name=mnist
    accelerate launch --config_file launch/accelerate/cpu.yaml train_ddp.py --config configs/mnist.yaml run.name=mnist

Run the same command again to continue a run that was cut off.
Exit codes: 0 done, 2 refused input, 85 stopped by SIGTERM or SIGUSR1 after saving (run me again), 130 the same by
Ctrl-C (a second one stops at once), 1 anything else.
"""

import argparse
import os
import sys
import time
from functools import partial
from typing import Any

from vae.distributed import signals, startup

STARTED = time.time()
STOP = signals.StopRequest()
if __name__ == "__main__":  # at once: also what comes next takes a moment to import
    try:
        startup.begin(os.environ, STOP)
    except ValueError as error:
        print(f"train_ddp.py: {error}", file=sys.stderr)
        sys.exit(2)
    startup.pause_collector()

from vae.commands.parsing import Parser, add_configuration, speaks
from vae.config import Config, describe, load, to_yaml, warnings
from vae.errors import InputError

Command = tuple[Config, argparse.Namespace]


def read(argv: list[str] | None) -> Command:
    """Return the configuration and the arguments of a command line; `--help` lists every key."""
    parser = Parser("train_ddp.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_configuration(parser, "below")
    parser.add_argument(
        "--resume", choices=["auto", "never", "must"], default="auto", help="continue a run (default: auto)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the resolved configuration and what would run")
    parser.epilog = "keys:\n" + describe()
    args = parser.parse_intermixed_args(argv)
    return load(args.config, args.overrides), args


def report_end(error: BaseException) -> None:
    """Say what ended the job, once on each machine."""
    if speaks(os.environ):
        print(f"train_ddp.py: {str(error) or 'interrupted'}", file=sys.stderr)


COMMAND: Command | None = None  # this process's own
if __name__ == "__main__":  # before torch is imported, which takes seconds
    try:
        COMMAND = read(None)
    except InputError as error:
        report_end(error)
        sys.exit(2)

from vae import assemble
from vae.distributed import launch
from vae.distributed.stopping import StopVote
from vae.distributed.watchdog import RankLostError, Watchdog
from vae.engine import NonFiniteError
from vae.run import checkpoint
from vae.run.contents import CHECKPOINTS
from vae.run.folder import RunFolder, folder_of, saying_how_to_go_on
from vae.run.state import RunState, restore
from vae.training.agenda import Agenda
from vae.training.profiling import Profiler
from vae.training.recording import Recorder
from vae.training.results import summarise, write_results
from vae.training.saving import SaveError, Saver
from vae.training.tracking import Stopwatch, Tracker

EXIT_CODES = {
    InputError: 2,
    NonFiniteError: 1,
    SaveError: 1,
    signals.Stopped: signals.REQUEUE_ME,
    KeyboardInterrupt: 130,
}


def draw_figures(*args: Any, **settings: Any) -> None:
    """Draw a finished run's pictures: `vae.report.draw_figures`, imported when there is something to draw."""
    from vae import report  # imports matplotlib

    report.draw_figures(*args, **settings)


def train(config: Config, args: argparse.Namespace) -> None:
    """Run the whole job that `config` describes."""
    # Read the data, before a process group or a GPU is touched.
    data = assemble.build_data(config)

    # Start this process among the others.
    mixed_precision = assemble.MIXED_PRECISION[config.train.precision]
    accelerator = launch.make_accelerator(config.train.device, mixed_precision, os.environ, config.train.timeout)
    threads = launch.set_threads(assemble.choose_threads(config), os.environ)
    rank, world_size, device = accelerator.process_index, accelerator.num_processes, accelerator.device
    say = accelerator.on_main_process(print)

    # Build the pieces.
    vae = assemble.build_model(config, data.image_shape, data.classes)
    objective = assemble.build_objective(config)
    batches = assemble.build_batches(config, data, vae, objective, device, rank, world_size)
    agenda = Agenda.of(config.train, len(data.train))
    total_steps = agenda.total_steps
    engine_name, why = assemble.choose_engine(config, objective, batches, device.type, world_size)

    # Say what will run.
    folder = launch.on_main(accelerator, lambda: folder_of(config, args.config))
    plan = f"{vae.count_parameters():,} parameters, {total_steps:,} steps of {config.train.batch_size} images, "
    plan += f"{world_size} process{'es' if world_size > 1 else ''} on {device.type} ({threads} threads each)"
    notes = warnings(config, batches.progress(total_steps))
    notes += launch.precision_warnings(mixed_precision, device.type)
    if args.dry_run:
        say("".join(f"warning: {note}\n" for note in notes), end="", file=sys.stderr)
        say(f"{to_yaml(config)}\nwould train in {folder}: {plan}, engine {engine_name} ({why})")
        return

    # Claim the run folder.
    run = RunFolder(folder)
    start = launch.on_main(accelerator, lambda: run.claim(config, args.resume, total_steps))
    if start.summary is not None:
        steps, loss = start.summary["steps"], start.summary["test"]["loss"]
        say(f"{folder} is finished ({steps:,} steps): test loss {loss:.2f} nats. Nothing to do.")
        return

    # Build what runs the steps; compiling or capturing them takes a while.
    if engine_name != "eager":
        say(f"building engine {engine_name} ({why})")
    engine = assemble.build_engine(config, accelerator, vae, objective, batches)

    # Continue from the newest valid checkpoint.
    state = RunState()
    if start.checkpoint is not None:
        checkpoint.load_weights(start.checkpoint, vae)
        state, engine_state = restore(start.checkpoint, total_steps, data.fingerprint)
        engine.load_state_dict(engine_state)
    launch.on_main(accelerator, lambda: run.record(config, start, state.step, world_size))
    watchdog = Watchdog(accelerator, config.train.timeout, os.environ, end=launch.abandon)
    for note in [*start.notes, *notes]:
        say(f"warning: {note}", file=sys.stderr)
    plan += f", engine {engine.name} ({engine.why})"
    plan += f", from step {state.step:,}" if state.step else ""
    plan += f" ({'; '.join(start.changed)})" if start.changed else ""
    say(f"training in {folder}: {plan}")

    # Train.
    first_step, startup_seconds = state.step, 0.0
    stop_signal = StopVote(accelerator, STOP)
    tracker = Tracker(accelerator, folder, config, step=state.step, total_steps=total_steps)
    saver = Saver(accelerator, folder / CHECKPOINTS, vae, engine, tracker, data.fingerprint, step=state.step)
    profiler = Profiler(folder, config.train.profile, device.type, tracker.say) if config.train.profile else None
    watch = Stopwatch(device, state.train_seconds, state.logged_seconds, state.spent)
    recorder = Recorder(accelerator, config, data, vae, engine, state, tracker, watch)
    with tracker, saying_how_to_go_on(folder, config), watchdog.guarding():
        while state.step < total_steps:
            # Stop where a signal asked for it.
            if signum := stop_signal(state.step):
                if state.step > saver.step:
                    saver.save(state, watch)
                saver.finish()
                raise signals.Stopped(
                    signum,
                    f"stopped after step {state.step:,}, saved" if state.step else "stopped before the first step",
                )

            # Make one update (or, in a CUDA graph, several), up to the next thing there is to do.
            made = engine.advance(state.step, agenda.next_stop(state.step))
            state.step += made
            tracker.advance(made)
            watchdog.beat(state.step)
            if profiler:
                profiler.advance(made)
            if state.step == first_step + made:
                engine.assert_ranks_agree()
                startup_seconds = time.time() - STARTED

            # Report status.
            if agenda.logs(state.step):
                recorder.report_training()

            # Evaluate on held-out data.
            is_best = False
            if agenda.evaluates(state.step):
                with watch.paused("evaluation"):
                    is_best = recorder.report_evaluation()

            # Save a checkpoint.
            if agenda.saves(state.step) or is_best:
                with watch.paused("checkpoints"):
                    saver.save(state, watch)

        # Write the results.
        if profiler:
            profiler.close()
        saver.finish()
        watchdog.dismiss()
        place = {"world_size": world_size, "device": device.type, "engine": engine.name}
        costs = {"checkpoints": saver.costs(), "startup_seconds": startup_seconds}
        summary = summarise(config, state, vae, data, epochs=batches.progress(state.step), **place, **costs)
        draw = partial(draw_figures, folder, vae, data, seed=config.run.seed, before_each=STOP.obey)
        finish = partial(write_results, folder, config, summary, vae, data, tracker, draw)
        launch.on_main(accelerator, finish, known=(SaveError, signals.Stopped))
    accelerator.wait_for_everyone()
    run.release()
    pictures = "figures/, " if config.run.figures else ""
    say(f"done: {folder} holds model/, {pictures}summary.json; curves: tensorboard --logdir {folder}/tensorboard")


def main(argv: list[str] | None = None) -> int:
    """Run a command line, or this process's own, which has been read; returns the exit code."""
    try:
        train(*(COMMAND or read(argv)))
        code = 0
    except tuple(EXIT_CODES) as error:
        report_end(error)
        code = error.exit_code if isinstance(error, signals.Stopped) else EXIT_CODES[type(error)]
    except RankLostError as error:
        launch.abandon(f"train_ddp.py: {error}" if error.speaks else None)
    except launch.RendezvousError as error:
        launch.abandon(f"train_ddp.py: {error}")
    launch.leave()  # not after other errors: one rank alone would wait for the others
    return code


if __name__ == "__main__":
    startup.resume_collector()
    sys.exit(main())
