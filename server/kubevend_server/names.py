"""The names of resources: `configs/{id}`, `roles/{id}`, `leases/{id}`. See https://google.aip.dev/122."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta

DEFAULT_CONFIG = "configs/default"

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_RANDOM_BITS = 80
_LEASE_ID_LENGTH = 26
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def new_lease_name(now: datetime) -> str:
    """Make the name of a lease granted at `now`; names sort by time, so that pages of a list stay where they are."""
    return f"leases/{new_id(now)}"


def new_id(now: datetime) -> str:
    """Make an id: a ULID in lower case, 48 bits of milliseconds, 80 random bits. See https://github.com/ulid/spec."""
    return _ulid(_milliseconds(now), secrets.randbits(_RANDOM_BITS))


def first_lease_name(since: datetime) -> str:
    """The name that sorts before those of leases granted since the millisecond of `since`, and after all others."""
    return f"leases/{_ulid(max(0, _milliseconds(since)), 0)}"


def _milliseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MILLISECOND


def _ulid(milliseconds: int, rest: int) -> str:
    number = milliseconds << _RANDOM_BITS | rest
    return "".join(_CROCKFORD[number >> 5 * place & 31] for place in reversed(range(_LEASE_ID_LENGTH)))


def new_etag() -> str:
    """Make an etag: opaque, another one for each version of a resource."""
    return secrets.token_hex(8)
