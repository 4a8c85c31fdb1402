"""What a round of proposals came to, as tables: the last search, predicted against measured, how the front moved."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from epsopt.cli.output import (
    HYPERVOLUME,
    Head,
    Rows,
    formatter,
    print_line,
    print_list,
    print_table,
    print_wrapped,
    value,
)
from epsopt.cli.render import HIDDEN, formatters, short_path
from epsopt.cli.run_labels import RunLabels
from epsopt.zoo.formatting import count

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

    from epsopt.optimize.forecast.evaluation import Accuracy
    from epsopt.optimize.objectives import Objective, Target
    from epsopt.studies.report.report import LoopReport, ProposalOutcome
    from epsopt.zoo.catalogue.types import Checkpoint


def show_answers(study: str, objectives: Sequence[Objective], storage: RDBStorage, labels: RunLabels) -> None:
    """Show the answers of a search, as its study kept them."""
    import optuna

    trials = optuna.load_study(study_name=study, storage=storage).get_trials(deepcopy=False)
    metrics = [o.name for o in objectives]
    texts = formatters(metrics, [dict(zip(metrics, t.values, strict=True)) for t in trials])
    groups, paths = [], []
    for i, trial in enumerate(trials, 1):
        near = trial.user_attrs
        predicted = [
            _with_interval(texts[name], value, *trial.user_attrs[f"interval.{name}"])
            for name, value in zip(metrics, trial.values, strict=True)
        ]
        found = f"{labels(near['nearest_run'], near['nearest_epoch'])} measured"
        measured = [texts[n](near.get(f"nearest_metric.{n}")) for n in metrics]
        groups.append(Rows([[str(i), "predicted", *predicted], ["", found, *measured]]))
        paths.append(f"  {i}  {short_path(trial.user_attrs['nearest_path'])}")
    print_line("The map's answers, and the real checkpoint nearest to each:")
    print_line("")
    print_table([Head("#"), Head("", "left"), *(Head(n) for n in metrics)], groups, keep=2)
    for path in paths:
        print_line(path)


def _with_interval(text: Callable[[float | None], str], point: float, low: float, high: float) -> str:
    return f"{text(point)} [{text(low)}, {text(high)}]"


PROPOSED = "The proposed runs, as predicted before they were trained and as measured after"


def proposals_table(report: LoopReport, objectives: Sequence[Objective]) -> tuple[list[str], list[list[list[str]]]]:
    """Return headers, and for each proposal its rows: as it was predicted, and as it was measured or stands now."""
    from epsopt.studies.report.report import WORDS

    names = [o.name for o in objectives]
    shown = [m for p in report.proposals for m in (p.point, p.low, p.high, p.measured or {})]
    texts = formatters(names, shown)
    groups = []
    for p in report.proposals:
        predicted = [_with_interval(texts[n], p.point[n], p.low[n], p.high[n]) if n in p.point else "" for n in names]
        if p.measured is None:
            measured = [WORDS.get(p.state, p.state), *("" for _ in names[1:])]
        else:
            measured = [texts[n](p.measured.get(n)) for n in names]
        if p.as_predicted or p.measured is None or p.step is None:
            title = "measured"
        else:
            title = f"after {count(f'{p.step.epochs:g}', 'epoch')}"
        rows = [["predicted", *predicted], [title, *measured]] if p.point else [[title, *measured]]
        groups.append([[str(p.number) if i == 0 else "", *row] for i, row in enumerate(rows)])
    return ["#", "", *names], groups


def proposals_page_table(report: LoopReport, objectives: Sequence[Objective]) -> tuple[list[str], list[list[str]]]:
    """Return the same for a page, with the hyperparameters and what is said of each proposal in a last column."""
    heads, groups = proposals_table(report, objectives)
    rows = []
    for p, group in zip(report.proposals, groups, strict=True):
        params = ", ".join(f"{n} {value(v)}" for n, v in p.params.items())
        start = [] if p.init_from is None else [f"from {short_path(p.init_from)}"]
        about = "; ".join([*_sentences_of(p, report.joined, report.widened), params, *start])
        rows += [[*row, about if i == 0 else ""] for i, row in enumerate(group)]
    return [*heads, "hyperparameters, and why"], rows


def show_proposals(report: LoopReport, objectives: Sequence[Objective], *, details: bool = True) -> None:
    """Show every proposal as it was predicted and as it was measured, with `details` its hyperparameters, too."""
    if not report.proposals:
        print_wrapped("Nothing was proposed so far: 'epsopt propose' proposes runs.")
        return
    labels = RunLabels.of([*report.old, *report.new, *report.merged])
    heads, groups = proposals_table(report, objectives)
    print_line(f"{PROPOSED}:")
    print_line("")
    print_table([Head("#"), Head("", "left"), *map(Head, heads[2:])], [Rows(rows) for rows in groups], keep=2)
    print_line("")
    for p in report.proposals:
        sentences = [labels.in_text(text) for text in _sentences_of(p, report.joined, report.widened)]
        if sentences or details or p.init_from is not None:
            print_wrapped(f"{p.number}:" + "".join(f" {text}" for text in sentences[:1]))
        for text in sentences[1:]:
            print_wrapped(text, "  ")
        if details:
            print_list(", ".join(f"{n} {value(v)}" for n, v in p.params.items()))
        if p.init_from is not None:
            print_line(f"  from {short_path(p.init_from)}")
    if not details:
        print_wrapped(HIDDEN)


def _sentences_of(p: ProposalOutcome, joined: Collection[int], widened: Collection[int]) -> list[str]:
    """What is said of a proposal beside its figures, a line each: why it was chosen, and what came of it."""
    from epsopt.studies.report.report import WORDS

    sentences = [] if p.retry_of is None else [f"proposal {p.retry_of} once more"]
    if p.reason is not None:
        sentences.append(p.reason)
    if p.failure is not None:
        sentences.append(f"{WORDS.get(p.state, p.state)}, {p.failure}")
    if p.step is not None:
        gain = (
            f"{p.step.realized_gain:.2g} to the hypervolume" if p.step.realized_gain else "nothing to the hypervolume"
        )
        used, planned = f"{p.step.epochs:g}", f"{p.step.planned or p.step.epochs:g}"
        sentences.append(
            f"added {gain} in {count(used, 'epoch') if used == planned else f'{used} of {planned} epochs'}"
        )
    if p.joins_front is not None and p.measured is not None:
        did = p.number in widened if p.step is None else p.step.realized_gain > 0.0
        missed = "joined it, and has been beaten since" if did else "is not on the front"
        verdict = "is on the front" if p.number in joined else missed
        sentences.append(f"was predicted to join the front with P {p.joins_front:.2f}, and {verdict}")
    return sentences


def show_steps(report: LoopReport) -> None:
    """Show predicted and realized gain of a budget's steps by kind; nothing without steps."""
    if report.steps:
        print_line("")
        print_line("Steps of the budget, with the hypervolume predicted and realized:")
        heads, rows = steps_table(report)
        print_table([Head(heads[0], "left"), *map(Head, heads[1:])], [Rows([row]) for row in rows])


