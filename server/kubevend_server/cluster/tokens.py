"""TokenRequest: the cluster mints a token for a ServiceAccount.

See https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-request-v1/.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from kubevend_server.cluster.connection import Answer, Connection
from kubevend_server.cluster.failures import Attempt, unreadable
from kubevend_server.policy.grant import Grant

_LONGEST_WARNING = 500
_WARNING = re.compile(r'^299 \S+ "((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token that a cluster minted.

    Attributes:
        token: the token itself; kept out of `repr`.
        jti: its id.
        audiences: as they stand in the token.
        issue_time: its `iat`.
        expire_time: its `exp`.
        ttl: how long it was issued for, after the cluster's own cap.
        kubernetes_audit_id: of its TokenRequest, in Kubernetes' audit log.
        warnings: what the cluster warned of.
    """

    token: str = field(repr=False)
    jti: str
    audiences: tuple[str, ...]
    issue_time: datetime
    expire_time: datetime
    ttl: timedelta
    kubernetes_audit_id: str
    warnings: tuple[str, ...]


async def request_token(connection: Connection, grant: Grant, audit_id: str) -> IssuedToken:
    """Have a cluster mint the token of a grant.

    Args:
        connection: the cluster.
        grant: exactly what to ask for.
        audit_id: under which Kubernetes' audit log shall have the request.

    Raises:
        KubevendError: it was refused, or failed, or nobody can tell (OutcomeUnknown).
    """
    attempt = Attempt(
        host=connection.host,
        what=f"a token for ServiceAccount {grant.namespace}/{grant.service_account}",
        namespace=grant.namespace,
        name=grant.service_account,
        right=(
            f"In namespace {grant.namespace!r}, bind it to a Role with verb create on "
            "serviceaccounts/token for resourceNames "
            f"[{grant.service_account}]; or the namespace does not exist, which Kubernetes does not tell apart."
        ),
        audit_id=audit_id,
    )
    path = f"/api/v1/namespaces/{grant.namespace}/serviceaccounts/{grant.service_account}/token"
    answer = await connection.post(path, _body(grant), attempt)
    try:
        return _read(answer, audit_id)
    except (msgspec.DecodeError, ValueError, OverflowError, OSError) as error:
        raise unreadable(attempt) from error


def _body(grant: Grant) -> dict[str, Any]:
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {
            "audiences": list(grant.audiences),
            "expirationSeconds": int(grant.ttl.total_seconds()),
        },
    }


class _Spec(msgspec.Struct):
    expirationSeconds: int  # noqa: N815 - Kubernetes' name


class _TokenStatus(msgspec.Struct):
    token: str


class _TokenRequest(msgspec.Struct):
    spec: _Spec
    status: _TokenStatus


class _Claims(msgspec.Struct):
    jti: str
    aud: list[str]
    iat: int
    exp: int


def _read(answer: Answer, audit_id: str) -> IssuedToken:
    reply = msgspec.json.decode(answer.body, type=_TokenRequest)
    claims = msgspec.json.decode(_payload(reply.status.token), type=_Claims)
    matches = (_WARNING.match(header) for header in answer.headers.getall("Warning", ()))
    return IssuedToken(
        token=reply.status.token,
        jti=claims.jti,
        audiences=tuple(claims.aud),
        issue_time=datetime.fromtimestamp(claims.iat, UTC),
        expire_time=datetime.fromtimestamp(claims.exp, UTC),
        ttl=timedelta(seconds=reply.spec.expirationSeconds),
        kubernetes_audit_id=audit_id,
        warnings=tuple(_text(match.group(1)) for match in matches if match),
    )


def _text(quoted: str) -> str:
    # A header may hold any bytes; what is no text must not reach an event, which could then not be written.
    return quoted.replace('\\"', '"').encode("utf-8", "replace").decode()[:_LONGEST_WARNING]


def _payload(jwt: str) -> bytes:
    # The signature is the cluster's business: the token came from it a moment ago, over its own TLS connection.
    _header, middle, _signature = jwt.split(".")
    return base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4))
