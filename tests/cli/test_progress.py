"""A wait says what it is for: a line off a terminal, each thing once, and nothing of what is done at once."""

from __future__ import annotations

import contextlib
import threading

import pytest

from epsopt.cli import progress


class Errors:
    """Standard error that is no terminal; whoever waits for a line is woken when it comes."""

    def __init__(self) -> None:
        self.text, self._written = "", threading.Condition()

    def isatty(self) -> bool:
        return False

    def flush(self) -> None:
        """Nothing is kept back."""

    def write(self, text: str) -> None:
        with self._written:
            self.text += text
            self._written.notify_all()

    def wait_for(self, text: str) -> None:
        with self._written:
            assert self._written.wait_for(lambda: text in self.text, timeout=60.0), self.text


def test_each_thing_that_takes_long_is_named_once_off_a_terminal(monkeypatch):
    err = Errors()
    monkeypatch.setattr(progress, "DELAY", 0.01)
    with contextlib.redirect_stderr(err), progress.working("loading the map") as say:
        err.wait_for("epsopt: loading the map ...\n")
        say("fold 1 of 5", 0.1)
        err.wait_for("epsopt: fold 1 of 5 ...\n")
        say("fold 2 of 5", 0.2)  # the same thing, further on
        say("loading the map", None)  # which was named
        say("recording", None)
        err.wait_for("epsopt: recording ...\n")
    assert err.text.splitlines() == [
        "epsopt: loading the map ...", "epsopt: fold 1 of 5 ...", "epsopt: recording ...",
    ]  # fmt: skip


def test_what_is_quick_says_nothing(monkeypatch):
    err = Errors()
    monkeypatch.setattr(progress, "DELAY", 3600.0)
    with contextlib.redirect_stderr(err), progress.working("loading the catalogue") as say:
        say("recording", 0.5)
    assert err.text == ""


def test_the_watcher_ends_with_an_error():
    err = Errors()
    before = threading.active_count()
    with pytest.raises(ValueError, match="wrong"), contextlib.redirect_stderr(err), progress.working("loading the map"):
        raise ValueError("wrong")
    assert threading.active_count() == before
    assert err.text == ""
