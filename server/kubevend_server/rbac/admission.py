"""What holds kubevend's identity to what RBAC cannot express: ValidatingAdmissionPolicies, as YAML.

A right to make Secrets holds for every kind of Secret, one to request tokens for every ServiceAccount unless all are
named, one to make bindings for every subject. These policies, each for one kind of object, narrow that to what kubevend
does. They apply to its identity alone. docs/rights.md says what each holds back. See
https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/ (stable since Kubernetes 1.30).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from kubevend_server.kinds import RBAC_GROUP
from kubevend_server.policy.limits import Limits
from kubevend_server.rbac import conditions
from kubevend_server.rbac.conditions import Check
from kubevend_server.rbac.written import digest, listed, quoted, short
from kubevend_server.roles import Role

Topic = Literal["secrets", "tokens", "serviceaccounts", "bindings", "roles"]
"""What a policy is about, by the resource that it guards."""

_API = "admissionregistration.k8s.io/v1"
# Shorter than Kubernetes would have it, so that a refusal, which has the name twice, is not cut before its end.
_LONGEST_NAME = 120

_RESOURCES: dict[Topic, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "secrets": ("", ("secrets",), ("CREATE", "UPDATE", "DELETE")),
    "tokens": ("", ("serviceaccounts/token",), ("CREATE",)),
    "serviceaccounts": ("", ("serviceaccounts",), ("CREATE", "UPDATE", "DELETE")),
    "bindings": (RBAC_GROUP, ("rolebindings", "clusterrolebindings"), ("CREATE", "UPDATE", "DELETE")),
    "roles": (RBAC_GROUP, ("roles", "clusterroles"), ("CREATE", "UPDATE", "DELETE")),
}
_WHY: dict[Topic, str] = {
    "secrets": "Secrets that are anchors, which are empty",
    "tokens": "tokens that its roles allow",
    "serviceaccounts": "ServiceAccounts of its own",
    "bindings": "bindings of ServiceAccounts of its own, to what its roles name",
    "roles": "roles of its own, with the rules that its roles have",
}


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy that is to be in force.

    Attributes:
        topic: what it is about.
        name: of the ValidatingAdmissionPolicy, and of its binding.
        version: another one for each other content. It is in every message of the policy, so that a refusal tells which
            version is in force.
        longest_life: what is longer is refused, for tokens.
        manifests: the policy and its binding, each as YAML.
    """

    topic: Topic
    name: str
    version: str
    longest_life: timedelta
    manifests: tuple[str, str]


def admission_policies(config: str, identity: str, roles: Iterable[Role], limits: Limits) -> tuple[Policy, ...]:
    """The policies that hold an identity to what roles need. None where RBAC alone can do so.

    Args:
        config: the name of the config that it is for; it becomes part of the objects' names.
        identity: whom they hold. No other config of the same cluster may have it: what the one's policies do not know
            of, they refuse to the other.
        roles: all roles of the config.
        limits: the server's own.
    """
    ordered = sorted(roles, key=lambda role: role.name)
    found: dict[Topic, Iterator[Check]] = {
        "secrets": conditions.secrets(ordered),
        "tokens": conditions.tokens(ordered, limits),
        "serviceaccounts": conditions.service_accounts(ordered),
        "bindings": conditions.bindings(ordered),
        "roles": conditions.made_roles(ordered),
    }
    return tuple(
        _policy(topic, config, identity, checks, conditions.longest_life(ordered, limits))
        for topic, each in found.items()
        if (checks := tuple(each))
    )


def _policy(topic: Topic, config: str, identity: str, checks: Sequence[Check], longest: timedelta) -> Policy:
    name = _name(topic, config, identity)
    group, resources, operations = _RESOURCES[topic]
    head = (
        f"# Holds kubevend, and nobody else, to {_WHY[topic]}.\napiVersion: {_API}\n"
        f"kind: ValidatingAdmissionPolicy\nmetadata:\n  name: {quoted(name)}\nspec:\n  failurePolicy: Fail\n"
        "  matchConstraints:\n    resourceRules:\n"
        f'      - apiGroups: {listed([group])}\n        apiVersions: ["v1"]\n        operations: {listed(operations)}\n'
        f"        resources: {listed(resources)}\n"
        "  matchConditions:\n    # Everybody else goes on as before.\n    - name: kubevend\n"
        f"      expression: |-\n        request.userInfo.username == {quoted(identity)}\n"
        '  variables:\n    - name: it\n      expression: "object == null ? oldObject : object"\n  validations:\n'
    )
    version = digest(head + "".join(check.expression + check.message for check in checks))
    binding = (
        f"# Puts that policy into force.\napiVersion: {_API}\nkind: ValidatingAdmissionPolicyBinding\nmetadata:\n"
        f'  name: {quoted(name)}\nspec:\n  policyName: {quoted(name)}\n  validationActions: ["Deny"]\n'
    )
    return Policy(
        topic, name, version, longest, (head + "".join(_written(check, version) for check in checks), binding)
    )


def _written(check: Check, version: str) -> str:
    expression = check.expression.replace("\n", "\n        ")
    return (
        f"    - expression: |-\n        {expression}\n      reason: Forbidden\n"
        f"      message: {quoted(f'{check.message} (policy {version})')}\n"
    )


def _name(topic: Topic, config: str, identity: str) -> str:
    # A DNS subdomain, as these objects' names must be, so without colons.
    start = f"kubevend-{topic}.{config.removeprefix('configs/')}"
    name = f"{start}.{short(identity, '.')}"
    return name if len(name) <= _LONGEST_NAME else f"{start}.{digest(identity)}"
