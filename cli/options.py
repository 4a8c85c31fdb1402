"""Options that several commands share, and ``--target-NAME VALUE`` for whatever metrics the catalogue has."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from epsopt.zoo.errors import UsageError

PREFIX = "--target-"
_FORMER = {"--mix": "--merges", "--lost-after": "--stale-after"}  # options of version 0.1; they go with 0.3
_GONE = {"--stop-below": "--prune-below"}  # options whose values mean something else now, and what is in their place
Callback = Callable[..., None]


@dataclass(frozen=True)
class Options:
    """What every command takes.

    Attributes:
        project: the project file, or the folder that holds it; None looks in the current folder and above it.
        storage: database URL that overrides the project's.
        json: whether one JSON document is printed instead of tables.
    """

    project: Path | None
    storage: str | None
    json: bool


def common(function: Callback) -> Callback:
    """Add ``--project``, ``--storage``, ``--json`` and ``--debug``; the callback gets them as ``options``."""

    @click.option("--project", type=click.Path(path_type=Path), metavar="FILE", help="The project file epsopt.toml.")
    @click.option("--storage", metavar="URL", help="Database URL, instead of the project's.")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document (docs/schemas).")
    # main() looks for --debug itself; it is declared so that it may follow the command.
    @click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
    @functools.wraps(function)
    def wrapped(project: Path | None, storage: str | None, as_json: bool, **rest: Any) -> None:
        function(options=Options(project, storage, as_json), **rest)

    return wrapped


def level_option(function: Callback) -> Callback:
    """Add ``--level``."""
    text = "Share of unseen checkpoints that the intervals shall cover."
    return click.option("--level", type=click.FloatRange(0, 1, True, True), default=0.9, show_default=True, help=text)(
        function
    )


def details_option(function: Callback) -> Callback:
    """Add ``--details``."""
    text = "Print the hyperparameters of runs, too."
    return click.option("--details", is_flag=True, help=text)(function)


def seed_option(function: Callback) -> Callback:
    """Add ``--seed``."""
    text = "The same seed gives the same result."
    return click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help=text)(function)


def follow_links_option(function: Callback) -> Callback:
    """Add ``--follow-links``."""
    text = "Follow links that lead out of the folder, too."
    return click.option("--follow-links", is_flag=True, help=text)(function)


def ray_option(text: str) -> Callable[[Callback], Callback]:
    """Return what adds ``--ray``.

    Args:
        text: what the cluster does, as a sentence begins.
    """
    return click.option("--ray", metavar="ADDRESS", help=f"{text}: local, auto, HOST:PORT or ray://HOST:10001.")


def overwrite_option(function: Callback) -> Callback:
    """Add ``--overwrite``, for commands that write a file where the user says."""
    text = "Replace a file that epsopt did not make; files of runs are never replaced."
    return click.option("--overwrite", is_flag=True, help=text)(function)


class TargetCommand(click.Command):
    """A command that takes ``--target-NAME VALUE`` for any name; the callback gets them as ``wanted``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the targets out of the arguments, so that a negative value is never mistaken for an option."""
        wanted: dict[str, float] = {}
        rest: list[str] = []
        queue = list(args)
        while queue:
            argument = queue.pop(0)
            if argument == "--":
                rest += [argument, *queue]
                break
            if argument in ("--target", "--targets") or argument.startswith("--target="):
                raise click.UsageError("a target is written --target-NAME VALUE: --target-coverage 0.95", ctx)
            if not argument.startswith(PREFIX):
                rest.append(self._present(argument))
                continue
            option, equals, text = argument.partition("=")
            if not equals and not queue:
                raise click.UsageError(f"{option} needs a value: {option} 0.95", ctx)
            value = text if equals else queue.pop(0)
            name = option.removeprefix(PREFIX)
            if name in wanted:
                raise click.UsageError(f"{option} is given twice", ctx)
            try:
                wanted[name] = float(value)
            except ValueError:
                raise click.UsageError(f"{option}: expected a number, got {value!r}", ctx) from None
        left = super().parse_args(ctx, rest)
        ctx.params["wanted"] = wanted
        return left

    def _present(self, argument: str) -> str:
        """Return an option by its present name, with a note where the former one is given."""
        option, equals, value = argument.partition("=")
        if any(_GONE.get(option) in p.opts for p in self.params):
            raise click.UsageError(
                f"{option} pruned by the probability of joining the front, which lost more than pruning at random, and "
                f"is gone since version 0.2: use {_GONE[option]} SHARE, from 0 to 0.2 (docs/howto/prune.md)"
            )
        now = _FORMER.get(option)
        if now is None or not any(now in p.opts for p in self.params):
            return argument
        from epsopt.cli.output import note

        note(f"{option} is called {now} since version 0.2, and goes with version 0.3")
        return now + equals + value

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the targets before the options."""
        text = "At least this good, in the metric's own direction; dist_corr is --target-dist-corr. For any metric."
        with formatter.section("Targets"):
            formatter.write_dl([(f"{PREFIX}NAME VALUE", text)])
        super().format_options(ctx, formatter)


def spelling(metric: str) -> str:
    """Spell a metric's name as it stands in an option: ``dist_corr`` is ``dist-corr``."""
    return re.sub(r"[^\w.]+|_", "-", metric).strip("-")


def named_targets(wanted: Mapping[str, float], metrics: Sequence[str]) -> dict[str, float]:
    """Turn the names in target options into metric names.

    Args:
        wanted: value by the name in the option.
        metrics: the catalogue's metrics.

    Raises:
        UsageError: unknown (lists the known options), ambiguous, or the same metric twice.
    """
    found: dict[str, float] = {}
    for name, value in wanted.items():
        fitting = [m for m in metrics if m == name] or [m for m in metrics if spelling(m) == spelling(name)]
        if not fitting:
            raise UsageError(_unknown(name, metrics))
        if len(fitting) > 1:
            raise UsageError(f"{PREFIX}{name} may mean {' or '.join(fitting)}: write the name as it is")
        if fitting[0] in found:
            raise UsageError(f"{PREFIX}{spelling(fitting[0])} is given twice")
        found[fitting[0]] = value
    return found


def _unknown(name: str, metrics: Sequence[str]) -> str:
    import difflib

    options = {spelling(m): f"{PREFIX}{spelling(m)}" for m in metrics}
    close = difflib.get_close_matches(spelling(name), options, n=1, cutoff=0.5)
    hint = f"did you mean {options[close[0]]}? " if close else ""
    return f"{PREFIX}{name}: there is no such metric: {hint}known are {', '.join(options.values()) or 'none yet'}"
