"""Labels of configs."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; configs of before have none."""
    op.add_column("configs", sa.Column("labels", sa.Text, nullable=False, server_default="{}"))
