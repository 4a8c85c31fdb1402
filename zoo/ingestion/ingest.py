"""Ingest: bring the catalogue up to date with folders of runs; what has not changed is not opened."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.types import NotFinite
from epsopt.zoo.errors import Failure
from epsopt.zoo.fingerprints.lineage import LineageBook
from epsopt.zoo.formatting import count
from epsopt.zoo.ingestion.catalogue_writer import (
    KnownFile,
    Recorder,
    adopt,
    delete_failures,
    files_read_otherwise,
    files_without_checkpoint,
    known_files,
    known_lineages,
    record_failures,
    release_files,
    relocate_references,
)
from epsopt.zoo.ingestion.changed_hyperparameters import changed_hyperparameters
from epsopt.zoo.ingestion.deleted_runs import set_aside
from epsopt.zoo.ingestion.followed_since import files_followed_further, with_their_copies
from epsopt.zoo.ingestion.mixed_clocks import mixed_clocks
from epsopt.zoo.ingestion.unusable_embeddings import Embedded, embedded, unusable, usual_shape
from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.other_formats import OtherFormat
from epsopt.zoo.layouts.scan import CheckpointFile, scan, within
from epsopt.zoo.reading.plain_values import is_placeholder
from epsopt.zoo.reading.pool import Readers, shared_pool
from epsopt.zoo.reading.reader import CheckpointContents, Outcome, StillWriting, read_files
from epsopt.zoo.reading.remote import location
from epsopt.zoo.reading.source import Limits, identity_at
from epsopt.zoo.side_files.refresh import attach_metadata, refresh_runs
from epsopt.zoo.side_files.run_tables import RunTable

Progress = Callable[[int, int], None]
_SAMPLED = 200  # embeddings that tell the usual shape


@dataclass(frozen=True)
class IngestReport:
    """What one pass over the folders came to: found = added + unchanged + aliases + waiting + failed.

    Attributes:
        found: checkpoint files under the folders.
        added: checkpoints that are new, or whose content changed.
        unchanged: files already in the catalogue, aliases among them.
        aliases: files new to the catalogue that hold a checkpoint which another file of their run holds, too.
        still_writing: files that somebody wrote to while they were read; the next pass takes them.
        failed: files that cannot be read, also those that failed before and have not changed since.
        seconds: duration.
        runs: folders that hold checkpoint files.
        layouts: how many runs are kept in which layout, by its name; several that combine as ``hydra + lightning``.
        side_file_failures: side files that cannot be read, and what they or the checkpoints say and was not
            taken; the checkpoints are in all the same.
        ignored: files that are named like checkpoints and known to be none: states of optimisers and the like.
        refreshed_runs: runs whose side files were read now, because they or the checkpoints they speak of changed.
        unmatched: rows of tables of runs that belong to none of the runs found, by the table's name.
        not_read: checkpoints of other formats, and files that look like some, by kind; no part of what was found.
        objects: hyperparameters of files read now that hold a class, a function or another object, and stand as text:
            in how many checkpoints, by name and class.
        nan_weights: checkpoints of the runs found of which some weights are NaN: how many, by the name of their run.
        deleted: folders of runs that their tracker has marked as deleted; their checkpoints are not part of found.
        not_finite: metrics of the runs found that were NaN or infinite somewhere, and count as not measured there.
        outside_links: links that lead out of the folders and were not followed.
        lost: files among those that failed that held a checkpoint until now that is no longer in the catalogue: no
            other file of its run holds it.
    """

    found: int
    added: int
    unchanged: int
    aliases: int
    still_writing: int
    failed: list[Failure]
    seconds: float
    runs: int
    layouts: dict[str, int] = field(default_factory=dict)
    side_file_failures: list[Failure] = field(default_factory=list)
    ignored: int = 0
    refreshed_runs: int = 0
    unmatched: dict[str, int] = field(default_factory=dict)
    not_read: list[OtherFormat] = field(default_factory=list)
    objects: dict[str, int] = field(default_factory=dict)
    nan_weights: dict[str, int] = field(default_factory=dict)
    deleted: list[Failure] = field(default_factory=list)
    not_finite: list[NotFinite] = field(default_factory=list)
    outside_links: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def ingest(
    catalogue: Catalogue,
    folder: Path | Sequence[Path],
    *,
    root: Path | None = None,
    embed: str | None = None,
    jobs: int = 2,
    progress: Progress | None = None,
    limits: Limits | None = None,
    sheets: Sequence[RunTable] = (),
    follow_links: bool = False,
    readers: Readers | None = None,
) -> IngestReport:
    """Read the checkpoints under folders that the catalogue does not know yet, or that changed.

    It may be killed at any moment and run again, also by several processes at once: each checkpoint goes in
    once.

    Args:
        catalogue: where to.
        folder: one folder or several; which folders below are runs is what their layouts say.
        root: the folder above them that runs are named from; None names them from the folders themselves.
        embed: hook ``package.module:function`` from a state dict to an array (anchors, dimensions); it runs
            in the reading process. Checkpoints that lack this hook's embedding are read again for it.
        jobs: reading processes.
        progress: called with (files done, files to read).
        limits: what one file may cost; the defaults when None.
        follow_links: whether links that lead out of the folders are followed, too.
        sheets: tables of runs that tell hyperparameters and metrics, too; what they say counts more than side files.
        readers: what reads the checkpoints in place of processes of this machine, such as
            :func:`epsopt.zoo.ray_readers`; side files are read here.

    Returns:
        The report; unreadable files are in it and in ``catalogue.failures()``.

    Raises:
        UsageError: a folder does not exist.
        HookError: the hook cannot be imported or failed; what was read before stays.
        CatalogueError: the database refuses.
    """
    started = time.monotonic()
    folders = [folder] if isinstance(folder, str | Path) else list(folder)
    seen = scan(folders, root, follow_links=follow_links)
    deleted = set_aside(seen, lambda: shared_pool(jobs, limits), catalogue)
    known = known_files(catalogue)
    if catalogue.has_other_base():  # how far each checkpoint is from it is another question now
        release_files(catalogue, known)
        known = {}
    further = files_followed_further(catalogue)
    known = {path: kept for path, kept in known.items() if path not in further}
    fresh = [f for f in seen.files if not _is_current(known.get(str(f.path)), f, embed)]
    opened = {str(f.path) for f in fresh}
    if other := {*files_read_otherwise(catalogue, sorted(opened)), *with_their_copies(opened, further)}:
        release_files(catalogue, sorted(other))
    catalogue.keep_how_to_read()
    current = {str(f.path): known[str(f.path)] for f in seen.files if str(f.path) not in opened}
    adopt(catalogue, seen.files)
    present = {str(f.path) for f in seen.files} | {f.path for f in seen.failures}
    delete_failures(
        catalogue,
        (p for p, k in known.items() if k.reason is not None and p not in present and within(p, folders)),
    )
    record_failures(catalogue, [f for f in seen.failures if (k := known.get(f.path)) is None or k.reason != f.reason])
    failed = seen.failures + [Failure(p, k.reason) for p, k in current.items() if k.reason is not None]
    unchanged = sum(1 for k in current.values() if k.reason is None)
    waiting = 0
    if fresh:
        relocate_references(catalogue)
    book = known_lineages(catalogue) if fresh else LineageBook()
    recorder = Recorder(catalogue, book, embed, present)
    hints: dict[int, int] = {}
    objects: Counter[str] = Counter()
    points: list[Embedded] = []

    def handle(index: int, outcome: Outcome) -> bool:
        nonlocal waiting
        if isinstance(outcome, CheckpointContents):
            if not recorder.accept(fresh[index], outcome):
                hints.update({} if recorder.hint is None else {index: recorder.hint})
                return False
            if outcome.embedding is not None and not outcome.nan_weights:
                points.append(embedded(str(outcome.path), outcome.embedding))
            objects.update(f"{k} {v}" for k, v in outcome.hyperparameters.items() if is_placeholder(v))
        elif isinstance(outcome, StillWriting):
            waiting += 1
        else:
            recorder.fail(fresh[index], outcome)
            failed.append(outcome)
        if progress is not None:
            progress(index + 1, len(fresh))
        return True

    if fresh:
        try:
            files = [(f.path, f.identity.size) for f in fresh]
            read_files(
                readers or shared_pool(jobs, limits), files, book, handle,
                embed=embed, weights_key=catalogue.weights_key, base=catalogue.base, hints=hints,
            )  # fmt: skip
        finally:
            recorder.flush()
    answered = refresh_runs(catalogue, seen, shared_pool(jobs, limits), sheets, folders)
    found = len(seen.files) + len(seen.failures)
    run_paths = {f.run_path for f in seen.files}
    unchanged += found - unchanged - recorder.added - recorder.aliases - waiting - len(failed)
    return IngestReport(
        found=found,
        added=recorder.added,
        unchanged=unchanged,
        aliases=recorder.aliases,
        still_writing=waiting,
        failed=sorted(failed, key=lambda f: f.path),
        lost=sorted(files_without_checkpoint(catalogue, recorder.held)),
        seconds=time.monotonic() - started,
        runs=len(run_paths),
        layouts=answered.layouts,
        side_file_failures=sorted(
            [
                *answered.failures,
                *_noted(catalogue, seen.files),
                *changed_hyperparameters(catalogue, run_paths),
                *mixed_clocks(catalogue, run_paths),
                *_unusable(catalogue, points),
            ],
            key=lambda f: f.path,
        ),
        ignored=len(seen.ignored),
        refreshed_runs=answered.refreshed,
        unmatched=answered.unmatched,
        not_read=list(seen.other.kinds.values()),
        objects=dict(objects),
        nan_weights=catalogue.nan_weights(run_paths),
        deleted=deleted,
        not_finite=catalogue.not_finite(run_paths),
        outside_links=sorted(seen.outside_links),
    )


def _noted(catalogue: Catalogue, seen: Sequence[CheckpointFile]) -> list[Failure]:
    """Say each sentence about what checkpoints say and was not taken once a run."""
    run_of = {str(f.path): f.run_path for f in seen}
    notes: dict[tuple[str, str], list[str]] = {}
    for path, sentences in catalogue.notes(run_of).items():
        for note in sentences:
            notes.setdefault((run_of[path], note), []).append(path)
    return [
        Failure(paths[0], f"{note} (so do {count(len(paths) - 1, 'other checkpoint')})" if paths[1:] else note)
        for (_, note), paths in notes.items()
    ]


def _unusable(catalogue: Catalogue, points: Sequence[Embedded]) -> list[Failure]:
    """Say which of the embeddings made now count as none, beside those that the catalogue holds."""
    if not points:
        return []
    ids = [c.id for c in catalogue.checkpoints()]
    some = catalogue.embeddings(ids[:: max(1, len(ids) // _SAMPLED)])
    usual = usual_shape([*(e.shape for e in some if e is not None), *(p.shape for p in points)])
    return [Failure(path, text) for path, text in unusable(points, usual or ())]


def _is_current(known: KnownFile | None, found: CheckpointFile, embed: str | None) -> bool:
    if known is None or known.identity != found.identity:
        return False
    return known.reason is not None or embed is None or known.embedded_by == embed


def read_fingerprints(
    paths: Sequence[Path],
    catalogue: Catalogue | None = None,
    *,
    embed: str | None = None,
    jobs: int = 2,
    progress: Progress | None = None,
    limits: Limits | None = None,
    folders: Folders | None = None,
    on_failure: Callable[[Failure], None] | None = None,
) -> list[CheckpointContents | Failure]:
    """Read files without recording them, their deltas taken from the catalogue's lineages where one fits.

    Args:
        paths: checkpoint files.
        catalogue: whose lineages are offered; None for none.
        embed: as for :func:`ingest`.
        jobs: reading processes.
        progress: called with (files done, files in all).
        limits: what one file may cost; the defaults when None.
        folders: of the scan that found the files; without it, nothing is known of what lies beside files behind URLs.
        on_failure: called with each file beside them that cannot be read.

    Returns:
        One result per path, in their order. ``lineage`` is None where no known lineage fits.
    """
    book = known_lineages(catalogue) if catalogue is not None else LineageBook()
    results: list[CheckpointContents | Failure] = []

    def handle(index: int, outcome: Outcome) -> bool:
        if isinstance(outcome, StillWriting):
            outcome = Failure(str(outcome.path), "was written to while it was read: try again when it is complete")
        elif isinstance(outcome, CheckpointContents) and outcome.declared is not None:
            known = book.of_reference(outcome.signature, outcome.declared.sha256)
            outcome = replace(outcome, lineage=known.id if known is not None else None)
        if isinstance(outcome, CheckpointContents) and on_failure is not None:
            for note in outcome.notes:
                on_failure(Failure(str(outcome.path), note))
        results.append(outcome)
        if progress is not None:
            progress(index + 1, len(paths))
        return True

    files = [(location(p), _size(location(p))) for p in paths]
    pool = shared_pool(jobs, limits)
    key, base = ("", "") if catalogue is None else (catalogue.weights_key, catalogue.base)
    read_files(pool, files, book, handle, embed=embed, weights_key=key, base=base)
    renamed = catalogue.renamed if catalogue is not None else None
    return attach_metadata(results, pool, folders or Folders(), renamed, on_failure, key)


def _size(path: Path) -> int:
    try:
        return identity_at(location(path)).size
    except OSError:
        return 0
