"""How leases end in the store: on the way to it, at their end, and long after."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from kubevend_server.leases import NOT_ENDED, ClusterObject, End
from kubevend_server.store import objects as object_store
from kubevend_server.store.leases import portions
from kubevend_server.store.schema import Moment, leases, literal, objects, tokens

_ACTIVE, _NONE = literal("ACTIVE"), literal("")
_MICROSECOND = timedelta(microseconds=1)


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


@dataclass(frozen=True, slots=True)
class Position:
    """Up to where the changes of leases were read: the last one's moment, and its lease's name."""

    moment: datetime
    name: str = ""


_CHANGED = leases.c.change_time.is_not(None)
_COLUMNS = [leases.c[name] for name in ("name", "state", "ends_as", "end_cause", "revocation", "end_time")]
_FIRST = datetime(1970, 1, 1, tzinfo=UTC)


def last_change(connection: sa.Connection) -> Position:
    """Where the changes of leases end just now."""
    query = sa.select(leases.c.change_time, leases.c.name).where(_CHANGED)
    last = connection.execute(query.order_by(leases.c.change_time.desc(), leases.c.name.desc()).limit(1)).one_or_none()
    return Position(_FIRST) if last is None else Position(*last)


def changes_after(connection: sa.Connection, position: Position, limit: int) -> list[tuple[Change, Position]]:
    """The leases of which it was written down after a position that they end or have ended, in that order."""
    key = leases.c.change_time, leases.c.name
    beyond = sa.tuple_(*key) > sa.tuple_(sa.literal(position.moment, Moment), sa.literal(position.name))
    query = sa.select(*_COLUMNS, leases.c.change_time).where(_CHANGED, beyond).order_by(*key).limit(limit)
    return [
        (Change(*columns), Position(moment, columns[0])) for *columns, moment in map(tuple, connection.execute(query))
    ]


def changes_of(connection: sa.Connection, names: Sequence[str]) -> list[Change]:
    """How those of these leases stand that have ended, or begun to."""
    return [
        Change(*row)
        for some in portions(names)
        for row in connection.execute(sa.select(*_COLUMNS).where(leases.c.name.in_(some), _CHANGED))
    ]


def end_without_objects(connection: sa.Connection, names: Sequence[str], end: End, cause: str, now: datetime) -> None:
    """End leases for which nothing stands in the cluster, or nothing that is theirs alone."""
    for some in portions(names):
        connection.execute(
            sa.update(leases)
            .where(leases.c.name.in_(some), leases.c.state.in_(NOT_ENDED))
            .values(state=end, end_time=now, end_cause=cause, owner="", change_time=_change_time(connection, now))
        )


def begin_end(connection: sa.Connection, names: Sequence[str], end: End, cause: str, now: datetime) -> None:
    """Let leases end for which something stands in the cluster, theirs alone: that is to be deleted first."""
    for some in portions(names):
        _revoking(connection, leases.c.name.in_(some), end, cause, now)
        object_store.doom(connection, objects.c.lease.in_(some), now)


def end_anchor(connection: sa.Connection, anchor: str, end: End, cause: str, now: datetime) -> None:
    """Let all leases end that share an anchor: that is to be deleted first."""
    _revoking(connection, sa.and_(leases.c.anchor != _NONE, leases.c.anchor == anchor), end, cause, now)
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
        values = {"end_time": now, "ends_as": "", "change_time": _change_time(connection, now)}
        connection.execute(sa.update(leases).where(condition).values(state=leases.c.ends_as, **values))
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


def _revoking(
    connection: sa.Connection, condition: sa.ColumnElement[bool], end: End, cause: str, now: datetime
) -> None:
    connection.execute(
        sa.update(leases)
        .where(condition, leases.c.state.in_(NOT_ENDED))
        .values(state="REVOKING", ends_as=end, end_cause=cause, owner="", change_time=_change_time(connection, now))
    )


def _change_time(connection: sa.Connection, now: datetime) -> datetime:
    """A moment for a change that is later than that of every change before. Nobody else writes meanwhile."""
    return max(now, last_change(connection).moment + _MICROSECOND)
