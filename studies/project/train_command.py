"""The train command: an argument list with {name} holes, never a shell line."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from epsopt.zoo.errors import UsageError

# An item is one argument, or a list of arguments that stays or goes together.
Command = tuple[str | tuple[str, ...], ...]

# Filled by epsopt itself: the run's folder, that folder's name, the interpreter that runs epsopt, the checkpoint that
# the run starts from, the last one that an attempt before it left when it was interrupted, how many epochs the run is
# to have, a seed of its own. A hyperparameter may be called epochs or seed: then that one says it.
OWN_HOLES = ("out", "out_name", "python", "init_from", "resume_from", "epochs", "seed")
SEARCHED = ("epochs", "seed")  # those of them that a hyperparameter may say
_HOLE = re.compile(r"\{\{|\}\}|\{([^\s{}\"':,]+)\}")  # {{ and }} stand for plain braces


def holes(item: str | tuple[str, ...]) -> list[str]:
    """Return the names of the holes of a command item, in order."""
    texts = [item] if isinstance(item, str) else item
    return [match[1] for text in texts for match in _HOLE.finditer(text) if match[1] is not None]


def takes_start(command: Command) -> bool:
    """Whether the command takes the checkpoint to start from: some argument holds ``{init_from}``."""
    return any("init_from" in holes(item) for item in command)


def takes_epochs(command: Command) -> bool:
    """Whether the command takes the number of epochs: some argument holds ``{epochs}``."""
    return any("epochs" in holes(item) for item in command)


def render_command(
    command: Command,
    params: Mapping[str, Any],
    out: Path | str,
    init_from: str | None = None,
    resume_from: str | None = None,
    epochs: int | None = None,
    seed: int | None = None,
) -> list[str]:
    """Fill the holes of a train command.

    ``{out}`` becomes the run's folder, ``{out_name}`` its name alone, ``{python}`` the interpreter that runs epsopt,
    ``{name}`` the value of a hyperparameter: numbers in full precision, truth values as ``true`` and ``false``, lists
    and mappings as JSON. A value stays inside its argument, whatever it holds. ``{init_from}`` becomes the checkpoint
    that the run starts from. An item that is a list (a flag and its value) is dropped as a whole when a hyperparameter
    that it needs is inactive, that is absent from params or None, or when the run starts from scratch and it holds
    ``{init_from}``. So is one that holds ``{resume_from}`` where no attempt was interrupted before, or ``{epochs}``
    where nothing says how long the run is. ``{seed}`` becomes the proposal's number: each run has a seed of its own,
    and a retry has that of its run.

    Args:
        command: the items, from the project file.
        params: the active hyperparameters of one run.
        out: where the run is to write.
        init_from: the checkpoint to start from; None starts from scratch.
        resume_from: the last checkpoint of an interrupted attempt; a command without a place for it begins again.
        epochs: how many the run is to have; None: as many as its hyperparameters or its program say.
        seed: what ``{seed}`` becomes where no hyperparameter is called so; None: nothing, as for ``epochs``.

    Returns:
        The arguments, for ``subprocess.run`` without a shell.

    Raises:
        UsageError: a single argument needs a hyperparameter that is not there, a value that no argument can hold, or
            a checkpoint to start from and no place for it.
    """
    values = {name: value for name, value in params.items() if value is not None}
    values.update(out=str(out), out_name=str(out).rstrip("/").rpartition("/")[2], python=sys.executable)
    for own in ("init_from", "resume_from"):
        values.pop(own, None)
    if resume_from is not None:
        values["resume_from"] = resume_from
    if init_from is not None:
        if not takes_start(command):
            raise UsageError(
                f"train.command has no place for the checkpoint {init_from} that the run shall start from: "
                'add a list of its own, such as ["--init-from", "{init_from}"]'
            )
        values["init_from"] = init_from
    if epochs is not None:
        values["epochs"] = epochs
    if seed is not None:
        values.setdefault("seed", seed)
    arguments: list[str] = []
    for item in command:
        missing = [name for name in holes(item) if name not in values]
        if not missing:
            arguments += [_fill(text, values) for text in ([item] if isinstance(item, str) else item)]
        elif isinstance(item, str):
            raise UsageError(
                f'train.command: "{item}" needs {missing[0]}, which this configuration does not have: '
                "put the argument and its flag into a list of their own if it may be inactive"
            )
    return arguments


def _fill(text: str, values: Mapping[str, Any]) -> str:
    def put(match: re.Match[str]) -> str:
        return match[0][0] if match[1] is None else _text(match[1], values[match[1]])

    return _HOLE.sub(put, text)  # one pass: a value that looks like a hole is not filled again


def _text(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple | dict):
        return json.dumps(value)
    if not isinstance(value, str | int | float):
        raise UsageError(
            f"train.command: {name} holds {value!r:.80}, expected a text, a number, true/false, a list or a mapping"
        )
    text = str(value)
    if "\0" in text:
        raise UsageError(f"train.command: {name} holds a NUL character, which no argument can")
    return text
