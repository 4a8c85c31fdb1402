"""What `epsopt merge` shows of merges of a few checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from epsopt.cli.run_labels import RunLabels
    from epsopt.optimize.objectives import Objective
    from epsopt.studies.merge.simplex_merge import Merged
    from epsopt.studies.project.project import Project
    from epsopt.zoo.catalogue.types import Checkpoint


def print_merged(
    merged: Merged,
    broken: Sequence[Checkpoint],
    project: Project,
    folder: Path,
    budget: int,
    seed: int,
    reach: float,
    labels: RunLabels,
    whole: Mapping[int, Path],
    *,
    as_json: bool,
) -> None:
    """Print what came of it, as a JSON document or as tables."""
    from epsopt.cli.merge_output import print_whole
    from epsopt.cli.output import print_json

    if as_json:
        print_json(_document(merged, broken, project.objectives, folder, budget, seed, reach, whole))
    else:
        _show(merged, project.objectives, folder, project, budget, labels)
        print_whole(whole)


def _document(
    merged: Merged,
    broken: Sequence[Checkpoint],
    objectives: Sequence[Objective],
    folder: Path,
    budget: int,
    seed: int,
    reach: float,
    whole: Mapping[int, Path],
) -> dict[str, Any]:
    from epsopt.cli.merge_output import kept_json, outcome_json, recombination_json
    from epsopt.cli.render import checkpoint_json, objective_json
    from epsopt.zoo.decoding.operator_names import is_sparse
    from epsopt.zoo.decoding.provenance import labels

    named, base = labels(merged.parents), merged.how["base"]
    result = merged.result
    return {
        "objectives": objective_json(objectives),
        "parents": [checkpoint_json(p) for p in merged.parents],
        "base": None
        if base is None
        else {"checkpoint": Path(base.path).name, "path": base.path, "sha256": base.sha256},
        "searched": False,
        "operator": merged.how["operator"],
        "density": merged.how["density"] if is_sparse(merged.how["operator"]) else None,
        "groups": list(merged.groups),
        "budget": budget,
        "seed": seed,
        "reach": reach,
        "evaluations": [
            {
                "weights": recombination_json(merged.recombination(e), named),
                "predicted": e.predicted,
                "predicted_gain": None,
                "measured": dict(e.measured),
                "reason": e.reason,
                **kept_json(i, result.joined, merged.saved, whole),
            }
            for i, e in enumerate(result.evaluations)
        ],
        **outcome_json(result, objectives, merged.disagreements, broken, folder if merged.saved else None),
    }


def _show(
    merged: Merged, objectives: Sequence[Objective], folder: Path, project: Project, budget: int, labels: RunLabels
) -> None:
    from epsopt.cli.merge_output import print_saved
    from epsopt.cli.output import HYPERVOLUME, Head, Rows, print_line, print_table, print_wrapped
    from epsopt.cli.render import formatters, measured_row, metric_heads

    result = merged.result
    names = [o.name for o in objectives]
    rows = [i for i, e in enumerate(result.evaluations) if e.measured]
    texts = formatters(names, [result.evaluations[i].measured for i in rows])
    letters = "ABCDE"[: len(merged.parents)]
    for letter, parent in zip(letters, merged.parents, strict=True):
        print_line(f"{letter}  {labels(parent.run, parent.epoch)}")
    print_wrapped()
    groups = []
    for i in rows:
        e = result.evaluations[i]
        title = f"parent {letters[i]}" if i < len(letters) else f"merged {i}{' *' if i in result.joined else ''}"
        for g, coefficients in enumerate(e.coefficients):
            shown = " ".join(f"{c:5.2f}" for c in coefficients)
            cells = measured_row(title, e.measured, names, texts) if g == 0 else ["", *[""] * len(names)]
            groups.append(Rows([[cells[0], shown, *cells[1:]]]))
    heads = [Head("measured", "left"), Head(" ".join(f"{letter:>5}" for letter in letters), "left")]
    print_table([*heads, *metric_heads(names, objectives)], groups, keep=2)
    print_wrapped()
    if merged.groups:
        print_wrapped(f"Rows of coefficients: tensors that fit {', then '.join(merged.groups)}, then all others.")
    n = len(result.evaluations)
    if result.stopped is not None:
        print_wrapped(f"{n} of a budget of {budget} were measured: {result.stopped}.")
    if not result.joined:
        print_wrapped(f"None of the {n - len(letters)} merges beats what is measured already; nothing was saved.")
        return
    gain = f" ({result.after / result.before - 1.0:+.2%})" if result.before > 0.0 else ""
    print_wrapped(
        f"All values are measured by {project.evaluate}. {len(result.joined)} of {n - len(letters)} merges (*) are on "
        f"the measured front; its hypervolume went from {result.before:.4g} to {result.after:.4g}{gain}."
    )
    print_wrapped(HYPERVOLUME)
    print_saved(folder, project.runs)
