"""`python -m kubevend_server.store.migrations URL`: bring a database up to date."""

import sys
from pathlib import Path

import alembic.command
import alembic.config
import sqlalchemy as sa

config = alembic.config.Config()
config.set_main_option("script_location", str(Path(__file__).parent))
engine = sa.create_engine(sys.argv[1])
with engine.begin() as connection:
    config.attributes["connection"] = connection
    alembic.command.upgrade(config, "head")
engine.dispose()
