"""The database: how it is opened, brought up to date, and read."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa

from kubevend_server.store import migrations

T = TypeVar("T")

_BUSY_SECONDS = 10


class Database:
    """An SQLite file: one connection that writes, a few that read beside it (WAL).

    `writer` is for the journal and for the start; everything else reads through `read`.
    """

    def __init__(self, url: str, *, make: bool = True) -> None:
        """Open the database at an SQLAlchemy URL, `sqlite:////absolute/path`.

        Args:
            url: the URL.
            make: make the file, for its owner only, where there is none.

        Raises:
            ValueError: the URL is not of a file in SQLite.
            OSError: the file cannot be opened.
        """
        parsed = sa.make_url(url)
        if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
            raise ValueError(f"store.url is {url!r}; it must be sqlite:////absolute/path of a file")
        # For its owner only; SQLite gives the files beside it the same mode.
        os.close(os.open(parsed.database, os.O_RDWR | (os.O_CREAT if make else 0), 0o600))
        self.writer = sa.create_engine(parsed, poolclass=sa.StaticPool, **_ENGINE)
        sa.event.listen(self.writer, "connect", _configure)
        # Taking the write lock at once, so that what a transaction has read is still true when it writes.
        sa.event.listen(self.writer, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        self._reader = sa.create_engine(parsed, pool_size=4, max_overflow=0, **_ENGINE)
        sa.event.listen(self._reader, "connect", _configure)
        sa.event.listen(self._reader, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))

    def migrate(self) -> None:
        """Bring the tables up to date.

        Raises:
            ValueError: the file is no database, or one that cannot be brought up to date.
        """
        try:
            migrations.migrate(self.writer)
        except sa.exc.SQLAlchemyError as error:
            raise ValueError(f"The database {self.writer.url.database} cannot be used: {_first_line(error)}") from error

    async def read(self, query: Callable[[sa.Connection], T]) -> T:
        """Run a query in a thread, on a connection that only reads."""
        return await asyncio.to_thread(self.read_now, query)

    def read_now(self, query: Callable[[sa.Connection], T]) -> T:
        """Run a query in this thread, on a connection that only reads."""
        with self._reader.begin() as connection:
            return query(connection)

    def set_patience(self, seconds: float) -> None:
        """For how long `writer` waits where another process has the file locked."""
        raw = self.writer.raw_connection()
        raw.cursor().execute(f"PRAGMA busy_timeout = {seconds * 1000:.0f}")
        raw.close()

    def close(self) -> None:
        """Close every connection."""
        self._reader.dispose()
        self.writer.dispose()


def is_locked(error: Exception) -> bool:
    """Whether another process has the file locked."""
    cause = getattr(error, "orig", None)
    # The low byte: the others tell why, as that a log is being recovered which a dead process has left.
    return isinstance(cause, sqlite3.Error) and cause.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def _first_line(error: sa.exc.SQLAlchemyError) -> str:
    # The rest is the statement, and a link to SQLAlchemy's own pages.
    return str(error).partition("\n")[0]


_ENGINE: dict[str, Any] = {
    "connect_args": {"check_same_thread": False, "timeout": _BUSY_SECONDS},
    # An error goes to the log, and the parameters of a statement may be a CA or a sealed secret.
    "hide_parameters": True,
}


def _configure(connection: sqlite3.Connection, _record: object) -> None:
    # SQLAlchemy begins and ends the transactions; the driver's own guesses stay out of it.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
