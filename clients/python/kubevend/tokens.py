"""Tokens as callers get them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self

from kubevend.v1 import issue_service_pb2 as pb


class Secret:
    """A text that no repr, log line or JSON shows."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text."""
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "Secret(…)"


@dataclass(frozen=True, slots=True)
class TokenWarning:
    """What came out otherwise than it was asked: `reason` for programs, `message` for people, the facts by name."""

    reason: str
    message: str
    metadata: dict[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token of a ServiceAccount.

    Attributes:
        secret: the token itself; `token` has its text. Empty with `validate_only`.
        expiration: the lease's end: until when kubevend answers for the token.
        token_expiration: the latest moment at which the cluster still accepts it.
        granted_ttl: how long it lives, from its issuing to `expiration`, after every cap.
        namespace: the ServiceAccount's namespace.
        service_account: the ServiceAccount's name.
        audiences: who is to accept it.
        lease: `leases/{lease}`. Empty with `validate_only`.
        jti: its id, by which Kubernetes' audit log knows it. Empty with `validate_only`.
        kubernetes_audit_id: under which id Kubernetes' audit log has its issuing. Empty with `validate_only`.
        warnings: what came out otherwise than it was asked.
        replayed: whether it is another token of a lease that an earlier call with the same `request_id` got.
    """

    secret: Secret = field(repr=False)
    expiration: datetime
    token_expiration: datetime
    granted_ttl: timedelta
    namespace: str
    service_account: str
    audiences: tuple[str, ...]
    lease: str
    jti: str
    kubernetes_audit_id: str = ""
    warnings: tuple[TokenWarning, ...] = ()
    replayed: bool = False

    @property
    def token(self) -> str:
        """The token's text."""
        return self.secret.reveal()

    @classmethod
    def of(cls, reply: pb.IssueTokenResponse) -> Self:
        """Take it out of kubevend's answer."""
        return cls(
            secret=Secret(reply.token),
            expiration=reply.expiration.ToDatetime(UTC),
            token_expiration=reply.token_expiration.ToDatetime(UTC),
            granted_ttl=reply.granted_ttl.ToTimedelta(),
            namespace=reply.namespace,
            service_account=reply.service_account,
            audiences=tuple(reply.audiences),
            lease=reply.lease,
            jti=reply.jti,
            kubernetes_audit_id=reply.kubernetes_audit_id,
            warnings=tuple(TokenWarning(w.reason, w.message, dict(w.metadata)) for w in reply.warnings),
            replayed=reply.replayed,
        )


def issue_request(
    role: str,
    *,
    namespace: str = "",
    service_account_name: str = "",
    ttl: timedelta | None = None,
    min_ttl: timedelta | None = None,
    audiences: Sequence[str] = (),
    request_id: str = "",
    validate_only: bool = False,
) -> pb.IssueTokenRequest:
    """Put a request together.

    Args:
        role: `quickstart` or `roles/quickstart`.
        namespace: the ServiceAccount's namespace; left out, the only one that the role allows.
        service_account_name: the ServiceAccount's name; left out, the only one that the role allows.
        ttl: how long the lease should live; left out, the role's.
        min_ttl: the shortest life that is of use.
        audiences: the token's; left out, the role's.
        request_id: a UUID4, by which a call that is made again is known.
        validate_only: only tell what would happen.
    """
    request = pb.IssueTokenRequest(
        role=role if role.startswith("roles/") else f"roles/{role}",
        namespace=namespace,
        service_account_name=service_account_name,
        audiences=audiences,
        request_id=request_id,
        validate_only=validate_only,
    )
    if ttl is not None:
        request.ttl.FromTimedelta(ttl)
    if min_ttl is not None:
        request.min_ttl.FromTimedelta(min_ttl)
    return request


def new_request_id() -> str:
    """A `request_id` that nobody has used."""
    return str(uuid.uuid4())
