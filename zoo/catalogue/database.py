"""Open the database behind one SQLAlchemy URL, SQLite or PostgreSQL, for many writing processes."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, insert, inspect, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError

from epsopt.zoo.catalogue.migrations import upgrade, version_by_columns, version_of
from epsopt.zoo.catalogue.tables import SCHEMA_VERSION, checkpoints, meta, metadata
from epsopt.zoo.credentials import masked, masked_url
from epsopt.zoo.errors import CatalogueError

BUSY_SECONDS = 60
_WITHOUT_USER = re.compile(r"^[\w+]+://(?:[^:/]*(?::[^@]*)?@)?")  # as SQLAlchemy reads it
_WRITER_LOCK = 0x6570736F7074  # "epsopt": PostgreSQL's advisory lock that stands in for SQLite's one writer


def open_database(url: str) -> Engine:
    """Connect, and create the tables where they are missing.

    Raises:
        CatalogueError: a bad URL, a missing driver or folder, a file that cannot be written, a server that
            does not answer, or a database of a newer version.
    """
    parsed = _parse(url)
    shown = masked_url(url)
    try:
        engine = create_engine(parsed, **_options(parsed))
    except ModuleNotFoundError as error:
        raise CatalogueError(
            f"{shown}: the database driver {error.name!r} is not installed: pip install 'epsopt[postgresql]' "
            "brings the one for postgresql+psycopg:// URLs"
        ) from error
    if parsed.get_backend_name() == "sqlite":
        event.listen(engine, "connect", configure_sqlite)
        event.listen(engine, "connect", _check_references)
    try:
        with writing(engine) as connection:
            old = _create(connection, shown)
        if old:
            with _restructuring(engine) as connection:
                upgrade(connection)
    except DBAPIError as error:
        engine.dispose()
        raise CatalogueError(f"{shown}: the database cannot be opened: {masked(driver_message(error), url)}") from error
    except BaseException:
        engine.dispose()
        raise
    return engine


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError, ValueError, TypeError):
        raise CatalogueError(
            f"{masked_url(str(url))!r} is not a database URL: expected sqlite:///FILE.db or "
            "postgresql+psycopg://USER@HOST/NAME"
        ) from None  # what SQLAlchemy says may hold the password
    except ModuleNotFoundError:  # said better when the engine is made
        pass
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise CatalogueError(f"{parsed.get_backend_name()} databases are not supported: use SQLite or PostgreSQL")
    require_plain_user(url)
    if parsed.get_backend_name() == "sqlite":
        _check_file(parsed)
    return parsed


def require_plain_user(url: str) -> None:
    """Refuse a URL whose password would be cut: its rest would be looked up as the name of a host, and be seen there.

    Raises:
        CatalogueError: an @ stands behind the host.
    """
    if not url.startswith("sqlite") and "@" in _WITHOUT_USER.sub("", url).partition("?")[0]:
        raise CatalogueError(
            f"{masked_url(url)!r}: the user name or the password holds '@', ':', '/' or '%' as it is: write it as "
            "%40, %3A, %2F or %25, or leave the password to ~/.pgpass or PGPASSWORD"
        )


def _check_file(url: URL) -> None:
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        return
    file = Path(url.database)
    if not file.parent.is_dir():
        raise CatalogueError(f"the folder {file.parent} of the database {file} does not exist: create it first")
    if file.is_dir():
        raise CatalogueError(f"the database {file} is a folder: expected a file, such as {file / 'epsopt.db'}")


def _options(url: URL) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": BUSY_SECONDS}}
    return {
        "pool_pre_ping": True,
        "connect_args": {"connect_timeout": 10} if "psycopg" in url.drivername else {},
    }


def configure_sqlite(connection: Any, _record: Any) -> None:
    """Set up a new connection of the driver: write-ahead logging, and no transaction that the driver begins by itself.

    The driver's own transactions are deferred; two of those that both want to write fail at once with "database is
    locked", whatever the timeout. So whoever writes begins one with BEGIN IMMEDIATE.
    """
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    try:
        use_wal(cursor)
        # Safe with WAL: a power cut may lose the last batch, not the file.
        cursor.execute("PRAGMA synchronous = NORMAL")
    finally:
        cursor.close()


def _check_references(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA foreign_keys = ON")


def use_wal(cursor: Any) -> None:
    """Switch to write-ahead logging; two processes that open a new file at once need a second try.

    The switch wants the file for itself, and SQLite refuses it at once there, without waiting for the busy timeout
    (4 processes on a new file: 1 of 240 openings failed).
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Open a transaction as the only writer of the catalogue; it commits at the end or leaves no trace."""
    with engine.connect() as connection, connection.begin():
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _WRITER_LOCK})
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a connection for queries that see one state of the database."""
    with one_state(engine).connect() as connection, connection.begin():
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN")
        yield connection


