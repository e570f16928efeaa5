"""Train a variational autoencoder: one process or many, CPU or GPU, the same command and the same numbers.

    python train_ddp.py --config configs/mnist.yaml run.name=one
    torchrun --nproc-per-node 2 train_ddp.py --config configs/mnist.yaml run.name=two
    accelerate launch train_ddp.py --config configs/mnist.yaml run.name=launched

Run the same command again to continue a run that was cut off.
Exit codes: 0 done, 2 refused input, 85 stopped by SIGTERM or SIGUSR1 after saving (run me again), 130 the same by
Ctrl-C (a second one stops at once), 1 anything else.
"""

import os
import sys
import time
from contextlib import closing
from functools import partial
from typing import Any

from vae.commands.train import Job, read
from vae.distributed import ending, startup
from vae.distributed.signals import StopRequest

STARTED, STOP, JOB = time.time(), StopRequest(), None
if __name__ == "__main__":  # before torch is imported, which takes seconds: signals are noted, a wrong key is refused
    with ending.exiting("train_ddp.py", os.environ):
        startup.begin(os.environ, STOP)
        startup.pause_collector()
        JOB = read(__doc__)

from vae import assemble
from vae.distributed import launch
from vae.distributed.stopping import StopVote
from vae.distributed.watchdog import Watchdog
from vae.engine.memory import naming_a_way_out
from vae.errors import Stopped
from vae.run.contents import CHECKPOINTS
from vae.run.folder import RunFolder, folder_of, saying_how_to_go_on
from vae.run.state import begin, resume
from vae.training.agenda import Agenda
from vae.training.plan import Plan
from vae.training.profiling import Profiler
from vae.training.recording import Recorder
from vae.training.results import summarise, write_results
from vae.training.saving import Saver
from vae.training.tracking import Stopwatch, Tracker


