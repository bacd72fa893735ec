"""What kubevend made in clusters, or is about to make, in the store: a row goes when its object is known to be gone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from kubevend_server.leases import NOT_ENDED, ClusterObject, Ending
from kubevend_server.store.schema import leases, literal, objects

Row = dict[str, object]

_LIVE, _DELETING, _NONE = literal("LIVE"), literal("DELETING"), literal("")
_DUE = (objects.c.state == _DELETING, objects.c.next_attempt_time.is_not(None))
_LATE = "LATE"
"""The reason of an object that was gone, and is looked for again."""

_SHARED = (objects.c.state == _LIVE, objects.c.scope != _NONE)


# Made once, as they are on the way of an issuance.
_STILL_LIVE = sa.select(objects.c.id).where(
    objects.c.id.in_(sa.bindparam("ids", expanding=True)), objects.c.state == sa.literal("LIVE")
)
_SET_UID = sa.update(objects).where(objects.c.id == sa.bindparam("made")).values(uid=sa.bindparam("known"))


@dataclass(frozen=True, slots=True)
class Doomed:
    """An object that is being deleted.

    Attributes:
        object: which.
        attempts: how often that has failed.
        late: whether it was gone once already, and is looked for again.
    """

    object: ClusterObject
    attempts: int
    late: bool = False


@dataclass(frozen=True, slots=True)
class ObjectCounts:
    """How many objects stand, how many are to be deleted, and for how many of these that has failed at least once."""

    standing: int
    doomed: int
    failing: int


def row(made: ClusterObject, now: datetime) -> Row:
    """What a new object adds to the table."""
    return {
        "id": made.id,
        "config": made.config,
        "kind": made.kind,
        "namespace": made.namespace,
        "name": made.name,
        "lease": made.lease,
        "scope": made.scope,
        "uid": made.uid,
        "state": "LIVE",
        "create_time": now,
    }


def live_anchor(connection: sa.Connection, config: str, namespace: str, scope: str) -> ClusterObject | None:
    """The anchor that the leases of a scope share in a namespace."""
    query = sa.select(objects).where(
        *_SHARED,
        objects.c.config == config,
        objects.c.namespace == namespace,
        objects.c.scope == scope,
    )
    found = connection.execute(query).one_or_none()
    return None if found is None else from_row(found)


def not_live(connection: sa.Connection, ids: Iterable[str]) -> set[str]:
    """Which of these objects are not to stand on any more."""
    wanted = set(ids)
    return wanted - set(connection.scalars(_STILL_LIVE, {"ids": list(wanted)}))


def set_uids(connection: sa.Connection, made: Iterable[ClusterObject]) -> None:
    """Write down the cluster's own ids."""
    known = [{"made": each.id, "known": each.uid} for each in made]
    if known:
        connection.execute(_SET_UID, known)


def doom(connection: sa.Connection, condition: sa.ColumnElement[bool], now: datetime) -> None:
    """Have the objects deleted that a condition finds, as far as they are not being deleted already."""
    connection.execute(
        sa.update(objects)
        .where(condition, objects.c.state == "LIVE")
        .values(state="DELETING", next_attempt_time=now, attempts=0, reason="", message="")
    )


def doom_made(connection: sa.Connection, made: Iterable[ClusterObject], now: datetime) -> None:
    """Have objects deleted whose rows may be gone: a deletion that came too early found nothing and forgot them."""
    for each in made:
        doomed = {"state": "DELETING", "next_attempt_time": now, "reason": "", "message": ""}
        known = {**doomed, "uid": each.uid} if each.uid else doomed
        if connection.execute(sa.update(objects).where(objects.c.id == each.id).values(known)).rowcount == 0:
            connection.execute(sa.insert(objects).values({**row(each, now), **doomed}))


def look_again(connection: sa.Connection, object_id: str, then: datetime) -> None:
    """Delete an object once more, later; it stands for nothing until then."""
    connection.execute(
        sa.update(objects)
        .where(objects.c.id == object_id)
        .values(
            state="DELETING",
            lease="",
            scope="",
            next_attempt_time=then,
            claimed_by="",
            attempts=0,
            reason=_LATE,
            message="",
        )
    )


def due_configs(connection: sa.Connection, now: datetime) -> list[str]:
    """In which configs' clusters something is to be deleted now."""
    query = sa.select(objects.c.config).distinct().where(*_DUE, objects.c.next_attempt_time <= now)
    return list(connection.scalars(query))


def claim(
    connection: sa.Connection, config: str, process: str, now: datetime, until: datetime, limit: int
) -> list[Doomed]:
    """Take objects of a config's cluster to delete, those that have waited longest first.

    Nobody else takes them before `until`.
    """
    query = sa.select(objects).where(*_DUE, objects.c.config == config, objects.c.next_attempt_time <= now)
    rows = connection.execute(query.order_by(objects.c.next_attempt_time).limit(limit)).all()
    taken = [row.id for row in rows]
    if taken:
        connection.execute(
            sa.update(objects).where(objects.c.id.in_(taken)).values(next_attempt_time=until, claimed_by=process)
        )
    return [Doomed(from_row(row), row.attempts, row.reason == _LATE) for row in rows]


