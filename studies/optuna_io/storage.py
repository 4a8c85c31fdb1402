"""Optuna's storage on the database of the catalogue, safe for many processes on SQLite too."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import Connection, event, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from epsopt.studies.optuna_io.migrations import convert_attributes
from epsopt.studies.optuna_io.stored_trials import check_exists
from epsopt.zoo.catalogue.database import BUSY_SECONDS, configure_sqlite, driver_message, open_database
from epsopt.zoo.credentials import masked, masked_url
from epsopt.zoo.errors import CatalogueError

DATABASE_ERRORS = (SQLAlchemyError, StorageInternalError, CatalogueError)
"""What is raised when the database does not answer."""


def open_storage(url: str, *, create: bool = True) -> RDBStorage:
    """Open the studies behind a database URL.

    On SQLite every transaction begins with BEGIN IMMEDIATE: without it, Optuna hands one queued trial to two
    processes.

    Args:
        url: ``sqlite:///FILE`` or ``postgresql+psycopg://USER@HOST/NAME``, as the catalogue takes it.
        create: whether a SQLite file that does not exist may be made.

    Raises:
        CatalogueError: the database cannot be opened, is of another version of Optuna, or is missing.
    """
    if not create:
        check_exists(url)
    open_database(url).dispose()  # says clearly what is wrong with a URL, a folder, a file or a server
    shown = masked_url(url)
    sqlite = make_url(url).get_backend_name() == "sqlite"
    options: dict[str, Any] = {"connect_args": {"timeout": BUSY_SECONDS}} if sqlite else {"pool_pre_ping": True}
    try:
        storage = RDBStorage(url, engine_kwargs=options)
    except RuntimeError as error:  # what Optuna raises about its schema's version
        raise CatalogueError(
            f"{shown}: its studies were written by another version of Optuna: "
            f"run `optuna storage upgrade --storage {shown}`, or install that version"
        ) from error
    except (DBAPIError, optuna.exceptions.StorageInternalError) as error:
        raise CatalogueError(f"{shown}: the studies cannot be opened: {masked(str(error), url)}") from error
    if sqlite:
        event.listen(storage.engine, "connect", configure_sqlite)
        event.listen(storage.engine, "begin", begin_immediate)
        storage.engine.dispose()  # so that no connection from before the listeners is used again
    try:
        convert_attributes(storage)
    except DBAPIError as error:
        storage.engine.dispose()
        raise CatalogueError(
            f"{shown}: the studies cannot be upgraded: {masked(driver_message(error), url)}"
        ) from error
    return storage


def has_studies(url: str) -> bool:
    """Whether the database behind a URL has Optuna's tables: opening the studies makes them."""
    engine = open_database(url)
    try:
        return inspect(engine).has_table("studies")
    finally:
        engine.dispose()


def begin_immediate(connection: Connection) -> None:
    """Take SQLite's write lock when a transaction begins: what it read then still holds when it writes."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")
