"""What a command is at, on standard error, once that has taken two seconds: a bar at a terminal, else one line."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

DELAY = 2.0
"""Seconds before anything appears: what is quicker needs no word."""


@contextmanager
def working(what: str) -> Iterator[Callable[[str, float | None], None]]:
    """Show that something is under way.

    Off a terminal, each thing that takes longer than two seconds is named once, in a line of its own, without its
    progress.

    Args:
        what: the first thing that is done.

    Yields:
        A function to be called as ``say(what, share done)``; None for a share that nobody knows.
    """
    if not sys.stderr.isatty():
        with _lines(what) as named:
            yield named
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


@contextmanager
def _lines(what: str) -> Iterator[Callable[[str, float | None], None]]:
    """Name what is being done, each thing once, when it has taken long enough; counts in a text are no other thing."""
    announced: set[str] = set()
    current = what
    more, ended = threading.Event(), threading.Event()

    def watch() -> None:
        while not ended.is_set():
            seen = current
            more.clear()
            if not more.wait(DELAY) and not ended.is_set() and _thing(seen) not in announced:
                announced.add(_thing(seen))
                sys.stderr.write(f"epsopt: {seen} ...\n")
                sys.stderr.flush()
            while _thing(current) in announced and not ended.is_set():
                more.wait()
                more.clear()

    def say(what: str, _share: float | None) -> None:
        nonlocal current
        if _thing(what) != _thing(current):
            current = what
            more.set()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield say
    finally:
        ended.set()
        more.set()
        watcher.join()


def _thing(what: str) -> str:
    return re.sub(r"\d+", "", what)
