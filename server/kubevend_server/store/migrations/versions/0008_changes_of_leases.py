"""When it was written down that a lease ends, so that what is new can be found."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column and its index; what had ended by now changed when it did."""
    op.add_column("leases", sa.Column("change_time", sa.BigInteger))
    leases = sa.table("leases", sa.column("change_time"), sa.column("end_time"))
    op.execute(sa.update(leases).where(leases.c.end_time.is_not(None)).values(change_time=leases.c.end_time))
    op.create_index("leases_change", "leases", ["change_time", "name"], sqlite_where=sa.text("change_time IS NOT NULL"))
