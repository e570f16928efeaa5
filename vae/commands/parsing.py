"""The parser of all command lines, and the arguments that several of them share. Imports no torch."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from vae.distributed import accelerate_settings
from vae.errors import InputError
from vae.run.contents import USES

if TYPE_CHECKING:
    from vae.config import Config

SPLITS = ("test", "train", "val")


class Command(Protocol):
    """A command: a module of this package, whose docstring is the command's help."""

    __doc__: str | None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Let the parser take the command's arguments."""
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Do what the arguments ask for and print what comes out; returns the exit code."""
        ...


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong with arguments in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise `InputError` instead of printing the usage."""
        raise InputError(f"{message}; see {self.prog} --help")


def at_least(least: int) -> Callable[[str], int]:
    """Return a reader of an option's whole number that refuses a number below `least`."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number from {least}")
        return int(text)

    return number


def add_configuration(parser: argparse.ArgumentParser, keys: str) -> None:
    """Let a command take a configuration: `--config` and `key=value`; `keys` says where the keys are listed."""
    parser.add_argument("--config", metavar="FILE", help="YAML that holds what differs from the defaults")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=f"any key {keys}, the value in YAML")


def configuration_of(args: argparse.Namespace, environment: Mapping[str, str]) -> "Config":
    """Return the configuration of a job, by the arguments of `add_configuration` and what its launcher asks for.

    Args:
        args: the arguments.
        environment: `os.environ`.

    Raises:
        InputError: an argument or a value cannot be used, or the launcher asks for what a job cannot do.
    """
    from vae.config import load  # imports pydantic, a moment in which a signal may come

    accelerate_settings.refuse_unsupported(environment)
    asked = accelerate_settings.precision(environment)
    try:
        return load(args.config, args.overrides, {"train": {"precision": asked}} if asked else None)
    except InputError as error:
        if asked is None or "precision" not in str(error):
            raise
        raise InputError(f"{error}{accelerate_settings.naming_launcher(environment)}") from None


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Let a command take finished runs."""
    parser.add_argument("paths", metavar="RUN", nargs="+", type=Path, help="finished runs, or folders of them")


def add_run(parser: argparse.ArgumentParser) -> None:
    """Let a command take one finished run."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a finished run's folder, e.g. runs/mnist")


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Let a command take a seed."""
    of_all = "of everything that is drawn (default: 0)"
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="S", help=of_all)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Let a command take a folder for files."""
    parser.add_argument("--output", type=Path, metavar="FOLDER", help=f"where files go (default: RUN/{USES})")


def add_prior(parser: argparse.ArgumentParser, gmm: str) -> None:
    """Let a command take a density of z: the model's own prior, or a mixture; `gmm` says what the mixture is for."""
    own = "own: the model's prior, p(z) (default)"
    fitted = f"gmm: {gmm} a mixture of normals that is fitted to the codes of the training images"
    parser.add_argument("--prior", choices=("own", "gmm"), default="own", help=f"{own}; {fitted}")
    normals = "normals in the mixture of --prior gmm (default: 10)"
    parser.add_argument("--components", type=at_least(1), metavar="K", help=normals)


def add_images(parser: argparse.ArgumentParser) -> None:
    """Let a command take images: the run's own data set or another, and the part of it."""
    parser.add_argument("--data", metavar="NAME_OR_NPZ", help="other data than the run's, as in data.name")
    root = "folder that holds (or receives) what --data (or --against) names (default: the run's data.root)"
    parser.add_argument("--data-root", metavar="FOLDER", help=root)
    parser.add_argument("--split", choices=SPLITS, default="test", help="part of the data (default: test)")


def add_first_images(parser: argparse.ArgumentParser) -> None:
    """Let a command take the first images of a data set alone."""
    parser.add_argument("--count", type=at_least(1), default=1000, metavar="N", help="the first images (default: 1000)")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Let a command take the draws of one pass, and the device."""
    parser.add_argument("--batch", type=at_least(1), metavar="N", help="draws at once (default: as memory allows)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")


def data_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `add_images`, by the names that functions of `vae.uses` give them."""
    return {"data": args.data, "data_root": args.data_root, "split": args.split}


def output_of(args: argparse.Namespace) -> Path:
    """Return the folder for files, by the arguments of `add_run` and `add_output`."""
    return args.output or args.run / USES
