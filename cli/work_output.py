"""What `epsopt work` prints: events while it works, what a dry run would do, and what came of the work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from epsopt.zoo.errors import EpsoptError
from epsopt.zoo.formatting import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.storages import RDBStorage

    from epsopt.optimize.objectives import Target
    from epsopt.studies.project.project import Project
    from epsopt.studies.worker.run_worker import Spending, WorkResult
    from epsopt.studies.worker.trial_runner import RunResult
    from epsopt.studies.worker.worker import Event
    from epsopt.zoo.catalogue.types import Checkpoint


@dataclass
class EventPrinter:
    """Prints each event of a worker as it comes, and keeps those that the JSON document names.

    Attributes:
        project: names the objectives whose values are printed.
        as_json: whether standard output is kept for a JSON document; failures are noted all the same.
        failed_proposals: texts of proposals that were not trained.
        dropped: those of them that the search space has no longer.
        merges: texts of merged checkpoints that were measured.
    """

    project: Project
    as_json: bool
    failed_proposals: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        """Print an event."""
        from epsopt.cli.output import note, print_line, print_wrapped

        if event.kind == "merged":
            self.merges.append(event.text)
        if event.kind in ("stale", "released", "refused"):
            self.failed_proposals.append(event.text)
        if event.kind == "refused":
            self.dropped.append(event.text)
        if event.kind == "failure":
            note(event.text)
        elif not self.as_json:
            shown = f" ({_figures(self.project, event.ended)})" if event.ended and event.ended.metrics else ""
            (print_wrapped if event.kind == "fitting" else print_line)(event.text + shown)


def work_document(result: WorkResult, events: EventPrinter, targets: Sequence[Target]) -> dict[str, Any]:
    """Return what came of the work as its JSON document."""
    from epsopt.cli.render import checkpoint_json, target_json

    return {
        "runs": [_run_json(e) for e in result.ended],
        "failed_proposals": events.failed_proposals,
        "merges": events.merges,
        "budget": None if result.spending is None else vars(result.spending),
        "targets": target_json(targets),
        "reached": None if result.reached is None else checkpoint_json(result.reached),
    }


def show_work(project: Project, result: WorkResult) -> None:
    """Print the checkpoint that reached the targets, if one did, and what came of the work."""
    if result.reached is not None:
        _show_reached(project, result.reached)
    summarise(result.ended, result.reached, result.spending, result.why_none_merged)


def _show_reached(project: Project, reached: Checkpoint) -> None:
    from epsopt.cli.output import one_line, print_line, print_list, print_wrapped, value
    from epsopt.cli.render import short_path

    measured = [f"{o.name} {v:.4g}" for o in project.objectives if (v := reached.metrics.get(o.name)) is not None]
    place = reached.run if reached.epoch is None else f"{reached.run}:{reached.epoch}"
    print_wrapped(f"The targets are reached by {one_line(place)}, as measured: {', '.join(measured)}.")
    print_line(f"  {short_path(reached.path)}")
    print_list(", ".join(f"{n} {value(v)}" for n, v in reached.hyperparameters.items()), "  ")


def target_text(targets: Sequence[Target]) -> str:
    """Return targets as they stand in a sentence."""
    return (
        "all of " + ", ".join(f"{t.name} {t.value:g}" for t in targets)
        if len(targets) > 1
        else (f"{targets[0].name} {targets[0].value:g}")
    )


def _figures(project: Project, ended: RunResult) -> str:
    metrics = ended.metrics or {}
    known = [f"{o.name} {v:.4g}" for o in project.objectives if (v := metrics.get(o.name)) is not None]
    return ", ".join([*known, f"{ended.seconds:.0f} s"])


def summarise(
    ended: list[RunResult], reached: Checkpoint | None, spent: Spending | None, why_none_merged: str | None
) -> None:
    """Print how many runs ended how, whether the targets are reached, and what was spent."""
    from epsopt.cli.output import print_wrapped

    counts = {state: sum(e.state == state for e in ended) for state in ("complete", "pruned", "fail", "stale")}
    words = {"complete": "trained", "pruned": "stopped early", "fail": "failed", "stale": "given to other workers"}
    nothing = "nothing was queued" if reached is None else "nothing was left to do"
    if spent is not None and spent.merges:
        nothing = "no run was trained"
    summary = ", ".join(f"{n} {words[s]}" for s, n in counts.items() if n) or nothing
    if spent is not None:
        merges = f", merges measured: {spent.merges}" if spent.merges else ""
        summary += f"; {spent.spent:.4g} of {count(int(spent.epochs), 'epoch')} spent{merges}"
    print_wrapped(
        f"{summary[:1].upper()}{summary[1:]}." + (" 'epsopt report' shows what came of them." if ended else "")
    )
    if why_none_merged is not None:
        print_wrapped(f"No merge was measured: {why_none_merged}.")


def _run_json(ended: RunResult) -> dict[str, Any]:
    return {
        "number": ended.number,
        "run": ended.name,
        "folder": str(ended.out),
        "state": ended.state,
        "params": dict(ended.params),
        "metrics": None if ended.metrics is None else dict(ended.metrics),
        "path": ended.path,
        "checkpoints": ended.n_checkpoints,
        "failure": ended.failure,
        "seconds": ended.seconds,
        "step": None if ended.plan is None else {
            "kind": ended.plan.kind, "predicted_gain": ended.plan.predicted_gain,
            "gain_per_epoch": ended.plan.gain_per_epoch,
            "epochs": ended.plan.epochs,
        },
    }  # fmt: skip


def show_dry_run(
    project: Project, storage: RDBStorage, runs: int | None, budget: int | None, reached: Checkpoint | None,
    *, asks: bool, as_json: bool,
) -> None:  # fmt: skip
    """Show what the same command would do without --dry-run, and end as it would where it could launch nothing."""
    import shlex

    from epsopt.cli.output import print_json, print_line, print_wrapped
    from epsopt.studies.worker.dry_run import DryRun, plan_work
    from epsopt.studies.worker.training_process import cannot_be_launched

    found = DryRun({}, {}, None, 0) if reached is not None else plan_work(project, storage, runs, asks=asks)
    if as_json:
        print_json({
            "would_run": [{"number": n, "command": arguments} for n, arguments in found.launched.items()],
            "would_be_refused": [{"number": n, "reason": why} for n, why in found.dropped.items()],
            "would_stop": None if found.stopped is None else {"number": found.stopped[0], "reason": found.stopped[1]},
            "would_ask": found.asked,
        })  # fmt: skip
    else:
        summary = {n: shlex.join(arguments) for n, arguments in found.launched.items()}
        summary |= {n: f"would be dropped: {why}" for n, why in found.dropped.items()}
        for number in sorted(summary):  # in the order in which they are taken
            print_line(f"{number}: {summary[number]}")
        if reached is not None:
            print_wrapped(f"Nothing would be run: {reached.path} meets the targets already.")
        elif text := _asked(found.asked, budget, queued=bool(summary or found.stopped)):
            print_wrapped(text)
    if found.stopped is not None:
        raise EpsoptError(cannot_be_launched(project, found.stopped[1]))
    if found.dropped and not found.launched and not asks:
        raise EpsoptError(all_dropped(len(found.dropped), would=True))


def _asked(asked: int | None, budget: int | None, *, queued: bool) -> str:
    """Say what would be asked for when the queue is empty; an empty text where nothing would be."""
    first = "Then" if queued else "Nothing is queued:"
    if asked == 0:
        hint = "Nothing is queued: 'epsopt propose' queues proposals, and 'epsopt work -n 8' asks for them."
        return "" if queued else hint
    if budget is not None:
        most = "" if asked is None else f", {count(asked, 'run')} at most"
        return f"{first} one step after the other would be chosen until {count(budget, 'epoch')} are spent{most}."
    if asked is None:
        return f"{first} proposals would be asked for, again and again."
    return f"{first} {count(asked, 'proposal')} would be asked for and trained."


def all_dropped(number: int, *, would: bool) -> str:
    """Say that no queued proposal was trained, or would be, since the search space has none of them."""
    return (
        f"nothing {'would be' if would else 'was'} trained: the search space has none of the "
        f"{count(number, 'queued proposal')}, which {'would be' if would else 'were'} dropped; 'epsopt propose' queues "
        "new ones"
    )
