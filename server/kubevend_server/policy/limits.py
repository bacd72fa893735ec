"""What holds whatever a role says: the floors of Kubernetes and of kubevend, and this server's own limits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from kubevend_server.roles import Role

MINIMUM_TTL = timedelta(seconds=600)
"""Kubernetes' own floor for a token (pkg/apis/authentication/validation: 10 minutes)."""

MINIMUM_LEASE = timedelta(seconds=30)
"""The floor of a lease that kubevend itself ends, whatever life its token has left."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What this server allows, whatever a role says.

    Attributes:
        default_ttl: where neither request nor role names one.
        max_ttl: what is longer is shortened.
        reserved_audiences: kubevend's own, by which callers prove who they are. Never issued: such a token
            would let its holder call kubevend as somebody else.
    """

    default_ttl: timedelta
    max_ttl: timedelta
    reserved_audiences: frozenset[str]


def floor_of(role: Role) -> timedelta:
    """The shortest life of a role's leases: kubevend's own floor where it ends them, else Kubernetes' for a token."""
    return MINIMUM_LEASE if role.revocation == "PER_LEASE" else MINIMUM_TTL
