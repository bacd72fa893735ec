"""How leases end in the store: on the way to it, at their end, and long after."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from kubevend_server.leases import NOT_ENDED, ClusterObject, End
from kubevend_server.store import objects as object_store
from kubevend_server.store.leases import portions
from kubevend_server.store.schema import leases, literal, objects, tokens

_ACTIVE, _REVOKING, _NONE = literal("ACTIVE"), literal("REVOKING"), literal("")


@dataclass(frozen=True, slots=True)
class Due:
    """A lease whose time has run out, and what stands for it."""

    name: str
    revocation: str
    anchor: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A lease that has ended: through which role it was granted, and how and why it ended."""

    name: str
    role: str
    end: str
    cause: str


@dataclass(frozen=True, slots=True)
class Change:
    """How a lease stands that has ended, or begun to.

    Attributes:
        name: the lease's.
        state: REVOKING, REVOKED, EXPIRED or FAILED.
        ends_as: for REVOKING, what it will be.
        cause: why, where that was not its time.
        revocation: how it could be ended.
        end_time: when it had ended; None for REVOKING.
    """

    name: str
    state: str
    ends_as: str
    cause: str
    revocation: str
    end_time: datetime | None

    @property
    def is_by_time(self) -> bool:
        """Whether it ended since its time had come."""
        return "EXPIRED" in (self.state, self.ends_as)


def changed_since(connection: sa.Connection, since: datetime) -> list[Change]:
    """The leases that are being ended now, and those that had ended at a moment or later."""
    columns = [leases.c[name] for name in ("name", "state", "ends_as", "end_cause", "revocation", "end_time")]
    revoking = sa.select(*columns).where(leases.c.state == _REVOKING)
    ended = sa.select(*columns).where(leases.c.end_time.is_not(None), leases.c.end_time >= since)
    return [Change(*row) for query in (revoking, ended) for row in connection.execute(query)]


def ended_after(connection: sa.Connection, position: tuple[datetime, str], limit: int) -> list[str]:
    """The names of leases that ended after a position, an end and a name; the longest ended first."""
    end, name = position
    beyond = sa.or_(leases.c.end_time > end, leases.c.name > name)
    query = sa.select(leases.c.name).where(leases.c.end_time.is_not(None), leases.c.end_time >= end, beyond)
    return list(connection.scalars(query.order_by(leases.c.end_time, leases.c.name).limit(limit)))


def end_without_objects(connection: sa.Connection, names: Sequence[str], end: End, cause: str, now: datetime) -> None:
    """End leases for which nothing stands in the cluster, or nothing that is theirs alone."""
    for some in portions(names):
        connection.execute(
            sa.update(leases)
            .where(leases.c.name.in_(some), leases.c.state.in_(NOT_ENDED))
            .values(state=end, end_time=now, end_cause=cause, owner="")
        )


def begin_end(connection: sa.Connection, names: Sequence[str], end: End, cause: str, now: datetime) -> None:
    """Let leases end for which something stands in the cluster, theirs alone: that is to be deleted first."""
    for some in portions(names):
        _revoking(connection, leases.c.name.in_(some), end, cause)
        object_store.doom(connection, objects.c.lease.in_(some), now)


def end_anchor(connection: sa.Connection, anchor: str, end: End, cause: str, now: datetime) -> None:
    """Let all leases end that share an anchor: that is to be deleted first."""
    _revoking(connection, sa.and_(leases.c.anchor != _NONE, leases.c.anchor == anchor), end, cause)
    object_store.doom(connection, objects.c.id == anchor, now)


def due(connection: sa.Connection, now: datetime, limit: int) -> list[Due]:
    """The leases whose time has run out, the first ones first."""
    query = sa.select(leases.c.name, leases.c.revocation, leases.c.anchor)
    query = query.where(leases.c.state == _ACTIVE, leases.c.expire_time <= now).order_by(leases.c.expire_time)
    return [Due(*row) for row in connection.execute(query.limit(limit))]


def object_gone(
    connection: sa.Connection, gone: ClusterObject, now: datetime, again: datetime | None = None
) -> list[Ended]:
    """Forget an object that is gone, and end the leases for which nothing else stands.

    Args:
        connection: an open transaction.
        gone: the object.
        now: the moment.
        again: when to look for it once more, in place of forgetting it.

    Returns:
        Those leases.
    """
    if again is None:
        object_store.remove(connection, gone.id)
    else:
        object_store.look_again(connection, gone.id, again)
    others = sa.select(objects.c.id).where(objects.c.lease != _NONE, objects.c.lease == leases.c.name)
    standing = sa.and_(leases.c.anchor != _NONE, leases.c.anchor == gone.id)
    condition = sa.and_(
        leases.c.name == gone.lease if gone.lease else standing, leases.c.state == "REVOKING", ~others.exists()
    )
    query = sa.select(leases.c.name, leases.c.role, leases.c.ends_as, leases.c.end_cause).where(condition)
    ended = [Ended(*row) for row in connection.execute(query)]
    if ended:
        connection.execute(sa.update(leases).where(condition).values(state=leases.c.ends_as, end_time=now, ends_as=""))
    return ended


def abandoned(connection: sa.Connection, alive: Iterable[str], in_flight: Iterable[str], process: str) -> list[str]:
    """The pending leases that nobody issues any more: their process is dead, or this one, and knows nothing of them."""
    query = sa.select(leases.c.name, leases.c.owner).where(leases.c.state == "PENDING")
    living, known = set(alive), set(in_flight)
    return [
        row.name
        for row in connection.execute(query)
        if row.owner not in living or (row.owner == process and row.name not in known)
    ]


def purge(connection: sa.Connection, before: datetime, limit: int) -> int:
    """Forget leases that had ended before a moment, the longest ended first. Returns how many."""
    query = sa.select(leases.c.name).where(leases.c.end_time.is_not(None), leases.c.end_time < before)
    names = connection.scalars(query.order_by(leases.c.end_time).limit(limit)).all()
    if names:
        connection.execute(sa.delete(tokens).where(tokens.c.lease.in_(names)))
        connection.execute(sa.delete(leases).where(leases.c.name.in_(names)))
    return len(names)


def _revoking(connection: sa.Connection, condition: sa.ColumnElement[bool], end: End, cause: str) -> None:
    connection.execute(
        sa.update(leases)
        .where(condition, leases.c.state.in_(NOT_ENDED))
        .values(state="REVOKING", ends_as=end, end_cause=cause, owner="")
    )
