"""Train several members of a sweep in one process, with stacked parameters.

    python train_packed.py configs/sweeps/beta.yaml 0 1 2 3
    python train_packed.py configs/sweeps/beta.yaml 0 1 2 3 train.epochs=5

The members, by their index in `python -m vae sweep FILE --list`, may differ in seed, beta and the optimiser's settings.
Each is the run that train_ddp.py makes of it, in the same folder, and either program continues what the other began.
Run the same command again to continue members that were cut off; those that are finished are left out.
Exit codes: 0 done, 1 a member failed (the others went on), 2 refused input, 85 stopped by SIGTERM or SIGUSR1 after
saving (run me again), 130 the same by Ctrl-C (a second one stops at once).
"""

import argparse
import os
import sys
import time

from vae import signals, startup

STARTED = time.time()
STOP = signals.StopRequest()
if __name__ == "__main__":  # at once: also what comes next takes a moment to import
    try:
        startup.begin(os.environ, STOP)
    except ValueError as error:
        print(f"train_packed.py: {error}", file=sys.stderr)
        sys.exit(2)

from vae import sweep
from vae.cli import Parser, speaks
from vae.components import InputError
from vae.config import Config
from vae.sweep import Member, packing

Command = tuple[list[Member], list[Config]]


def read(argv: list[str] | None) -> Command:
    """Return the members of a command line, and their configurations; raises `InputError`."""
    parser = Parser("train_packed.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", metavar="FILE", help="a sweep file, e.g. configs/sweeps/beta.yaml")
    parser.add_argument("words", nargs="+", metavar="INDEX | key=value", help="members; any key, for all of them")
    args = parser.parse_args(argv)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError(f"WORLD_SIZE = {os.environ['WORLD_SIZE']}: a pack is one process; start it without a launcher")
    found = sweep.load(args.file, [word for word in args.words if "=" in word])
    indices = [word for word in args.words if "=" not in word]
    for word in indices:
        if not word.isdecimal() or indices.count(word) > 1:
            raise InputError(f"{word!r}: must be the index of a member, each given once, or key=value")
    members = [found.member(int(word)) for word in indices]
    if not members:
        raise InputError(f"no member is given: {found.name} has the indices 0 to {len(found.members) - 1}")
    return members, packing.configurations(members)


def report_end(error: BaseException | str) -> None:
    """Say what ended the job, or a member."""
    if speaks(os.environ):
        print(f"train_packed.py: {str(error) or 'interrupted'}", file=sys.stderr)


COMMAND: Command | None = None  # this process's own
if __name__ == "__main__":  # before what trains is imported, which takes seconds
    try:
        COMMAND = read(None)
    except InputError as error:
        report_end(error)
        sys.exit(2)

import contextlib

from vae import assemble, launch
from vae.recording import Agenda
from vae.sweep.training import Training, begin, paused

EXIT_CODES = {InputError: 2, signals.Stopped: signals.REQUEUE_ME, KeyboardInterrupt: 130}


def train(members: list[Member], configs: list[Config]) -> int:
    """Train the members that are not finished; returns the exit code."""
    # Read the data, before a GPU is touched, and start; what members share may be read in any of them.
    shared = configs[0]
    data = assemble.load_data(shared)
    mixed_precision = assemble.MIXED_PRECISION[shared.train.precision]
    accelerator = launch.make_accelerator(shared.train.device, mixed_precision, os.environ, shared.train.timeout)
    threads = launch.set_threads(assemble.choose_threads(shared), os.environ)
    agenda = Agenda.of(shared.train, len(data.train))

    # Claim the run folders, build the members, continue from their newest valid checkpoints.
    trainings, finished = begin(members, configs, data, accelerator, agenda.total_steps)
    print("".join(f"{line}\n" for line in finished), end="")
    if trainings:
        count, size = len(trainings), trainings[0].vae.count_parameters()
        plan = f"{agenda.total_steps:,} steps of {shared.train.batch_size} images each"
        place = f"on {accelerator.device.type} ({threads} threads)"
        print(f"training {count} members of {size:,} parameters together {place}: {plan}")

    # Train.
    stop_signal = launch.StopVote(accelerator, STOP)
    with contextlib.ExitStack() as records:
        for training in trainings:
            records.enter_context(training.open())
        for training in trainings:
            training.start_watch()
        while running := [training for training in trainings if training.goes_on]:
            # Those that are behind go first, until they meet the next ones.
            step = min(training.state.step for training in running)
            active = [training for training in running if training.state.step == step]
            waiting = [training for training in running if training.state.step > step]
            until = min([agenda.total_steps, *(training.state.step for training in waiting)])
            with paused(waiting, "waiting"):
                train_together(active, agenda, until, stop_signal)

        # Write the results.
        for training in sound(trainings):
            with training.failing_alone():
                training.finish(STOP)
    failed = [f"{training.member.name}: {training.failure}" for training in trainings if training.failure]
    if failed:
        report_end(f"{len(failed)} of {len(members)} members failed: {'; '.join(failed)}")
    return int(bool(failed))


def train_together(active: list[Training], agenda: Agenda, until: int, stop_signal: launch.StopVote) -> None:
    """Train members that are at one step, until all of them have made `until` of them or one of them has failed."""
    step = active[0].state.step
    pack = assemble.build_pack(active[0].config, [one.engine for one in active], [one.vae for one in active])
    while step < until and not any(one.failure for one in active):
        # Stop where a signal asked for it.
        if signum := stop_signal(step):
            stop(active, signum, step)

        # Make one update of each.
        pack.advance(step)
        step += 1
        for one in active:
            one.note_step(len(active), time.time() - STARTED)

        # Report status.
        if agenda.logs(step):
            for one in active:
                with one.failing_alone():
                    one.recorder.report_training()

        # Evaluate on held-out data.
        best: list[Training] = []
        if agenda.evaluates(step):
            with paused(active, "evaluation"):
                for one in sound(active):
                    with one.failing_alone():
                        best += [one] if one.recorder.report_evaluation() else []

        # Save checkpoints.
        to_save = active if agenda.saves(step) else best
        if to_save:
            with paused(active, "checkpoints"):
                for one in sound(to_save):
                    with one.failing_alone():
                        one.save()


def sound(trainings: list[Training]) -> list[Training]:
    """Return those that have not failed."""
    return [training for training in trainings if training.failure is None]


def stop(active: list[Training], signum: int, step: int) -> None:
    """Save members and raise `Stopped`."""
    for one in active:
        with one.failing_alone():
            one.save()
            one.saver.finish()
    saved = f"{len(sound(active))} members saved; the same command continues"
    raise signals.Stopped(signum, f"stopped after step {step:,}, {saved}")


def main(argv: list[str] | None = None) -> int:
    """Run a command line, or this process's own, which has been read; returns the exit code."""
    try:
        code = train(*(COMMAND or read(argv)))
    except tuple(EXIT_CODES) as error:
        report_end(error)
        code = error.exit_code if isinstance(error, signals.Stopped) else EXIT_CODES[type(error)]
    launch.leave()
    return code


if __name__ == "__main__":
    sys.exit(main())
