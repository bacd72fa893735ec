"""Leases: the record of what was granted, to whom, until when, and of what stands for it in the cluster."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from kubevend_server.kinds import Kind
from kubevend_server.roles import Revocation

State = Literal["PENDING", "ACTIVE", "REVOKING", "EXPIRED", "REVOKED", "FAILED"]
"""In which part of its life a lease is.

PENDING: its issuance is under way; ACTIVE: its token is out; REVOKING: it has ended for kubevend, and what must be
deleted in the cluster is not gone yet; EXPIRED, REVOKED and FAILED (no token left): all is gone.
"""

NOT_ENDED: tuple[State, ...] = ("PENDING", "ACTIVE")
"""The states of a lease whose end nobody has written down."""

LIVE: tuple[State, ...] = (*NOT_ENDED, "REVOKING")
"""The states of a lease for which something may stand in the cluster."""

End = Literal["EXPIRED", "REVOKED", "FAILED"]
"""The states in which a lease has ended."""


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
class ClusterObject:
    """An object in a cluster that kubevend made, or is about to make.

    Attributes:
        id: kubevend's own, a ULID.
        config: on which cluster.
        kind: Kubernetes' kind. A Secret is an anchor.
        namespace: empty for what is in none.
        name: its name.
        lease: for which lease it is; empty for an anchor that several share.
        scope: whose leases share it; empty for what is for one lease. There is one live anchor for each config,
            namespace and scope.
        uid: the cluster's own id of it; empty where that is not known.
    """

    id: str
    config: str
    kind: Kind
    namespace: str
    name: str
    lease: str = ""
    scope: str = ""
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Ending:
    """How the deletion of what stands for a lease comes on: how often it failed, how, and when it is tried again."""

    attempts: int = 0
    reason: str = ""
    message: str = ""
    next_attempt_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """The record of one grant.

    Attributes:
        name: `leases/{ULID}`.
        caller: a caller's name.
        expire_time: when it ends.
        tokens: what was minted under it.
        stored_state: as it was last written down; `state` says what it is now.
        revocation: how it can be ended before its time.
        anchor: the id of the anchor that its token is bound to; empty where there is none.
        ends_as: for REVOKING, what it will be.
        end_cause: why it ended, where that was not its time.
        end_time: when it had ended, with all that was made for it gone.
        cluster_wide: whether its rights hold in every namespace.
        owner: which process issues it, while it is PENDING.
        objects: what stands for it in the cluster.
        ending: how its end comes on, while it is REVOKING.
    """

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
    stored_state: State = "ACTIVE"
    revocation: Revocation = "NONE"
    anchor: str = ""
    ends_as: End | Literal[""] = ""
    end_cause: str = ""
    end_time: datetime | None = None
    cluster_wide: bool = False
    owner: str = ""
    objects: tuple[ClusterObject, ...] = ()
    ending: Ending | None = None

    @property
    def shares_anchor(self) -> bool:
        """Whether the anchor that it stands on is that of other leases too, which would end with it."""
        return bool(self.anchor) and self.revocation != "PER_LEASE"

    def state(self, now: datetime) -> State:
        """In which part of its life the lease is at `now`."""
        if self.stored_state != "ACTIVE" or now < self.expire_time:
            return self.stored_state
        # Its end is acted on within a second; what stands in the cluster for it alone is gone only after that.
        return "REVOKING" if self.revocation == "PER_LEASE" else "EXPIRED"


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
    create_before: datetime | None = None
    create_after: datetime | None = None

    def fits(self, lease: Lease) -> bool:
        """Whether a lease is one of these, as it is written down."""
        named = (
            (self.role, lease.role),
            (self.config, lease.config),
            (self.namespace, lease.namespace),
            (self.service_account, lease.service_account),
            (self.caller, lease.caller),
            (self.state, lease.stored_state),
        )
        return (
            all(wanted in ("", None, found) for wanted, found in named)
            and _is_between(lease.expire_time, self.expire_after, self.expire_before)
            and _is_between(lease.create_time, self.create_after, self.create_before)
        )


def _is_between(moment: datetime, first: datetime | None, end: datetime | None) -> bool:
    return (first is None or moment >= first) and (end is None or moment < end)
