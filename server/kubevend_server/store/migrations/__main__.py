"""`python -m kubevend_server.store.migrations URL`: bring a database up to date."""

import sys
from pathlib import Path

import alembic.command
import alembic.config
import sqlalchemy as sa

_BUSY_SECONDS = 60

config = alembic.config.Config()
config.set_main_option("script_location", str(Path(__file__).parent))
engine = sa.create_engine(sys.argv[1], hide_parameters=True, connect_args={"timeout": _BUSY_SECONDS})
# All or nothing: the driver left to itself commits each ALTER TABLE, and a crash between two would leave tables that no
# revision describes. Locked at once, so that of two servers that start together the second finds the work done.
sa.event.listen(engine, "connect", lambda connection, _record: setattr(connection, "isolation_level", None))
sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
with engine.begin() as connection:
    config.attributes["connection"] = connection
    alembic.command.upgrade(config, "head")
engine.dispose()
