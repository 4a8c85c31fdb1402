"""What `epsopt merge --wide` shows: merges of many checkpoints, each part of the network on its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from epsopt.cli.run_labels import RunLabels
    from epsopt.optimize.objectives import Objective
    from epsopt.studies.merge.merge_candidates import Part
    from epsopt.studies.merge.weight_space_merge import Tried, WeightSpaceMerge
    from epsopt.studies.project.project import Project
    from epsopt.zoo.catalogue.types import Checkpoint, Lineage
    from epsopt.zoo.decoding.kept_evaluations import KeptEvaluations

_SMALL = 0.005  # of a coefficient: rounded to nothing


def merge_widely(
    project: Project,
    checkpoints: Sequence[Checkpoint],
    lineages: Sequence[Lineage],
    folder: Path,
    form: str | None,
    *,
    budget: int,
    give_up: bool,
    rank: int | None,
    seed: int,
    progress: Callable[[str, float | None], None],
    jobs: int = 1,
    kept: KeptEvaluations | None = None,
) -> WeightSpaceMerge:
    """Choose checkpoints and merge them; see :func:`epsopt.studies.merge.weight_space_merge.merge_in_weight_space`."""
    from epsopt.studies.merge.merge_sources import choose_sources
    from epsopt.studies.merge.weight_space_merge import merge_in_weight_space
    from epsopt.studies.output_paths import decoded_file
    from epsopt.zoo.decoding.decoder import WeightDecoder

    sources = choose_sources(checkpoints, lineages, project.objectives)
    with WeightDecoder(
        project.evaluate, weights_key=project.weights_key, calibrate=project.calibrate, rank=rank, jobs=jobs, kept=kept
    ) as decoder:
        return merge_in_weight_space(
            decoder, project, checkpoints, sources,
            lambda i: decoded_file(folder, f"merged_{i:03d}", form, sources.checkpoints),
            budget=budget, give_up=give_up, seed=seed, progress=progress,
        )  # fmt: skip


def print_wide(
    wide: WeightSpaceMerge,
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
        print_json(wide_document(wide, project.objectives, folder, budget, seed, whole))
    else:
        show_wide(wide, project.objectives, folder, budget, project.evaluate, labels)
        print_whole(whole)


def wide_document(
    wide: WeightSpaceMerge,
    objectives: Sequence[Objective],
    folder: Path,
    budget: int,
    seed: int,
    whole: Mapping[int, Path],
) -> dict[str, Any]:
    """Return it as JSON values (docs/schemas/merge.json)."""
    from epsopt.cli.merge_output import kept_json, outcome_json, recombination_json
    from epsopt.cli.render import checkpoint_json, objective_json

    named = wide.sources.labels
    base = wide.sources.base
    return {
        "objectives": objective_json(objectives),
        "parents": [checkpoint_json(c) for c in wide.sources.checkpoints],
        "base": {"checkpoint": named[base.sha256], "path": base.path, "sha256": base.sha256},
        "wide": True,
        "operator": "linear",
        "density": None,
        "groups": [],
        "budget": budget,
        "seed": seed,
        "reach": 0.0,
        "evaluations": [
            {
                "weights": recombination_json(t.recombination, named),
                "parts": [{"patterns": [*p.patterns], "tensors": p.tensors, "coefficients": _coefficients(t, p, named)}
                          for p in t.parts],
                "predicted": t.predicted,
                "predicted_gain": t.predicted_gain,
                "measured": dict(t.measured),
                "reason": t.reason,
                **kept_json(i, wide.joined, wide.saved, whole),
            }
            for i, t in enumerate(wide.tried)
        ],
        **outcome_json(wide, objectives, wide.disagreements, wide.sources.left_out, folder if wide.saved else None),
    }  # fmt: skip


def _coefficients(tried: Tried, part: Part, named: dict[str, str]) -> dict[str, float]:
    """How much of each checkpoint is in a part, by its name, the most first."""
    pairs = zip(tried.recombination.parents, part.coefficients, strict=True)
    shares = {named[p.sha256]: c for p, c in pairs if abs(c) >= _SMALL}
    return dict(sorted(shares.items(), key=lambda item: -abs(item[1])))


def show_wide(
    wide: WeightSpaceMerge,
    objectives: Sequence[Objective],
    folder: Path,
    budget: int,
    hook: str | None,
    labels: RunLabels,
) -> None:
    """Print the merges that joined the front, what they are made of, and how far the front moved."""
    from epsopt.cli.output import HYPERVOLUME, Head, Rows, print_line, print_list, print_table, print_wrapped
    from epsopt.cli.render import formatters, measured_row, metric_heads, short_path

    sources, names = wide.sources, [o.name for o in objectives]
    called = {c.sha256: labels(c.run, c.epoch) for c in sources.checkpoints}
    called = {sha256: called.get(sha256, name) for sha256, name in sources.labels.items()}
    runs, ends = len({c.run_id for c in sources.checkpoints}), len(sources.checkpoints) - sources.n_front
    print_wrapped(
        f"{len(sources.checkpoints)} checkpoints of {runs} runs that share the base "
        f"{called[sources.base.sha256]}: {sources.n_front} of the measured front"
        + (f", and the ends of {ends} runs." if ends else ".")
    )
    print_wrapped()
    n = len(wide.tried)
    spent = f" Of a budget of {budget}, {n} were measured: {wide.stopped}." if wide.stopped else ""
    if not wide.joined:
        print_wrapped(f"None of {n} merges beats what is measured already; nothing was saved.{spent}")
        return
    joined = [wide.tried[i] for i in wide.joined]
    ends_of = [{k: e[m] for k, e in (t.predicted or {}).items()} for t in joined for m in ("low", "high")]
    texts = formatters(names, [*(t.measured for t in joined), *ends_of])
    groups = []
    for i in wide.joined:
        tried = wide.tried[i]
        rows = [[str(i), *measured_row("measured", tried.measured, names, texts)]]
        if tried.predicted is not None:
            ends_here = [(texts[k], tried.predicted[k]) for k in names]
            rows.append(["", "expected", *(f"[{text(p['low'])}, {text(p['high'])}]" for text, p in ends_here)])
        groups.append(Rows(rows, frozenset({1})))
    print_table([Head("merge"), Head("", "left"), *metric_heads(names, objectives)], groups, keep=2)
    print_wrapped()
    print_line("What they are made of; coefficients of a part sum to one:")
    for i in wide.joined:
        tried = wide.tried[i]
        print_line(f"{i:>3}  {tried.reason}")
        for part in tried.parts:
            if len(tried.parts) > 1:
                print_line(f"     {_named(part)}")
            print_list(
                ", ".join(f"{name} {c:.2f}" for name, c in _coefficients(tried, part, called).items()), "       "
            )
    print_wrapped()
    gain = f" ({wide.after / wide.before - 1.0:+.2%})" if wide.before > 0.0 else ""
    print_wrapped(
        f"All values are measured by {hook}; expected is the 90 % interval from before. {len(wide.joined)} of {n} "
        f"merges are on the measured front; its hypervolume went from {wide.before:.4g} to {wide.after:.4g}{gain}."
        f"{spent}"
    )
    print_wrapped(HYPERVOLUME)
    print_line(f"saved in {short_path(folder.resolve())}; 'epsopt ingest' reads them")


def _named(part: Part) -> str:
    many = f"{part.tensors} tensor{'s' if part.tensors != 1 else ''}"
    if not part.patterns:
        return f"the other {many}"
    more = len(part.patterns) - 1
    return f"{many}: {part.patterns[0]}" + (f" and {more} more pattern{'s' if more > 1 else ''}" if more else "")
