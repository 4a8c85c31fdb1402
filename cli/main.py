"""The `epsopt` command: one subcommand per file, loaded only when it is asked for."""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import sys

import click

# Name -> one line for --help. The modules are imported on use, so that `epsopt --help` answers at once.
COMMANDS = {
    "init": "Write epsopt.toml from a scan of a runs folder.",
    "ingest": "Read the checkpoints of a runs folder into the catalogue.",
    "doctor": "Say what was read, what it was taken for, and what each command needs.",
    "check": "Check the database for damage, without changing it.",
    "fit": "Learn the map (the Epsilon-VAE) from the catalogue and validate it on held-out runs.",
    "predict": "Predict the metrics of checkpoint files, with intervals.",
    "search": "Search the map for the trade-offs that meet your targets.",
    "pareto": "Show the measured checkpoints that no other one beats.",
    "runs": "List every run: its state, its epochs, its last metrics, and what of it is on the front.",
    "nearest": "Show the catalogue's checkpoints nearest to one.",
    "interpolate": "Walk from one checkpoint to another: predicted, merged and measured.",
    "merge": "Merge checkpoints of one lineage so that the measured front widens.",
    "trajectory": "Show a run's path over the map, and where it will end.",
    "cluster": "Group runs that behave alike, and name redundant ones.",
    "sample": "Sample hypothetical checkpoints that meet your targets.",
    "embed": "Preview a checkpoint's anchor embeddings, predicted and real.",
    "propose": "Propose the next training configs.",
    "init-from": "Name the checkpoint that the next run should start from.",
    "work": "Train what was proposed, watch it, and record it in the study.",
    "report": "Show predicted against measured, and how far the intervals hold.",
    "explore": "Explore the map in a browser: checkpoints, front, runs and what-if, linked.",
    "dashboard": "Open the Optuna dashboard on the project's studies.",
    "demo": "Run every step on a small zoo that is trained for real.",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's interface
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"epsopt.cli.{cmd_name.replace('-', '_')}").command
        return command if isinstance(command, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            import difflib

            close = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "'epsopt --help' lists the commands"
            raise click.UsageError(f"there is no command {name!r}: {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 88})
@click.version_option(package_name="epsopt")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def group(ctx: click.Context, debug: bool) -> None:
    """A Pareto optimiser that learns from checkpoints, not only from scores.

    Start in a folder of training runs with `epsopt init RUNS`, then `ingest`, `fit` and `search`.
    """
    ctx.ensure_object(dict)["debug"] = debug


def _sentence(error: click.ClickException) -> str:
    """Say what click found wrong in one sentence, as every other error of ours."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "epsopt"
    message = error.format_message().strip().rstrip(".").replace("\n", " ").replace(". (", " (")
    hint = f" ('{path} --help' tells more)" if isinstance(error, click.UsageError) else ""
    return f"{path}: {message[:1].lower()}{message[1:]}{hint}"


def _shown(text: str) -> str:
    """Return an error as a terminal may have it: names in it are strangers', and drivers put passwords into theirs."""
    from epsopt.zoo.credentials import masked
    from epsopt.zoo.reading.text import visible

    urls = [word.partition("=")[2] or word for word in sys.argv if "://" in word]
    return visible(masked(text, *urls), keep="\n")


def print_error(text: str) -> None:
    """Write an error on standard error: at a terminal broken at words, elsewhere as one line, so that grep finds it."""
    shown = _shown(text)
    if sys.stderr.isatty():
        import shutil
        import textwrap

        width = shutil.get_terminal_size().columns
        lines = [
            [line]
            if line.startswith(" ")  # of a traceback
            else textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) or [""]
            for line in shown.split("\n")
        ]
        shown = "\n".join(part for parts in lines for part in parts)
    click.echo(shown, err=True)


def _traceback() -> str:
    """Return the traceback of what is being handled."""
    import traceback

    return traceback.format_exc().rstrip()


def _damage(known: dict[str, object]) -> str | None:
    """Say what is damaged in the database that a command stumbled over; None: nothing, so it is a defect of ours."""
    storage = known.get("storage")
    if not isinstance(storage, str):
        return None
    from epsopt.studies.check import check_database
    from epsopt.zoo.errors import EpsoptError

    try:
        found = check_database(storage)
    except EpsoptError as error:
        return str(error)
    except Exception:  # noqa: BLE001 - the first error is the one to report
        return None
    if not found:
        return None
    more = f" (and {len(found) - 1} more: 'epsopt check' lists them)" if len(found) > 1 else ""
    return f"the database is damaged: {found[0].problem}{more}; what mends it: {found[0].remedy}"


def _collect_less() -> None:
    """Look for cycles less often, and not at all when the process ends: a third of what a short command takes."""
    gc.set_threshold(20_000, 20, 100)  # imports alone make some hundred thousand objects that stay
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)


def main() -> None:
    """Run the command line; exit status 0, 1 (could not do it) or 2 (bad usage), one sentence per error."""
    from epsopt.zoo.child_processes import leave_out_working_directory
    from epsopt.zoo.errors import EpsoptError, UsageError

    leave_out_working_directory()
    _collect_less()
    debug = "--debug" in sys.argv
    known: dict[str, object] = {}
    try:
        group(prog_name="epsopt", standalone_mode=False, obj=known)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        print_error(_sentence(error))
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("\nepsopt: stopped; what was finished is kept", err=True)
        sys.exit(130)
    except EpsoptError as error:
        print_error(_traceback() if debug else f"epsopt: {error}")
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except BrokenPipeError:  # the reader of our output has seen enough: `epsopt pareto | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is reported in a sentence
        damage = None if debug else _damage(known)
        if damage is not None:
            print_error(f"epsopt: {damage}")
            sys.exit(1)
        message = f"unexpected {type(error).__name__}: {error} (this is a defect; 'epsopt --debug ...' shows where)"
        print_error(_traceback() if debug else f"epsopt: {message}")
        sys.exit(1)
