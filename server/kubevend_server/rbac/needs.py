"""Which rights roles need in a cluster: the least with which everything that they allow works."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import msgspec

from kubevend_server.kinds import RBAC_GROUP, RESOURCES
from kubevend_server.policy.rbac_rules import parse_rules
from kubevend_server.rights import Right
from kubevend_server.roles import ANY, GeneratedRole, KubernetesRole, Role

Purpose = Literal["TOKENS", "ANCHORS", "ACCOUNTS", "CREDENTIALS", "BIND", "ROLES", "GRANT", "NAMESPACES"]
"""What a right is for.

TOKENS: to request tokens of ServiceAccounts that exist; ANCHORS: to make and delete the Secrets that revocable tokens
are bound to; ACCOUNTS: to make, find and delete ServiceAccounts and bindings; CREDENTIALS: to request the tokens of
these; BIND: to bind them to a role that exists; ROLES: to make, find and delete roles; GRANT: what those roles grant,
since Kubernetes lets nobody grant what they do not hold; NAMESPACES: to know the labels of namespaces.
"""

NOWHERE = ""
"""In place of a namespace: what is in none, or holds in all of them at once."""

_MADE = ("create", "delete", "list")


@dataclass(frozen=True, slots=True)
class Need:
    """One right, and what for.

    Attributes:
        purpose: what for.
        where: a namespace; `*` for every one; NOWHERE.
        right: as a cluster is asked for it.
    """

    purpose: Purpose
    where: str
    right: Right


Needs = Mapping[Need, tuple[str, ...]]
"""The names of the roles that need each right, in the order of namespaces, purposes and rights."""


class Rule(msgspec.Struct, frozen=True, omit_defaults=True):
    """A PolicyRule (https://kubernetes.io/docs/reference/kubernetes-api/authorization-resources/role-v1/)."""

    verbs: tuple[str, ...]
    apiGroups: tuple[str, ...] = ()  # noqa: N815 - Kubernetes' name
    resources: tuple[str, ...] = ()
    resourceNames: tuple[str, ...] = ()  # noqa: N815 - Kubernetes' name
    nonResourceURLs: tuple[str, ...] = ()  # noqa: N815 - Kubernetes' name


def needs(roles: Iterable[Role]) -> Needs:
    """What these roles need, in order."""
    found: dict[Need, dict[str, None]] = defaultdict(dict)
    for role in roles:
        for need in _of(role):
            found[need][role.name] = None
    return {need: tuple(found[need]) for need in sorted(found, key=_place)}


def rules_of(generated: GeneratedRole) -> tuple[Rule, ...]:
    """The rules that a generated role grants."""
    return msgspec.json.decode(parse_rules(generated.rules, generated.kind), type=tuple[Rule, ...])


def service_account(need: Need) -> str:
    """The ServiceAccount whose tokens the right is for: a name, `*` for all, or empty for all other rights."""
    return (need.right.name or ANY) if need.purpose == "TOKENS" else ""


def _place(need: Need) -> tuple[object, ...]:
    right = need.right
    return (
        need.where,
        get_args(Purpose).index(need.purpose),
        (right.group, right.resource, right.verb, right.name, right.path),
    )


def _of(role: Role) -> Iterator[Need]:
    for where in role.allowed_namespaces:
        yield from _in(role, where)
    if role.allowed_namespace_selector is not None:
        # Which namespaces these are only shows in their labels, and changes with them.
        yield from _in(role, ANY)
        yield from _each("NAMESPACES", NOWHERE, ("list", "watch"), "namespaces")
    if role.cluster_wide_allowed and role.makes_accounts:
        yield from _each("ACCOUNTS", NOWHERE, _MADE, "clusterrolebindings", RBAC_GROUP)
        yield from _to_bind(role.kubernetes_role, NOWHERE)
    if role.generated_role is not None and role.generated_role.kind == "ClusterRole":
        yield from _each("ROLES", NOWHERE, _MADE, "clusterroles", RBAC_GROUP)
        # Whoever makes a ClusterRole must hold its rules in every namespace, wherever it is then bound.
        yield from _to_grant(role.generated_role, NOWHERE)


def _in(role: Role, where: str) -> Iterator[Need]:
    """What a role needs in a namespace."""
    if role.makes_accounts:
        yield from _to_make(role, where)
        return
    for name in role.allowed_service_accounts:
        yield from _each("TOKENS", where, ("create",), "serviceaccounts/token", name="" if name == ANY else name)
    if role.revocation != "NONE":
        # Never to read one: kubevend knows the names of those that it made.
        yield from _each("ANCHORS", where, ("create", "delete"), "secrets")


def _to_make(role: Role, where: str) -> Iterator[Need]:
    yield from _each("ACCOUNTS", where, _MADE, "serviceaccounts")
    yield from _each("ACCOUNTS", where, _MADE, "rolebindings", RBAC_GROUP)
    yield from _each("CREDENTIALS", where, ("create",), "serviceaccounts/token")
    yield from _to_bind(role.kubernetes_role, where)
    if role.generated_role is not None and role.generated_role.kind == "Role":
        yield from _each("ROLES", where, _MADE, "roles", RBAC_GROUP)
        yield from _to_grant(role.generated_role, where)


def _to_bind(to: KubernetesRole | None, where: str) -> Iterator[Need]:
    if to is not None:
        yield from _each("BIND", where, ("bind",), RESOURCES[to.kind].plural, RBAC_GROUP, to.name)


def _to_grant(generated: GeneratedRole, where: str) -> Iterator[Need]:
    for rule in rules_of(generated):
        for verb in rule.verbs:
            for path in rule.nonResourceURLs:
                yield Need("GRANT", where, Right(verb, "", path=path))
            for group in rule.apiGroups:
                for resource in rule.resources:
                    for name in rule.resourceNames or ("",):
                        yield from _each("GRANT", where, (verb,), resource, group, name)


def _each(
    purpose: Purpose, where: str, verbs: Iterable[str], resource: str, group: str = "", name: str = ""
) -> Iterator[Need]:
    namespace = "" if where in {NOWHERE, ANY} else where
    for verb in verbs:
        yield Need(purpose, where, Right(verb, resource, group, namespace, name))
