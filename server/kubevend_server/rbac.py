"""The RBAC that kubevend needs in a cluster: the least that works, as YAML that says what each object is for.

A Role and a RoleBinding for each namespace, with resourceNames; a ClusterRole only for what has no smaller form. See
https://kubernetes.io/docs/reference/access-authn-authz/rbac/.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from kubevend_server.roles import ANY, Role

_SERVICE_ACCOUNT = re.compile("system:serviceaccount:([a-z0-9.-]{1,63}):([a-z0-9.-]{1,253})")
_GROUP = "rbac.authorization.k8s.io"


@dataclass(frozen=True, slots=True, order=True)
class Pair:
    """The ServiceAccounts whose tokens a role issues: a namespace and a name, either of them `*` for all."""

    namespace: str
    service_account: str


Needs = Mapping[Pair, tuple[str, ...]]
"""The names of the roles that need each pair."""


def needs(roles: Iterable[Role]) -> Needs:
    """What these roles need, in order."""
    found: dict[Pair, list[str]] = defaultdict(list)
    for role in roles:
        for namespace in role.allowed_namespaces:
            for service_account in role.allowed_service_accounts:
                found[Pair(namespace, service_account)].append(role.name)
    return {pair: tuple(found[pair]) for pair in sorted(found)}


def token_manifests(config: str, identity: str, needed: Needs) -> list[str]:
    """The RBAC by which an identity may request tokens.

    Args:
        config: the name of the config that it is for; it becomes part of the objects' names.
        identity: who must have it, as the cluster calls it: `system:serviceaccount:{namespace}:{name}`, or a user.
        needed: the pairs. All that a namespace needs must be there, since what is applied replaces what was.

    Returns:
        The objects, each as YAML.
    """
    by_namespace: dict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)
    for pair, roles in needed.items():
        by_namespace[pair.namespace][pair.service_account] = roles
    return [
        manifest
        for namespace, accounts in sorted(by_namespace.items())
        for manifest in _tokens(config, identity, namespace, accounts)
    ]


def review_manifests(identity: str) -> list[str]:
    """The RBAC by which an identity may review the tokens of callers."""
    name = f"kubevend-callers:{_short(identity)}"
    why = "Lets kubevend ask whose token a caller shows (TokenReview), which is in no namespace."
    rule = '  - apiGroups: ["authentication.k8s.io"]\n    resources: ["tokenreviews"]\n    verbs: ["create"]\n'
    return list(_granted("", name, identity, why, rule))


def _tokens(config: str, identity: str, namespace: str, accounts: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    roles = ", ".join(sorted({role for named in accounts.values() for role in named}))
    where = "every namespace" if namespace == ANY else f"namespace {namespace}"
    rule = '  - apiGroups: [""]\n    resources: ["serviceaccounts/token"]\n    verbs: ["create"]\n'
    if ANY in accounts:
        why = (
            f"Lets kubevend request tokens of every ServiceAccount in {where}, since {roles} allows '*'. Name the "
            "ServiceAccounts in the role to make this smaller."
        )
    else:
        names = ", ".join(sorted(accounts))
        why = f"Lets kubevend request tokens of {names} in {where}, and of no other ServiceAccount, for {roles}."
        rule += f"    resourceNames: [{', '.join(map(_quoted, sorted(accounts)))}]\n"
    if namespace == ANY:
        why += " Only a ClusterRole can do so, since the role allows all namespaces."
    name = f"kubevend:{config.removeprefix('configs/')}:{_short(identity)}"
    yield from _granted("" if namespace == ANY else namespace, name, identity, why, rule)


def _granted(namespace: str, name: str, identity: str, why: str, rule: str) -> Iterator[str]:
    kind = "Role" if namespace else "ClusterRole"
    place = f"  namespace: {_quoted(namespace)}\n" if namespace else ""
    quoted = _quoted(name)
    yield (f"# {why}\napiVersion: {_GROUP}/v1\nkind: {kind}\nmetadata:\n  name: {quoted}\n{place}rules:\n{rule}")
    yield (
        f"# Gives that right to kubevend.\napiVersion: {_GROUP}/v1\nkind: {kind}Binding\nmetadata:\n  name: {quoted}\n"
        f"{place}roleRef:\n  apiGroup: {_GROUP}\n  kind: {kind}\n  name: {quoted}\nsubjects:\n{_subject(identity)}"
    )


def _subject(identity: str) -> str:
    found = _SERVICE_ACCOUNT.fullmatch(identity)
    if found:
        namespace, name = found.groups()
        return f"  - kind: ServiceAccount\n    name: {_quoted(name)}\n    namespace: {_quoted(namespace)}\n"
    return f"  - apiGroup: {_GROUP}\n    kind: User\n    name: {_quoted(identity)}\n"


def _short(identity: str) -> str:
    """An identity as part of an object's name: a ServiceAccount's as it is, a user's as its digest.

    A name may hold neither `/` nor `%`, and users' names may hold anything.
    """
    found = _SERVICE_ACCOUNT.fullmatch(identity)
    if found:
        return ":".join(found.groups())
    return f"user-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def _quoted(text: str) -> str:
    """A text as YAML takes it for one, whatever is in it."""
    # JSON's strings are YAML's, but for pairs of surrogates, and for what YAML does not find printable.
    written = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in written)
