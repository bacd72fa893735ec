"""Lists of very many leases: indexes for ranges, and times of creation that agree with the names."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_AT_ONCE = 10_000


def upgrade() -> None:
    """Make the indexes, and let every lease have been granted when its name says, by kubevend's clock.

    Until now it was the cluster's clock, in whole seconds, and lists could not be sure to find it by its name.
    """
    op.drop_index("leases_expiry", "leases")
    op.create_index(
        "leases_expiry", "leases", ["state", "expire_time", "name"], sqlite_where=sa.text("state = 'ACTIVE'")
    )
    op.create_index("leases_expire_time", "leases", ["expire_time", "name"])
    connection = op.get_bind()
    leases = sa.table("leases", sa.column("name", sa.String), sa.column("create_time", sa.BigInteger))
    query = sa.select(leases.c.name, leases.c.create_time).order_by(leases.c.name).limit(_AT_ONCE)
    change = sa.update(leases).where(leases.c.name == sa.bindparam("lease")).values(create_time=sa.bindparam("moment"))
    last = ""
    while rows := connection.execute(query.where(leases.c.name > last)).all():
        wrong = [
            {"lease": row.name, "moment": _milliseconds(row.name) * 1000}
            for row in rows
            if row.create_time // 1000 != _milliseconds(row.name)
        ]
        if wrong:
            connection.execute(change, wrong)
        last = rows[-1].name


def _milliseconds(name: str) -> int:
    """The milliseconds since the epoch in the ULID of a lease's name: its first ten digits."""
    number = 0
    for digit in name.removeprefix("leases/")[:10]:
        number = number << 5 | _CROCKFORD.index(digit)
    return number
