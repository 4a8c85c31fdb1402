"""The report of `epsopt report` as a page or as Markdown: what it is made of, and where it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epsopt.zoo.errors import EpsoptError

if TYPE_CHECKING:
    from epsopt.optimize.objectives import Objective
    from epsopt.studies.output_files import OutputFile
    from epsopt.studies.project.project import Project
    from epsopt.studies.report.report import LoopReport
    from epsopt.surrogate.surrogate import Surrogate
    from epsopt.surrogate.validation import Validation
    from epsopt.zoo.catalogue.catalogue import Catalogue
    from epsopt.zoo.catalogue.types import Checkpoint

_SUFFIXES = {"html": (".html", ".htm"), "md": (".md", ".markdown")}


@dataclass(frozen=True)
class ReportFiles:
    """Where a report is written, checked before anything is computed.

    Attributes:
        page: the page itself.
        pictures: PNG files beside a Markdown page, by the name of the figure; none of an HTML page.
    """

    page: OutputFile
    pictures: Mapping[str, OutputFile]


def report_files(page: Path, form: str | None, catalogue: Catalogue, *, overwrite: bool) -> ReportFiles:
    """Check that a report may be written.

    Args:
        page: the file that the user names; pictures of Markdown go into a folder beside it.
        form: ``"html"`` or ``"md"``; None: what the file's suffix says.
        catalogue: knows the folders of runs, in which nothing is replaced.
        overwrite: whether files that epsopt did not make give way.

    Raises:
        UsageError: a suffix that is neither, or a file that may not be written.
        EpsoptError: the folder of pictures cannot be made.
    """
    from epsopt.studies.output_files import output_file, run_folders

    runs = run_folders(catalogue)
    suffixes = (*_SUFFIXES["html"], *_SUFFIXES["md"]) if form is None else _SUFFIXES[form]
    file = output_file(page, suffixes, "a report", overwrite=overwrite, runs=runs)
    if page.suffix.lower() in _SUFFIXES["html"]:
        return ReportFiles(file, {})
    folder = pictures_folder(page)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise EpsoptError(f"{folder}: cannot be made: {error.strerror or error}") from error
    names = ("front", "map", "calibration", "hypervolume")
    return ReportFiles(
        file,
        {n: output_file(folder / f"{n}.png", (".png",), "a picture", overwrite=overwrite, runs=runs) for n in names},
    )


def pictures_folder(page: Path) -> Path:
    """Return the folder of a Markdown report's pictures: ``report_files`` beside ``report.md``."""
    return page.with_name(f"{page.stem}_files")


@dataclass(frozen=True)
class MapOfReport:
    """The map that a report shows.

    Attributes:
        surrogate: the map; None where there is none, or none that can be read.
        validation: of the map.
        n_unseen: checkpoints that it does not know yet.
    """

    surrogate: Surrogate | None = None
    validation: Validation | None = None
    n_unseen: int = 0


def map_of_report(catalogue: Catalogue) -> MapOfReport:
    """Load the newest map of a catalogue; a report does without one."""
    from epsopt.studies.surrogate_store import load_map, unseen
    from epsopt.zoo.errors import CatalogueError, EmptyCatalogue

    try:
        surrogate, validation = load_map(catalogue)
    except (EmptyCatalogue, CatalogueError):
        return MapOfReport()
    return MapOfReport(surrogate, validation, unseen(catalogue, surrogate))


