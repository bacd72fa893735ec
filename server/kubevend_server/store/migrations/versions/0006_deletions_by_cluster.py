"""Deletions by cluster, so that those at one cluster do not wait for those at another."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Let the index of what is to be deleted begin with the config."""
    op.drop_index("objects_due", "objects")
    op.create_index(
        "objects_due", "objects", ["config", "next_attempt_time"], sqlite_where=sa.text("state = 'DELETING'")
    )
