"""Open a stranger's SQLite database: as a file that nobody changes, its tables alone, and for so much work only."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from urllib.parse import quote

from epsopt.zoo.layouts.side_file_reader import SideError
from epsopt.zoo.reading.source import Identity

STEPS = 300_000_000
"""Of SQLite's machine, on one opening. Each row that is looked at takes about ten: this is a few seconds, and far more
than the million rows that are read of a run."""
_EVERY = 1_000_000
_refused: dict[tuple[str, Identity], str] = {}  # by this process: a hostile file is asked once, not once a run


@contextlib.contextmanager
def bounded_database(
    file: str, identity: Identity, tables: Sequence[str], writer: str, steps: int = STEPS
) -> Iterator[sqlite3.Connection]:
    """Open a database to read these tables.

    SQLite writes nothing beside it, neither locks nor logs. What a database holds is data: none of its own functions,
    views or triggers does anything, and a query ends when it has done more work than any honest one needs.

    Args:
        file: path of it.
        identity: what tells it from its former self: one that was refused is refused at once next time.
        tables: that are going to be read; each must be an ordinary table.
        writer: the program that writes such databases, for what is said.
        steps: of SQLite's machine, that may be spent in all.

    Raises:
        SideError: no such database, one of the tables is a view, or it takes too much work.
    """
    key = (file, identity)
    if key in _refused:
        raise SideError(_refused[key])
    database = sqlite3.connect(f"file:{quote(file)}?mode=ro&immutable=1", uri=True)
    spent = 0

    def more() -> bool:
        nonlocal spent
        spent += _EVERY
        return spent > steps

    try:
        database.set_progress_handler(more, min(_EVERY, steps))
        database.execute("PRAGMA trusted_schema = OFF")
        database.execute("PRAGMA cell_size_check = ON")
        odd = _odd_table(database, tables)
        if odd is not None:
            _refused[key] = f"not a database that {writer} wrote: {odd}"
            raise SideError(_refused[key])
        yield database
    except sqlite3.Error as error:
        reason = f"not a database that {writer} wrote: {error}"
        if spent > steps:
            reason = f"takes more work to read than any database that {writer} wrote"
        _refused[key] = reason
        raise SideError(reason) from error
    finally:
        database.close()


def _odd_table(database: sqlite3.Connection, tables: Sequence[str]) -> str | None:
    """Say which table is none; None: all of them are ordinary."""
    rows = database.execute("SELECT type, name, sql FROM sqlite_master").fetchmany(10_000)
    kinds = {str(name).lower(): (kind, str(sql)) for kind, name, sql in rows if kind in ("table", "view")}
    for table in tables:
        kind, sql = kinds.get(table, ("table", ""))
        if kind != "table":
            return f"{table} is a view"
        if "VIRTUAL" in sql[:40].upper():
            return f"{table} is a virtual table"
    return None
