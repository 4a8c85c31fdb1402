"""The catalogue of runs, checkpoints and lineages, and what was learned from them, in one database."""

from __future__ import annotations

import contextlib
import gc
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Table, delete, insert, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError

from epsopt.zoo.catalogue.database import driver_message, open_database, reading, writing
from epsopt.zoo.catalogue.listing import Listing, listing, metadata_of_files, says_not_finite, whole_runs
from epsopt.zoo.catalogue.renaming import under_new_names
from epsopt.zoo.catalogue.tables import (
    artifacts,
    checkpoints,
    embeddings,
    files,
    fingerprints,
    lineages,
    meta,
    run_metadata,
    same_signature,
)
from epsopt.zoo.catalogue.types import Checkpoint, Lineage, NotFinite, Run
from epsopt.zoo.credentials import masked, masked_url
from epsopt.zoo.errors import CatalogueError, DamagedArtifact, EmptyCatalogue, Failure
from epsopt.zoo.reading.messages import unpack

if TYPE_CHECKING:
    from epsopt.zoo.fingerprints.fingerprint import Fingerprint

_Parsed = TypeVar("_Parsed")
_WEIGHTS_KEY, _BASE = "weights_key", "base"
_CHUNK = 500  # ids per query: SQLite's oldest limit is 999 variables