def steps_table(report: LoopReport) -> tuple[list[str], list[list[str]]]:
    """Return headers and rows of the table of steps."""
    text = formatter(v for s in report.steps for v in (s.predicted_gain, s.realized_gain))
    rows = [
        [s.kind, str(s.count), f"{s.epochs:.4g}", text(s.predicted_gain), text(s.realized_gain)] for s in report.steps
    ]
    return ["step", "count", "epochs", "predicted gain", "realized gain"], rows


def show_accuracy(report: LoopReport) -> None:
    """Say how far predictions and measurements were apart."""
    print_line("")
    for a in report.accuracy:
        print_line(f"{a.name}: {a.inside} of {a.n} measurements inside their 90 % intervals, mean error {a.error:.3f}")


def show_gain(report: LoopReport, objectives: Sequence[Objective], target: Target) -> None:
    """Say how far the measured front moved, and the best checkpoints that meet the target before and after."""
    for text in front_sentences(report):
        print_wrapped(text)
    labels = RunLabels.of([*report.old, *report.new, *report.merged])
    for other in (o for o in objectives if o.name != target.name):
        trained = (*report.old, *report.new)
        groups = [("before", report.old), ("after", trained)]
        for title, group in [*groups, *([("with merges", (*trained, *report.merged))] if report.merged else [])]:
            best = best_meeting(group, objectives, target, other)
            if best is not None:
                print_wrapped(
                    f"Best {other.name} with {target.name} of at least {target.value:g}, {title}: "
                    f"{best.metrics[other.name]:.3f} ({labels(best.run, best.epoch)})"
                )


