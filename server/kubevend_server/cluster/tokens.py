"""TokenRequest: the cluster mints a token for a ServiceAccount.

See https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-request-v1/.
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

import msgspec

from kubevend_server.cluster.answers import decode
from kubevend_server.cluster.connection import Answer, Connection, Request
from kubevend_server.cluster.failures import Attempt, Forbidden, anchor_gone, from_status, unreadable
from kubevend_server.cluster.rights import explain
from kubevend_server.errors import FailedPrecondition
from kubevend_server.leases import ClusterObject
from kubevend_server.policy.grant import Grant
from kubevend_server.text import LONGEST_ID, is_plain, shown

_LONGEST_WARNING = 500
_MOST_WARNINGS = 20
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
        bound: name and UID of the Secret with which it ends, as they stand in the token; empty where there is none.
    """

    token: str = field(repr=False)
    jti: str
    audiences: tuple[str, ...]
    issue_time: datetime
    expire_time: datetime
    ttl: timedelta
    kubernetes_audit_id: str
    warnings: tuple[str, ...]
    bound: tuple[str, str] = ("", "")


async def request_token(
    connection: Connection,
    grant: Grant,
    audit_id: str,
    bound: ClusterObject | None = None,
    ttl: timedelta | None = None,
) -> IssuedToken:
    """Have a cluster mint the token of a grant.

    Args:
        connection: the cluster.
        grant: exactly what to ask for.
        audit_id: under which Kubernetes' audit log shall have the request.
        bound: the Secret to bind the token to, which then lives no longer than it; None binds it to nothing.
        ttl: for how long to ask in place of the grant's, at least 600 s.

    Raises:
        AnchorGone: the Secret is not there, or is another one than `bound`. Nothing was minted.
        KubevendError: it was refused, or failed, or nobody can tell (OutcomeUnknown).
    """
    attempt = token_attempt(connection, grant.namespace, grant.service_account, audit_id)
    path, body = token_path(grant.namespace, grant.service_account), _body(grant, bound, ttl or grant.ttl)
    try:
        answer = await _mint(connection, path, body, attempt, bound)
    except Forbidden as refusal:
        raise await explain(connection, refusal, attempt) from refusal
    try:
        return _read(answer, attempt)
    except (ValueError, OverflowError, OSError) as error:
        raise unreadable(attempt) from error


def token_attempt(connection: Connection, namespace: str, name: str, audit_id: str = "") -> Attempt:
    """Describe a TokenRequest, for the words of its errors."""
    role = f"kubevend-issues-{name}"
    return connection.attempt(
        f"a token for ServiceAccount {namespace}/{name}",
        namespace=namespace,
        name=name,
        right=(
            f"the verb create on serviceaccounts/token in namespace {namespace!r} (which may also not exist: a cluster "
            "does not tell that to whoever has no rights there)"
        ),
        grant=(
            f"kubectl create role {role} --namespace={namespace} --verb=create --resource=serviceaccounts/token "
            f"--resource-name={name} && kubectl create rolebinding {role} --namespace={namespace} --role={role} "
            "{identity}"
        ),
        audit_id=audit_id,
        mints=True,
    )


async def probe_service_account(connection: Connection, namespace: str, name: str) -> bool:
    """Find out whether a ServiceAccount is there, with no other right than that to request its tokens.

    A lifetime of one second is always refused, but only after the ServiceAccount was looked up
    (pkg/registry/core/serviceaccount/storage/token.go), so this mints nothing.

    Returns:
        Whether a token was minted all the same, and dropped: a webhook has changed the lifetime.

    Raises:
        KubevendError: it is not there, or this could not be found out.
    """
    attempt = replace(token_attempt(connection, namespace, name, str(uuid.uuid4())), mints=False)
    body = token_request({"audiences": ["kubevend-check"], "expirationSeconds": 1})
    try:
        await connection.post(token_path(namespace, name), body, attempt)
    except FailedPrecondition as refusal:
        if refusal.metadata.get("http_status") != str(HTTPStatus.UNPROCESSABLE_ENTITY.value):
            raise
        return False
    return True


def token_path(namespace: str, name: str) -> str:
    """Where the tokens of a ServiceAccount are requested."""
    return f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"


def token_request(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A TokenRequest as it is sent."""
    return {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}


def _body(grant: Grant, bound: ClusterObject | None, ttl: timedelta) -> dict[str, Any]:
    spec: dict[str, Any] = {"audiences": list(grant.audiences), "expirationSeconds": int(ttl.total_seconds())}
    if bound is not None:
        reference = {"apiVersion": "v1", "kind": bound.kind, "name": bound.name, "uid": bound.uid}
        spec["boundObjectRef"] = {key: value for key, value in reference.items() if value}
    return token_request(spec)


async def _mint(
    connection: Connection, path: str, body: dict[str, Any], attempt: Attempt, bound: ClusterObject | None
) -> Answer:
    if bound is None:
        return await connection.post(path, body, attempt)
    judged = (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)
    answer = await connection.call(Request("POST", path, body), attempt, judged)
    if answer.status in judged:
        gone = anchor_gone(answer.status, answer.body, attempt, bound.name)
        raise gone or from_status(answer.status, answer.headers, answer.body, attempt)
    return answer


class _Spec(msgspec.Struct):
    expirationSeconds: int  # noqa: N815 - Kubernetes' name


class _TokenStatus(msgspec.Struct):
    token: str


class _TokenRequest(msgspec.Struct):
    spec: _Spec
    status: _TokenStatus


class _Bound(msgspec.Struct):
    name: str = ""
    uid: str = ""


class _Private(msgspec.Struct):
    """Kubernetes' own claims (pkg/serviceaccount/claims.go)."""

    secret: _Bound = msgspec.field(default_factory=_Bound)


class _Claims(msgspec.Struct):
    jti: str
    aud: list[str]
    iat: int
    exp: int
    own: _Private = msgspec.field(name="kubernetes.io", default_factory=_Private)


def _read(answer: Answer, attempt: Attempt) -> IssuedToken:
    reply = decode(answer.body, _TokenRequest, attempt)
    claims = decode(_payload(reply.status.token), _Claims, attempt)
    # What was cut or escaped would be another id, or another audience.
    if not claims.jti or not is_plain(claims.jti, LONGEST_ID) or not all(map(str.isprintable, claims.aud)):
        raise unreadable(attempt)
    matches = (_WARNING.match(header) for header in answer.headers.getall("Warning", ()))
    return IssuedToken(
        token=reply.status.token,
        jti=claims.jti,
        audiences=tuple(claims.aud),
        issue_time=datetime.fromtimestamp(claims.iat, UTC),
        expire_time=datetime.fromtimestamp(claims.exp, UTC),
        ttl=timedelta(seconds=reply.spec.expirationSeconds),
        kubernetes_audit_id=attempt.audit_id,
        warnings=tuple(_text(match.group(1)) for match in matches if match)[:_MOST_WARNINGS],
        bound=(claims.own.secret.name, claims.own.secret.uid),
    )


def _text(quoted: str) -> str:
    # A header may hold any bytes; what is no text must not reach an event, which could then not be written.
    return shown(quoted.replace('\\"', '"'), _LONGEST_WARNING)


def _payload(jwt: str) -> bytes:
    # The signature is the cluster's business: the token came from it a moment ago, over its own TLS connection.
    _header, middle, _signature = jwt.split(".")
    return base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4))
