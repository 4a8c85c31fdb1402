"""What `epsopt init` prints: what it took runs for, what it guessed, and what it left out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from epsopt.zoo.errors import Failure

_LISTED = 8  # metrics of a kind that are named


def print_draft(document: dict[str, Any], file: Path, failed: list[Failure], side_file_failures: list[Failure]) -> None:
    """Print a drafted project file.

    Args:
        document: what `epsopt init --json` prints.
        file: the project file.
        failed: checkpoints that could not be read.
        side_file_failures: logs and configurations that could not be read.
    """
    from epsopt.cli.output import failures, links_outside, print_line, print_side_file_failures, print_wrapped
    from epsopt.cli.render import short_path

    read = document["n_read"]
    print_wrapped(
        f"{document['n_checkpoints']} checkpoints in {document['n_runs']} runs; "
        f"judged by the newest checkpoint of {read} run{'s' if read != 1 else ''}."
    )
    if failed:
        print_wrapped(f"{len(failed)} could not be read:")
        failures(failed)
    print_side_file_failures(side_file_failures)
    links_outside(document["outside_links"])
    _print_objectives(document["objectives"])
    _print_metrics_left_out(document)
    _print_space(document)
    _print_bases(document)
    _print_doubts(document)
    print_line(f"{'wrote' if document['changed'] else 'unchanged:'} {short_path(file)}")
    print_wrapped("Next: check it, then 'epsopt ingest' and 'epsopt fit'.")


def _print_objectives(objectives: list[dict[str, Any]]) -> None:
    from epsopt.cli.output import Head, Rows, print_table, print_wrapped
    from epsopt.surrogate.ranges import range_text

    rows = [
        Rows([[
            o["name"],
            o["direction"],
            "guessed from its name" if o["guessed"] else "as you said",
            range_text(o["bounds"]) if o["bounds"] else "any number",
        ]])
        for o in objectives
    ]  # fmt: skip
    if rows:
        print_wrapped()
        print_table([Head(text, "left") for text in ("objective", "direction", "", "can be (a guess)")], rows)
        print_wrapped()
    if late := [o["name"] for o in objectives if o["at_ends"]]:
        print_wrapped(
            f"Only the ends of runs have {', '.join(late)}: fronts then hold last checkpoints alone, and what is "
            "predicted of earlier ones is never compared with a measurement. Measure it along the way, or choose "
            "another objective."
        )
    if unnamed := [o["name"] for o in objectives if o["unnamed_model"]]:
        print_wrapped(
            f"No checkpoint has {', '.join(unnamed)} until weights_key under [runs] names the network that the log "
            "speaks of: runs saved several at one moment, as said above."
        )
    for o in objectives:
        if o["suggested_limit"] is not None:
            print_wrapped(
                f"On the front of past runs are models that are hardly better than chance in {o['name']}: at_least = "
                f"{o['suggested_limit']:g} in its table leaves them out (a comment there)."
            )


def _print_metrics_left_out(document: dict[str, Any]) -> None:
    from epsopt.cli.output import print_wrapped
    from epsopt.studies.project.template import LEFT_OUT

    for name in document["undecided"]:
        print_wrapped(
            f"{name}: its name does not tell which way is better, so it is left out until you say so, in the file "
            f"or with --minimize {name} or --maximize {name}."
        )
    for reason, why in LEFT_OUT.items():
        names = [entry["name"] for entry in document["metrics_left_out"] if entry["reason"] == reason]
        if names:
            shown = ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
            print_wrapped(
                f"No objectives, as you said: {shown}."
                if reason == "unasked"
                else f"No objective by guess: {shown} ({why[0].lower()}{why[1:]}); --minimize or --maximize makes one."
            )
    if not (document["objectives"] or document["undecided"] or document["metrics_left_out"]):
        print_wrapped("The checkpoints carry no metrics: nothing can be predicted before they do.")


def _print_space(document: dict[str, Any]) -> None:
    from epsopt.cli.output import print_wrapped

    if document["space"]:
        print_wrapped(f"Search space from past runs: {', '.join(document['space'])}.")
    else:
        print_wrapped("No hyperparameter varies between the runs: declare [space.NAME] before you ask for proposals.")


def _print_bases(document: dict[str, Any]) -> None:
    from epsopt.cli.output import print_wrapped
    from epsopt.cli.render import short_path

    if not document["bases"]:
        return
    base, *others = document["bases"]
    known = f"{short_path(base['path'])}, as {base['runs']} of {document['n_read']} runs say by their {base['key']}"
    print_wrapped(
        f"Base checkpoint: {known}; other runs name {len(others)} more, so [lineage] names none: see the file."
        if others
        else f"Base checkpoint: {known} ([lineage] base)."
    )


def _print_doubts(document: dict[str, Any]) -> None:
    """Name what to check: doubts, names of one meaning, values of diverged runs, hyperparameters without a range."""
    from epsopt.cli.output import print_wrapped
    from epsopt.zoo.formatting import count

    for text in document["doubts"]:
        print_wrapped(f"{text}.")
    for old, new in document["renamed_metrics"].items():
        print_wrapped(f"{old} and {new} are one metric by guess: check [metrics.rename].")
    for pair in document["renamed"]:
        print_wrapped(
            f"{count(pair['old_runs'], 'run')} call {pair['old']} what {pair['new_runs']} others call {pair['new']}, "
            "by guess: check [hyperparameters.rename]."
        )
    for found in document["beyond"]:
        values = ", ".join(f"{v:.6g}" for v in found["values"])
        print_wrapped(f"The range of {found['name']} leaves out {values}: only runs that diverged had it.")
    reasons: dict[str, list[str]] = {}
    for left in document["hyperparameters_left_out"]:
        reasons.setdefault(left["reason"], []).append(left["name"])
    if reasons:
        reasons_text = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
        print_wrapped(
            f"They vary and are not searched: {reasons_text}. To search one of them, declare it in [space.NAME]."
        )
