"""The migrations, and how they are run: in a process of their own, so that Alembic stays out of the server's memory."""

from __future__ import annotations

import subprocess
import sys

import sqlalchemy as sa

LATEST = "0002"
"""The newest revision; a test holds it against the files."""


def migrate(engine: sa.Engine) -> None:
    """Bring the tables up to date.

    Args:
        engine: the database. Nothing else may use it meanwhile.

    Raises:
        ValueError: a migration failed; the message has its last words.
    """
    found = _revision(engine)
    if found == LATEST:
        return
    if found is not None and found > LATEST:
        raise ValueError(
            f"The database {engine.url.database} was written by a newer version of kubevend-server "
            f"(revision {found}, and "
            f"this one knows {LATEST}): start that version, or put a backup back."
        )
    url = engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "kubevend_server.store.migrations", url]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - our own module
    if done.returncode != 0:
        last = done.stderr.strip().rpartition("\n")[2]
        raise ValueError(f"The database {engine.url.database} cannot be brought up to date: {last}")


def _revision(engine: sa.Engine) -> str | None:
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        found: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
        return found