def provenance(
    project: Project | None,
    report: LoopReport,
    shown: MapOfReport,
    command: str,
    targets: Mapping[str, float] | None = None,
) -> list[tuple[str, str]]:
    """Say what a report was made from, and how.

    Args:
        project: names the objectives; None leaves it out.
        report: of the loop.
        shown: the map.
        command: that made the report.
        targets: of the last search, by metric; None: there was none.
    """
    import platform
    from datetime import UTC, datetime

    import epsopt

    everything = [*report.old, *report.new, *report.merged]
    rows = [("epsopt", f"{epsopt.__version__}, Python {platform.python_version()}"),
            ("written", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")), ("command", command)]  # fmt: skip
    if project is not None:
        wanted = ", ".join(
            f"{o.name} ({'higher' if o.maximize else 'lower'} is better"
            f"{'' if o.limit is None else f', at {_bound(o)} {o.limit:g}'})"
            for o in project.objectives
        )
        rows += [("objectives", wanted), ("targets", _targets_text(project.objectives, targets))]
    of_loop = f"{len(report.new)} of proposed runs, {len(report.merged)} merged"
    rows.append(("checkpoints", f"{len(everything)}: {of_loop}"))
    rows.append(("data", f"{data_digest(everything)} (of all checkpoints' contents, and of what they measured)"))
    if shown.surrogate is not None:
        rows.append(("map learned from", f"data {shown.surrogate.trained_on.partition('-')[0][:16]}"))
    return rows


def _bound(objective: Objective) -> str:
    return "least" if objective.maximize else "most"


def _targets_text(objectives: Sequence[Objective], targets: Mapping[str, float] | None) -> str:
    better = {o.name: "≥" if o.maximize else "≤" for o in objectives}
    asked = ", ".join(f"{name} {better.get(name, '≥')} {value:g}" for name, value in (targets or {}).items())
    return f"{asked}, of the last search" if asked else "none"


def data_digest(checkpoints: Sequence[Checkpoint]) -> str:
    """Return a hash of checkpoints' contents and measurements, in which their order and their places do not count.

    Args:
        checkpoints: any.
    """
    import hashlib
    import json

    rows = sorted(json.dumps([c.sha256, sorted(c.metrics.items())]) for c in checkpoints)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


def write_page(
    file: OutputFile,
    name: str,
    report: LoopReport,
    objectives: Sequence[Objective],
    first: Sequence[str] = (),
    *,
    pictures: Mapping[str, OutputFile] | None = None,
    shown: MapOfReport | None = None,
    about: Sequence[tuple[str, str]] = (),
    nameless: bool = False,
) -> None:
    """Write the report as one HTML page or, where pictures have files of their own, as Markdown.

    Args:
        file: of the page.
        name: of the project.
        report: of the loop.
        objectives: what counts.
        first: sentences before all others.
        pictures: files of a Markdown page's pictures; none for HTML.
        shown: the map.
        about: rows of the provenance.
        nameless: take out names of runs, files and the project.
    """
    from epsopt.cli.loop_tables import PROPOSED, front_sentences, proposals_page_table, steps_table
    from epsopt.cli.report import count_sentences, interval_sentences, reasons, wait_sentences
    from epsopt.studies.report.anonymous import anonymous
    from epsopt.studies.report.contents import ReportTexts, report_contents
    from epsopt.studies.report.document import Table

    texts = ReportTexts(
        first=first,
        proposals=count_sentences(report),
        calibration=interval_sentences(report),
        gain=[*front_sentences(report), *wait_sentences(report)],
        tables=[Table(PROPOSED, *proposals_page_table(report, objectives)),
                Table("Why runs failed or were stopped", *reasons(report))],
        steps=[Table("Steps of the budget: predicted and realized gain in hypervolume", *steps_table(report))],
        provenance=about,
    )  # fmt: skip
    change: Any = str
    if nameless:
        report, change = anonymous(report, name)
    shown = shown or MapOfReport()
    document = report_contents(
        f"{name}: what came of the proposed runs", report, objectives, texts,
        surrogate=shown.surrogate, validation=shown.validation, n_unseen=shown.n_unseen,
    ).with_texts(change)  # fmt: skip
    if not pictures:
        file.write(document.html().encode())
        return
    from epsopt.studies.pictures import save_picture

    for picture, figure in document.pictures.items():
        save_picture(figure, pictures[picture])
    file.write(document.markdown(pictures_folder(file.named).name).encode())
