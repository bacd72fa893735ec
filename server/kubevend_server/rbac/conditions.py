"""What must hold where kubevend makes or deletes something, in CEL: what its roles need, and no more.

See https://kubernetes.io/docs/reference/using-api/cel/, and for the variables
https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import msgspec

from kubevend_server.kinds import RBAC_GROUP
from kubevend_server.policy.limits import MINIMUM_TTL, Limits
from kubevend_server.policy.made import ANCHOR_TYPE, INSTANCE_LABEL, MANAGED_BY_LABEL
from kubevend_server.policy.name_template import PREFIX
from kubevend_server.rbac.needs import Rule, rules_of
from kubevend_server.rbac.written import listed, quoted
from kubevend_server.roles import ANY, GeneratedRole, LabelSelector, Requirement, Role

NAME = f"^{PREFIX}[-a-z0-9]{{1,54}}$"
"""The names of what kubevend makes. Its own Roles have colons in theirs, so these are none of them."""

_DELETES = "request.operation == 'DELETE'"


@dataclass(frozen=True, slots=True)
class Check:
    """What must hold, in CEL, and what is said where it does not. `variables.it` is the object, deleted ones too."""

    expression: str
    message: str


def longest_life(roles: Iterable[Role], limits: Limits) -> timedelta:
    """The longest life of a token that any of these roles gives. Kubernetes knows none shorter than 600 s."""
    return max((MINIMUM_TTL, *(min(role.max_ttl or limits.max_ttl, limits.max_ttl) for role in roles)))


def secrets(roles: Sequence[Role]) -> Iterator[Check]:
    """What must hold of Secrets: anchors alone."""
    anchoring = [role for role in roles if _has_anchors(role)]
    if not anchoring:
        return
    yield Check(
        f"has(variables.it.type) && variables.it.type == {quoted(ANCHOR_TYPE)} &&\n"
        f"variables.it.metadata.name.matches({quoted(NAME)})",
        f"kubevend makes and deletes Secrets alone that are of type {ANCHOR_TYPE} and named {PREFIX}*",
    )
    # Not on DELETE: whatever somebody else put into an anchor, its deletion must still end its tokens.
    yield Check(
        f"{_DELETES} || (\n"
        "  !(has(object.data) && size(object.data) > 0) &&\n"
        "  !(has(object.stringData) && size(object.stringData) > 0) &&\n"
        "  has(object.immutable) && object.immutable &&\n"
        "  !has(object.metadata.ownerReferences) && !has(object.metadata.finalizers))",
        "kubevend makes Secrets that are empty and immutable alone, without ownerReferences and finalizers",
    )
    yield _within(anchoring, "Secrets")


def tokens(roles: Sequence[Role], limits: Limits) -> Iterator[Check]:
    """What must hold of TokenRequests: what a role allows."""
    if not any(role.makes_accounts or _has_anchors(role) for role in roles):
        return
    yield Check(
        _any_of(_and(_where(role), _accounts(role)) for role in roles),
        "kubevend requests tokens of the ServiceAccounts alone that its roles name, or that it made",
    )
    longest = int(longest_life(roles, limits).total_seconds())
    yield Check(
        f"has(object.spec.expirationSeconds) && object.spec.expirationSeconds <= {longest}",
        f"kubevend requests tokens for {longest} s at the longest",
    )
    audiences = sorted({a for role in roles for a in role.allowed_audiences} - limits.reserved_audiences)
    yield Check(
        f"has(object.spec.audiences) && object.spec.audiences.all(a, a in {listed(audiences)})",
        "kubevend requests tokens for the audiences alone that its roles allow",
    )


def service_accounts(roles: Sequence[Role]) -> Iterator[Check]:
    """What must hold of ServiceAccounts: its own."""
    making = [role for role in roles if role.makes_accounts]
    if making:
        yield _own("ServiceAccounts")
        yield _within(making, "ServiceAccounts")


def bindings(roles: Sequence[Role]) -> Iterator[Check]:
    """What must hold of Bindings: of its own ServiceAccounts, to what its roles name."""
    making = [role for role in roles if role.makes_accounts]
    if not making:
        return
    yield _own("bindings")
    wide = _any_of(_home(role) for role in making if role.cluster_wide_allowed)
    yield Check(
        f"{_DELETES} || !has(object.subjects) || object.subjects.all(s,\n"
        f"  s.kind == 'ServiceAccount' && s.name.matches({quoted(NAME)}) &&\n"
        f"  ({_is('rolebindings')} ? s.namespace == request.namespace : ({wide})))",
        "kubevend binds ServiceAccounts alone that it made, a RoleBinding's in its own namespace",
    )
    yield Check(
        f"{_DELETES} ||\n{_any_of(_and(_reach(role), _target(role)) for role in making)}",
        "kubevend binds to the roles alone that its roles name, or that it made for them, and where they say so",
    )


def made_roles(roles: Sequence[Role]) -> Iterator[Check]:
    """What must hold of Roles: its own, with the rules of its roles."""
    generating = [(role, role.generated_role) for role in roles if role.generated_role is not None]
    if not generating:
        return
    yield _own("roles")
    # What it holds it may grant, its own rights too; and whoever has them from there, no policy holds.
    yield Check(
        f"{_DELETES} ||\n{_any_of(_and(_made_where(role, of), _grants(of)) for role, of in generating)}",
        "kubevend makes roles with the rules alone that its own roles have, and where they say so",
    )


# Parts of expressions. An empty one holds always.


def _own(what: str) -> Check:
    labels = "variables.it.metadata.?labels"
    return Check(
        f"variables.it.metadata.name.matches({quoted(NAME)}) &&\n"
        f"{labels}[?{quoted(MANAGED_BY_LABEL)}].orValue('') == 'kubevend' &&\n"
        f"{labels}[?{quoted(INSTANCE_LABEL)}].hasValue() &&\n"
        # By such a label a ClusterRole's rules become others' too.
        f"!{labels}.orValue({{}}).exists(k, k.startsWith({quoted(f'{RBAC_GROUP}/')}))",
        f"kubevend makes and deletes {what} alone that are named {PREFIX}* and have its labels",
    )


def _within(roles: Iterable[Role], what: str) -> Check:
    return Check(
        f"{_DELETES} ||\n{_any_of(map(_where, roles))}",
        f"kubevend makes {what} in the namespaces alone that its roles allow",
    )


def _where(role: Role) -> str:
    """That a request is in a namespace which a role allows."""
    if ANY in role.allowed_namespaces:
        return ""
    named = [f"request.namespace in {listed(sorted(role.allowed_namespaces))}"] if role.allowed_namespaces else []
    if role.allowed_namespace_selector is not None:
        named.append(_fits(role.allowed_namespace_selector))
    return " || ".join(named)


def _fits(selector: LabelSelector) -> str:
    """That the labels of a request's namespace fit, as Kubernetes' own selectors would have it."""
    equal = [Requirement(key, "IN", (value,)) for key, value in selector.match_labels]
    return (
        _and(*map(_required, sorted((*equal, *selector.match_expressions), key=lambda one: (one.key, one.operator))))
        or "true"
    )


def _required(one: Requirement) -> str:
    label = f"namespaceObject.metadata.?labels[?{quoted(one.key)}]"
    among = f"{label}.optMap(v, v in {listed(sorted(one.values))}).orValue(false)"
    there = f"{label}.hasValue()"
    return {"IN": among, "NOT_IN": f"!{among}", "EXISTS": there, "DOES_NOT_EXIST": f"!{there}"}[one.operator]


def _accounts(role: Role) -> str:
    """That a request for a token is for a ServiceAccount which a role allows, or made."""
    if role.makes_accounts:
        return f"request.name.matches({quoted(NAME)})"
    if ANY in role.allowed_service_accounts:
        return ""
    return f"request.name in {listed(sorted(role.allowed_service_accounts))}"


def _home(role: Role) -> str:
    """That the subject of a ClusterRoleBinding is in a namespace which a role allows, as far as that shows there."""
    if ANY in role.allowed_namespaces or role.allowed_namespace_selector is not None:
        return ""
    return f"s.namespace in {listed(sorted(role.allowed_namespaces))}"


def _reach(role: Role) -> str:
    """That a binding holds where a role says so."""
    inside = _and(_is("rolebindings"), _where(role))
    return f"{_is('clusterrolebindings')} || ({inside})" if role.cluster_wide_allowed else inside


def _target(role: Role) -> str:
    """That a binding is to what a role names, or to one that was made for it."""
    if role.kubernetes_role is not None:
        named = f"object.roleRef.name == {quoted(role.kubernetes_role.name)}"
        return f"object.roleRef.kind == {quoted(role.kubernetes_role.kind)} && {named}"
    kind = role.generated_role.kind if role.generated_role is not None else ""
    return f"object.roleRef.kind == {quoted(kind)} && object.roleRef.name.matches({quoted(NAME)})"


def _made_where(role: Role, generated: GeneratedRole) -> str:
    return _and(_is("roles"), _where(role)) if generated.kind == "Role" else _is("clusterroles")


def _grants(generated: GeneratedRole) -> str:
    rules = ",\n    ".join(map(_rule, rules_of(generated)))
    return f"!has(object.aggregationRule) && (!has(object.rules) || object.rules.all(r, r in [\n    {rules}]))"


def _rule(rule: Rule) -> str:
    kept = {key: listed(values) for key, values in msgspec.structs.asdict(rule).items() if values}
    return f"{{{', '.join(f'{quoted(key)}: {values}' for key, values in kept.items())}}}"


def _is(resource: str) -> str:
    return f"request.resource.resource == {quoted(resource)}"


def _and(*parts: str) -> str:
    kept = [part for part in parts if part]
    return " && ".join(f"({part})" for part in kept) if len(kept) > 1 else "".join(kept)


def _any_of(parts: Iterable[str]) -> str:
    """That one of these holds; of none, that none does."""
    kept = list(dict.fromkeys(parts))
    return "true" if "" in kept else " ||\n".join(f"({part})" for part in kept) or "false"


def _has_anchors(role: Role) -> bool:
    return role.revocation != "NONE" and not role.makes_accounts
