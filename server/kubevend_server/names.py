"""The names of resources: `configs/{id}`, `roles/{id}`, `leases/{id}`. See https://google.aip.dev/122."""

from __future__ import annotations

import secrets
from datetime import datetime

DEFAULT_CONFIG = "configs/default"

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_RANDOM_BITS = 80
_LEASE_ID_LENGTH = 26


def new_lease_name(now: datetime) -> str:
    """Make the name of a lease granted at `now`; names sort by time, so that pages of a list stay where they are."""
    return f"leases/{new_id(now)}"


def new_id(now: datetime) -> str:
    """Make an id: a ULID in lower case, 48 bits of milliseconds, 80 random bits. See https://github.com/ulid/spec."""
    number = int(now.timestamp() * 1000) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
    digits = [_CROCKFORD[number >> 5 * place & 31] for place in reversed(range(_LEASE_ID_LENGTH))]
    return "".join(digits)


def new_etag() -> str:
    """Make an etag: opaque, another one for each version of a resource."""
    return secrets.token_hex(8)
