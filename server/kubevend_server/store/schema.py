"""The tables. The migrations make them; a test holds the two against each other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Moment(sa.types.TypeDecorator[datetime]):
    """A moment, stored as microseconds since the epoch: exact, comparable, the same in every database."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> int | None:
        """To the database."""
        del dialect
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> datetime | None:
        """From the database."""
        del dialect
        return None if value is None else _EPOCH + value * _MICROSECOND


metadata = sa.MetaData()

configs = sa.Table(
    "configs",
    metadata,
    sa.Column("name", sa.String(72), primary_key=True),
    sa.Column("kubernetes_host", sa.Text, nullable=False),
    sa.Column("kubernetes_ca_cert", sa.Text, nullable=False),
    sa.Column("credential_kind", sa.String(32), nullable=False),
    sa.Column("token_file", sa.Text, nullable=False),
    sa.Column("certificate", sa.Text, nullable=False, server_default=""),
    sa.Column("certificate_file", sa.Text, nullable=False, server_default=""),
    sa.Column("private_key_file", sa.Text, nullable=False, server_default=""),
    # The token or the private key, sealed under the store's key file, with the row as associated data.
    sa.Column("sealed_secret", sa.LargeBinary, nullable=False),
    sa.Column("etag", sa.String(64), nullable=False),
    sa.Column("create_time", Moment, nullable=False),
    sa.Column("update_time", Moment, nullable=False),
)

roles = sa.Table(
    "roles",
    metadata,
    sa.Column("name", sa.String(70), primary_key=True),
    sa.Column("config", sa.String(72), sa.ForeignKey("configs.name"), nullable=False),
    # The role's rules as JSON: they are read and written as a whole.
    sa.Column("rules", sa.Text, nullable=False),
    sa.Column("etag", sa.String(64), nullable=False),
    sa.Column("create_time", Moment, nullable=False),
    sa.Column("update_time", Moment, nullable=False),
    sa.Index("roles_config", "config"),
)

# A lease outlives its role and its config, so neither is a foreign key.
leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.String(33), primary_key=True),
    sa.Column("role", sa.String(70), nullable=False),
    sa.Column("config", sa.String(72), nullable=False),
    sa.Column("caller", sa.String(2048), nullable=False),
    sa.Column("namespace", sa.String(63), nullable=False),
    sa.Column("service_account", sa.String(253), nullable=False),
    sa.Column("audiences", sa.Text, nullable=False),
    sa.Column("create_time", Moment, nullable=False),
    sa.Column("expire_time", Moment, nullable=False),
    sa.Index("leases_role", "role", "name"),
    sa.Index("leases_caller", "caller", "name"),
    sa.Index("leases_namespace", "namespace", "name"),
    sa.Index("leases_expire_time", "expire_time"),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("lease", sa.String(33), sa.ForeignKey("leases.name"), primary_key=True),
    sa.Column("jti", sa.String(64), primary_key=True),
    sa.Column("kubernetes_audit_id", sa.String(64), nullable=False),
    sa.Column("issue_time", Moment, nullable=False),
    sa.Column("expire_time", Moment, nullable=False),
)

# One row: the last line of the audit log that is known to be on the disk.
audit_head = sa.Table(
    "audit_head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)
