"""What the cluster lets kubevend do, as it says itself.

See https://kubernetes.io/docs/reference/kubernetes-api/authorization-resources/.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from kubevend_server.cluster.answers import decode
from kubevend_server.cluster.connection import Connection
from kubevend_server.cluster.failures import Attempt, Forbidden, not_covered
from kubevend_server.cluster.reviews import BASIC_GRANT, BASIC_RIGHT
from kubevend_server.errors import KubevendError
from kubevend_server.rights import Right
from kubevend_server.text import shown

_API = "authorization.k8s.io/v1"

_LONGEST_REASON = 500
_MOST_NAMES = 20
_LONGEST_NAME = 253
# A DNS subdomain (RFC 1123), as Kubernetes wants the name of a ServiceAccount.
_LABEL = "[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")

_Answer = TypeVar("_Answer", bound=msgspec.Struct)


REVIEW_TOKENS = Right("create", "tokenreviews", "authentication.k8s.io")
"""The right to review tokens."""


async def has_right(connection: Connection, right: Right) -> tuple[bool, str]:
    """Ask a cluster whether kubevend has a right (SelfSubjectAccessReview).

    Returns:
        Whether, and what the cluster says of why: the binding that grants it.

    Raises:
        KubevendError: the cluster could not be asked.
    """
    status = await _ask(connection, "SelfSubjectAccessReview", _attributes(right), _AccessReview)
    return status.status.allowed, shown(status.status.reason, _LONGEST_REASON)


def _attributes(right: Right) -> dict[str, dict[str, str]]:
    """The spec of a SelfSubjectAccessReview."""
    if right.path:
        return {"nonResourceAttributes": {"verb": right.verb, "path": right.path}}
    resource, _, subresource = right.resource.partition("/")
    attributes = {
        "verb": right.verb,
        "group": right.group,
        "resource": resource,
        "subresource": subresource,
        "namespace": right.namespace,
        "name": right.name,
    }
    return {"resourceAttributes": {key: value for key, value in attributes.items() if value}}


async def covered_service_accounts(connection: Connection, namespace: str) -> tuple[str, ...]:
    """Ask a cluster for which ServiceAccounts of a namespace kubevend may request tokens (SelfSubjectRulesReview).

    Returns:
        For people, the resourceNames of all rules that grant it; empty where there is none. Of more than 20, how many
        more there are stands in place of the twentieth and those after it.

    Raises:
        KubevendError: the cluster could not be asked.
    """
    review = await _ask(connection, "SelfSubjectRulesReview", {"namespace": namespace}, _RulesReview)
    granting = (rule for rule in review.status.resourceRules or () if _grants_tokens(rule))
    names = sorted({name for rule in granting for name in rule.resourceNames if _is_name(name)})
    if len(names) <= _MOST_NAMES:
        return tuple(names)
    kept = _MOST_NAMES - 1
    return (*names[:kept], f"{len(names) - kept} more")


async def explain(connection: Connection, refusal: Forbidden, attempt: Attempt) -> KubevendError:
    """Tell whether a refused TokenRequest lacks the whole right, or only its name among the resourceNames.

    Returns:
        `refusal`, or what tells more. It stays as it is where the cluster does not say.
    """
    try:
        covered = await covered_service_accounts(connection, attempt.namespace)
    except KubevendError:
        return refusal
    return not_covered(refusal, attempt) if covered else refusal


async def _ask(connection: Connection, kind: str, spec: Mapping[str, Any], answer_type: type[_Answer]) -> _Answer:
    attempt = connection.attempt(
        f"a {kind}",
        right=BASIC_RIGHT,
        grant=BASIC_GRANT,
    )
    body = {"apiVersion": _API, "kind": kind, "spec": spec}
    answer = await connection.post(f"/apis/{_API}/{kind.lower()}s", body, attempt)
    return decode(answer.body, answer_type, attempt)


def _is_name(text: str) -> bool:
    return len(text) <= _LONGEST_NAME and _NAME.fullmatch(text) is not None


def _grants_tokens(rule: _Rule) -> bool:
    wanted = (("create", rule.verbs), ("", rule.apiGroups))
    named = {"serviceaccounts/token", "*/token", "*"} & set(rule.resources)
    return bool(named) and all({value, "*"} & set(found) for value, found in wanted)


class _Access(msgspec.Struct):
    allowed: bool
    reason: str = ""


class _AccessReview(msgspec.Struct):
    status: _Access


class _Rule(msgspec.Struct):
    verbs: list[str]
    apiGroups: list[str] = []  # noqa: N815 - Kubernetes' name
    resources: list[str] = []
    resourceNames: list[str] = []  # noqa: N815 - Kubernetes' name


class _Rules(msgspec.Struct):
    resourceRules: list[_Rule] | None = None  # noqa: N815 - Kubernetes' name


class _RulesReview(msgspec.Struct):
    status: _Rules
