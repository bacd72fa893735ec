"""Leases: the record of what was granted, to whom, until when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

State = Literal["ACTIVE", "EXPIRED"]


@dataclass(frozen=True, slots=True)
class LeaseToken:
    """One token minted under a lease, without the token.

    Attributes:
        jti: the token's id (RFC 7519, section 4.1.7).
        kubernetes_audit_id: the `auditID` of its TokenRequest in Kubernetes' audit log.
        issue_time: when it was issued.
        expire_time: the latest moment at which the cluster accepts it.
    """

    jti: str
    kubernetes_audit_id: str
    issue_time: datetime
    expire_time: datetime


@dataclass(frozen=True, slots=True)
class Lease:
    """The record of one grant. `name` is `leases/{ULID}`; `caller` is a caller's name."""

    name: str
    role: str
    config: str
    caller: str
    namespace: str
    service_account: str
    audiences: tuple[str, ...]
    create_time: datetime
    expire_time: datetime
    tokens: tuple[LeaseToken, ...] = ()

    def state(self, now: datetime) -> State:
        """In which part of its life the lease is at `now`."""
        return "ACTIVE" if now < self.expire_time else "EXPIRED"


@dataclass(frozen=True, slots=True)
class LeaseFilter:
    """Which leases. What is None or empty does not narrow; what is given must all hold."""

    role: str = ""
    config: str = ""
    namespace: str = ""
    service_account: str = ""
    caller: str = ""
    state: State | None = None
    expire_before: datetime | None = None
    expire_after: datetime | None = None
