"""What the command lines share."""

import argparse
from typing import NoReturn

from vae.components import InputError


class Parser(argparse.ArgumentParser):
    """Arguments; what is wrong with them is said in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise `InputError` instead of printing the usage."""
        raise InputError(f"{message}; see {self.prog} --help")
