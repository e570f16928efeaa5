"""List the components that a configuration can name, with their settings."""

import argparse

from vae.commands.printing import print_lines
from vae.config import describe_components


def add_arguments(_: argparse.ArgumentParser) -> None:
    """Take no arguments."""


def run(args: argparse.Namespace) -> int:
    """Print the list, and below it the plugins with what they add."""
    lines = [describe_components()]
    if args.plugins:
        from vae import plugins

        lines += ["", *(f"{plugin.path}: {plugin.names}" for plugin in plugins.loaded())]
    return print_lines(lines)
