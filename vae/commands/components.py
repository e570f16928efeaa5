"""List the components that a configuration can name, with their settings."""

import argparse

from vae.commands.printing import print_lines
from vae.config import describe_components


def add_arguments(_: argparse.ArgumentParser) -> None:
    """Take no arguments."""


def run(_: argparse.Namespace) -> int:
    """Print the list."""
    return print_lines([describe_components()])
