"""The migrations, and how they are run: in a process of their own, so that Alembic stays out of the server's memory."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import sqlalchemy as sa

LATEST = "0001"
"""The newest revision; a test holds it against the files."""


def migrate(engine: sa.Engine) -> None:
    """Bring the tables up to date.

    Args:
        engine: the database. Nothing else may use it meanwhile.
    """
    if _revision(engine) == LATEST:
        return
    url = engine.url.render_as_string(hide_password=False)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(_upgrade, url).result()


def _revision(engine: sa.Engine) -> str | None:
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        found: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
        return found


def _upgrade(url: str) -> None:
    import alembic.command  # noqa: PLC0415 - only this process pays for it
    import alembic.config  # noqa: PLC0415

    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "head")
    engine.dispose()
