"""Roles: what may be issued from one config."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from kubevend_server import names

ANY = "*"


@dataclass(frozen=True, slots=True)
class Role:
    """What may be issued from one config. Empty allows nothing.

    Attributes:
        name: `roles/{id}`.
        config: `configs/{id}`, whose cluster issues the tokens.
        allowed_namespaces: exact names, or `*` alone.
        allowed_service_accounts: exact names, or `*` alone, in each of those namespaces.
        allowed_audiences: exact.
        default_audiences: for a request that names none; each is allowed.
        ttl: for a request that names none.
        max_ttl: what is longer is shortened.
        labels: pairs for policies to decide by.
        etag: another one for each version.
    """

    name: str
    config: str = names.DEFAULT_CONFIG
    allowed_namespaces: tuple[str, ...] = ()
    allowed_service_accounts: tuple[str, ...] = ()
    allowed_audiences: tuple[str, ...] = ()
    default_audiences: tuple[str, ...] = ()
    ttl: timedelta | None = None
    max_ttl: timedelta | None = None
    labels: tuple[tuple[str, str], ...] = ()
    etag: str = ""
    create_time: datetime | None = None
    update_time: datetime | None = None
