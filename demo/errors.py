"""The demo's own errors: one clear sentence each."""


class DemoError(Exception):
    """The program cannot go on; exit status 1."""


class BadOptionError(DemoError):
    """What was asked for makes no sense; exit status 2."""
