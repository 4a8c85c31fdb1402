"""`epsopt work`: train what was proposed, watch it, record it in the study."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from epsopt.cli.options import Options, TargetCommand, common
from epsopt.zoo.errors import EpsoptError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from epsopt.optimize.objectives import Target
    from epsopt.studies.project.project import Project
    from epsopt.studies.worker.run_worker import WorkSettings
    from epsopt.studies.worker.worker import WorkerConfig


@click.command("work", cls=TargetCommand)
@click.option("--runs", "-n", type=click.IntRange(min=1), help="Train so many; asks for proposals when none is queued.")
@click.option(
    "--budget", type=click.IntRange(min=1), metavar="EPOCHS",
    help="Spend so many epochs of training, step by step: each a run, a short run from a checkpoint of the front, or a "
    "merge of checkpoints.",
)  # fmt: skip
@click.option(
    "--length", type=click.IntRange(min=1), metavar="EPOCHS",
    help="With --budget: of a whole run; by default as many as past runs had.",
)  # fmt: skip
@click.option(
    "--min-gain", type=click.FloatRange(0, 1, min_open=True), metavar="SHARE",
    help="With --budget: end when the rest of it is expected to add less than this share of the front's hypervolume.",
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
    "--stale-after", type=click.FloatRange(min=4), default=120.0, show_default=True,
    help="Seconds without a heartbeat after which a worker counts as dead; the same for all workers.",
)  # fmt: skip
@click.option(
    "--max-failures", type=click.IntRange(min=1), default=3, show_default=True, help="Give up after so many in a row."
)
@click.option(
    "--learn-after", type=click.IntRange(min=0), default=8, show_default=True,
    help="Refit the map in the background after so many runs; 0 never does.",
)  # fmt: skip
@click.option(
    "--prune-below", type=click.FloatRange(0, 0.2), default=0.0, show_default=True, metavar="SHARE",
    help="Stop a run that is not among the best third of those that came as far, and whose remaining epochs are each "
    "expected to add less than this share of the hypervolume that an epoch added on average so far; 0 stops none.",
)  # fmt: skip
@click.option("--reuse", is_flag=True, help="Let runs that are asked for start from the front ({init_from}).")
@click.option(
    "--merges", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
    help="Measure up to N merged checkpoints each time the map is refitted; those on the front are kept.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print what would be run, in order, and run nothing.")
@common
def command(options: Options, wanted: dict[str, float], dry_run: bool, **given: Any) -> None:
    """Train the queued proposals with the train command of epsopt.toml, each into a folder of its own.

    Checkpoints are read as they are written. Any number of workers, on any number of machines, may share a database;
    what a dead one leaves behind is trained by another. Ctrl-C stops the running programs and queues their
    proposals again.

    With --budget so many epochs are spent, by all workers together: what is queued comes first, then each step is
    chosen by its predicted gain per epoch, corrected by what such steps realized so far. No map is learned.

    With targets, proposals that are asked for shall meet them, and no run is stopped early that is likely enough to do
    so yet. With --budget, steps do not aim at them, short exploration runs end all the same, and so does what runs
    when the budget is spent.
    """
    asked = _Given(**given)
    _check_given(asked, wanted)
    from epsopt.cli.output import print_json
    from epsopt.cli.progress import working
    from epsopt.cli.work_output import EventPrinter, all_dropped, show_dry_run, show_work, target_text, work_document
    from epsopt.cli.workspace import (
        check_objectives,
        note_followed,
        note_unseen_arguments,
        open_workspace,
        resolve_targets,
    )
    from epsopt.zoo.catalogue.catalogue import Catalogue

    with working("opening the studies"):
        workspace = open_workspace(options)
        project = workspace.require_project()
        _check_project(project, asked)
        from epsopt.studies.worker.run_worker import check_steps, reached_already, run_worker

        # A first run needs no catalogue from before.
        with Catalogue(workspace.storage, **project.how_to_read) as catalogue:
            settings = asked.settings(resolve_targets(wanted, project, catalogue.checkpoints()))
            storage = workspace.studies()
            if metrics := catalogue.metric_names():  # before the studies go over to a misspelt one
                check_objectives(project, metrics)
            if not dry_run:
                note_followed(storage, project)
            if asked.budget is not None:
                check_steps(project, storage, catalogue, asked.length)
            reached = reached_already(project, catalogue, settings) if dry_run else None
    note_unseen_arguments(project)
    if dry_run:
        show_dry_run(project, storage, asked.runs, asked.budget, reached, asks=asked.asks, as_json=options.json)
        return
    events = EventPrinter(project, options.json)
    with _ends_on_sigterm():
        result = run_worker(project, workspace.storage, storage, asked.config(), settings, events)
    if options.json:
        print_json(work_document(result, events, settings.targets))
    else:
        show_work(project, result)
    if events.dropped and not result.ended and not asked.asks and result.reached is None:
        raise EpsoptError(all_dropped(len(events.dropped), would=False))
    if asked.until_reached and result.reached is None:
        raise EpsoptError(f"no measured checkpoint meets {target_text(settings.targets)} yet")


@dataclass(frozen=True)
class _Given:
    """The options of the command, each by its name."""

    runs: int | None
    budget: int | None
    length: int | None
    min_gain: float | None
    until_idle: bool
    forever: bool
    until_reached: bool
    jobs: int
    grace: float
    stale_after: float
    max_failures: int
    learn_after: int
    prune_below: float
    reuse: bool
    merges: int

    @property
    def asks(self) -> bool:
        """Whether proposals are asked for when none is queued."""
        return not self.until_idle and (
            self.forever or self.until_reached or self.runs is not None or self.budget is not None
        )

    def config(self) -> WorkerConfig:
        """Return how the worker works."""
        from epsopt.studies.worker.worker import WorkerConfig

        return WorkerConfig(
            jobs=self.jobs, runs=self.runs, ask=8 if self.asks else 0, forever=self.forever,
            learn_after=0 if self.budget is not None else self.learn_after, await_learning=self.merges > 0,
            grace=self.grace, stale_after=self.stale_after, most_failures=self.max_failures,
        )  # fmt: skip

    def settings(self, targets: Sequence[Target]) -> WorkSettings:
        """Return what is to be done."""
        from epsopt.studies.worker.run_worker import WorkSettings

        return WorkSettings(
            targets=targets, until_reached=self.until_reached, budget=self.budget, length=self.length,
            prune_below=self.prune_below, reuse=self.reuse, merges=self.merges, min_gain=self.min_gain or 0.0,
        )  # fmt: skip


def _check_given(given: _Given, wanted: dict[str, float]) -> None:
    """Refuse options that contradict each other.

    Raises:
        UsageError: two of them do.
    """
    if given.until_idle and given.forever:
        raise UsageError("--until-idle and --forever contradict each other: give one of them")
    if given.length is not None and given.budget is None:
        raise UsageError("--length says how long a whole run is where there is a --budget: give both, or neither")
    if given.min_gain is not None and given.budget is None:
        raise UsageError("--min-gain ends a --budget early: give both, or neither")
    if given.budget is not None:
        decided = {"--until-idle": given.until_idle, "--forever": given.forever, "--merges": given.merges,
                   "--reuse": given.reuse, "--prune-below": given.prune_below,
                   "--learn-after": given.learn_after and _is_given("learn_after")}  # fmt: skip
        contradicting = next((name for name, value in decided.items() if value), None)
        if contradicting is not None:
            raise UsageError(
                f"--budget and {contradicting} contradict each other: a budget decides by itself when the work ends, "
                "what starts from checkpoints, what is merged and what is stopped, and learns no map"
            )
    if given.merges and not given.learn_after:
        raise UsageError("--merges measures merged checkpoints when the map is refitted: leave out --learn-after 0")
    if given.reuse and not given.asks:
        raise UsageError(
            "--reuse is for runs that are asked for, and none is: give -n, --forever or --until-reached without "
            "--until-idle, or leave --reuse out"
        )
    if given.until_reached and not wanted:
        raise UsageError("--until-reached needs something to reach: --target-NAME VALUE")


def _check_project(project: Project, given: _Given) -> None:
    """Refuse a project file that lacks what the options need.

    Raises:
        UsageError: it does; the message says what to add.
    """
    project.require_command()
    if given.merges and project.evaluate is None:
        raise UsageError(
            f"{project.file}: --merges measures every merged checkpoint, which needs a hook: add "
            '[hooks] evaluate = "package.module:function"'
        )
    if given.reuse:
        from epsopt.studies.worker.proposals import require_start

        require_start(project)


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
