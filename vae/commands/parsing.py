"""The parser of all command lines, and the arguments that several of them share. Imports no torch."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from vae.distributed import accelerate_settings
from vae.errors import InputError
from vae.run.contents import USES, named_folder

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


def add_plugins(parser: argparse.ArgumentParser) -> None:
    """Let a program take plugins."""
    adds = "a Python file that adds your own pieces (docs/extending.md); may be given several times"
    parser.add_argument("--plugin", dest="plugins", action="append", default=[], metavar="FILE", type=Path, help=adds)


def load_plugins(args: argparse.Namespace) -> None:
    """Run the plugins that the command line names, see `vae.plugins.load`; raises `InputError`."""
    if args.plugins:
        from vae import plugins

        for path in args.plugins:
            plugins.load(path)


def configuration_of(args: argparse.Namespace, environment: Mapping[str, str]) -> "Config":
    """Return the configuration of a job, by the arguments of `add_configuration` and what its launcher asks for.

    The plugins of the command line are run once keys and plain values have been found right.

    Args:
        args: the arguments.
        environment: `os.environ`.

    Raises:
        InputError: an argument, a plugin or a value cannot be used, the run to be continued needs another plugin, or
            the launcher asks for what a job cannot do.
    """
    from vae.config import from_dict, gather  # imports pydantic, a moment in which a signal may come

    accelerate_settings.refuse_unsupported(environment)
    asked = accelerate_settings.precision(environment)
    try:
        given = gather(args.config, args.overrides, {"train": {"precision": asked}} if asked else None)
        load_plugins(args)
        _must_have_plugins(given)
        return from_dict(given.model_dump())
    except InputError as error:
        if asked is None or "precision" not in str(error):
            raise
        raise InputError(f"{error}{accelerate_settings.naming_launcher(environment)}") from None


def _must_have_plugins(config: "Config") -> None:
    """Refuse a job without a plugin that the run in its folder needs, before a piece that is unknown is refused."""
    from vae.run import needs

    if folder := named_folder(config):
        needs.check(folder)


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
    settings = "or '{name: NAME, range: [-1, 1]}' with settings of how they are read"
    parser.add_argument("--data", metavar="NAME", help=f"other data than the run's, as in data.name, {settings}")
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