def one_state(engine: Engine) -> Engine:
    """Return an engine whose transactions see the database as it was at their first query.

    PostgreSQL's usual ones see at each query what others have written by then: a checkpoint without its run.
    """
    return engine.execution_options(isolation_level="REPEATABLE READ") if engine.dialect.name != "sqlite" else engine


def server_time(connection: Connection) -> float:
    """Return the time by the database's own clock, in seconds since 1970: the machines' clocks need not agree."""
    server = connection.dialect.name == "postgresql"  # whose current_timestamp is when the transaction began
    now = connection.execute(select(func.clock_timestamp() if server else func.current_timestamp())).scalar_one()
    moment = now if isinstance(now, datetime) else datetime.fromisoformat(str(now))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _create(connection: Connection, shown: str) -> bool:
    """Make the tables where they are missing; return whether those that are there are of an older version."""
    found = inspect(connection)
    version = version_of(connection) if found.has_table(meta.name) else None
    if version is not None and version > SCHEMA_VERSION:
        raise CatalogueError(
            f"{shown} was written by a newer epsopt "
            f"(catalogue version {version}, this one knows {SCHEMA_VERSION}): update epsopt"
        )
    if version is None:
        version = version_by_columns(connection) if found.has_table(checkpoints.name) else SCHEMA_VERSION
        metadata.create_all(connection, tables=[meta] if version < SCHEMA_VERSION else None)
        connection.execute(insert(meta).values(key="schema_version", value=str(version)))
    return version < SCHEMA_VERSION


@contextmanager
def _restructuring(engine: Engine) -> Iterator[Connection]:
    """Open a transaction as the only writer in which a table may be replaced by another of its name."""
    with engine.connect() as connection:
        sqlite = engine.dialect.name == "sqlite"
        if sqlite:  # else dropping a table deletes what refers to it; the setting is one of connections
            _pragma(connection, "PRAGMA foreign_keys = OFF")
        try:
            with connection.begin():
                if sqlite:
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                else:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _WRITER_LOCK})
                yield connection
        finally:
            if sqlite:
                _pragma(connection, "PRAGMA foreign_keys = ON")


def _pragma(connection: Connection, statement: str) -> None:
    cursor = connection.connection.cursor()
    cursor.execute(statement)
    cursor.close()


def driver_message(error: DBAPIError) -> str:
    """Return the first line of what the database driver said, with what to do where that is known."""
    message = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
    if isinstance(error, OperationalError) and ("readonly" in message or "unable to open" in message):
        return f"{message}: make the file and its folder writable"
    if "disk is full" in message:
        return f"{message}: free some space and run the command again, nothing is lost"
    if "disk I/O error" in message:
        return (
            f"{message}: check the disk's space, your quota and the disk itself, "
            "and run the command again: what was finished is kept"
        )
    if "file is not a database" in message:
        return f"{message}: the file holds something else, choose another name"
    if "malformed" in message or "could not decode" in message.lower():
        return f"{message}: the database is damaged, 'epsopt check' says where and what mends it"
    return message
