"""`epsopt doctor`: what was read, what it was taken for, and what each command still needs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from epsopt.cli.options import Options, common
from epsopt.zoo.formatting import count

if TYPE_CHECKING:
    from epsopt.optimize.renamed_parameters import RenamedParameter
    from epsopt.studies.diagnosis import Diagnosis, Readiness

_LISTED = 12


@click.command("doctor")
@common
def command(options: Options) -> None:
    """Say what was read, what metrics and hyperparameters were taken for, and what each command still needs.

    For everything that is missing the line to add to epsopt.toml, or the command to run, is named. Nothing is changed.
    """
    from epsopt.cli.output import print_json
    from epsopt.cli.progress import working
    from epsopt.cli.workspace import open_workspace

    with working("looking at the project"):
        workspace = open_workspace(options)
        from epsopt.studies.diagnosis import diagnose, other_formats

        with workspace.catalogue() as catalogue:
            found = diagnose(workspace.project, catalogue, other_formats(workspace.project, catalogue))
    if options.json:
        print_json({
            "storage": workspace.shown,
            "project": None if workspace.project is None else str(workspace.project.file),
            **asdict(found),
            "parameters": [{"name": n, "about": text} for n, text in found.parameters.items()],
            "hyperparameters_left_out": [
                {"name": n, "reason": why} for n, why in found.hyperparameters_left_out.items()
            ],
            "unread": [{"name": name, "runs": n} for name, n in found.unread.items()],
            "not_read": [{"reason": why, "files": n} for why, n in found.not_read.items()],
        })  # fmt: skip
        return
    _show(found)


def _show(found: Diagnosis) -> None:
    from epsopt.cli.output import Head, Rows, one_line, print_line, print_list, print_table, print_wrapped
    from epsopt.cli.render import short_path

    layouts = ", ".join(f"{n} of {name}" for name, n in found.layouts.items())
    print_wrapped(
        f"Read: {count(found.checkpoints, 'checkpoint')} of {count(found.runs, 'run')}"
        + (f" ({layouts})." if layouts else ".")
    )
    if found.not_read:
        print_wrapped("Not read, by reason:")
        for why, n in list(found.not_read.items())[:_LISTED]:
            print_line(one_line(f"  {count(n, 'file')}: {why}"))
    if found.unread:
        from epsopt.studies.diagnosis import name_files

        print_wrapped(f"Beside checkpoints, and not read under these names: {name_files(found.unread)}.")
    if found.declared_base is not None and found.base_lack is not None:
        print_wrapped(f"epsopt.toml names the base {short_path(found.declared_base)}: {found.base_lack}.")
    if found.bases:
        print_wrapped(f"They start from {', '.join(short_path(p) for p in found.bases)}.")
    elif found.checkpoints and found.base_line is None:
        print_wrapped(f"They name no base; by their weights they are of {count(found.lineages, 'lineage')}.")
        print_wrapped(
            "If all began with one checkpoint, name it, since what changed says more than what is: "
            '[lineage] base = "PATH" in epsopt.toml.'
        )
    show_nan_weights(found.nan_weights)
    if found.not_taken:
        print_wrapped()
        print_wrapped("Not taken:")
        for failure in found.not_taken[:_LISTED]:
            print_list(f"{short_path(failure.path)}: {failure.reason}")
        if found.not_taken[_LISTED:]:
            print_list(f"{len(found.not_taken) - _LISTED} more (--json names all)")
    if found.metrics:
        print_wrapped()
        rows = [Rows([[m.name, m.role, m.about, str(m.measured)]]) for m in found.metrics]
        heads = [Head("metric", "left"), Head("taken for", "left"), Head("", "left"), Head("checkpoints")]
        print_table(heads, rows)
    for text in found.doubts:
        print_wrapped()
        print_wrapped(f"{text}.")
    if found.parameters:
        print_wrapped()
        print_wrapped("Hyperparameters that are searched:")
        for name, about in found.parameters.items():
            print_list(f"{name}: {about}")
    if found.hyperparameters_left_out:
        reasons: dict[str, list[str]] = {}
        for name, why in found.hyperparameters_left_out.items():
            reasons.setdefault(why, []).append(name)
        print_wrapped("They vary and are not searched:")
        for why, names in reasons.items():
            print_list(f"{', '.join(names)} ({why})")
    print_wrapped()
    show_base_line(found.base_line)
    show_renamed(found.renamed)
    show_readiness(found.readiness)


def show_nan_weights(runs: dict[str, int]) -> None:
    """Say of which runs nothing is learned, or not from all of their checkpoints, because weights are NaN."""
    from epsopt.cli.output import print_wrapped

    if runs:
        named = ", ".join(f"{run} ({count(n, 'checkpoint')})" for run, n in list(runs.items())[:_LISTED])
        more = f" and {len(runs) - _LISTED} more (--json names all)" if len(runs) > _LISTED else ""
        print_wrapped()
        print_wrapped(f"Weights are NaN, and nothing is learned from them: {named}{more}.")


def show_base_line(line: str | None) -> None:
    """Name the line of epsopt.toml that says what runs start from, where they say it and the file does not."""
    from epsopt.cli.output import print_line, print_wrapped

    if line is not None:
        print_wrapped("The runs name the base that they start from, and epsopt.toml does not. Add, and ingest again:")
        print_line(f"  {line}")


def show_renamed(renamed: tuple[RenamedParameter, ...]) -> None:
    """Name the lines of epsopt.toml that make one hyperparameter of two which runs call by two names."""
    from epsopt.cli.output import print_line, print_wrapped
    from epsopt.studies.project.template import rename_lines

    if renamed:
        pairs = "; ".join(f"{r.old} in {count(r.old_runs, 'run')}, {r.new} in {r.new_runs}" for r in renamed)
        print_wrapped(f"Some runs seem to call a hyperparameter by another name ({pairs}). If so, add:")
        print_line("  [hyperparameters.rename]")
        for line in rename_lines(renamed):
            print_line(f"  {line}")
        print_wrapped()


def show_readiness(readiness: tuple[Readiness, ...]) -> None:
    """Say which commands are ready, and of the others what they lack and what to do."""
    from epsopt.cli.output import print_line, print_wrapped

    ready = [r.command for r in readiness if not r.lacks]
    if ready:
        print_wrapped(f"Ready: {', '.join(f'epsopt {name}' for name in ready)}.")
    for r in readiness:
        for lack, remedy in zip(r.lacks, r.remedies, strict=True):
            print_wrapped(f"epsopt {r.command}: {lack}:")
            print_line(f"  {remedy}")
