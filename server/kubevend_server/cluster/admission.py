"""What a cluster's admission does not let kubevend do, found out without doing it.

See https://kubernetes.io/docs/reference/using-api/api-concepts/#dry-run.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from kubevend_server.cluster import failures
from kubevend_server.cluster.connection import Connection, Request
from kubevend_server.cluster.status import parse_status
from kubevend_server.cluster.tokens import token_attempt, token_path, token_request
from kubevend_server.errors import FailedPrecondition

NOT_MADE = "kubevend-check"
"""The name of what is only asked for."""


async def refusal_to_make(connection: Connection, path: str, body: Mapping[str, Any], right: str) -> str:
    """Ask what admission says to the making of an object, which is not made (`dryRun=All`).

    Args:
        connection: the cluster.
        path: of the collection that it would be in.
        body: the object.
        right: which right it takes, in words.

    Returns:
        The words in which admission refuses it; empty where it would be made.

    Raises:
        KubevendError: it is refused by something else, or the cluster could not be asked.
    """
    attempt = connection.attempt(f"to make {NOT_MADE}, as a dry run", right=right)
    request = Request("POST", f"{path}?dryRun=All", body)
    try:
        await connection.call(request, attempt)
    except FailedPrecondition as error:
        return _words(error)
    return ""


async def refusal_of_token(connection: Connection, namespace: str, name: str, seconds: int) -> str:
    """Ask what admission says to a TokenRequest, of which no token can come.

    A dry run would mint one all the same. A token that is to be bound to a Secret which does not exist is refused, but
    only after admission was asked (pkg/registry/core/serviceaccount/storage/token.go).

    Args:
        connection: the cluster.
        namespace: the ServiceAccount's.
        name: the ServiceAccount's, which must exist.
        seconds: how long the token should live.

    Returns:
        The words in which admission refuses it; empty where it does not.

    Raises:
        KubevendError: it is refused by something else, or the cluster could not be asked.
    """
    attempt = token_attempt(connection, namespace, name)
    bound = {"apiVersion": "v1", "kind": "Secret", "name": NOT_MADE}
    spec = {"audiences": [NOT_MADE], "expirationSeconds": seconds, "boundObjectRef": bound}
    request = Request("POST", token_path(namespace, name), token_request(spec))
    try:
        answer = await connection.call(request, attempt, judged=(HTTPStatus.NOT_FOUND,))
    except FailedPrecondition as error:
        return _words(error)
    said = parse_status(answer.body)
    if answer.status == HTTPStatus.NOT_FOUND and not (said and said.details.kind == "secrets"):
        raise failures.from_status(answer.status, answer.headers, answer.body, attempt)
    # Whatever was minted although it cannot be bound is dropped.
    return ""


def _words(error: FailedPrecondition) -> str:
    if error.reason != "KUBERNETES_DENIED":
        raise error
    return error.metadata["kubernetes_message"]
