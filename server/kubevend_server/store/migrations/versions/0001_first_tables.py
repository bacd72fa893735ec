"""The first tables: configs, roles, leases with their tokens, and the head of the audit chain."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "configs",
        sa.Column("name", sa.String(72), primary_key=True),
        sa.Column("kubernetes_host", sa.Text, nullable=False),
        sa.Column("kubernetes_ca_cert", sa.Text, nullable=False),
        sa.Column("credential_kind", sa.String(32), nullable=False),
        sa.Column("token_file", sa.Text, nullable=False),
        sa.Column("sealed_jwt", sa.LargeBinary, nullable=False),
        sa.Column("etag", sa.String(64), nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("update_time", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "roles",
        sa.Column("name", sa.String(70), primary_key=True),
        sa.Column("config", sa.String(72), sa.ForeignKey("configs.name"), nullable=False),
        sa.Column("rules", sa.Text, nullable=False),
        sa.Column("etag", sa.String(64), nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("update_time", sa.BigInteger, nullable=False),
    )
    op.create_index("roles_config", "roles", ["config"])
    op.create_table(
        "leases",
        sa.Column("name", sa.String(33), primary_key=True),
        sa.Column("role", sa.String(70), nullable=False),
        sa.Column("config", sa.String(72), nullable=False),
        sa.Column("caller", sa.String(2048), nullable=False),
        sa.Column("namespace", sa.String(63), nullable=False),
        sa.Column("service_account", sa.String(253), nullable=False),
        sa.Column("audiences", sa.Text, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("expire_time", sa.BigInteger, nullable=False),
    )
    op.create_index("leases_role", "leases", ["role", "name"])
    op.create_index("leases_caller", "leases", ["caller", "name"])
    op.create_index("leases_namespace", "leases", ["namespace", "name"])
    op.create_index("leases_expire_time", "leases", ["expire_time"])
    op.create_table(
        "tokens",
        sa.Column("lease", sa.String(33), sa.ForeignKey("leases.name"), primary_key=True),
        sa.Column("jti", sa.String(64), primary_key=True),
        sa.Column("kubernetes_audit_id", sa.String(64), nullable=False),
        sa.Column("issue_time", sa.BigInteger, nullable=False),
        sa.Column("expire_time", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
