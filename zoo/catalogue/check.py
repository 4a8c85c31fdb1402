"""Go over the catalogue's database without changing it: what in it is damaged, and which command mends it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Engine,
    Integer,
    LargeBinary,
    Table,
    create_engine,
    inspect,
    or_,
    select,
    text,
    type_coerce,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import NullType

from epsopt.zoo.catalogue.database import driver_message
from epsopt.zoo.catalogue.tables import (
    SCHEMA_VERSION,
    artifacts,
    checkpoints,
    embeddings,
    fingerprints,
    lineages,
    meta,
    metadata,
)
from epsopt.zoo.credentials import masked_url
from epsopt.zoo.errors import CatalogueError, EmptyCatalogue
from epsopt.zoo.reading.messages import unpack

REPAIR = "epsopt ingest --repair"
_MOST = 100  # findings of one table: more say no more
_JSON: dict[tuple[str, str], type[Any]] = {
    ("epsopt_runs", "hyperparameters"): dict,
    ("epsopt_checkpoints", "metrics"): dict,
    ("epsopt_checkpoints", "hyperparameters"): dict,
    ("epsopt_run_metadata", "hyperparameters"): dict,
    ("epsopt_run_metadata", "metrics"): dict,
    ("epsopt_run_metadata", "failures"): list,
    ("epsopt_run_metadata", "layouts"): list,
    ("epsopt_run_metadata", "run_tables"): dict,
    ("epsopt_files", "metadata"): dict,
    ("epsopt_artifacts", "meta"): dict,
}


@dataclass(frozen=True)
class Damage:
    """Something in the database that no command can use.

    Attributes:
        problem: where it is and what is wrong, in a sentence.
        remedy: the command that mends it.
        table: its table, where it is a row of the catalogue.
        key: that row's primary key.
        file: it is the database file itself, so nothing else in it was looked at.
    """

    problem: str
    remedy: str
    table: str | None = None
    key: Any = None
    file: bool = False


def check_catalogue(url: str) -> list[Damage]:
    """Check the database's own integrity, and every row of the catalogue: kinds of values, JSON, arrays, references.

    Args:
        url: as of the catalogue. Nothing is written; a SQLite file is opened read-only.

    Returns:
        What is damaged, in no more than a hundred entries a table; an empty list when all is well.

    Raises:
        EmptyCatalogue: there is no such database, or no catalogue in it.
        CatalogueError: it cannot be opened.
    """
    with opened_read_only(url) as connection:
        found = list(_integrity(connection, url))
        if any(damage.file for damage in found):
            return found  # what else is read of such a file is anyone's guess
        known = set(inspect(connection).get_table_names())
        if meta.name not in known:
            raise EmptyCatalogue(f"{masked_url(url)} holds no catalogue yet: read your runs with 'epsopt ingest RUNS'")
        found += _version(connection)
        for table in metadata.sorted_tables:
            if table.name in known and table.name != meta.name:
                found += _rows(connection, table)
        found += _references(connection, known)
        return found


@contextmanager
def opened_read_only(url: str) -> Iterator[Connection]:
    """Open a connection that cannot write.

    Raises:
        EmptyCatalogue: there is no such SQLite file.
        CatalogueError: it cannot be opened or read.
    """
    engine = _read_only_engine(url)
    try:
        with engine.connect() as connection, connection.begin():
            if engine.dialect.name != "sqlite":
                connection.execute(text("SET TRANSACTION READ ONLY"))
            yield connection
    except DBAPIError as error:
        raise CatalogueError(f"{masked_url(url)}: {driver_message(error)}") from error
    finally:
        engine.dispose()


def _read_only_engine(url: str) -> Engine:
    """Return an engine for reading.

    Raises:
        EmptyCatalogue: there is no such SQLite file.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return create_engine(url)
    file = Path(parsed.database)
    if not file.is_file():
        raise EmptyCatalogue(f"there is no catalogue at {file} yet: read your runs with 'epsopt ingest RUNS'")

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(str(file.absolute()))}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
        )
        connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")  # damaged text is found below
        return connection

    return create_engine("sqlite://", creator=connect)


def _integrity(connection: Connection, url: str) -> Iterator[Damage]:
    if connection.dialect.name != "sqlite":
        return
    file = make_url(url).database
    try:
        problems = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check(20)")]
    except DBAPIError as error:
        problems = [driver_message(error)]
    problems = [line for line in problems if line != "ok"]
    if not problems:
        return
    if all("index" in line for line in problems):
        yield Damage(f"the database's indexes are damaged: {problems[0]}", f"sqlite3 {file} REINDEX")
        return
    first = " ".join(problems[0].split())
    yield damaged_file(url, first + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""))


def damaged_file(url: str, why: str) -> Damage:
    """Say that a database cannot be read as a whole."""
    file = make_url(url).database
    return Damage(
        f"the database file is damaged: {why}",
        f"sqlite3 {file} .recover | sqlite3 mended.db (then put mended.db in its place), or move it away and run "
        "'epsopt ingest' and 'epsopt fit', which loses the studies",
        file=True,
    )


def _version(connection: Connection) -> Iterator[Damage]:
    query = select(_raw(meta.c.value)).where(meta.c.key == "schema_version")
    rows = connection.execute(query).scalars().all()
    if not rows or not str(rows[0]).isdecimal():
        value = repr(rows[0])[:40] if rows else "missing"
        yield Damage(
            f"the catalogue's version is {value}, expected {SCHEMA_VERSION}", REPAIR, meta.name, "schema_version"
        )


def _raw(column: Column[Any]) -> Any:
    """Return a column whose values come as they are in the database, of whatever kind."""
    return type_coerce(column, NullType()).label(column.name)


