"""A number that tells processes that share the store when configs or roles have changed."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the number, at 0."""
    op.create_table("revision", sa.Column("number", sa.BigInteger, primary_key=True))
    op.execute("INSERT INTO revision VALUES (0)")
