"""Leases in the store: written down, and read again. `lease_ends.py` ends them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
import sqlalchemy as sa

from kubevend_server.errors import Aborted
from kubevend_server.leases import LIVE, NOT_ENDED, ClusterObject, Ending, Lease, LeaseFilter, LeaseToken
from kubevend_server.store import lease_filters
from kubevend_server.store import objects as object_store
from kubevend_server.store.lease_filters import MOST_SCANNED
from kubevend_server.store.schema import Moment, leases, literal, objects, tokens

Row = dict[str, object]

_MOST_AT_ONCE = 500
"""SQLite takes more parameters in a statement; what is more would be a long time in one transaction."""

_ACTIVE, _NONE = literal("ACTIVE"), literal("")


# Made once: on the way of an issuance, a statement that is made anew costs more than what it does.
_ACTIVATE = (
    sa.update(leases)
    .where(leases.c.name == sa.bindparam("lease"), leases.c.state == sa.literal("PENDING"))
    .values(state="ACTIVE", owner="", expire_time=sa.bindparam("end"), audiences=sa.bindparam("granted"))
)
_INSERT_TOKEN = sa.insert(tokens)
_END = sa.bindparam("end", type_=Moment())
_PROLONG = (
    sa.update(leases)
    .where(
        leases.c.name == sa.bindparam("lease"),
        leases.c.state == sa.literal("ACTIVE"),
        leases.c.expire_time > sa.bindparam("now"),
    )
    .values(
        # Another token of the lease may just have moved it further.
        expire_time=sa.case((leases.c.expire_time < _END, _END), else_=leases.c.expire_time)
    )
)


@dataclass(frozen=True, slots=True)
class LeaseCounts:
    """What the metrics tell of leases.

    Attributes:
        live: how many live.
        next_expire_time: when the next of them ends.
        revoking: how many have ended for kubevend, while what stands for them is not gone yet.
    """

    live: int
    next_expire_time: datetime | None
    revoking: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """Some leases of a list.

    Attributes:
        found: they.
        position: where the next page goes on, after the last one that was looked at; empty at the end.
        scanned: how many were looked at.
    """

    found: list[Lease]
    position: str
    scanned: int


def rows(lease: Lease) -> tuple[tuple[sa.Table, Row], ...]:
    """What a new lease adds to which table."""
    row: Row = {
        "name": lease.name,
        "role": lease.role,
        "config": lease.config,
        "caller": lease.caller,
        "namespace": lease.namespace,
        "service_account": lease.service_account,
        "audiences": _audiences(lease),
        "create_time": lease.create_time,
        "expire_time": lease.expire_time,
        "state": lease.stored_state,
        "revocation": lease.revocation,
        "cluster_wide": lease.cluster_wide,
        "anchor": lease.anchor,
        "owner": lease.owner,
    }
    made = [(objects, object_store.row(each, lease.create_time)) for each in lease.objects]
    return ((leases, row), *made, *((tokens, _token_row(lease, token)) for token in lease.tokens))


def insert_pending(connection: sa.Connection, lease: Lease) -> bool:
    """Write a pending lease down, with what is about to be made for it.

    Returns:
        False where somebody else has just made the anchor that they would share: then nothing was written.
    """
    try:
        with connection.begin_nested():
            for table, row in rows(lease):
                connection.execute(sa.insert(table).values(row))
    except sa.exc.IntegrityError:
        return False
    return True


def activate(connection: sa.Connection, lease: Lease) -> None:
    """Let a pending lease live, with its token.

    Raises:
        Aborted: it was ended meanwhile.
    """
    values = {"lease": lease.name, "end": lease.expire_time, "granted": _audiences(lease)}
    changed = connection.execute(_ACTIVATE, values)
    if changed.rowcount == 0:
        raise lease_ended(lease.name)
    object_store.set_uids(connection, (made for made in lease.objects if made.uid))
    if lease.tokens:
        connection.execute(_INSERT_TOKEN, [_token_row(lease, token) for token in lease.tokens])


def add_token(connection: sa.Connection, lease: Lease, token: LeaseToken, now: datetime) -> None:
    """Write down another token of a lease that lives; its end moves to the lease's, where that is later.

    Raises:
        Aborted: it was ended meanwhile.
    """
    changed = connection.execute(_PROLONG, {"lease": lease.name, "now": now, "end": lease.expire_time})
    if changed.rowcount == 0:
        raise lease_ended(lease.name)
    connection.execute(_INSERT_TOKEN, [_token_row(lease, token)])


def lease_ended(name: str) -> Aborted:
    """The refusal of an issuance whose lease, or what it stands on, was ended before its token left."""
    return Aborted(
        "LEASE_ENDED",
        f"{name} was ended while its token was being issued (somebody revoked it, or what it shares), and the token "
        "was dropped. Try again.",
        metadata={"lease": name},
    )


def portions(names: Sequence[str]) -> Iterable[Sequence[str]]:
    """Names, as many at a time as a statement is to have."""
    return (names[start : start + _MOST_AT_ONCE] for start in range(0, len(names), _MOST_AT_ONCE))


def get(connection: sa.Connection, name: str) -> Lease | None:
    """The lease of this name, with its tokens, and what stands for it."""
    found = get_all(connection, [name])
    return found[0] if found else None


def get_all(connection: sa.Connection, names: Sequence[str]) -> list[Lease]:
    """The leases of these names that there are, the newest first, with their tokens, and what stands for them."""
    found: list[Lease] = []
    for some in portions(names):
        found += _whole(connection, connection.execute(sa.select(leases).where(leases.c.name.in_(some))).all())
    return sorted(found, key=lambda lease: lease.name, reverse=True)


def page(
    connection: sa.Connection, narrowed: LeaseFilter, after: str, limit: int, most_scanned: int = MOST_SCANNED
) -> Page:
    """The next leases of a list: the newest first, or where `lease_filters.by_end` says so those that end last.

    An index finds some of what the filter says; the rest is held against what that finds, of which a page looks at no
    more than `most_scanned`. So a page takes as long with a million leases as with a thousand, and can come short.

    Args:
        connection: where to read.
        narrowed: which leases. Its state is the one that is written down, which follows an end within a second.
        after: the position at which the page before ended; empty for the first page.
        limit: how many at the most.
        most_scanned: how many rows to look at, where an index cannot tell which of them fit.
    """
    walk = lease_filters.walk(connection, narrowed, after, most_scanned)
    scan = sa.select(leases).where(*walk.looked_up)
    if not walk.whole:
        scan = scan.order_by(*(column.desc() for column in walk.order))
    scan = scan.limit(most_scanned if walk.held else limit)
    scanned = scan.subquery()
    query = sa.select(scanned).where(*(compare(scanned.c[column], value) for column, compare, value in walk.held))
    query = query.order_by(*(scanned.c[column.name].desc() for column in walk.order)).limit(limit)
    read = connection.execute(query if walk.held else scan).all()
    last = read[-1] if len(read) == limit else None
    count = len(read)
    if walk.held:
        keys = scan.with_only_columns(*walk.order).subquery()
        order = [keys.c[column.name] for column in walk.order]
        looked_at = sa.select(keys, sa.func.count().over().label("rows")).order_by(*order).limit(1)
        furthest = connection.execute(looked_at).one_or_none()
        count = furthest.rows if furthest is not None else 0
        if last is None and furthest is not None and count == most_scanned and not walk.whole:
            last = furthest
    return Page(_whole(connection, read), lease_filters.position(narrowed, last) if last is not None else "", count)


def merged_page(
    connection: sa.Connection, filters: Sequence[LeaseFilter], after: str, limit: int, most_scanned: int
) -> Page:
    """The next leases that any of several filters finds, the newest first; each once.

    Args:
        connection: where to read.
        filters: they. One alone is a list as `page` has it; of several none is `lease_filters.by_end`.
        after: the position at which the page before ended; empty for the first page.
        limit: how many at the most.
        most_scanned: how many rows to look at for all of them, at least as many as there are filters.
    """
    share = most_scanned // max(len(filters), 1)
    pages = [page(connection, each, after, min(limit, share), share) for each in filters]
    if len(pages) == 1:
        return pages[0]
    # Beyond where the first of them has stopped, others may have found what it has not come to yet.
    reached = max((each.position for each in pages), default="")
    named = {lease.name: lease for each in pages for lease in each.found if lease.name >= reached}
    found = [named[name] for name in sorted(named, reverse=True)]
    position = found[limit - 1].name if len(found) > limit else reached
    return Page(found[:limit], position, sum(each.scanned for each in pages))


def find_live(connection: sa.Connection, narrowed: LeaseFilter, limit: int, after: str = "") -> list[Lease]:
    """The leases of a filter that live, the newest first, without their tokens.

    Args:
        connection: where to read.
        narrowed: the filter.
        limit: how many at the most.
        after: the name of the last one that was found before; empty for the first ones.
    """
    query = sa.select(leases).where(*lease_filters.live(connection, narrowed))
    if after:
        query = query.where(leases.c.name < after)
    return [_lease(row) for row in connection.execute(query.order_by(leases.c.name.desc()).limit(limit))]


def fitting(connection: sa.Connection, narrowed: LeaseFilter, names: Sequence[str]) -> set[str]:
    """Which of these leases live and are found by a filter."""
    conditions = lease_filters.live(connection, narrowed)
    return {
        name
        for some in portions(names)
        for name in connection.scalars(sa.select(leases.c.name).where(leases.c.name.in_(some), *conditions))
    }


def joined(connection: sa.Connection, anchors: Iterable[str], known: Collection[str]) -> list[Lease]:
    """The leases that have not begun to end on these anchors and are not known, without their tokens."""
    names: set[str] = set()
    for some in portions(list(anchors)):
        query = sa.select(leases.c.name).where(leases.c.anchor != _NONE, leases.c.anchor.in_(some))
        names |= set(connection.scalars(query.where(leases.c.state.in_(NOT_ENDED))))
    found: list[Lease] = []
    for some in portions(sorted(names - set(known))):
        found += map(_lease, connection.execute(sa.select(leases).where(leases.c.name.in_(some))))
    return found


def sharing(connection: sa.Connection, anchors: Iterable[str], limit: int) -> list[Lease]:
    """The leases that live on these anchors, without their tokens."""
    found: list[Lease] = []
    for some in portions(list(anchors)):
        query = sa.select(leases).where(leases.c.anchor != _NONE, leases.c.anchor.in_(some))
        query = query.where(leases.c.state.in_(LIVE)).limit(limit)
        found += map(_lease, connection.execute(query))
    return found


def standing_ids(connection: sa.Connection, names: Sequence[str]) -> set[str]:
    """The ids of what is being deleted for these leases, theirs alone or shared."""
    found: set[str] = set()
    for some in portions(names):
        rows_ = connection.execute(
            sa.select(leases.c.anchor).distinct().where(leases.c.name.in_(some), leases.c.anchor != _NONE)
        )
        anchors = [row.anchor for row in rows_]
        found |= {made.id for made, ending in object_store.of_leases(connection, some, anchors) if ending is not None}
    return found


def last_end(connection: sa.Connection, config: str, now: datetime) -> tuple[int, datetime | None]:
    """How many leases on a config live, or are being ended, and when the last of them does."""
    lives = sa.or_(leases.c.expire_time > now, leases.c.state == "REVOKING")
    conditions = lease_filters.live(connection, LeaseFilter(config=config))
    query = sa.select(sa.func.count(), sa.func.max(leases.c.expire_time)).where(*conditions, lives)
    count, end = connection.execute(query).one()
    return count, end


def count(connection: sa.Connection, now: datetime) -> LeaseCounts:
    """What the metrics tell of leases."""
    query = sa.select(sa.func.count(), sa.func.min(leases.c.expire_time)).select_from(leases)
    live, next_expire_time = connection.execute(
        query.where(leases.c.state == _ACTIVE, leases.c.expire_time > now)
    ).one()
    revoking = connection.scalar(sa.select(sa.func.count()).where(leases.c.state == "REVOKING"))
    return LeaseCounts(live, next_expire_time, revoking or 0)


def _whole(connection: sa.Connection, found: Sequence[sa.Row[tuple[object, ...]]]) -> list[Lease]:
    """Leases from their rows, with their tokens, and what stands for them."""
    if not found:
        return []
    minted: dict[str, list[LeaseToken]] = {row.name: [] for row in found}
    for row in connection.execute(sa.select(tokens).where(tokens.c.lease.in_(minted)).order_by(tokens.c.issue_time)):
        minted[row.lease].append(LeaseToken(row.jti, row.kubernetes_audit_id, row.issue_time, row.expire_time))
    standing: dict[str, list[tuple[ClusterObject, Ending | None]]] = {}
    live = [row for row in found if row.state in LIVE and row.revocation != "NONE"]
    if live:
        anchors = {row.anchor for row in live if row.anchor}
        for made, ending in object_store.of_leases(connection, [row.name for row in live], sorted(anchors)):
            standing.setdefault(made.lease or made.id, []).append((made, ending))
    return [
        _lease(row, tuple(minted[row.name]), [*standing.get(row.name, ()), *standing.get(row.anchor or " ", ())])
        for row in found
    ]


def _lease(
    row: sa.Row[tuple[object, ...]],
    minted: tuple[LeaseToken, ...] = (),
    standing: Sequence[tuple[ClusterObject, Ending | None]] = (),
) -> Lease:
    endings = [ending for _, ending in standing if ending is not None]
    return Lease(
        name=row.name,
        role=row.role,
        config=row.config,
        caller=row.caller,
        namespace=row.namespace,
        service_account=row.service_account,
        audiences=tuple(msgspec.json.decode(row.audiences)),
        create_time=row.create_time,
        expire_time=row.expire_time,
        tokens=minted,
        stored_state=row.state,
        revocation=row.revocation,
        anchor=row.anchor,
        ends_as=row.ends_as,
        end_cause=row.end_cause,
        end_time=row.end_time,
        cluster_wide=row.cluster_wide,
        owner=row.owner,
        objects=tuple(made for made, _ in standing),
        ending=max(endings, key=lambda ending: ending.attempts) if endings else None,
    )


def _audiences(lease: Lease) -> str:
    return msgspec.json.encode(lease.audiences).decode()


def _token_row(lease: Lease, token: LeaseToken) -> Row:
    return {
        "lease": lease.name,
        "jti": token.jti,
        "kubernetes_audit_id": token.kubernetes_audit_id,
        "issue_time": token.issue_time,
        "expire_time": token.expire_time,
    }
