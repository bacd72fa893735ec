"""Request ids: which lease each of them has got."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "requests",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("caller", sa.String(2048), primary_key=True),
        sa.Column("role", sa.String(70), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("terms", sa.String(64), nullable=False),
        sa.Column("lease", sa.String(33), nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
    )
    op.create_index("requests_create_time", "requests", ["create_time"])