class Catalogue:
    """One database of runs and checkpoints; any number of processes may use it at once.

    Args:
        url: SQLAlchemy URL: ``sqlite:///FILE.db``, or ``postgresql+psycopg://...`` when many machines share
            it.
        rename: metrics by the name that some runs give them, to the name that they are to have here. It is applied
            to what is read from the database, never to what is kept: another map needs no other ingest.
        weights_key: the keys that lead to a checkpoint's weights, joined with dots; empty to find them; None for what
            the last ingest took.
        base: path of the checkpoint that runs start from where they name none; empty: none; None for what the last
            ingest took.
        rename_hyperparameters: hyperparameters, as `rename`.

    Raises:
        CatalogueError: it cannot be opened, or was written by a newer version.
    """

    def __init__(
        self,
        url: str = "sqlite:///epsopt.db",
        rename: Mapping[str, str] | None = None,
        weights_key: str | None = None,
        base: str | None = None,
        *,
        rename_hyperparameters: Mapping[str, str] | None = None,
    ) -> None:
        self.url = url
        self.rename = dict(rename or {})
        self.rename_hyperparameters = dict(rename_hyperparameters or {})
        self._weights_key = weights_key
        self._base = base
        self._names: tuple[tuple[Any, ...], list[str]] | None = None  # metric_names, and the state that they are of
        self._engine = open_database(url)

    @property
    def weights_key(self) -> str:
        """The keys that lead to a checkpoint's weights, joined with dots; empty where they are to be found."""
        if self._weights_key is None:
            self._weights_key = self._kept(_WEIGHTS_KEY)
        return self._weights_key

    @property
    def base(self) -> str:
        """Path of the checkpoint that runs start from where they name none; empty: none."""
        if self._base is None:
            self._base = self._kept(_BASE)
        return self._base

    def has_other_base(self) -> bool:
        """Whether what is catalogued was compared with another base than is meant now."""
        return self.base != self._kept(_BASE)

    def keep_how_to_read(self) -> None:
        """Keep the weights' key and the base, for those who open the catalogue without naming them."""
        values = {_WEIGHTS_KEY: self.weights_key, _BASE: self.base}
        with self.writing() as connection:
            connection.execute(delete(meta).where(meta.c.key.in_(values)))
            for key, value in values.items():
                if value:
                    connection.execute(insert(meta).values(key=key, value=value))

    def _kept(self, key: str) -> str:
        with self.reading() as connection:
            return str(connection.execute(select(meta.c.value).where(meta.c.key == key)).scalar() or "")

    @classmethod
    def existing(
        cls,
        url: str = "sqlite:///epsopt.db",
        rename: Mapping[str, str] | None = None,
        weights_key: str | None = None,
        rename_hyperparameters: Mapping[str, str] | None = None,
    ) -> Self:
        """Open a catalogue that must be there already: nothing that only reads makes a database file.

        Args:
            url: as of the class.
            rename: as of the class.
            weights_key: as of the class.
            rename_hyperparameters: as of the class.

        Raises:
            EmptyCatalogue: there is no such SQLite file.
            CatalogueError: it cannot be opened.
        """
        try:
            file = make_url(url).database if url.startswith("sqlite") else None
        except ArgumentError:
            file = None  # said better when it is opened
        if file and not file.startswith((":memory:", "file:")) and not Path(file).exists():
            raise EmptyCatalogue(f"there is no catalogue at {file} yet: read your runs with 'epsopt ingest RUNS'")
        return cls(url, rename, weights_key, rename_hyperparameters=rename_hyperparameters)

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[str, dict[str, str], str | None, dict[str, str]]]:
        """Pickle as what it was opened with: each process has connections of its own."""
        return type(self).existing, (self.url, self.rename, self._weights_key, self.rename_hyperparameters)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database; nothing is left to be written."""
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a transaction that reads; what the database refuses becomes a CatalogueError."""
        with self._explained(), reading(self._engine) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a transaction as the only writer; what the database refuses becomes a CatalogueError."""
        with self._explained(), writing(self._engine) as connection:
            yield connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise CatalogueError(f"{masked_url(self.url)}: {masked(driver_message(error), self.url)}") from error

    def runs(self) -> list[Run]:
        """Return all runs, by name; where several have one name, by as much of their path as tells them apart."""
        with self.reading() as connection:
            found = whole_runs(connection)
        rows = sorted(found.runs.values(), key=lambda r: (found.names[r.id], r.path))
        hyperparameters = {
            r.id: under_new_names(found.hyperparameters[r.id], self.rename_hyperparameters) for r in rows
        }
        return [Run(r.id, found.names[r.id], r.path, hyperparameters[r.id]) for r in rows]

    def checkpoints(self, *, signature: str | None = None, within: Path | None = None) -> list[Checkpoint]:
        """Return all checkpoints, or those of one signature, or of the runs in one folder.

        They come by run name, epoch (unknown first) and path. A run has one for each moment of its training,
        whatever number of files hold it; runs that share a file have one each.

        Args:
            signature: the architecture (:attr:`Fingerprint.signature`) that counts; None: all.
            within: folder of the runs that count, absolute; None: all.
        """
        with _without_collections():
            return self._checkpoints(signature, within)

    def _checkpoints(self, signature: str | None, within: Path | None) -> list[Checkpoint]:
        with self.reading() as connection:
            state, found = _state(connection), listing(connection)
        self._names = None if state is None else (state, self._measured_names(found))
        runs = found.runs
        if within is not None:
            place, below = str(within), f"{within}/"
            runs = {i: run for i, run in runs.items() if run.path == place or run.path.startswith(below)}
        of_runs = {
            i: (found.names[i], under_new_names(found.hyperparameters[i], self.rename_hyperparameters)) for i in runs
        }
        out: list[tuple[tuple[str, int, int, str], Checkpoint]] = []
        for c in found.checkpoints:
            id_, _, path, sha256, _, _, own, lineage_id, n_parameters, step, layout = c.row
            run_id, epoch, paths = c.run_id, c.epoch, c.paths
            if run_id not in of_runs or (signature is not None and own != signature):
                continue
            run, hyperparameters = of_runs[run_id]
            aliases = () if paths == [path] else tuple(other for other in paths if other != path)
            checkpoint = Checkpoint(
                id_, run_id, run, path, sha256, epoch, self.renamed(c.metrics), hyperparameters, own, lineage_id,
                n_parameters, layout or "plain", aliases,
            )  # fmt: skip
            # Sorted here: databases collate text differently.
            order = (run, -1 if epoch is None else epoch, -1 if step is None else step, path)
            out.append((order, checkpoint))
        out.sort(key=itemgetter(0))
        return [checkpoint for _, checkpoint in out]

    def metric_names(self) -> list[str]:
        """Return the metrics that have at least one finite value, sorted."""
        with self.reading() as connection:
            # Every command asks for checkpoints and for these: listing a large catalogue once takes seconds.
            if self._names is not None and self._names[0] == _state(connection):
                return list(self._names[1])
            found = listing(connection)
        return self._measured_names(found)

    def _measured_names(self, found: Listing) -> list[str]:
        measured: set[str] = set()
        for c in found.checkpoints:
            metrics = self.renamed(c.metrics)
            if not metrics.keys() <= measured:  # of most, all are known from the first ones
                measured.update(name for name, v in metrics.items() if v is not None)
        return sorted(measured)

    def not_finite(self, within: Collection[str] | None = None) -> list[NotFinite]:
        """Count the values that were logged as NaN or infinite, by metric: they count as not measured.

        Args:
            within: paths of the runs to look at; None: all.

        Returns:
            One count a metric that has such values, by name.
        """
        with self.reading() as connection:
            if not says_not_finite(connection):  # of most catalogues; listing a large one takes seconds
                return []
            found = listing(connection)
        places: dict[str, list[int]] = {}
        for c in found.checkpoints:
            if within is None or found.runs[c.run_id].path in within:
                for name, value in self.renamed(c.metrics).items():
                    if value is None:
                        places.setdefault(name, []).append(c.run_id)
        return [NotFinite(name, len(runs), len(set(runs))) for name, runs in sorted(places.items())]

    def nan_weights(self, within: Collection[str] | None = None) -> dict[str, int]:
        """Count the checkpoints of which some weights are NaN: nothing is learned from them.

        Args:
            within: paths of the runs to look at; None: all.

        Returns:
            Their number by the name of their run, of runs that have any.
        """
        with self.reading() as connection:
            broken = metadata_of_files(connection, "nan_weights").keys()
            found = listing(connection) if broken else None
        if found is None:
            return {}
        seen = [c for c in found.checkpoints if within is None or found.runs[c.run_id].path in within]
        return dict(sorted(Counter(found.names[c.run_id] for c in seen if not broken.isdisjoint(c.paths)).items()))

    def notes(self, paths: Collection[str] | None = None) -> dict[str, list[str]]:
        """Return the sentences about what checkpoints say and was not taken, by path.

        Args:
            paths: of the files to look at; None: all.
        """
        with self.reading() as connection:
            notes_of = metadata_of_files(connection, "notes")
        return {path: notes for path, notes in notes_of.items() if paths is None or path in paths}

    def renamed(self, metrics: dict[str, float | None]) -> dict[str, float | None]:
        """Return metrics under the names that they are to have; one that has its name already is kept over others.

        Args:
            metrics: metric name to value; None where it is not measured. Left unchanged.
        """
        return under_new_names(metrics, self.rename) if self.rename else metrics

    def side_file_failures(self) -> list[Failure]:
        """Return the side files that could not be read, by path; the checkpoints beside them are in the catalogue."""
        with self.reading() as connection:
            query = select(run_metadata.c.failures).where(run_metadata.c.failures != "[]")
            rows = connection.execute(query).scalars().all()
        return sorted({Failure(path, reason) for row in rows for path, reason in json.loads(row)}, key=lambda f: f.path)

    def failures(self) -> list[Failure]:
        """Return the files that could not be read, by path."""
        query = select(files.c.path, files.c.reason).where(files.c.reason.is_not(None))
        with self.reading() as connection:
            rows = connection.execute(query).all()
        return sorted((Failure(r.path, r.reason) for r in rows), key=lambda f: f.path)

    def lineages(self) -> list[Lineage]:
        """Return all lineages, oldest first."""
        names = ("id", "signature", "reference_path", "declared", "reference_sha256")
        columns = [lineages.c[name] for name in names]
        with self.reading() as connection:
            rows = connection.execute(select(*columns).order_by(lineages.c.id)).all()
        return [Lineage(*r) for r in rows]

    def aliases(self) -> dict[str, str]:
        """Return the other files of checkpoints (copies, links, what a run saved twice), with the checkpoint's path."""
        with self.reading() as connection:
            found = listing(connection).checkpoints
        return dict(sorted((path, c.row.path) for c in found for path in c.paths if path != c.row.path))

    def holding(self, sha256: str) -> list[int]:
        """Return the ids of the checkpoints that have a file with this content: one of each run that shares it.

        Args:
            sha256: digest of the file's content, in hexadecimal.
        """
        query = select(files.c.checkpoint_id).where(files.c.sha256 == sha256, files.c.checkpoint_id.is_not(None))
        with self.reading() as connection:
            return list(connection.execute(query.distinct().order_by(files.c.checkpoint_id)).scalars())

    def fingerprints(self, ids: Sequence[int]) -> list[Fingerprint]:
        """Return the fingerprints of these checkpoints, in the order of `ids`.

        Args:
            ids: ids of checkpoints (:attr:`Checkpoint.id`); one may come more than once.

        Raises:
            CatalogueError: an id is unknown, or a fingerprint is damaged.
        """
        from epsopt.zoo.fingerprints.fingerprint import Fingerprint

        found = self._blobs(fingerprints, ids, Fingerprint.from_bytes)
        missing = [i for i in ids if i not in found]
        if missing:
            raise CatalogueError(f"the catalogue {self.url} has no checkpoint with id {missing[0]}")
        return [found[i] for i in ids]

    def embeddings(self, ids: Sequence[int]) -> list[NDArray[np.float32] | None]:
        """Return these checkpoints' embeddings, each (anchors, dimensions), None where there is none.

        Args:
            ids: ids of checkpoints (:attr:`Checkpoint.id`).

        Returns:
            One float32 array ``(anchors, dimensions)`` or None for each id, in the order of `ids`.
        """
        found = self._blobs(embeddings, ids, unpack)
        return [found.get(i) for i in ids]

    def _blobs(self, table: Table, ids: Iterable[int], parse: Callable[[bytes], _Parsed]) -> dict[int, _Parsed]:
        wanted = sorted(set(ids))
        found: dict[int, _Parsed] = {}
        holder = checkpoints.alias()
        with self.reading() as connection:
            for start in range(0, len(wanted), _CHUNK):
                chunk = wanted[start : start + _CHUNK]
                # Checkpoints of equal weights share what one of them holds.
                shared = holder.c.weights == checkpoints.c.weights
                if table is fingerprints:  # what an earlier version saw less of has another signature
                    shared &= same_signature(holder.c.signature, checkpoints.c.signature)
                query = (
                    select(checkpoints.c.id, table.c.data)
                    .join(holder, shared)
                    .join(table, table.c.checkpoint_id == holder.c.id)
                    .where(checkpoints.c.id.in_(chunk))
                )
                found.update((r.id, parse(r.data)) for r in connection.execute(query))
        return found

    def put_artifact(self, kind: str, key: str, data: bytes, meta: dict[str, Any]) -> None:
        """Keep bytes with their description, as the newest of their kind; the same kind and key replaces.

        Args:
            kind: what it is, such as ``surrogate``.
            key: which one of its kind.
            data: the bytes.
            meta: its description, of JSON values.
        """
        with self.writing() as connection:
            _put_artifact(connection, kind, key, data, json.dumps(meta, sort_keys=True))

    def update_artifact(self, kind: str, key: str, change: Callable[[bytes | None], bytes]) -> None:
        """Keep what `change` makes of the bytes that are kept (None: none are), in one transaction: nothing is lost.

        Args:
            kind: of the artifact, which has no description.
            key: of the artifact.
            change: gives the new bytes.
        """
        query = select(artifacts.c.data).where((artifacts.c.kind == kind) & (artifacts.c.key == key))
        with self.writing() as connection:
            kept = connection.execute(query).scalar()
            _put_artifact(connection, kind, key, change(None if kept is None else bytes(kept)), "{}")

    def get_artifact(self, kind: str, key: str | None = None) -> tuple[bytes, dict[str, Any]] | None:
        """Return the artifact with this key, or the newest of its kind; None when there is none.

        Args:
            kind: what it is.
            key: which one of its kind; None: the newest.

        Raises:
            DamagedArtifact: it cannot be read.
        """
        query = select(artifacts.c.data, artifacts.c.meta).where(artifacts.c.kind == kind)
        if key is not None:
            query = query.where(artifacts.c.key == key)
        with self.reading() as connection:
            row = connection.execute(query.order_by(artifacts.c.id.desc()).limit(1)).first()
        if row is None:
            return None
        damaged = f"what the database keeps as {kind} is damaged: 'epsopt check' says what mends it"
        try:
            meta = json.loads(row.meta)
        except (ValueError, TypeError, RecursionError) as error:
            raise DamagedArtifact(damaged) from error
        if not isinstance(meta, dict) or not isinstance(row.data, bytes | memoryview):
            raise DamagedArtifact(damaged)
        return bytes(row.data), meta

    def artifact_descriptions(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return the descriptions of the artifacts of a kind, the oldest first; damaged ones are left out.

        Args:
            kind: what they are.

        Returns:
            Descriptions by key.
        """
        query = select(artifacts.c.key, artifacts.c.meta).where(artifacts.c.kind == kind).order_by(artifacts.c.id)
        with self.reading() as connection:
            rows = connection.execute(query).all()
        out: dict[str, dict[str, Any]] = {}
        for key, text in rows:
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                meta = json.loads(text)
                if isinstance(meta, dict):
                    out[key] = meta
        return out

    def forget_artifacts(self, kind: str, keys: Sequence[str] | None = None) -> None:
        """Delete artifacts of a kind.

        Args:
            kind: what they are.
            keys: which of them; None: all.
        """
        with self.writing() as connection:
            all_of_kind = delete(artifacts).where(artifacts.c.kind == kind)
            if keys is None:
                connection.execute(all_of_kind)
            for key in keys or ():
                connection.execute(all_of_kind.where(artifacts.c.key == key))


@contextmanager
def _without_collections() -> Iterator[None]:
    """Pause the collector: nothing of a listing is garbage, and looking through it takes a fifth of its time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _state(connection: Connection) -> tuple[Any, ...] | None:
    """What is as before only if nothing was written meanwhile, by this connection or another one; None: unknown.

    SQLite counts for each connection what others commit (data_version), and what it changes itself.
    """
    if connection.dialect.name != "sqlite":
        return None
    own = connection.connection.dbapi_connection
    version = connection.exec_driver_sql("PRAGMA data_version").scalar_one()
    return own, version, getattr(own, "total_changes", 0)


def _put_artifact(connection: Connection, kind: str, key: str, data: bytes, text: str) -> None:
    newest = connection.execute(
        select(artifacts.c.id, artifacts.c.key, artifacts.c.meta, artifacts.c.data)
        .where(artifacts.c.kind == kind)
        .order_by(artifacts.c.id.desc())
        .limit(1)
    ).first()
    if newest is not None and (newest.key, newest.meta, newest.data) == (key, text, data):
        return
    highest = connection.execute(select(artifacts.c.id).order_by(artifacts.c.id.desc()).limit(1)).scalar() or 0
    connection.execute(delete(artifacts).where((artifacts.c.kind == kind) & (artifacts.c.key == key)))
    connection.execute(insert(artifacts).values(id=highest + 1, kind=kind, key=key, data=data, meta=text))
