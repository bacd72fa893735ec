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


def literal(text: str) -> sa.ColumnElement[str]:
    """A text that is written out in a statement: SQLite takes an index on some rows only where it sees them meant."""
    return sa.literal_column(f"'{text}'")


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
    # As a JSON object.
    sa.Column("labels", sa.Text, nullable=False, server_default="{}"),
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
    sa.Column("state", sa.String(8), nullable=False, server_default="ACTIVE"),
    sa.Column("revocation", sa.String(10), nullable=False, server_default="NONE"),
    sa.Column("cluster_wide", sa.Boolean, nullable=False, server_default=sa.text("false")),
    # The object that its token is bound to; several leases may share it.
    sa.Column("anchor", sa.String(26), nullable=False, server_default=""),
    # Which process issues it, while it is PENDING.
    sa.Column("owner", sa.String(100), nullable=False, server_default=""),
    # While it is REVOKING: what it will be, and why.
    sa.Column("ends_as", sa.String(8), nullable=False, server_default=""),
    sa.Column("end_cause", sa.Text, nullable=False, server_default=""),
    sa.Column("end_time", Moment),
    # When it was last written down that it ends, or has ended: each time a later moment than all before, whatever the
    # clocks of their processes say. So whoever has read up to a moment has missed nothing.
    sa.Column("change_time", Moment),
    # One for each filter of a list, in the order of a list.
    sa.Index("leases_role", "role", "name"),
    sa.Index("leases_config", "config", "name"),
    sa.Index("leases_caller", "caller", "name"),
    sa.Index("leases_namespace", "namespace", "name"),
    sa.Index("leases_service_account", "service_account", "name"),
    sa.Index("leases_state", "state", "name"),
    sa.Index("leases_expire_time", "expire_time", "name"),
    # What ends next, and what ended long ago. A row is in one of the two at a time, if in any. The first of them begins
    # with what is the same in all of its rows: else SQLite thinks that leases_state finds fewer.
    sa.Index("leases_expiry", "state", "expire_time", "name", sqlite_where=sa.text("state = 'ACTIVE'")),
    sa.Index("leases_ended", "end_time", sqlite_where=sa.text("end_time IS NOT NULL")),
    sa.Index("leases_change", "change_time", "name", sqlite_where=sa.text("change_time IS NOT NULL")),
    sa.Index("leases_anchor", "anchor", "state", sqlite_where=sa.text("anchor <> ''")),
)

# What kubevend made in clusters, or is about to make. A row goes when its object is known to be gone.
objects = sa.Table(
    "objects",
    metadata,
    sa.Column("id", sa.String(26), primary_key=True),
    sa.Column("config", sa.String(72), nullable=False),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("namespace", sa.String(63), nullable=False),
    sa.Column("name", sa.String(253), nullable=False),
    # For which lease it is; empty for an anchor that several share, which has a scope.
    sa.Column("lease", sa.String(33), nullable=False),
    sa.Column("scope", sa.Text, nullable=False),
    sa.Column("uid", sa.String(64), nullable=False),
    # LIVE or DELETING.
    sa.Column("state", sa.String(8), nullable=False),
    sa.Column("create_time", Moment, nullable=False),
    # While it is DELETING: how that comes on, and which process is at it.
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("next_attempt_time", Moment),
    sa.Column("claimed_by", sa.String(100), nullable=False, server_default=""),
    sa.Column("reason", sa.String(64), nullable=False, server_default=""),
    sa.Column("message", sa.Text, nullable=False, server_default=""),
    sa.Index("objects_lease", "lease", sqlite_where=sa.text("lease <> ''")),
    sa.Index("objects_due", "next_attempt_time", sqlite_where=sa.text("state = 'DELETING'")),
    sa.Index(
        "objects_scope",
        "config",
        "namespace",
        "scope",
        unique=True,
        sqlite_where=sa.text("state = 'LIVE' AND scope <> ''"),
    ),
    sa.Index("objects_config", "config"),
)

# The processes that share this store, each with the last moment at which it was known to live.
replicas = sa.Table(
    "replicas",
    metadata,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("process", sa.String(100), nullable=False),
    sa.Column("seen_time", Moment, nullable=False),
)

# One row: by which id the objects in clusters are known to be this store's.
instance = sa.Table(
    "instance",
    metadata,
    sa.Column("id", sa.String(63), primary_key=True),
)

# One row: how often configs or roles have changed.
revision = sa.Table(
    "revision",
    metadata,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
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

# Which lease a caller's request id has got. A row goes when its window is over.
requests = sa.Table(
    "requests",
    metadata,
    # The id first: it tells nearly all of them apart, and callers' names are long.
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("caller", sa.String(2048), primary_key=True),
    sa.Column("role", sa.String(70), nullable=False),
    # Of the request's other fields, and of what was granted: SHA-256 in hexadecimal.
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("terms", sa.String(64), nullable=False),
    sa.Column("lease", sa.String(33), nullable=False),
    sa.Column("create_time", Moment, nullable=False),
    sa.Index("requests_create_time", "create_time"),
)

# For each replica the last line of its audit log that is known to be on the disk.
audit_head = sa.Table(
    "audit_head",
    metadata,
    sa.Column("replica", sa.String(63), primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)
