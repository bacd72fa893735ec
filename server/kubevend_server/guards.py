"""Looking at the admission policies of a cluster: whether they hold kubevend to what its roles need."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from kubevend_server.cluster.admission import NOT_MADE, refusal_of_token, refusal_to_make
from kubevend_server.cluster.connection import Connection
from kubevend_server.errors import KubevendError
from kubevend_server.findings import Finding
from kubevend_server.kinds import RBAC_GROUP, RESOURCES
from kubevend_server.permissions import NO_TIME, Looking, each, names_account
from kubevend_server.rbac.admission import Policy, Topic
from kubevend_server.rbac.needs import NOWHERE
from kubevend_server.roles import ANY, RoleKind

# In a namespace that every cluster has.
_ANYWHERE = "default"

_GUARDED: dict[Topic, tuple[str, ...]] = {
    "secrets": ("secrets",),
    "tokens": ("serviceaccounts/token",),
    "serviceaccounts": ("serviceaccounts",),
    "bindings": ("rolebindings",),
    "roles": ("roles", "clusterroles"),
}
_OF_RBAC = ("rolebindings", "roles", "clusterroles")
_KINDS = {RESOURCES[kind].plural: kind for kind in get_args(RoleKind)}
_POSSIBLE: dict[Topic, str] = {
    "secrets": (
        "delete every Secret there, put another in its place, and leave long-lived tokens of ServiceAccounts (type "
        "kubernetes.io/service-account-token) for whoever reads Secrets"
    ),
    "tokens": (
        "request tokens for any audience and any time, and of every ServiceAccount there, where RBAC does not name them"
    ),
    "serviceaccounts": "delete every ServiceAccount there, and with it all of its tokens",
    "bindings": "bind every ServiceAccount and everybody else to what its roles name, and delete every binding there",
    "roles": "pass all of its rights on to others, whom no policy holds, and delete every role there",
}


@dataclass(frozen=True, slots=True)
class Guard:
    """A policy, and what came of looking at it.

    Attributes:
        mends: whether to apply the policy mends what was found.
    """

    policy: Policy
    finding: Finding
    mends: bool


@dataclass(frozen=True, slots=True)
class _Probe:
    """A request that a policy refuses. If it were done all the same, what it makes would be of no use.

    Attributes:
        by: the permission that lets it come as far as admission.
        fields: of the object to make. It has none of the labels that the policies ask for.
        too_long: for tokens: seconds that are too many.
    """

    by: Finding
    fields: Mapping[str, Any] = field(default_factory=dict)
    too_long: int = 0

    async def ask(self, connection: Connection) -> str:
        """The words in which admission refuses it, or none."""
        by, resource, group = self.by, self.by.metadata["resource"], self.by.metadata.get("group", "")
        namespace = _ANYWHERE if by.namespace in {ANY, NOWHERE} else by.namespace
        if self.too_long:
            name = by.service_account if names_account(by) else _ANYWHERE
            return await refusal_of_token(connection, namespace, name, self.too_long)
        place = "" if by.namespace == NOWHERE else f"namespaces/{namespace}/"
        path = f"/{f'apis/{group}' if group else 'api'}/v1/{place}{resource}"
        body = {"metadata": {"name": NOT_MADE}, **self.fields}
        return await refusal_to_make(connection, path, body, f"the verb create on {resource}")


async def look_at_policies(
    looking: Looking, policies: Iterable[Policy], permissions: Sequence[Finding], own_role: str, *, known: bool
) -> list[Guard]:
    """Look whether the policies are in force, by asking for what they refuse.

    Args:
        looking: how.
        policies: as they should be.
        permissions: what came of looking at the rights: without the right to make something, RBAC refuses it already.
        own_role: the name of the Roles that give kubevend its rights.
        known: whether that is all that they should hold kubevend to; there may be roles that must not be told of.
    """

    async def look(policy: Policy) -> Guard:
        probe = _probe(policy, permissions, own_role)
        return await _guard(looking, policy, probe, known=known)

    return await each(list(policies), look)


async def _guard(looking: Looking, policy: Policy, probe: _Probe | None, *, known: bool) -> Guard:
    about = Finding("ADMISSION", "SKIPPED", "", metadata={"identity": looking.identity, "policy": policy.name})
    if probe is None:
        resource = " or ".join(_GUARDED[policy.topic])
        message = f"Whether policy {policy.name} is in force is not known without the right to create {resource}."
        return Guard(policy, replace(about, message=message), mends=True)
    about = replace(about, namespace=probe.by.namespace, roles=probe.by.roles)
    if looking.is_late():
        return Guard(policy, replace(about, message=NO_TIME), mends=False)
    try:
        words = await probe.ask(looking.connection)
    except KubevendError as error:
        message = f"Whether policy {policy.name} is in force could not be found out: {error.message}"
        return Guard(policy, replace(about, message=message), mends=False)
    return _judged(policy, about, words, known=known)


def _judged(policy: Policy, about: Finding, words: str, *, known: bool) -> Guard:
    """What it means that what a policy refuses was refused in these words, or in none."""
    if not words:
        message = (
            f"Policy {policy.name} is not in force. Whoever takes kubevend over can {_POSSIBLE[policy.topic]}. Apply "
            "missing_rbac, or what `kubevend-server rbac` prints."
        )
        return Guard(
            policy, replace(about, state="WARNING", reason="ADMISSION_POLICY_MISSING", message=message), mends=True
        )
    if policy.name not in words:
        message = f"Whether policy {policy.name} is in force is not known: something else refuses already, {words}"
        return Guard(policy, replace(about, message=message), mends=False)
    if known and policy.version not in words:
        message = (
            f"Policy {policy.name} is in force, but is not that of the roles as they are now: it can refuse what they "
            "allow, or allow what they no longer do. Apply missing_rbac, or what `kubevend-server rbac` prints."
        )
        return Guard(
            policy, replace(about, state="WARNING", reason="ADMISSION_POLICY_OLD", message=message), mends=True
        )
    return Guard(policy, replace(about, state="PASSED", message=f"Policy {policy.name} is in force."), mends=False)


def _probe(policy: Policy, permissions: Sequence[Finding], own_role: str) -> _Probe | None:
    """How to ask for what a policy refuses; None without the right to ask for it."""
    permitted = [found for found in permissions if _permits(found, "create", _GUARDED[policy.topic])]
    if not permitted:
        return None
    # In one namespace, if it is permitted in one: the policy holds in all of them.
    by = next((found for found in permitted if found.namespace not in {ANY, NOWHERE}), permitted[0])
    if policy.topic == "tokens":
        return _Probe(by, too_long=int(policy.longest_life.total_seconds()) + 1)
    if policy.topic == "secrets":
        return _Probe(by, {"type": "Opaque"})
    return _Probe(by, _bound(by, permissions, own_role) if policy.topic == "bindings" else {})


def _bound(by: Finding, permissions: Iterable[Finding], own_role: str) -> Mapping[str, Any]:
    """A binding of nobody to something that may be bound: what a role names, or else its own rights."""
    kind, name = ("ClusterRole" if by.namespace == ANY else "Role", own_role)
    for found in permissions:
        if _permits(found, "bind", _KINDS) and found.namespace == by.namespace:
            kind, name = _KINDS[found.metadata["resource"]], found.metadata["name"]
    return {"roleRef": {"apiGroup": RBAC_GROUP, "kind": kind, "name": name}}


def _permits(found: Finding, verb: str, resources: Collection[str]) -> bool:
    told = found.metadata
    # Rules of generated roles may name any group, also one that would lead a request elsewhere.
    group = told.get("group", "")
    known = group == (RBAC_GROUP if told.get("resource") in _OF_RBAC else "")
    return found.state == "PASSED" and known and told.get("verb") == verb and told.get("resource") in resources
