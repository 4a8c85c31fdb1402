"""`epsopt work`: train what was proposed, watch it, tell the study."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from epsopt.cli.options import Options, TargetCommand, common
from epsopt.zoo.errors import EpsoptError, UsageError
from epsopt.zoo.formatting import count

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from optuna.storages import RDBStorage

    from epsopt.optimize.objectives import Target
    from epsopt.studies.project.project import Project
    from epsopt.studies.protocols import Stopper
    from epsopt.studies.worker.trial_runner import RunResult
    from epsopt.studies.worker.worker import Event, Learner
    from epsopt.zoo.catalogue.catalogue import Catalogue
    from epsopt.zoo.catalogue.types import Checkpoint


@click.command("work", cls=TargetCommand)
@click.option("--runs", "-n", type=click.IntRange(min=1), help="Train so many; asks for proposals when none is queued.")
@click.option(
    "--budget", type=click.IntRange(min=1), metavar="EPOCHS",
    help="Spend so many epochs of training, step by step: each a run, a short run from a checkpoint of the front, or a "
    "mixture of checkpoints.",
)  # fmt: skip
@click.option(
    "--length", type=click.IntRange(min=1), metavar="EPOCHS",
    help="With --budget: of a whole run; by default as many as past runs had.",
)  # fmt: skip
@click.option(
    "--until-idle", is_flag=True,
    help="Only what is queued; this is so without -n, --budget, --forever or --until-reached.",
)  # fmt: skip
@click.option("--forever", is_flag=True, help="Never end; asks for proposals when none is queued.")
@click.option(
    "--until-reached", is_flag=True,
    help="End when a measured checkpoint meets all targets; without -n, ask for proposals until then.",
)  # fmt: skip
@click.option("--jobs", "-j", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at a time.")
@click.option(
    "--grace", type=click.FloatRange(min=0), default=30.0, show_default=True,
    help="Seconds between SIGTERM and SIGKILL when a run is stopped.",
)  # fmt: skip
@click.option(
    "--lost-after", type=click.FloatRange(min=4), default=120.0, show_default=True,
    help="Seconds of silence after which a worker counts as dead; the same for all workers.",
)  # fmt: skip
@click.option(
    "--max-failures", type=click.IntRange(min=1), default=3, show_default=True, help="Give up after so many in a row."
)
@click.option(
    "--learn-after", type=click.IntRange(min=0), default=8, show_default=True,
    help="Refit the map in the background after so many runs; 0 never does.",
)  # fmt: skip
@click.option(
    "--stop-below", type=click.FloatRange(0, 1, max_open=True), default=0.0, show_default=True, metavar="P",
    help="Stop a run whose remaining checkpoints join the front with less than this probability; 0 stops none.",
)  # fmt: skip
@click.option("--reuse", is_flag=True, help="Let runs that are asked for start from the front ({init_from}).")
@click.option(
    "--mix", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
    help="Measure up to N mixtures of checkpoints each time the map is refitted; those on the front are kept.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print what would be run, in order, and run nothing.")
@common
def command(
    options: Options,
    wanted: dict[str, float],
    runs: int | None,
    budget: int | None,
    length: int | None,
    until_idle: bool,
    forever: bool,
    until_reached: bool,
    jobs: int,
    grace: float,
    lost_after: float,
    max_failures: int,
    learn_after: int,
    stop_below: float,
    reuse: bool,
    mix: int,
    dry_run: bool,
) -> None:
    """Train the queued proposals with the train command of epsopt.toml, each into a folder of its own.

    Checkpoints are read as they are written. Any number of workers, on any number of machines, may share a database;
    what a dead one leaves behind is trained by another. Ctrl-C stops the running programs and queues their
    proposals again.

    With --budget so many epochs are spent, by all workers together: what is queued comes first, then each step is
    chosen by what it is expected to bring for each epoch, and by what such steps brought so far. No map is learned.

    With targets, proposals that are asked for shall meet them, and no run is stopped early that is likely enough to do
    so yet. With --budget, steps do not aim at them, short first looks end all the same, and so does what runs when the
    budget is spent.
    """
    if until_idle and forever:
        raise UsageError("--until-idle and --forever contradict each other: give one of them")
    if length is not None and budget is None:
        raise UsageError("--length says how long a whole run is where there is a --budget: give both, or neither")
    if budget is not None:
        decided = {"--until-idle": until_idle, "--forever": forever, "--mix": mix, "--reuse": reuse,
                   "--stop-below": stop_below, "--learn-after": learn_after and _is_given("learn_after")}  # fmt: skip
        contradicting = next((name for name, given in decided.items() if given), None)
        if contradicting is not None:
            raise UsageError(
                f"--budget and {contradicting} contradict each other: a budget decides by itself when the work ends, "
                "what starts from checkpoints, what is mixed and what is stopped, and learns no map"
            )
    if mix and not learn_after:
        raise UsageError("--mix measures mixtures when the map is refitted: leave out --learn-after 0")
    asks = not until_idle and (forever or until_reached or runs is not None or budget is not None)
    if reuse and not asks:
        raise UsageError(
            "--reuse is for runs that are asked for, and none is: give -n, --forever or --until-reached without "
            "--until-idle, or leave --reuse out"
        )
    if until_reached and not wanted:
        raise UsageError("--until-reached needs something to reach: --target-NAME VALUE")
    from epsopt.cli.output import note, print_json, print_line
    from epsopt.cli.progress import working
    from epsopt.cli.workspace import open_workspace, resolve_targets, tell_followed
    from epsopt.zoo.catalogue.catalogue import Catalogue

    with working("opening the studies"):
        workspace = open_workspace(options)
        project = workspace.require_project()
        if project.command is None:
            raise UsageError(f"{project.file} has no train command: add [train] with command = [...]")
        if mix and project.evaluate is None:
            raise UsageError(
                f"{project.file}: --mix measures every mixture, which needs a hook: add "
                '[hooks] evaluate = "package.module:function"'
            )
        if reuse:
            from epsopt.studies.worker.proposals import require_start

            require_start(project)
        if budget is not None and not project.objectives:
            raise UsageError(
                f"{project.file}: --budget needs something to get better at: add an [objectives.NAME] table"
            )
        from epsopt.studies.schedule.budget import Budget
        from epsopt.studies.schedule.scheduler_client import StepAsker, StepTask
        from epsopt.studies.schedule.weight_geometry import why_none_merged
        from epsopt.studies.worker.refit_service import BackgroundLearner
        from epsopt.studies.worker.target_monitor import Goal
        from epsopt.studies.worker.worker import Worker, WorkerConfig

        # A first run needs no catalogue from before.
        with Catalogue(workspace.storage, project.rename, project.weights_key) as catalogue:
            targets = resolve_targets(wanted, project, catalogue.checkpoints())
            storage = workspace.studies()
            if not dry_run:
                tell_followed(storage, project)
            if budget is not None:
                _check_steps(project, storage, catalogue, length)
            goal = Goal(catalogue, project.objectives, targets) if until_reached else None
            reached = None if goal is None or not dry_run else goal.reached(at_once=True)
    if dry_run:
        _dry_run(project, storage, runs, budget, reached, asks=asks, as_json=options.json)
        return
    orders = WorkerConfig(
        jobs=jobs, runs=runs, ask=8 if asks else 0, forever=forever,
        learn_after=0 if budget is not None else learn_after, await_learning=mix > 0, grace=grace,
        lost_after=lost_after,
        most_failures=max_failures,
    )  # fmt: skip
    failed_proposals: list[str] = []
    dropped: list[str] = []
    merges: list[str] = []

    def tell(event: Event) -> None:
        if event.kind == "merged":
            merges.append(event.text)
        if event.kind in ("stale", "released", "refused"):
            failed_proposals.append(event.text)
        if event.kind == "refused":
            dropped.append(event.text)
        if event.kind == "failure":
            note(event.text)
        elif not options.json:
            print_line(
                event.text + (f" ({_figures(project, event.ended)})" if event.ended and event.ended.metrics else "")
            )

    with Catalogue(workspace.storage, project.rename, project.weights_key) as catalogue, _ends_on_sigterm():
        spending = None if budget is None else Budget(budget, storage, catalogue, project.name)
        learner: Learner = (
            BackgroundLearner(project.file, workspace.storage, reuse=reuse, targets=targets, mix=mix)
            if spending is None
            else StepAsker(StepTask(str(project.file), workspace.storage, spending.end, length))
        )
        stopper = _stopper(project, storage, catalogue, targets, stop_below, by_worth=spending is not None)
        goal = Goal(catalogue, project.objectives, targets) if until_reached else None
        worker = Worker(project, storage, catalogue, orders, stopper, learner, tell, goal, spending)
        ended = worker.work()
        spent = None if spending is None else {
            "epochs": spending.epochs, "spent": spending.spent, "merges": spending.merges
        }  # fmt: skip
        unmixed = None if spending is None or spending.merges else why_none_merged(project, catalogue)
    reached = worker.reached
    if options.json:
        from epsopt.cli.render import checkpoint_json, target_json

        print_json(
            {
                "runs": [_run_json(e) for e in ended],
                "failed_proposals": failed_proposals,
                "merges": merges,
                "budget": spent,
                "targets": target_json(targets),
                "reached": None if reached is None else checkpoint_json(reached),
            }
        )
    else:
        if reached is not None:
            _show_reached(project, reached)
        summarise(ended, reached, spent, unmixed)
    if dropped and not ended and not asks and reached is None:
        raise EpsoptError(_all_dropped(len(dropped), would=False))
    if until_reached and reached is None:
        raise EpsoptError(f"no measured checkpoint meets {_wanted(targets)} yet")


def _show_reached(project: Project, reached: Checkpoint) -> None:
    from epsopt.cli.output import one_line, print_line, print_list, print_wrapped, value
    from epsopt.cli.render import short_path

    measured = [f"{o.name} {v:.4g}" for o in project.objectives if (v := reached.metrics.get(o.name)) is not None]
    place = reached.run if reached.epoch is None else f"{reached.run}:{reached.epoch}"
    print_wrapped(f"The targets are reached by {one_line(place)}, as measured: {', '.join(measured)}.")
    print_line(f"  {short_path(reached.path)}")
    print_list(", ".join(f"{n} {value(v)}" for n, v in reached.hyperparameters.items()), "  ")


def _wanted(targets: Sequence[Target]) -> str:
    return (
        "all of " + ", ".join(f"{t.name} {t.value:g}" for t in targets)
        if len(targets) > 1
        else (f"{targets[0].name} {targets[0].value:g}")
    )


def _stopper(
    project: Project,
    storage: RDBStorage,
    catalogue: Catalogue,
    targets: Sequence[Target],
    below: float,
    *,
    by_worth: bool,
) -> Stopper | None:
    if by_worth:
        from epsopt.studies.prune.budget_pruner import WorthStopper

        return WorthStopper(project, storage, catalogue, targets)
    if not below:
        return None
    from epsopt.studies.optuna_io.queue import proposed_trials, recorded_space
    from epsopt.studies.optuna_io.run_folders import cut_off
    from epsopt.studies.prune.catalogue_pruner import CatalogueStopper

    space = project.space
    if space is None and proposed_trials(storage, project.name):
        space = recorded_space(storage, project.name)
    return CatalogueStopper(
        catalogue, space, project.objectives, targets=targets, bounds=project.bounds, threshold=below,
        unfinished=lambda: cut_off(project, proposed_trials(storage, project.name)),
    )  # fmt: skip


def _check_steps(project: Project, storage: RDBStorage, catalogue: Catalogue, length: int | None) -> None:
    """Say what the policy lacks before anything is trained, not from the background."""
    from epsopt.studies.schedule.scheduler_adapter import make_scheduler
    from epsopt.studies.schedule.study_snapshot import StudySnapshot

    make_scheduler(StudySnapshot.read(project, storage, catalogue, length))


def _figures(project: Project, ended: RunResult) -> str:
    metrics = ended.metrics or {}
    known = [f"{o.name} {v:.4g}" for o in project.objectives if (v := metrics.get(o.name)) is not None]
    return ", ".join([*known, f"{ended.seconds:.0f} s"])


def summarise(
    ended: list[RunResult], reached: Checkpoint | None, spent: dict[str, float] | None, unmixed: str | None
) -> None:
    """Print how many runs ended how, whether the targets are reached, and what was spent."""
    from epsopt.cli.output import print_wrapped

    counts = {state: sum(e.state == state for e in ended) for state in ("complete", "pruned", "fail", "stale")}
    words = {"complete": "trained", "pruned": "stopped early", "fail": "failed", "stale": "given to other workers"}
    nothing = "nothing was queued" if reached is None else "nothing was left to do"
    if spent is not None and spent["merges"]:
        nothing = "no run was trained"
    told = ", ".join(f"{n} {words[s]}" for s, n in counts.items() if n) or nothing
    if spent is not None:
        mixtures = f", mixtures measured: {spent['merges']}" if spent["merges"] else ""
        told += f"; {spent['spent']:.4g} of {count(int(spent['epochs']), 'epoch')} spent{mixtures}"
    print_wrapped(f"{told[:1].upper()}{told[1:]}." + (" 'epsopt report' shows what came of them." if ended else ""))
    if unmixed is not None:
        print_wrapped(f"No merge was measured: {unmixed}.")


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


def _dry_run(
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
        told = {n: shlex.join(arguments) for n, arguments in found.launched.items()}
        told |= {n: f"would be dropped: {why}" for n, why in found.dropped.items()}
        for number in sorted(told):  # in the order in which they are taken
            print_line(f"{number}: {told[number]}")
        if reached is not None:
            print_wrapped(f"Nothing would be run: {reached.path} meets the targets already.")
        elif text := _asked(found.asked, budget, queued=bool(told or found.stopped)):
            print_wrapped(text)
    if found.stopped is not None:
        raise EpsoptError(cannot_be_launched(project, found.stopped[1]))
    if found.dropped and not found.launched and not asks:
        raise EpsoptError(_all_dropped(len(found.dropped), would=True))


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


def _all_dropped(number: int, *, would: bool) -> str:
    return (
        f"nothing {'would be' if would else 'was'} trained: the search space has none of the "
        f"{count(number, 'queued proposal')}, which {'would be' if would else 'were'} dropped; 'epsopt propose' queues "
        "new ones"
    )


def _is_given(option: str) -> bool:
    return click.get_current_context().get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE


@contextmanager
def _ends_on_sigterm() -> Iterator[None]:
    """Take SIGTERM, with which clusters end jobs, for Ctrl-C."""
    import signal
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
