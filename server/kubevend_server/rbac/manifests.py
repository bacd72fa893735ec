"""The RBAC that kubevend needs in a cluster: the least that works, as YAML that says what each object is for.

A Role and a RoleBinding for each namespace, with resourceNames where there can be some; a ClusterRole only for what has
no smaller form. See https://kubernetes.io/docs/reference/access-authn-authz/rbac/.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from kubevend_server.kinds import RBAC_GROUP
from kubevend_server.rbac.needs import NOWHERE, Need, Needs, Purpose
from kubevend_server.rbac.written import listed, quoted, short, subject
from kubevend_server.rights import Right
from kubevend_server.roles import ANY

_Part = Literal["names", "verbs", "resources", "groups", "paths"]
_PARTS: tuple[_Part, ...] = ("names", "verbs", "resources", "groups", "paths")

_WHAT_FOR: dict[Purpose, str] = {
    "TOKENS": "to request tokens of {names} and of no other ServiceAccount.",
    "ANCHORS": "to make and delete anchors, empty Secrets that revocable tokens are bound to. Never to read a Secret.",
    "ACCOUNTS": "to make ServiceAccounts and their bindings, one for each lease, and to find and delete these.",
    "CREDENTIALS": "to request the tokens of those ServiceAccounts, whose names nobody knows beforehand.",
    "BIND": "to bind those ServiceAccounts to {names}.",
    "ROLES": "to make roles, one for each lease, and to find and delete these.",
    "GRANT": (
        "what those roles grant, since nobody may grant what they do not hold. The verbs escalate and bind on roles "
        "would do instead, and let kubevend grant itself everything: leave them out."
    ),
    "NAMESPACES": "to know namespaces by their labels.",
}
_ANY_TOKENS = "to request tokens of every ServiceAccount, which is smaller once the roles name those that they mean."


@dataclass(frozen=True, slots=True)
class _Rule:
    """A rule as it is written. The empty name stands for every one."""

    names: tuple[str, ...]
    verbs: tuple[str, ...]
    resources: tuple[str, ...]
    groups: tuple[str, ...]
    paths: tuple[str, ...]


def role_manifests(config: str, identity: str, needed: Needs) -> list[str]:
    """The RBAC by which an identity has what roles need.

    Args:
        config: the name of the config that it is for; it becomes part of the objects' names.
        identity: who must have it, as the cluster calls it: `system:serviceaccount:{namespace}:{name}`, or a user.
        needed: the rights. All that a namespace needs must be there, since what is applied replaces what was.

    Returns:
        The objects, each as YAML.
    """
    name = own_name(config, identity)
    everywhere = {need: roles for need, roles in needed.items() if need.where in {NOWHERE, ANY}}
    found = list(_granted("", name, identity, _why_everywhere(everywhere), _rules(everywhere))) if everywhere else []
    for namespace in sorted({need.where for need in needed} - {NOWHERE, ANY}):
        inside = {need: roles for need, roles in needed.items() if need.where == namespace}
        why = f"What kubevend needs in namespace {namespace}, and in no other, for {_roles(inside)}."
        found += _granted(namespace, name, identity, why, _rules(inside))
    return found


def review_manifests(identity: str) -> list[str]:
    """The RBAC by which an identity may review the tokens of callers."""
    name = f"kubevend-callers:{short(identity)}"
    why = "Lets kubevend ask whose token a caller shows (TokenReview), which is in no namespace."
    rule = _Rule(("",), ("create",), ("tokenreviews",), ("authentication.k8s.io",), ())
    return list(_granted("", name, identity, why, _written(rule)))


def own_name(config: str, identity: str) -> str:
    """The name of kubevend's own Roles. Its colons keep it out of the names of what kubevend makes."""
    return f"kubevend:{config.removeprefix('configs/')}:{short(identity)}"


def _why_everywhere(needed: Needs) -> str:
    why = f"What kubevend needs in all namespaces, or outside of them, for {_roles(needed)}."
    wide = {need: roles for need, roles in needed.items() if need.where == ANY}
    if wide:
        why += (
            f" All namespaces, since {_roles(wide)} allows that, or chooses them by labels, which RBAC does not know. "
            "A Role with the same rules in each of those namespaces does too, if you make one in each new namespace."
        )
    return why


def _rules(needed: Needs) -> str:
    rights = {need.right for need in needed}
    by_purpose: dict[tuple[str, Purpose], dict[Need, tuple[str, ...]]] = defaultdict(dict)
    for need, roles in needed.items():
        # Whoever may do it for every name needs no right for one.
        if need.purpose == "GRANT" or not need.right.name or replace(need.right, name="") not in rights:
            by_purpose[need.where, need.purpose][need] = roles
    return "".join(
        f"  # For {_roles(part)}: {_what_for(purpose, part)}\n"
        + "".join(map(_written, _joined(need.right for need in part)))
        for (_, purpose), part in by_purpose.items()
    )


def _what_for(purpose: Purpose, needed: Needs) -> str:
    names = sorted({need.right.name for need in needed})
    if purpose == "TOKENS":
        return _ANY_TOKENS if "" in names else _WHAT_FOR[purpose].format(names=", ".join(names))
    # Quoted: roles may be called anything, and a line break would end the comment.
    return _WHAT_FOR[purpose].format(names=", ".join(map(quoted, names)))


def _joined(rights: Iterable[Right]) -> list[_Rule]:
    """Rules that give these rights and no others, few of them."""
    rules = {_single(right) for right in rights}
    for part in _PARTS:
        merged: dict[_Rule, set[str]] = defaultdict(set)
        for rule in rules:
            merged[replace(rule, **{part: ()})].update(getattr(rule, part))
        rules = {replace(rest, **{part: _all_of(part, values)}) for rest, values in merged.items()}
    return sorted(rules, key=lambda rule: (rule.groups, rule.resources, rule.paths, rule.verbs, rule.names))


def _single(right: Right) -> _Rule:
    if right.path:
        return _Rule((), (right.verb,), (), (), (right.path,))
    return _Rule((right.name,), (right.verb,), (right.resource,), (right.group,), ())


def _all_of(part: _Part, values: set[str]) -> tuple[str, ...]:
    return ("",) if part == "names" and "" in values else tuple(sorted(values))


def _written(rule: _Rule) -> str:
    if rule.paths:
        return f"  - nonResourceURLs: {listed(rule.paths)}\n    verbs: {listed(rule.verbs)}\n"
    names = "" if rule.names == ("",) else f"    resourceNames: {listed(rule.names)}\n"
    return (
        f"  - apiGroups: {listed(rule.groups)}\n    resources: {listed(rule.resources)}\n"
        f"    verbs: {listed(rule.verbs)}\n{names}"
    )


def _roles(needed: Needs) -> str:
    return ", ".join(sorted({role for roles in needed.values() for role in roles}))


def _granted(namespace: str, name: str, identity: str, why: str, rules: str) -> Iterator[str]:
    kind = "Role" if namespace else "ClusterRole"
    place = f"  namespace: {quoted(namespace)}\n" if namespace else ""
    named = quoted(name)
    yield f"# {why}\napiVersion: {RBAC_GROUP}/v1\nkind: {kind}\nmetadata:\n  name: {named}\n{place}rules:\n{rules}"
    yield (
        f"# Gives that right to kubevend.\napiVersion: {RBAC_GROUP}/v1\nkind: {kind}Binding\n"
        f"metadata:\n  name: {named}\n{place}"
        f"roleRef:\n  apiGroup: {RBAC_GROUP}\n  kind: {kind}\n  name: {named}\nsubjects:\n{subject(identity)}"
    )
