"""The grant: exactly what may be asked of Kubernetes, and the proof that policy allowed it."""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from datetime import timedelta

from kubevend_server.policy.access import Decision
from kubevend_server.policy.terms import Terms

_MADE_HERE = object()


@dataclass(frozen=True, slots=True)
class Grant:
    """What the adapter takes, and the only thing that it takes. `grant` is the one way to make one."""

    terms: Terms
    decision: Decision
    # Not kept, so that dataclasses.replace cannot pass it on.
    made_by: InitVar[object]

    def __post_init__(self, made_by: object) -> None:
        if made_by is not _MADE_HERE:
            raise TypeError("A Grant comes from policy.grant.grant alone.")

    @property
    def namespace(self) -> str:
        """The ServiceAccount's namespace."""
        return self.terms.namespace

    @property
    def service_account(self) -> str:
        """The ServiceAccount's name."""
        return self.terms.service_account

    @property
    def audiences(self) -> tuple[str, ...]:
        """The token's audiences, at least one."""
        return self.terms.audiences

    @property
    def ttl(self) -> timedelta:
        """How long the lease shall live."""
        return self.terms.ttl

    @property
    def token_ttl(self) -> timedelta:
        """How long the token shall live: no shorter than Kubernetes makes one."""
        return self.terms.token_ttl


def grant(terms: Terms, decision: Decision) -> Grant:
    """Join what the role allows with what the access policy allows.

    Raises:
        ValueError: the decision is a denial, or the terms leave the audiences to the cluster.
    """
    if not decision.allowed:
        raise ValueError("A denial makes no grant.")
    if not terms.audiences:
        raise ValueError("A grant names its audiences.")
    return Grant(terms, decision, _MADE_HERE)