def front_sentences(report: LoopReport) -> list[str]:
    """Say how far the measured front moved: by what was trained, and by merges beyond that."""
    gain, merge_gain = report.gain, report.merge_gain
    if gain is None or merge_gain is None:
        return ["Nothing is measured yet with every objective, so there is no front."]
    runs = {report.new[i].run for i in gain.joined}
    moved = f"{gain.before:.4f} before, {gain.after:.4f} after ({gain.relative:+.1%})"
    if not report.new and not report.merged:
        nothing = "no proposed run has measured anything yet"
        return [f"Hypervolume of the measured front: {gain.before:.4f}; {nothing}.", HYPERVOLUME]
    new = count(len(gain.joined), "new checkpoint")
    joined = f"{new} of {count(len(runs), 'proposed run')} {'is' if len(gain.joined) == 1 else 'are'} on it"
    if not runs:
        proposed = len({c.run for c in report.new})
        joined = f"nothing of {'the one proposed run' if proposed == 1 else f'{proposed} proposed runs'} is on it"
    front = f"{moved}; {joined}" if report.proposals else f"{gain.before:.4f}"
    sentences = [f"Hypervolume of the measured front: {front}."]
    if report.merged:
        sentences.append(
            f"Merged checkpoints, measured, not trained: {merge_gain.after:.4f} with them ({merge_gain.relative:+.1%} "
            f"beyond all that was trained); {len(merge_gain.joined)} of {len(report.merged)} are on that front."
        )
    return [*sentences, HYPERVOLUME]


def best_meeting(
    checkpoints: Sequence[Checkpoint], objectives: Sequence[Objective], target: Target, other: Objective
) -> Checkpoint | None:
    """Return the checkpoint that is best in one objective among those that measurably meet a target, if any."""
    from epsopt.optimize.objectives import meets

    able = [
        c
        for c in checkpoints
        if c.metrics.get(other.name) is not None
        and meets({n: v for n, v in c.metrics.items() if v is not None}, [target], objectives)
    ]
    sign = 1.0 if other.maximize else -1.0
    return max(able, key=lambda c: sign * float(c.metrics[other.name] or 0.0), default=None)


def outcome_json(report: LoopReport, target: Target) -> dict[str, Any]:
    """Return a round of proposals as one JSON document (docs/schemas/demo.json)."""
    return {
        "target": {"metric": target.name, "value": target.value},
        "proposals": proposals_json(report),
        "accuracy": accuracy_json(report.accuracy),
        "hypervolume": hypervolume_json(report),
        "merges": merges_json(report),
        "steps": steps_json(report),
    }


def proposals_json(report: LoopReport) -> list[dict[str, Any]]:
    """Return all proposals as JSON values."""
    return [
        {
            "number": p.number,
            "state": p.state,
            "params": dict(p.params),
            "init_from": p.init_from,
            "retry_of": p.retry_of,
            "predicted": {n: {"value": p.point[n], "low": p.low[n], "high": p.high[n]} for n in p.point},
            "level": p.level,
            "joins_front": p.joins_front,
            "nearest_runs": [{"run": run, "distance": distance} for run, distance in p.nearest_runs],
            "reason": p.reason,
            "measured": None if p.measured is None else dict(p.measured),
            "compared": any(p.compared(name) is not None for name in p.point),
            "step": None if p.step is None else {n: v for n, v in asdict(p.step).items() if n != "planned"},
            "path": p.path,
            "failure": p.failure,
        }
        for p in report.proposals
    ]


def accuracy_json(accuracy: Sequence[Accuracy]) -> list[dict[str, Any]]:
    """Return predictions against measurements as JSON values."""
    return [{"metric": a.name, "error": a.error, "inside": a.inside, "n": a.n} for a in accuracy]


def hypervolume_json(report: LoopReport) -> dict[str, Any] | None:
    """Return how the front moved as JSON values; None: nothing is measured with every objective."""
    return None if report.gain is None else {
        "before": report.gain.before,
        "after": report.gain.after,
        "reference": list(report.gain.reference),
        "joined": [report.new[i].path for i in report.gain.joined],
    }  # fmt: skip


def steps_json(report: LoopReport) -> list[dict[str, Any]]:
    """Return predicted and realized gain of a budget's steps by kind, as JSON values."""
    return [asdict(s) for s in report.steps]


def merges_json(report: LoopReport) -> dict[str, Any]:
    """Return how merges moved the front beyond what was trained, as JSON values."""
    merge_gain = report.merge_gain
    return {
        "count": len(report.merged),
        "before": None if merge_gain is None else merge_gain.before,
        "after": None if merge_gain is None else merge_gain.after,
        "joined": [] if merge_gain is None else [report.merged[i].path for i in merge_gain.joined],
    }