def untried(connection: sa.Connection, ids: Collection[str]) -> bool:
    """Whether the deletion of one of these has neither succeeded nor failed yet."""
    query = sa.select(objects.c.id).where(
        objects.c.id.in_(ids), objects.c.state == "DELETING", objects.c.attempts == 0, objects.c.reason != _LATE
    )
    return connection.scalar(query.limit(1)) is not None


def release(
    connection: sa.Connection, alive: Iterable[str], process: str, working: Collection[str], now: datetime
) -> None:
    """Let go of what nobody is at: taken by processes that no longer live, or by this one, which failed over it.

    Args:
        connection: an open transaction.
        alive: the processes that live, this one among them.
        process: this one.
        working: the ids of what it is at.
        now: the moment.
    """
    left = sa.or_(
        objects.c.claimed_by.not_in(list(alive)),
        sa.and_(objects.c.claimed_by == process, objects.c.id.not_in(list(working))),
    )
    connection.execute(
        sa.update(objects).where(*_DUE, objects.c.claimed_by != "", left).values(next_attempt_time=now, claimed_by="")
    )


def put_off(connection: sa.Connection, doomed: Doomed, failure: tuple[str, str], until: datetime) -> None:
    """Write down that a deletion failed: its reason and message, and when it is tried again."""
    reason, message = failure
    connection.execute(
        sa.update(objects)
        .where(objects.c.id == doomed.object.id)
        .values(attempts=doomed.attempts + 1, next_attempt_time=until, claimed_by="", reason=reason, message=message)
    )


def remove(connection: sa.Connection, object_id: str) -> None:
    """Forget an object that is gone."""
    connection.execute(sa.delete(objects).where(objects.c.id == object_id))


def forget_live(connection: sa.Connection, ids: Collection[str]) -> None:
    """Forget objects that were never made, as far as they are not being deleted."""
    if ids:
        connection.execute(sa.delete(objects).where(objects.c.id.in_(list(ids)), objects.c.state == "LIVE"))


def deserted_anchors(connection: sa.Connection, sparing: Iterable[str], ids: Iterable[str] | None = None) -> list[str]:
    """The shared anchors on which no live lease stands.

    Args:
        connection: where to read.
        sparing: the ids of those on which one is about to.
        ids: only among these; None for all.
    """
    stands = sa.select(leases.c.name).where(
        leases.c.anchor != _NONE,
        leases.c.anchor == objects.c.id,
        leases.c.state.in_(NOT_ENDED),
    )
    query = sa.select(objects.c.id).where(*_SHARED, ~stands.exists())
    if ids is not None:
        query = query.where(objects.c.id.in_(list(ids)))
    return sorted(set(connection.scalars(query)) - set(sparing))


def of_leases(
    connection: sa.Connection, names: Sequence[str], anchors: Sequence[str]
) -> list[tuple[ClusterObject, Ending | None]]:
    """What stands for leases, theirs alone and shared, with how the deletion comes on."""
    query = sa.select(objects).where(
        sa.or_(objects.c.id.in_(anchors), sa.and_(objects.c.lease != _NONE, objects.c.lease.in_(names)))
    )
    return [(from_row(row), _ending(row)) for row in connection.execute(query.order_by(objects.c.id))]


def count(connection: sa.Connection, config: str) -> int:
    """How many objects there are in a config's cluster."""
    return connection.scalar(sa.select(sa.func.count()).where(objects.c.config == config)) or 0


def standing(connection: sa.Connection, config: str) -> list[ClusterObject]:
    """What stands in a config's cluster for active leases, theirs alone, but for anchors."""
    active = sa.select(leases.c.name).where(leases.c.name == objects.c.lease, leases.c.state == "ACTIVE")
    query = sa.select(objects).where(objects.c.config == config, objects.c.state == "LIVE", objects.c.kind != "Secret")
    return [from_row(row) for row in connection.execute(query.where(active.exists()))]


def known(connection: sa.Connection, config: str) -> set[tuple[str, str, str]]:
    """Kind, namespace and name of all in a config's cluster, made, about to be made, or being deleted."""
    query = sa.select(objects.c.kind, objects.c.namespace, objects.c.name).where(objects.c.config == config)
    return {(row.kind, row.namespace, row.name) for row in connection.execute(query)}


def count_all(connection: sa.Connection) -> ObjectCounts:
    """Count objects by what is to become of them."""
    doomed = sa.case((objects.c.state == "DELETING", 1), else_=0)
    failing = sa.case((objects.c.attempts > 0, doomed), else_=0)
    query = sa.select(
        sa.func.count(), sa.func.coalesce(sa.func.sum(doomed), 0), sa.func.coalesce(sa.func.sum(failing), 0)
    )
    everything, to_delete, failed = connection.execute(query.select_from(objects)).one()
    return ObjectCounts(everything - to_delete, to_delete, failed)


def from_row(row: sa.Row[tuple[object, ...]]) -> ClusterObject:
    """An object from its row."""
    return ClusterObject(
        id=row.id,
        config=row.config,
        kind=row.kind,
        namespace=row.namespace,
        name=row.name,
        lease=row.lease,
        scope=row.scope,
        uid=row.uid,
    )


def _ending(row: sa.Row[tuple[object, ...]]) -> Ending | None:
    if row.state != "DELETING":
        return None
    return Ending(row.attempts, row.reason, row.message, row.next_attempt_time)
