"""Leases in the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
import sqlalchemy as sa

from kubevend_server.leases import Lease, LeaseFilter, LeaseToken
from kubevend_server.store.schema import leases, tokens

Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class LiveLeases:
    """How many leases live, and when the next of them ends."""

    count: int
    next_expire_time: datetime | None


def rows(lease: Lease) -> tuple[tuple[sa.Table, Row], ...]:
    """What a new lease adds to which table."""
    row: Row = {
        "name": lease.name,
        "role": lease.role,
        "config": lease.config,
        "caller": lease.caller,
        "namespace": lease.namespace,
        "service_account": lease.service_account,
        "audiences": msgspec.json.encode(lease.audiences).decode(),
        "create_time": lease.create_time,
        "expire_time": lease.expire_time,
    }
    minted: list[tuple[sa.Table, Row]] = [
        (
            tokens,
            {
                "lease": lease.name,
                "jti": token.jti,
                "kubernetes_audit_id": token.kubernetes_audit_id,
                "issue_time": token.issue_time,
                "expire_time": token.expire_time,
            },
        )
        for token in lease.tokens
    ]
    return ((leases, row), *minted)


def get(connection: sa.Connection, name: str) -> Lease | None:
    """The lease of this name, with its tokens."""
    found = _with_tokens(connection, connection.execute(sa.select(leases).where(leases.c.name == name)).all())
    return found[0] if found else None


def page(connection: sa.Connection, narrowed: LeaseFilter, after: str, limit: int, now: datetime) -> list[Lease]:
    """The next leases, the newest first.

    Args:
        connection: where to read.
        narrowed: which leases.
        after: the name of the last one of the page before; empty for the first page.
        limit: how many at the most.
        now: the moment that tells active leases from expired ones.
    """
    query = sa.select(leases).order_by(leases.c.name.desc()).limit(limit)
    if after:
        query = query.where(leases.c.name < after)
    found = connection.execute(query.where(*_conditions(narrowed, now))).all()
    return _with_tokens(connection, found)


def count_live(connection: sa.Connection, config: str, now: datetime) -> int:
    """How many leases on a config have not ended."""
    query = sa.select(sa.func.count()).where(leases.c.config == config, leases.c.expire_time > now)
    return connection.scalar(query) or 0


def last_end(connection: sa.Connection, config: str, now: datetime) -> datetime | None:
    """When the last of the leases on a config ends; None where none lives."""
    query = sa.select(sa.func.max(leases.c.expire_time)).where(leases.c.config == config, leases.c.expire_time > now)
    end: datetime | None = connection.scalar(query)
    return end


def live(connection: sa.Connection, now: datetime) -> LiveLeases:
    """How many leases live, and when the next of them ends."""
    query = sa.select(sa.func.count(), sa.func.min(leases.c.expire_time)).where(leases.c.expire_time > now)
    count, next_expire_time = connection.execute(query).one()
    return LiveLeases(count, next_expire_time)


def _conditions(narrowed: LeaseFilter, now: datetime) -> list[sa.ColumnElement[bool]]:
    exact = {
        leases.c.role: narrowed.role,
        leases.c.config: narrowed.config,
        leases.c.namespace: narrowed.namespace,
        leases.c.service_account: narrowed.service_account,
        leases.c.caller: narrowed.caller,
    }
    conditions = [column == value for column, value in exact.items() if value]
    if narrowed.state == "ACTIVE":
        conditions.append(leases.c.expire_time > now)
    elif narrowed.state == "EXPIRED":
        conditions.append(leases.c.expire_time <= now)
    if narrowed.expire_before is not None:
        conditions.append(leases.c.expire_time < narrowed.expire_before)
    if narrowed.expire_after is not None:
        conditions.append(leases.c.expire_time >= narrowed.expire_after)
    return conditions


def _with_tokens(connection: sa.Connection, found: Sequence[sa.Row[tuple[object, ...]]]) -> list[Lease]:
    minted: dict[str, list[LeaseToken]] = {row.name: [] for row in found}
    if minted:
        query = sa.select(tokens).where(tokens.c.lease.in_(minted)).order_by(tokens.c.issue_time)
        for row in connection.execute(query):
            minted[row.lease].append(LeaseToken(row.jti, row.kubernetes_audit_id, row.issue_time, row.expire_time))
    return [
        Lease(
            name=row.name,
            role=row.role,
            config=row.config,
            caller=row.caller,
            namespace=row.namespace,
            service_account=row.service_account,
            audiences=tuple(msgspec.json.decode(row.audiences)),
            create_time=row.create_time,
            expire_time=row.expire_time,
            tokens=tuple(minted[row.name]),
        )
        for row in found
    ]
