"""Errors that end a program with one line instead of a traceback. Standard library only: everything raises them."""

import signal


class InputError(ValueError):
    """The user gave something unusable; the message is one line naming the key or file, the value and the way out."""


class Argument(str):
    """The name of a function's argument, e.g. `data_root`; the option of that name is `--data-root`."""

    @property
    def option(self) -> str:
        """The same name as a command line has it."""
        return f"--{self.replace('_', '-')}"


class ArgumentError(InputError):
    """An argument of a function is unusable: the message names the argument, a program's message its option.

    Args:
        parts: of the message: an `Argument` where an argument is named, and the text between.
    """

    def __str__(self) -> str:
        return "".join(self.args)

    @property
    def of_options(self) -> str:
        """The message in which options stand for arguments."""
        return "".join(part.option if isinstance(part, Argument) else part for part in self.args)


class OneLineWarning(UserWarning):
    """A warning whose message is one line, which a program prints as it is."""


class PluginWarning(OneLineWarning):
    """A plugin is another version than the one that made a run or a model."""


class CrowdedWarning(OneLineWarning):
    """Other programs keep this machine's cores busy, and threads that share an operation wait for each other."""


class JobError(RuntimeError):
    """A job cannot go on, and all ranks know it; the message is one line."""


class RankLostError(RuntimeError):
    """Another rank is gone or never came: this one cannot go on, and cannot wait for the others to agree.

    Args:
        message: the missing rank, and what is known of it.
        speaks: true on a rank that reports it.
    """

    def __init__(self, message: str, *, speaks: bool = True):
        super().__init__(message)
        self.speaks = speaks


class OutOfMemory(RuntimeError):  # noqa: N818 (torch has an OutOfMemoryError)
    """This process has no memory left: it cannot go on, nor wait for the others to agree; the message is one line."""


class Stopped(Exception):  # noqa: N818 (not an error)
    """A signal stopped the run, on all ranks together.

    Args:
        signum: the signal.
        where: the place it stopped at, what is saved and how to go on.
    """

    def __init__(self, signum: int, where: str):
        super().__init__(signum, where)
        self.signum, self.where = signum, where

    def __str__(self) -> str:
        return f"{signal.Signals(self.signum).name}: {self.where}"
