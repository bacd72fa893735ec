"""How leases come to their end, in the store: by their time, before it, or because their issuance failed.

What stands for a lease in the cluster is only marked here; `removal.py` deletes it, and the lease has ended once that
is gone. A lease for which nothing stands has ended at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

import sqlalchemy as sa

from kubevend_server.leases import ClusterObject, Lease
from kubevend_server.store import lease_ends
from kubevend_server.store import objects as object_store
from kubevend_server.store.lease_ends import Due
from kubevend_server.store.schema import objects


def expire(
    connection: sa.Connection, found: Sequence[Due], now: datetime, sparing: Collection[str] = ()
) -> Collection[str]:
    """End leases whose time has run out. An anchor that several shared goes with the last of them.

    Args:
        connection: an open transaction.
        found: they.
        now: the moment.
        sparing: the ids of the anchors on which leases are about to stand.

    Returns:
        The ids of the anchors that go.
    """
    own = [row.name for row in found if row.revocation == "PER_LEASE"]
    lease_ends.begin_end(connection, own, "EXPIRED", "", now)
    others = [row for row in found if row.revocation != "PER_LEASE"]
    lease_ends.end_without_objects(connection, [row.name for row in others], "EXPIRED", "", now)
    return remove_deserted(connection, now, sparing, {row.anchor for row in others if row.anchor})


def fail(
    connection: sa.Connection,
    lease: Lease,
    touched: Collection[ClusterObject],
    cause: str,
    now: datetime,
    sparing: Collection[str] = (),
) -> Collection[str]:
    """End a lease whose token never left.

    Args:
        connection: an open transaction.
        lease: the lease.
        touched: what of its objects is there, with its uid, or may be, without. The others were never asked for, or
            were refused.
        cause: why, for people.
        now: the moment.
        sparing: the ids of the shared anchors on which leases are about to stand.

    Returns:
        The ids of the anchors that go.
    """
    there = {each.id for each in touched}
    # What somebody else has marked is theirs: without its row nobody would find that the lease has ended.
    object_store.forget_live(connection, [each.id for each in lease.objects if each.id not in there])
    own = [each for each in touched if each.lease]
    object_store.doom_made(connection, own, now)
    if own:
        lease_ends.begin_end(connection, [lease.name], "FAILED", cause, now)
        return ()
    lease_ends.end_without_objects(connection, [lease.name], "FAILED", cause, now)
    # Others may stand already on an anchor that this lease was the first to need, if it is known to be made.
    not_live = object_store.not_live(connection, there)
    sound = [each for each in touched if each.uid and each.id not in not_live]
    unsound = [each for each in touched if each not in sound]
    object_store.set_uids(connection, sound)
    object_store.doom_made(connection, unsound, now)
    deserted = remove_deserted(connection, now, sparing, {each.id for each in sound})
    return {*deserted, *(each.id for each in unsound)}


def revoke(connection: sa.Connection, leases: Iterable[Lease], cause: str, now: datetime) -> None:
    """End leases before their time. Where one of them shares an anchor, all that stand on it end."""
    found = list(leases)
    own = [lease.name for lease in found if lease.revocation == "PER_LEASE"]
    lease_ends.begin_end(connection, own, "REVOKED", cause, now)
    for anchor in sorted({lease.anchor for lease in found if lease.shares_anchor}):
        lease_ends.end_anchor(connection, anchor, "REVOKED", cause, now)
    bare = [lease.name for lease in found if lease.revocation == "NONE"]
    lease_ends.end_without_objects(connection, bare, "REVOKED", cause, now)


def remove_deserted(
    connection: sa.Connection, now: datetime, sparing: Collection[str] = (), ids: Collection[str] | None = None
) -> Collection[str]:
    """Have shared anchors deleted on which no live lease stands.

    Args:
        connection: an open transaction.
        now: the moment.
        sparing: the ids of those on which leases are about to stand.
        ids: only among these; None for all.

    Returns:
        The ids of those that go.
    """
    if ids is not None and not ids:
        return ()
    deserted = object_store.deserted_anchors(connection, sparing, ids)
    if deserted:
        object_store.doom(connection, objects.c.id.in_(deserted), now)
    return deserted
