"""Command-line habits of train and sweep: a bad option gets one sentence and exit status 2."""

import argparse
import sys
from typing import Never

from epsopt.demo.errors import BadOptionError, DemoError


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations and without the usage text in front of its one sentence."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> Never:
        """Say what is wrong and leave with status 2."""
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def whole(text: str) -> int:
    """A whole number, zero or more."""
    return _at_least(0, text)


def positive(text: str) -> int:
    """A whole number, one or more."""
    return _at_least(1, text)


def _at_least(least: int, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, not {text!r}")
    return value


def complain(error: DemoError | OSError) -> int:
    """Print the error's sentence; returns the exit status it calls for."""
    print(f"error: {error}", file=sys.stderr)
    return 2 if isinstance(error, BadOptionError) else 1
