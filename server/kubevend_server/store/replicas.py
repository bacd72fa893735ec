"""The processes that share a store, and by which id what they make in clusters is known."""

from __future__ import annotations

import secrets
from datetime import datetime

import sqlalchemy as sa

from kubevend_server.store.schema import instance, replicas


def beat(connection: sa.Connection, replica: str, process: str, now: datetime) -> None:
    """Write down that a process lives, as the only one of its replica's name."""
    seen = {"process": process, "seen_time": now}
    changed = connection.execute(sa.update(replicas).where(replicas.c.name == replica).values(seen))
    if changed.rowcount == 0:
        connection.execute(sa.insert(replicas).values(name=replica, **seen))


def leave(connection: sa.Connection, process: str) -> None:
    """Write down that a process ends."""
    connection.execute(sa.delete(replicas).where(replicas.c.process == process))


def alive(connection: sa.Connection, since: datetime) -> list[str]:
    """The processes that were seen since a moment, in the order of their replicas' names."""
    query = sa.select(replicas.c.process).where(replicas.c.seen_time >= since).order_by(replicas.c.name)
    return list(connection.scalars(query))


def instance_id(connection: sa.Connection, wanted: str) -> str:
    """By which id the objects in clusters are known to be this store's.

    Args:
        connection: an open transaction.
        wanted: the settings'; it is kept from now on. Empty: the one that the store has, made up where it has none.
    """
    kept: str | None = connection.scalar(sa.select(instance.c.id))
    if kept is not None and wanted in ("", kept):
        return kept
    found = wanted or secrets.token_hex(8)
    connection.execute(sa.delete(instance))
    connection.execute(sa.insert(instance).values(id=found))
    return found
