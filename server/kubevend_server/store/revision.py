"""The revision of configs and roles: every change of them raises it, so that other processes see that there was one."""

from __future__ import annotations

import sqlalchemy as sa

from kubevend_server.store.schema import revision


def bump(connection: sa.Connection) -> None:
    """Write down that configs or roles change in this transaction."""
    connection.execute(sa.update(revision).values(number=revision.c.number + 1))


def current(connection: sa.Connection) -> int:
    """The number of changes so far."""
    return connection.scalar(sa.select(revision.c.number)) or 0