def train(job: Job) -> None:
    """Run a whole job (all ranks, which make each collective together)."""
    config = job.config

    # Read the data, before a process group or a GPU is touched.
    data = assemble.build_data(config)

    # Start this process among the others.
    precision, timeout = assemble.MIXED_PRECISION[config.train.precision], config.train.timeout
    accelerator = launch.make_accelerator(  # all ranks: rendezvous
        config.train.device, precision, os.environ, timeout, tf32=config.train.tf32
    )
    launch.must_agree(accelerator, partial(assemble.inputs, config, data))  # all ranks: gather, of several
    launch.set_threads(assemble.choose_threads(config), os.environ)
    rank, world_size, device = accelerator.process_index, accelerator.num_processes, accelerator.device
    say = accelerator.on_main_process(ending.say)

    # Build the model, the objective, and this rank's part of each batch.
    vae = assemble.build_model(config, data.image_shape, data.classes, data.train.images)
    objective = assemble.build_objective(config)
    batches = assemble.build_batches(config, data, vae, objective, device, rank, world_size)
    launch.set_threads(assemble.choose_threads_of_steps(config, vae, batches), os.environ)
    agenda = Agenda.of(config.train, len(data.train))

    # Say what would run; a dry run ends here.
    choice = assemble.choose_engine(config, objective, batches, device.type, world_size)
    folder = launch.on_main(accelerator, lambda: folder_of(config, job.config_file))  # all ranks: broadcast
    plan = Plan.of(config, folder, accelerator, data, vae, batches, agenda, choice)
    if job.dry_run:
        say(plan.warnings(job.notes), end="", file=sys.stderr)
        say(plan.dry_run())
        return

    # Claim the run's folder; a finished run ends here.
    run, total_steps = RunFolder(folder), agenda.total_steps
    start = launch.on_main(accelerator, lambda: run.claim(config, job.resume, total_steps))  # all ranks: broadcast
    if start.summary is not None:
        say(plan.finished(start.summary))
        return

    # Open the trackers; build the engine, which makes the updates; begin, or resume from the newest valid checkpoint.
    fitting = partial(naming_a_way_out, config.train, batches.rows)  # one line where memory does not suffice
    fingerprint = data.fingerprint_of(labels=vae.sees_labels)
    with run.leaving_nothing() as opened, fitting():  # of a run that does not begin
        tracker = Tracker(accelerator, folder, config, step=start.step, total_steps=total_steps)  # all ranks: broadcast
        opened.callback(tracker.close)
        say(plan.building(), end="")
        if start.checkpoint is None:
            begin(config.run.start_from, vae)
        engine = assemble.build_engine(config, accelerator, vae, objective, batches)  # all ranks: DDP's broadcast
        state = resume(start.checkpoint, vae, engine, total_steps=total_steps, fingerprint=fingerprint)
        launch.on_main(accelerator, lambda: run.record(config, start, state.step, world_size))  # all ranks: broadcast
    model, raw = engine.models(vae)  # reported is vae or, with optim.ema, an average of its weights; then vae is raw

    # Train.
    watchdog = Watchdog(accelerator, timeout, os.environ)  # all ranks: gather
    say(plan.warnings([*job.notes, *start.notes]), end="", file=sys.stderr)
    say(plan.training(engine, state.step, start.changed))
    first_step, startup_seconds = state.step, 0.0
    profiler = Profiler(folder, config.train.profile, device.type, tracker.say)
    watch = Stopwatch(device, state.train_seconds, state.logged_seconds, state.spent)
    checkpoints = folder / CHECKPOINTS
    saver = Saver(accelerator, checkpoints, vae, engine, tracker, watch, fingerprint, step=state.step)
    vote = StopVote(accelerator, STOP, saver.wanted)
    recorder = Recorder(accelerator, config, data, vae, engine, state, tracker, watch)
    with closing(engine), tracker, saying_how_to_go_on(folder, config), watchdog.guarding(), fitting():  # all ranks
        while state.step < total_steps and not state.is_out_of_patience(config.train.patience):
            # Stop where a signal asked for it.
            if signum := vote(state.step):  # all ranks: gather, about once a second
                saver.finish(state)  # all ranks: gather, broadcast
                where = f"after step {state.step:,}, saved" if state.step else "before the first step"
                raise Stopped(signum, f"stopped {where}")

            # Make one update (or, in a CUDA graph, several), up to the next thing there is to do.
            made = engine.advance(state.step, agenda.next_stop(state.step))  # all ranks: all-reduce
            state.step += made
            tracker.advance(made)
            watchdog.beat(state.step)
            profiler.advance(made)
            if state.step == first_step + made:
                engine.assert_ranks_agree()  # all ranks: gather
                startup_seconds = time.time() - STARTED

            # Report status.
            if agenda.logs(state.step):
                recorder.report_training()  # all ranks: gather

            # Evaluate on held-out data.
            is_best = False
            if agenda.evaluates(state.step):
                with watch.paused("evaluation"):
                    is_best = recorder.report_evaluation()  # all ranks: gather

            # Save a checkpoint.
            if is_best:
                saver.keep_best(state)  # all ranks: gather
            if agenda.saves(state.step, vote.granted):
                saver.save(state)  # all ranks: gather

        # Write the results.
        profiler.close()
        if state.step < total_steps:
            tracker.say(plan.early_end(state))
        saver.finish(state)  # all ranks: gather, broadcast
        watchdog.dismiss()
        place = {"world_size": world_size, "device": device.type, "engine": engine.name}
        costs = {"checkpoints": saver.costs(), "startup_seconds": startup_seconds}
        summary = summarise(config, state, vae, data, epochs=batches.progress(state.step), **place, **costs)
        draw = partial(draw_figures, folder, model, data, seed=config.run.seed, before_each=STOP.obey)
        finish = partial(write_results, folder, config, summary, model, raw, data, tracker, draw)
        launch.on_main(accelerator, finish, watchdog.wait_for_main)  # all ranks: broadcast, for which the others wait
    accelerator.wait_for_everyone()  # all ranks: barrier
    run.release()
    say(plan.done())


def draw_figures(*args: Any, **settings: Any) -> None:
    """Draw a finished run's pictures: `vae.report.draw_figures`, imported when there is something to draw."""
    from vae import report  # imports matplotlib

    report.draw_figures(*args, **settings)


def main(argv: list[str] | None = None) -> int:
    """Run a command line, or this process's own, which has been read; returns the exit code."""
    return ending.run("train_ddp.py", os.environ, lambda: train(JOB or read(__doc__, argv)))


if __name__ == "__main__":
    startup.resume_collector()
    sys.exit(main())
