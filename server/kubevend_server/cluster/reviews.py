"""TokenReview and SelfSubjectReview: a cluster says whose a token is, and who kubevend itself is.

See https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from kubevend_server.cluster.answers import decode
from kubevend_server.cluster.connection import Connection
from kubevend_server.cluster.failures import unreadable
from kubevend_server.text import LONGEST_ID, is_plain, shown

# See https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#additional-metadata-in-pod-bound-tokens
_CREDENTIAL_ID = "authentication.kubernetes.io/credential-id"
_POD = "authentication.kubernetes.io/pod-name"
_NODE = "authentication.kubernetes.io/node-name"
_LONGEST_USERNAME = 1000
_LONGEST_NAME = 253
_LONGEST_ERROR = 500

BASIC_RIGHT = "what the ClusterRoleBinding system:basic-user gives to everybody, where nobody took it away"
BASIC_GRANT = "kubectl create clusterrolebinding kubevend-basic-user --clusterrole=system:basic-user {identity}"
"""What it takes to ask a cluster about oneself."""


@dataclass(frozen=True, slots=True)
class Reviewed:
    """What a cluster says of a token.

    Attributes:
        authenticated: whether it is valid for the audience that was asked for.
        username: whose it is, as `system:serviceaccount:{namespace}:{name}`.
        jti: the token's id, or empty.
        pod: the name of the pod that the token is bound to, or empty.
        node: the name of that pod's node, or empty.
        error: why it is not valid, in the cluster's words; never holds the token.
    """

    authenticated: bool
    username: str = ""
    jti: str = ""
    pod: str = ""
    node: str = ""
    error: str = ""


async def review_token(connection: Connection, token: str, audience: str) -> Reviewed:
    """Ask a cluster whose a token is, and whether it is meant for `audience`.

    Raises:
        KubevendError: the cluster could not be asked, or kubevend may not ask it.
    """
    attempt = connection.attempt(
        "a TokenReview of the caller's token",
        right="the verb create on tokenreviews.authentication.k8s.io",
        grant=(
            "kubectl create clusterrolebinding kubevend-reviews-tokens --clusterrole=system:auth-delegator {identity}"
        ),
        audit_id=str(uuid.uuid4()),
    )
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": [audience]},
    }
    answer = await connection.post("/apis/authentication.k8s.io/v1/tokenreviews", body, attempt)
    status = decode(answer.body, _TokenReview, attempt).status
    username, extra = status.user.username, status.user.extra
    jti = _first(extra, _CREDENTIAL_ID).removeprefix("JTI=")
    pod, node = _first(extra, _POD), _first(extra, _NODE)
    # A name or an id that was cut or escaped would be another one.
    named = ((jti, LONGEST_ID), (username, _LONGEST_USERNAME), (pod, _LONGEST_NAME), (node, _LONGEST_NAME))
    if not all(is_plain(text, most) for text, most in named):
        raise unreadable(attempt)
    # An authenticator that knows no audiences answers without any; such a token was not meant for us.
    authenticated = status.authenticated and audience in status.audiences
    return Reviewed(authenticated, username, jti, pod, node, shown(status.error, _LONGEST_ERROR))


async def review_self(connection: Connection) -> str:
    """Ask a cluster as whom it knows kubevend (SelfSubjectReview, since Kubernetes 1.28).

    Returns:
        The username.

    Raises:
        KubevendError: it does not accept the credential, or could not be asked.
    """
    attempt = connection.attempt(
        "a SelfSubjectReview",
        right=BASIC_RIGHT,
        grant=BASIC_GRANT,
    )
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    answer = await connection.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", body, attempt)
    found = decode(answer.body, _SelfReview, attempt).status.userInfo.username
    if not found or not is_plain(found, _LONGEST_USERNAME):
        raise unreadable(attempt)
    return found


def _first(extra: Mapping[str, Sequence[str]], key: str) -> str:
    return next(iter(extra.get(key, ())), "")


class _User(msgspec.Struct):
    username: str = ""
    extra: dict[str, list[str]] = {}


class _Status(msgspec.Struct):
    user: _User = msgspec.field(default_factory=_User)
    authenticated: bool = False
    audiences: list[str] = []
    error: str = ""


class _TokenReview(msgspec.Struct):
    status: _Status


class _Self(msgspec.Struct):
    userInfo: _User  # noqa: N815 - Kubernetes' name


class _SelfReview(msgspec.Struct):
    status: _Self
