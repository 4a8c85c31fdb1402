"""What a round of proposals came to, as tables: the last search, predicted against measured, how the front moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from epsopt.cli.describe import formatters, short_path
from epsopt.cli.output import Head, Rows, label, line, listed, print_table, say, value

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

    from epsopt.optimize.targets import Objective, Target
    from epsopt.studies.loop.report import LoopReport
    from epsopt.zoo.records import Checkpoint


def show_answers(study: str, objectives: Sequence[Objective], storage: RDBStorage) -> None:
    """Show the answers of a search, as its study kept them."""
    import optuna

    trials = optuna.load_study(study_name=study, storage=storage).get_trials(deepcopy=False)
    metrics = [o.name for o in objectives]
    texts = formatters(metrics, [dict(zip(metrics, t.values, strict=True)) for t in trials])
    groups, paths = [], []
    for i, trial in enumerate(trials, 1):
        near = trial.user_attrs["nearest"][0]
        predicted = [
            _with_interval(texts[name], value, *trial.user_attrs[f"interval.{name}"])
            for name, value in zip(metrics, trial.values, strict=True)
        ]
        found = f"{label(near['run'], near['epoch'], 20)} measured"
        measured = [texts[n](trial.user_attrs["nearest_metrics"].get(n)) for n in metrics]
        groups.append(Rows([[str(i), "predicted", *predicted], ["", found, *measured]]))
        paths.append(f"  {i}  {short_path(trial.user_attrs['nearest_path'])}")
    line("The map's answers, and the real checkpoint nearest to each:")
    print_table([Head("#"), Head("", "left"), *(Head(n) for n in metrics)], groups, keep=2)
    for path in paths:
        line(path)


def _with_interval(text: Callable[[float | None], str], point: float, low: float, high: float) -> str:
    return f"{text(point)} [{text(low)}, {text(high)}]"


def show_proposals(report: LoopReport, objectives: Sequence[Objective]) -> None:
    """Show every proposal as it was predicted and as it was measured, and how far the two were apart."""
    names = [o.name for o in objectives]
    shown = [m for p in report.proposals for m in (p.point, p.low, p.high, p.measured or {})]
    texts = formatters(names, shown)
    groups = []
    for p in report.proposals:
        predicted = [_with_interval(texts[n], p.point[n], p.low[n], p.high[n]) for n in names]
        if p.measured is None:
            measured = [p.state, *("" for _ in names[1:])]
        else:
            measured = [texts[n](p.measured.get(n)) for n in names]
        groups.append(Rows([[str(p.number), "predicted", *predicted], ["", "measured", *measured]]))
    line("")
    line("The proposed runs, predicted before they were trained and measured after:")
    print_table([Head("#"), Head("", "left"), *(Head(n) for n in names)], groups, keep=2)
    line("")
    for p in report.proposals:
        line(f"{p.number}:")
        listed(", ".join(f"{n} {value(v)}" for n, v in p.params.items()))
    line("")
    for a in report.accuracy:
        line(f"{a.name}: {a.inside} of {a.n} measurements inside their 90 % intervals, mean error {a.error:.3f}")


def show_gain(report: LoopReport, objectives: Sequence[Objective], target: Target) -> None:
    """Say how far the measured front moved, and the best checkpoints that meet the target before and after."""
    gain = report.gain
    runs = {report.new[i].run for i in gain.joined}
    say(
        f"Hypervolume of the measured front: {gain.before:.4f} before, {gain.after:.4f} after ({gain.relative:+.1%}); "
        f"{len(gain.joined)} new checkpoints of {len(runs)} proposed runs are on it."
    )
    for other in (o for o in objectives if o.name != target.name):
        for title, group in (("before", report.old), ("after", (*report.old, *report.new))):
            best = best_meeting(group, objectives, target, other)
            if best is not None:
                say(
                    f"Best {other.name} with {target.name} of at least {target.value:g}, {title}: "
                    f"{best.metrics[other.name]:.3f} ({label(best.run, best.epoch, 40)})"
                )


def best_meeting(
    checkpoints: Sequence[Checkpoint], objectives: Sequence[Objective], target: Target, other: Objective
) -> Checkpoint | None:
    """Return the checkpoint that is best in one objective among those that measurably meet a target, if any."""
    from epsopt.optimize.targets import meets

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
        "proposals": [
            {
                "number": p.number,
                "state": p.state,
                "params": dict(p.params),
                "predicted": {n: {"point": p.point[n], "low": p.low[n], "high": p.high[n]} for n in p.point},
                "measured": None if p.measured is None else dict(p.measured),
                "path": p.path,
            }
            for p in report.proposals
        ],
        "accuracy": [{"metric": a.name, "error": a.error, "inside": a.inside, "n": a.n} for a in report.accuracy],
        "hypervolume": {
            "before": report.gain.before,
            "after": report.gain.after,
            "reference": list(report.gain.reference),
            "joined": [report.new[i].path for i in report.gain.joined],
        },
    }
