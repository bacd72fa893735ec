"""Request ids in the store: which lease each of them has got."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from kubevend_server.store.schema import requests

Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Claim:
    """A lease's hold on a request id of its caller: whoever sends that again gets another token of the lease.

    Attributes:
        id: the request id, a UUID in lower case.
        caller: whose it is.
        role: through which role the lease is.
        fingerprint: SHA-256 of the request's other fields, in hexadecimal.
        terms: SHA-256 of what was granted, its lifetime aside, in hexadecimal.
        lease: the lease.
        create_time: since when it holds the id.
        replaces: the lease that may hold the id until then; empty for none.
    """

    id: str
    caller: str
    role: str
    fingerprint: str
    terms: str
    lease: str
    create_time: datetime
    replaces: str = ""


# Made once, as they are on the way of an issuance.
INSERT = sa.insert(requests).prefix_with("OR REPLACE", dialect="sqlite")
"""Writes rows in place of those that their claims replace; `lost` finds out before whether they may."""

_HELD = sa.select(requests.c.id, requests.c.caller, requests.c.lease).where(
    requests.c.id.in_(sa.bindparam("ids", expanding=True))
)
_FIND = sa.select(requests).where(
    requests.c.id == sa.bindparam("wanted_id"), requests.c.caller == sa.bindparam("wanted_caller")
)


def rows(claim: Claim | None) -> tuple[tuple[sa.Table, Row], ...]:
    """What a claim adds to the table."""
    if claim is None:
        return ()
    row: Row = {
        "id": claim.id,
        "caller": claim.caller,
        "role": claim.role,
        "fingerprint": claim.fingerprint,
        "terms": claim.terms,
        "lease": claim.lease,
        "create_time": claim.create_time,
    }
    return ((requests, row),)


def find(connection: sa.Connection, caller: str, request_id: str) -> Claim | None:
    """Which lease holds a request id of a caller."""
    found = connection.execute(_FIND, {"wanted_id": request_id, "wanted_caller": caller}).one_or_none()
    if found is None:
        return None
    return Claim(
        found.id, found.caller, found.role, found.fingerprint, found.terms, found.lease, create_time=found.create_time
    )


def lost(connection: sa.Connection, claims: Iterable[Claim]) -> set[str]:
    """The leases among these claims' whose request id another one holds by now."""
    by_id = {(claim.id, claim.caller): claim for claim in claims}
    held = connection.execute(_HELD, {"ids": sorted({request_id for request_id, _ in by_id})})
    found = ((by_id.get((row.id, row.caller)), row.lease) for row in held)
    return {claim.lease for claim, lease in found if claim is not None and lease not in (claim.replaces, claim.lease)}


def purge(connection: sa.Connection, before: datetime, limit: int) -> int:
    """Forget request ids that were used before a moment, the oldest first. Returns how many."""
    query = sa.select(requests.c.id, requests.c.caller).where(requests.c.create_time < before)
    old = connection.execute(query.order_by(requests.c.create_time).limit(limit)).all()
    for row in old:
        connection.execute(sa.delete(requests).where(requests.c.id == row.id, requests.c.caller == row.caller))
    return len(old)
