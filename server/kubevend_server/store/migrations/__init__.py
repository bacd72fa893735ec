"""The migrations, and how they are run: in a process of their own, so that Alembic stays out of the server's memory."""

from __future__ import annotations

import subprocess
import sys

import sqlalchemy as sa

LATEST = "0008"
"""The newest revision; a test holds it against the files."""


def migrate(engine: sa.Engine) -> None:
    """Bring the tables up to date.

    Args:
        engine: the database. It must have no transaction open.

    Raises:
        ValueError: a migration failed, and the tables are as they were; the message says why.
    """
    found = _revision(engine)
    if found == LATEST:
        return
    if found is not None and found > LATEST:
        raise ValueError(
            f"The database {engine.url.database} was written by a newer version of kubevend-server (revision {found}, "
            f"and this one knows {LATEST}): start that version, or put a backup back."
        )
    url = engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "kubevend_server.store.migrations", url]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - our own module
    if done.returncode != 0:
        why = _fault(done.stderr) or f"the migration ended with {done.returncode} and said nothing"
        raise ValueError(
            f"The database {engine.url.database} cannot be brought up to date, and stays as it was: {why}. Put that "
            "right and start again."
        )


def _fault(stderr: str) -> str:
    """The first line of the last error in a traceback: what follows it are the statement, and a link to read on."""
    told = stderr.rpartition("Traceback (most recent call last):")[2]
    return next((line for line in told.splitlines() if line.strip() and not line[0].isspace()), "").rstrip(".")


def _revision(engine: sa.Engine) -> str | None:
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        found: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
        return found
