"""Leases that end: their states, what stands for them in clusters, and the processes that see to it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add states to leases, and the tables of objects, replicas and the instance. What has run out ends later."""
    for column in (
        sa.Column("state", sa.String(8), nullable=False, server_default="ACTIVE"),
        sa.Column("revocation", sa.String(10), nullable=False, server_default="NONE"),
        sa.Column("cluster_wide", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("anchor", sa.String(26), nullable=False, server_default=""),
        sa.Column("owner", sa.String(100), nullable=False, server_default=""),
        sa.Column("ends_as", sa.String(8), nullable=False, server_default=""),
        sa.Column("end_cause", sa.Text, nullable=False, server_default=""),
        sa.Column("end_time", sa.BigInteger),
    ):
        op.add_column("leases", column)
    op.drop_index("leases_expire_time", "leases")
    for name in ("config", "service_account", "state"):
        op.create_index(f"leases_{name}", "leases", [name, "name"])
    op.create_index("leases_expiry", "leases", ["expire_time"], sqlite_where=sa.text("state = 'ACTIVE'"))
    op.create_index("leases_ended", "leases", ["end_time"], sqlite_where=sa.text("end_time IS NOT NULL"))
    op.create_index("leases_anchor", "leases", ["anchor", "state"], sqlite_where=sa.text("anchor <> ''"))
    op.create_table(
        "objects",
        sa.Column("id", sa.String(26), primary_key=True),
        sa.Column("config", sa.String(72), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("namespace", sa.String(63), nullable=False),
        sa.Column("name", sa.String(253), nullable=False),
        sa.Column("lease", sa.String(33), nullable=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("uid", sa.String(64), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("next_attempt_time", sa.BigInteger),
        sa.Column("claimed_by", sa.String(100), nullable=False, server_default=""),
        sa.Column("reason", sa.String(64), nullable=False, server_default=""),
        sa.Column("message", sa.Text, nullable=False, server_default=""),
    )
    op.create_index("objects_lease", "objects", ["lease"], sqlite_where=sa.text("lease <> ''"))
    op.create_index("objects_due", "objects", ["next_attempt_time"], sqlite_where=sa.text("state = 'DELETING'"))
    scoped = sa.text("state = 'LIVE' AND scope <> ''")
    op.create_index("objects_scope", "objects", ["config", "namespace", "scope"], unique=True, sqlite_where=scoped)
    op.create_index("objects_config", "objects", ["config"])
    op.create_table(
        "replicas",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("process", sa.String(100), nullable=False),
        sa.Column("seen_time", sa.BigInteger, nullable=False),
    )
    op.create_table("instance", sa.Column("id", sa.String(63), primary_key=True))
    # The one log that there was is that of the replica of the default name.
    op.rename_table("audit_head", "old_audit_head")
    op.create_table(
        "audit_head",
        sa.Column("replica", sa.String(63), primary_key=True),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    op.execute("INSERT INTO audit_head SELECT 'main', sequence, hash FROM old_audit_head")
    op.drop_table("old_audit_head")
