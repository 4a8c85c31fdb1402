"""What `epsopt merge` shows of a search over all checkpoints of a few lineages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from epsopt.cli.run_labels import RunLabels
    from epsopt.optimize.objectives import Objective
    from epsopt.studies.merge.merge_sources import Sources
    from epsopt.studies.merge.weight_space_merge import Tried, WeightSpaceMerge
    from epsopt.studies.project.project import Project
    from epsopt.zoo.catalogue.types import Checkpoint
    from epsopt.zoo.decoding.kept_evaluations import KeptEvaluations

_SMALL = 0.02  # of a coefficient: not shown; the saved file has all


def search_merges(
    project: Project,
    checkpoints: Sequence[Checkpoint],
    sources: Sequence[Sources],
    folder: Path,
    form: str | None,
    *,
    budget: int,
    rank: int | None,
    seed: int,
    progress: Callable[[str, float | None], None],
    jobs: int = 1,
    kept: KeptEvaluations | None = None,
) -> WeightSpaceMerge:
    """Merge checkpoints (:func:`epsopt.studies.merge.weight_space_merge.merge_in_weight_space`)."""
    from epsopt.studies.merge.weight_space_merge import merge_in_weight_space
    from epsopt.studies.output_paths import decoded_file
    from epsopt.zoo.decoding.decoder import WeightDecoder

    with WeightDecoder(
        project.evaluate, weights_key=project.weights_key, calibrate=project.calibrate, rank=rank, jobs=jobs, kept=kept
    ) as decoder:
        return merge_in_weight_space(
            decoder, project, checkpoints, sources,
            lambda i, parents: decoded_file(folder, f"merged_{i:03d}", form, parents),
            budget=budget, seed=seed, progress=progress,
        )  # fmt: skip


def print_search(
    found: WeightSpaceMerge,
    project: Project,
    folder: Path,
    budget: int,
    seed: int,
    labels: RunLabels,
    whole: Mapping[int, Path],
    *,
    as_json: bool,
) -> None:
    """Print what came of it, as a JSON document or as tables."""
    from epsopt.cli.merge_output import print_whole
    from epsopt.cli.output import print_json

    if as_json:
        print_json(search_document(found, project.objectives, folder, budget, seed, whole))
    else:
        show_search(found, project, folder, budget, labels)
        print_whole(whole)


def search_document(
    found: WeightSpaceMerge,
    objectives: Sequence[Objective],
    folder: Path,
    budget: int,
    seed: int,
    whole: Mapping[int, Path],
) -> dict[str, Any]:
    """Return it as JSON values (docs/schemas/merge.json)."""
    from epsopt.cli.merge_output import kept_json, outcome_json, recombination_json
    from epsopt.cli.render import checkpoint_json, objective_json

    named = found.labels
    return {
        "objectives": objective_json(objectives),
        "parents": [checkpoint_json(c) for c in found.checkpoints],
        "base": None,
        "searched": True,
        "operator": "linear",
        "density": None,
        "groups": [],
        "budget": budget,
        "seed": seed,
        "reach": 0.0,
        "evaluations": [
            {
                "weights": recombination_json(t.recombination, named),
                "predicted": t.predicted,
                "predicted_gain": t.predicted_gain,
                "measured": dict(t.measured),
                "reason": t.reason,
                **kept_json(i, found.joined, found.saved, whole),
            }
            for i, t in enumerate(found.tried)
        ],
        **outcome_json(found, objectives, found.disagreements, found.left_out, folder if found.saved else None),
    }  # fmt: skip


def _coefficients(tried: Tried, named: Mapping[str, str]) -> str:
    """How much of each checkpoint is in a merge, the most first."""
    pairs = zip(tried.recombination.parents, tried.recombination.coefficients[0], strict=True)
    shares = sorted(((named[p.sha256], c) for p, c in pairs if abs(c) >= _SMALL), key=lambda item: -abs(item[1]))
    return ", ".join(f"{name} {c:.2f}" for name, c in shares)


def show_search(found: WeightSpaceMerge, project: Project, folder: Path, budget: int, labels: RunLabels) -> None:
    """Print the merges that joined the front, what they are made of, and how far the front moved."""
    from epsopt.cli.merge_output import print_saved
    from epsopt.cli.output import HYPERVOLUME, Head, Rows, print_line, print_list, print_table, print_wrapped
    from epsopt.cli.render import formatters, measured_row, metric_heads

    objectives = project.objectives
    names = [o.name for o in objectives]
    called = {**found.labels, **{c.sha256: labels(c.run, c.epoch) for c in found.checkpoints}}
    print_wrapped(_opening(found.sources, called))
    print_wrapped()
    n = len(found.tried)
    spent = f" Of a budget of {budget}, {n} were measured: {found.stopped}." if found.stopped else ""
    if not found.joined:
        print_wrapped(f"None of {n} merges beats what is measured already; nothing was saved.{spent}")
        return
    order = sorted(found.joined, key=lambda i: found.tried[i].measured[names[0]] or 0.0)  # along the front
    joined = [found.tried[i] for i in order]
    ends_of = [{k: e[m] for k, e in (t.predicted or {}).items()} for t in joined for m in ("low", "high")]
    texts = formatters(names, [*(t.measured for t in joined), *ends_of])
    groups = []
    for i in order:
        tried = found.tried[i]
        rows = [[str(i), *measured_row("measured", tried.measured, names, texts)]]
        if tried.predicted is not None:
            ends_here = [(texts[k], tried.predicted[k]) for k in names]
            rows.append(["", "expected", *(f"[{text(p['low'])}, {text(p['high'])}]" for text, p in ends_here)])
        groups.append(Rows(rows, frozenset({1})))
    print_table([Head("merge"), Head("", "left"), *metric_heads(names, objectives)], groups, keep=2)
    print_wrapped()
    print_line("What they are made of; coefficients sum to one:")
    for i in order:
        print_line(f"{i:>3}  {found.tried[i].reason}")
        print_list(_coefficients(found.tried[i], called), "     ")
    print_wrapped()
    gain = f" ({found.after / found.before - 1.0:+.2%})" if found.before > 0.0 else ""
    print_wrapped(
        f"All values are measured by {project.evaluate}; expected is the 90 % interval from before. "
        f"{len(found.joined)} of {n} merges are on the measured front; its hypervolume went from "
        f"{found.before:.4g} to {found.after:.4g}{gain}.{spent}"
    )
    print_wrapped(HYPERVOLUME)
    print_saved(folder, project.runs)


def _opening(sources: Sequence[Sources], called: Mapping[str, str]) -> str:
    """Say what is merged."""
    checkpoints = [c for one in sources for c in one.checkpoints]
    runs, on_front = len({c.run_id for c in checkpoints}), sum(one.n_front for one in sources)
    many = f"{len(checkpoints)} checkpoint{'s' if len(checkpoints) != 1 else ''}"
    of_runs = f"{runs} run{'s' if runs != 1 else ''}"
    behind = "all of them" if on_front == len(checkpoints) else f"{on_front} of them"
    if len(sources) == 1:
        return f"{many} of {of_runs} that share the base {called[sources[0].base.sha256]}, {behind} on its front."
    return f"{many} of {of_runs} in {len(sources)} lineages, {behind} on the front of their lineage."