def _rows(connection: Connection, table: Table) -> list[Damage]:
    found: list[Damage] = []
    present = {c["name"] for c in inspect(connection).get_columns(table.name)}
    columns = [c for c in table.columns if c.name in present]
    (key,) = table.primary_key.columns
    for row in connection.execute(select(*map(_raw, columns))).mappings():
        wrong = next((w for c in columns if (w := _wrong(c, row[c.name], dict(row))) is not None), None)
        if wrong is not None:
            found.append(
                Damage(f"{table.name}, {key.name} {row[key.name]!r:.60}: {wrong}", REPAIR, table.name, row[key.name])
            )
        if len(found) == _MOST:
            break
    return found


def _wrong(column: Column[Any], value: Any, row: Mapping[str, Any]) -> str | None:
    """Say what is wrong with one cell; None: nothing."""
    if value is None:
        return None if column.nullable else f"{column.name} is missing"
    if isinstance(column.type, LargeBinary):
        if not isinstance(value, bytes | memoryview):
            return f"{column.name} is {type(value).__name__}, expected bytes"
        return _wrong_bytes(column, bytes(value), row)
    if isinstance(column.type, Boolean):
        return None if value in (0, 1) else f"{column.name} is {value!r:.40}, expected true or false"
    if isinstance(column.type, Integer) or column.foreign_keys:
        ok = isinstance(value, int) and not isinstance(value, bool)
        return None if ok else f"{column.name} is {value!r:.40}, expected a whole number"
    if not isinstance(value, str) or (not value.isascii() and not _encodable(value)):
        return f"{column.name} is {value!r:.40}, expected a text"
    if column.name in ("sha256", "reference_sha256") and (len(value) != 64 or set(value) - set("0123456789abcdef")):
        return f"{column.name} is {value!r:.40}, expected a SHA-256"
    if column.name == "inode" and not value.lstrip("-").isdecimal():
        return f"inode is {value!r:.40}, expected a whole number"
    kind = _JSON.get((str(column.table.name), column.name))
    return None if kind is None else _wrong_json(str(column.table.name), column.name, value, kind)


def _encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _wrong_json(table: str, name: str, value: str, kind: type[Any]) -> str | None:
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return f"{name} is not valid JSON"
    if type(parsed) is not kind:
        return f"{name} is JSON of another kind than expected"
    if name == "metrics":
        groups = list(parsed.values()) if table == "epsopt_run_metadata" else [parsed]
        for group in groups:
            if not isinstance(group, dict) or not all(v is None or _is_number(v) for v in group.values()):
                return f"{name} holds a value that is no number"
    if name == "metadata" and not isinstance(parsed.get("metrics", {}), dict):
        return f"{name} is JSON of another kind than expected"
    if name == "failures" and not all(isinstance(p, list) and len(p) == 2 for p in parsed):
        return f"{name} is JSON of another kind than expected"
    if name == "layouts" and not all(isinstance(p, str) for p in parsed):
        return f"{name} is JSON of another kind than expected"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _wrong_bytes(column: Column[Any], value: bytes, row: Mapping[str, Any]) -> str | None:
    from epsopt.zoo.fingerprints.fingerprint import Fingerprint

    readers: dict[str, Callable[[bytes], Any]] = {
        fingerprints.name: Fingerprint.from_bytes, embeddings.name: unpack, lineages.name: unpack
    }  # fmt: skip
    if column.table.name == artifacts.name and not str(row["kind"]).startswith("surrogate"):
        readers[artifacts.name] = json.loads  # what is remembered beside the maps
    read = readers.get(str(column.table.name))
    if read is None:
        return None
    try:
        read(value)
    except (CatalogueError, ValueError, MemoryError):
        return f"{column.name} is damaged"
    return None


def _references(connection: Connection, known: set[str]) -> Iterator[Damage]:
    """Find rows that name a row that is not there, and checkpoints without a fingerprint."""
    for table in metadata.sorted_tables:
        if table.name not in known:
            continue
        (key,) = table.primary_key.columns
        for foreign in table.foreign_keys:
            column, target = foreign.parent, foreign.column
            joined = table.outerjoin(target.table, column == target)
            query = select(_raw(key)).select_from(joined).where(column.is_not(None), target.is_(None)).limit(_MOST)
            for value in connection.execute(query).scalars():
                what = f"{table.name}, {key.name} {value!r:.60}: {column.name} names no row of {target.table.name}"
                yield Damage(what, REPAIR, table.name, value)
    if {checkpoints.name, fingerprints.name} <= known:
        query = select(checkpoints.c.id).outerjoin(fingerprints).where(fingerprints.c.checkpoint_id.is_(None))
        if "weights" in {c["name"] for c in inspect(connection).get_columns(checkpoints.name)}:
            # Checkpoints of equal weights share the fingerprint that one of them has.
            shared = select(checkpoints.c.weights).join(fingerprints).correlate(None)
            shared = shared.where(checkpoints.c.weights.is_not(None))
            query = query.where(or_(checkpoints.c.weights.is_(None), checkpoints.c.weights.not_in(shared)))
        for value in connection.execute(query.limit(_MOST)).scalars():
            yield Damage(f"{checkpoints.name}, id {value}: it has no fingerprint", REPAIR, checkpoints.name, value)


def kept_artifacts(connection: Connection) -> list[tuple[str, str, Any, Any]]:
    """Return kind, key, description and bytes of every artifact, as they are in the database."""
    columns = (artifacts.c.kind, artifacts.c.key, artifacts.c.meta, artifacts.c.data)
    query = select(*map(_raw, columns)).order_by(artifacts.c.id)
    return [(str(r[0]), str(r[1]), r[2], r[3]) for r in connection.execute(query)]
