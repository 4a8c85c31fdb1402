"""What `epsopt ingest` prints: what it found, what it left out and why, and what the catalogue holds then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from epsopt.zoo.formatting import count

if TYPE_CHECKING:
    from epsopt.studies.diagnosis import Diagnosis
    from epsopt.zoo.catalogue.catalogue import Catalogue
    from epsopt.zoo.catalogue.types import Checkpoint, CopiedRun, NotFinite
    from epsopt.zoo.ingestion.ingest import IngestReport
    from epsopt.zoo.layouts.other_formats import OtherFormat

_LISTED = 20


@dataclass(frozen=True)
class Contents:
    """What a catalogue holds after reading.

    Attributes:
        checkpoints: all of them.
        metrics: names of their metrics.
        runs: number of runs.
        copies: runs of which every checkpoint belongs to another run too.
        shared: number of checkpoints that several runs hold, as a common start.
    """

    checkpoints: Sequence[Checkpoint]
    metrics: Sequence[str]
    runs: int
    copies: Sequence[CopiedRun]
    shared: int

    @classmethod
    def of(cls, catalogue: Catalogue) -> Contents:
        """Read them from an open catalogue."""
        from epsopt.zoo.catalogue.types import copied_runs

        checkpoints = catalogue.checkpoints()
        copies, shared = copied_runs(checkpoints)
        return cls(checkpoints, catalogue.metric_names(), len(catalogue.runs()), copies, shared)


def document(storage: str, report: IngestReport, contents: Contents) -> dict[str, Any]:
    """Return it as JSON values (docs/schemas/ingest.json)."""
    from epsopt.cli.render import failure_json

    return {
        "storage": storage,
        "runs": report.runs,
        "found": report.found,
        "added": report.added,
        "unchanged": report.unchanged,
        "aliases": report.aliases,
        "still_writing": report.still_writing,
        "failed": failure_json(report.failed),
        "lost": report.lost,
        "ignored": report.ignored,
        "layouts": report.layouts,
        "refreshed_runs": report.refreshed_runs,
        "side_file_failures": failure_json(report.side_file_failures),
        "unmatched": report.unmatched,
        "not_read": [asdict(kind) for kind in report.not_read],
        "objects": report.objects,
        "nan_weights": report.nan_weights,
        "deleted": failure_json(report.deleted),
        "not_finite": [asdict(n) for n in report.not_finite],
        "outside_links": report.outside_links,
        "copies": [asdict(copy) for copy in contents.copies],
        "shared": contents.shared,
        "seconds": report.seconds,
        "catalogue": {
            "runs": contents.runs,
            "checkpoints": len(contents.checkpoints),
            "metrics": contents.metrics,
        },
    }


def print_ingested(storage: str, report: IngestReport, contents: Contents, diagnosis: Diagnosis | None) -> None:
    """Print what was read and what was not.

    Args:
        storage: address of the catalogue as it may be shown.
        report: what reading came to.
        contents: what the catalogue holds now.
        diagnosis: what the project can do with it; None: there is no project.
    """
    from epsopt.cli.doctor import show_nan_weights
    from epsopt.cli.output import failures, links_outside, print_line, print_side_file_failures, print_wrapped
    from epsopt.cli.render import short_path

    _print_counts(report)
    for text, failed in (
        ("Could not be read, and are left out:", report.failed),
        ("Deleted where they were tracked, and are left out:", report.deleted),
    ):
        if failed:
            print_wrapped()
            print_wrapped(text)
            failures(failed)
    if report.lost:
        names = [short_path(path) for path in report.lost[:_LISTED]]
        left = len(report.lost) - len(names)
        print_wrapped(
            f"{count(len(report.lost), 'of these was', 'of these were')} in the catalogue until now, and what "
            f"{'it' if len(report.lost) == 1 else 'they'} measured no longer counts: {', '.join(names)}"
            f"{f' and {left} more' if left else ''}. Put the files back and ingest again to have them in."
        )
    print_side_file_failures(report.side_file_failures)
    links_outside(report.outside_links)
    for name, rows_left in report.unmatched.items():
        print_wrapped()
        print_wrapped(f"{count(rows_left, 'row')} of {name} belong to none of the runs found.")
    _not_read(report.not_read)
    _objects(report.objects)
    _not_finite(report.not_finite)
    show_nan_weights(report.nan_weights)
    _copies(contents.copies, contents.shared)
    print_wrapped()
    print_line(f"{storage} holds {len(contents.checkpoints)} checkpoints of {contents.runs} runs")
    print_wrapped(f"Metrics: {', '.join(contents.metrics) or 'none'}.")
    if diagnosis is not None:
        from epsopt.cli.doctor import show_base_line, show_readiness, show_renamed

        print_wrapped()
        show_base_line(diagnosis.base_line)
        show_renamed(diagnosis.renamed)
        show_readiness(diagnosis.readiness)
        print_wrapped("'epsopt doctor' says what metrics and hyperparameters were taken for.")


def _print_counts(report: IngestReport) -> None:
    """Print how many files of each fate there are, and the layouts of their runs."""
    from epsopt.cli.output import Head, Rows, print_table, print_wrapped

    counted = [
        ("new or changed", report.added),
        ("unchanged", report.unchanged),
        ("same checkpoint as another file", report.aliases),
        ("still being written", report.still_writing),
        ("could not be read", len(report.failed)),
        ("not counted: states of optimisers and the like", report.ignored),
    ]
    rows = [Rows([[name, str(n)]]) for name, n in counted if n or name == "new or changed"]
    print_table([Head("checkpoint files", "left"), Head(str(report.found))], rows)
    if report.layouts:
        print_wrapped()
        kinds = [Rows([[name, str(n)]]) for name, n in report.layouts.items()]
        print_table([Head("layout", "left"), Head("runs")], kinds)


def _not_read(kinds: Sequence[OtherFormat]) -> None:
    """Name checkpoints of other formats once a kind, with what makes them readable."""
    from epsopt.cli.output import Head, Rows, one_line, print_line, print_table, print_wrapped
    from epsopt.cli.render import short_path

    if not kinds:
        return
    print_wrapped()
    rows = [Rows([[kind.kind, str(kind.count), short_path(kind.example)]]) for kind in kinds]
    print_table([Head("not read", "left"), Head("number"), Head("such as", "left")], rows)
    print_wrapped()
    for kind in kinds:
        print_line(one_line(f"  {kind.kind}: {kind.convert}"))


def _objects(objects: dict[str, int]) -> None:
    """Name hyperparameters that hold objects, once a name and class."""
    from epsopt.cli.output import one_line, print_line, print_wrapped

    if not objects:
        return
    print_wrapped()
    print_wrapped("Hyperparameters that hold classes, functions or other objects are kept as text:")
    for what, number in list(objects.items())[:_LISTED]:
        print_line(one_line(f"  {what} ({count(number, 'checkpoint')})"))
    if len(objects) > _LISTED:
        print_line(f"  and {len(objects) - _LISTED} more (--json lists them all)")


def _not_finite(metrics: Sequence[NotFinite]) -> None:
    """Say which metrics count as not measured somewhere, and where."""
    from epsopt.cli.output import print_line, print_wrapped

    if metrics:
        print_wrapped()
        print_wrapped("Not finite (NaN, infinite, or 1e300 and more), and so not measured there:")
        for n in metrics[:_LISTED]:
            print_line(f"  {n.metric}: on {count(n.checkpoints, 'checkpoint')} of {count(n.runs, 'run')}")
        if len(metrics) > _LISTED:
            print_line(f"  and {len(metrics) - _LISTED} other metrics ('epsopt ingest --json' names all)")


def _copies(copies: Sequence[CopiedRun], shared: int) -> None:
    """Name the runs that are copies of others, and say what runs share."""
    from epsopt.cli.output import one_line, print_line, print_wrapped

    if copies:
        print_wrapped()
        print_wrapped(f"{count(len(copies), 'run is a copy', 'runs are copies')} of others, and learned from once:")
        for copy in copies[:_LISTED]:
            print_line(one_line(f"  {copy.run}: {count(copy.checkpoints, 'checkpoint')}, all of them in {copy.of}"))
        if len(copies) > _LISTED:
            print_line(f"  and {len(copies) - _LISTED} more ('epsopt ingest --json' names all)")
    if shared:
        print_wrapped()
        lie = count(shared, "checkpoint is in several runs", "checkpoints are in several runs")
        print_wrapped(f"{lie}, as a common start, and learned from once.")
