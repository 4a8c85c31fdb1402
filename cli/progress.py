"""A progress bar on standard error, for whatever takes longer than two seconds at a terminal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

DELAY = 2.0
"""Seconds before the bar appears: what is quicker needs none."""


@contextmanager
def working(what: str) -> Iterator[Callable[[str, float | None], None]]:
    """Show that something is under way.

    Args:
        what: the first thing that is done.

    Yields:
        A function to be called as ``say(what, share done)``; None for a share that nobody knows.
    """
    if not sys.stderr.isatty():
        yield lambda _what, _share: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(20), TimeElapsedColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=None)
    timer = threading.Timer(DELAY, bar.start)
    timer.daemon = True
    timer.start()

    def say(what: str, share: float | None) -> None:
        bar.update(task, description=what, total=None if share is None else 1.0, completed=share or 0.0)

    try:
        yield say
    finally:
        timer.cancel()
        timer.join()
        bar.stop()
