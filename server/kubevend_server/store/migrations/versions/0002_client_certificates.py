"""Client certificates as a credential of configs."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what a client certificate needs; the sealed column holds its key, or the token as before."""
    for name in ("certificate", "certificate_file", "private_key_file"):
        op.add_column("configs", sa.Column(name, sa.Text, nullable=False, server_default=""))
    op.execute("ALTER TABLE configs RENAME COLUMN sealed_jwt TO sealed_secret")
