"""The command line of train_ddp.py."""

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vae.commands.parsing import Parser, add_configuration, add_plugins, configuration_of
from vae.distributed import accelerate_settings

if TYPE_CHECKING:
    from vae.config import Config


@dataclass(frozen=True)
class Job:
    """A training job that a command line asks for.

    Attributes:
        config: the configuration of the run.
        config_file: the file that it comes from, which may name the run's folder.
        resume: `auto`, `never` or `must`.
        dry_run: true for a job that only says what would run.
        notes: sentences that deserve a warning.
    """

    config: "Config"
    config_file: str | None
    resume: str
    dry_run: bool
    notes: tuple[str, ...] = ()


def read(description: str | None, argv: Sequence[str] | None = None) -> Job:
    """Return the job that a command line asks for; `--help` lists every key.

    Args:
        description: the program's, for `--help`.
        argv: arguments; None: those of this process.

    Raises:
        InputError: an argument or a value of the configuration cannot be used, or the launcher asks for the impossible.
    """
    from vae.config import describe  # imports pydantic, a moment in which a signal may come

    parser = Parser("train_ddp.py", description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_configuration(parser, "below")
    add_plugins(parser)
    parser.add_argument(
        "--resume", choices=["auto", "never", "must"], default="auto", help="continue a run (default: auto)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the resolved configuration and what would run")
    parser.epilog = "keys:\n" + describe()
    args = parser.parse_intermixed_args(argv)
    config = configuration_of(args, os.environ)
    notes = [accelerate_settings.contradiction(os.environ, config.train.precision), *_unused(config)]
    return Job(config, args.config, args.resume, args.dry_run, tuple(note for note in notes if note))


def _unused(config: "Config") -> Iterator[str]:
    """Yield a sentence for each plugin of which a run uses nothing."""
    from vae import plugins

    used = [plugin for plugin, _ in plugins.used_by(config)]
    for plugin in plugins.loaded():
        if plugin not in used:
            yield f"--plugin {plugin.path.name}: this run uses none of its pieces: {plugin.names}"
