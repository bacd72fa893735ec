from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import yaml

from kubevend_server.rbac.admission import Policy, admission_policies
from kubevend_server.rbac.conditions import longest_life
from kubevend_server.roles import GeneratedRole, KubernetesRole, LabelSelector, Requirement, Role
from tests.unit.builders import limits, role

OWN = "system:serviceaccount:kubevend:server"
API = "admissionregistration.k8s.io/v1"
ALL = ["CREATE", "UPDATE", "DELETE"]
NAME = '.matches("^kubevend-[-a-z0-9]{1,54}$")'
IN_APPS = 'request.namespace in ["apps"]'


def _policies(*roles: Role, identity: str = OWN, config: str = "configs/default") -> dict[str, Policy]:
    return {policy.topic: policy for policy in admission_policies(config, identity, roles, limits())}


def _making(**overrides: Any) -> Role:
    return role(allowed_service_accounts=(), revocation="PER_LEASE", **overrides)


def _checks(policy: Policy) -> list[str]:
    """What a policy asks, in one line each."""
    spec = yaml.safe_load(policy.manifests[0])["spec"]
    return [" ".join(each["expression"].split()) for each in spec["validations"]]


READER = _making(name="roles/reader", kubernetes_role=KubernetesRole("Role", "reader"))
VIEW = _making(name="roles/view", kubernetes_role=KubernetesRole("ClusterRole", "view"), cluster_wide_allowed=True)
RULES = "[{apiGroups: [''], resources: [pods], resourceNames: [a], verbs: [get, list]}]"
GENERATED = _making(name="roles/made", generated_role=GeneratedRole("Role", RULES))
EVERYWHERE = _making(name="roles/wide", generated_role=GeneratedRole("ClusterRole", RULES))
SELECTED = LabelSelector(
    (("team", "a"),),
    (Requirement("x", "IN", ("1", "2")), Requirement("y", "NOT_IN", ("3",)), Requirement("z", "DOES_NOT_EXIST")),
)


def test_a_policy_and_its_binding_whole() -> None:
    """A policy applies to one identity alone, refuses with a reason and its version, and fails closed."""
    policy = _policies(role(revocation="PER_LEASE"))["secrets"]
    name = "kubevend-secrets.default.kubevend.server"
    assert [yaml.safe_load(manifest) for manifest in policy.manifests] == [
        {
            "apiVersion": API,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {
                    "resourceRules": [
                        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ALL, "resources": ["secrets"]}
                    ]
                },
                "matchConditions": [{"name": "kubevend", "expression": f'request.userInfo.username == "{OWN}"'}],
                "variables": [{"name": "it", "expression": "object == null ? oldObject : object"}],
                "validations": [
                    {
                        "expression": (
                            'has(variables.it.type) && variables.it.type == "kubevend.dev/anchor" &&\n'
                            f"variables.it.metadata.name{NAME}"
                        ),
                        "reason": "Forbidden",
                        "message": (
                            "kubevend makes and deletes Secrets alone that are of type kubevend.dev/anchor and named "
                            f"kubevend-* (policy {policy.version})"
                        ),
                    },
                    {
                        "expression": (
                            "request.operation == 'DELETE' || (\n"
                            "  !(has(object.data) && size(object.data) > 0) &&\n"
                            "  !(has(object.stringData) && size(object.stringData) > 0) &&\n"
                            "  has(object.immutable) && object.immutable &&\n"
                            "  !has(object.metadata.ownerReferences) && !has(object.metadata.finalizers))"
                        ),
                        "reason": "Forbidden",
                        "message": (
                            "kubevend makes Secrets that are empty and immutable alone, without ownerReferences and "
                            f"finalizers (policy {policy.version})"
                        ),
                    },
                    {
                        "expression": f"request.operation == 'DELETE' ||\n({IN_APPS})",
                        "reason": "Forbidden",
                        "message": (
                            "kubevend makes Secrets in the namespaces alone that its roles allow "
                            f"(policy {policy.version})"
                        ),
                    },
                ],
            },
        },
        {
            "apiVersion": API,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name, "validationActions": ["Deny"]},
        },
    ]


@pytest.mark.parametrize(
    ("roles", "topics"),
    [
        ((), []),
        ((role(),), []),
        ((role(allowed_service_accounts=("*",)),), []),
        ((role(revocation="PER_CALLER"),), ["secrets", "tokens"]),
        ((READER,), ["tokens", "serviceaccounts", "bindings"]),
        ((GENERATED,), ["tokens", "serviceaccounts", "bindings", "roles"]),
        ((role(revocation="PER_ROLE"), VIEW), ["secrets", "tokens", "serviceaccounts", "bindings"]),
    ],
)
def test_policies_are_there_where_rbac_is_not_enough(roles: tuple[Role, ...], topics: list[str]) -> None:
    """There is a policy for each kind of object that kubevend makes, and for tokens where it makes any."""
    assert list(_policies(*roles)) == topics


def test_tokens_are_held_to_all_roles() -> None:
    """Tokens are those of all roles, also of those that make nothing, and never for kubevend's own audience."""
    existing = role(name="roles/a", allowed_audiences=("https://b", "kubevend"), max_ttl=timedelta(hours=1))
    anybody = role(name="roles/b", allowed_namespaces=("*",), allowed_service_accounts=("b", "a"))
    assert _checks(_policies(existing, anybody, READER)["tokens"]) == [
        (
            f'(({IN_APPS}) && (request.name in ["deployer"])) || (request.name in ["a", "b"]) || '
            f"(({IN_APPS}) && (request.name{NAME}))"
        ),
        "has(object.spec.expirationSeconds) && object.spec.expirationSeconds <= 7200",
        'has(object.spec.audiences) && object.spec.audiences.all(a, a in ["https://api", "https://b"])',
    ]


def test_a_role_for_everything_holds_nothing_back() -> None:
    """Where a role allows every ServiceAccount of every namespace, so does the policy."""
    everything = role(allowed_namespaces=("*",), allowed_service_accounts=("*",), revocation="PER_LEASE")
    assert _checks(_policies(everything)["tokens"])[0] == "true"


def test_service_accounts_are_kubevends_own() -> None:
    """ServiceAccounts have kubevend's name and labels, none that adds to others' rights, and roles' namespaces."""
    own, within = _checks(_policies(READER, role(name="roles/x", allowed_namespaces=("other",)))["serviceaccounts"])
    labels = "variables.it.metadata.?labels"
    assert own == (
        f"variables.it.metadata.name{NAME} && "
        f"{labels}[?\"app.kubernetes.io/managed-by\"].orValue('') == 'kubevend' && "
        f'{labels}[?"kubevend.dev/instance"].hasValue() && '
        f'!{labels}.orValue({{}}).exists(k, k.startsWith("rbac.authorization.k8s.io/"))'
    )
    assert within == f"request.operation == 'DELETE' || ({IN_APPS})"


def test_bindings_are_to_what_roles_name() -> None:
    """Bindings are of made ServiceAccounts, to the named or made roles, where each role says so."""
    _, subjects, targets = _checks(_policies(READER, VIEW, GENERATED, EVERYWHERE)["bindings"])
    assert subjects == (
        "request.operation == 'DELETE' || !has(object.subjects) || object.subjects.all(s, "
        f"s.kind == 'ServiceAccount' && s.name{NAME} && "
        '(request.resource.resource == "rolebindings" ? s.namespace == request.namespace : '
        '((s.namespace in ["apps"]))))'
    )
    inside = f'(request.resource.resource == "rolebindings") && ({IN_APPS})'
    assert targets == (
        "request.operation == 'DELETE' || "
        f'(({inside}) && (object.roleRef.kind == "Role" && object.roleRef.name{NAME})) || '
        f'(({inside}) && (object.roleRef.kind == "Role" && object.roleRef.name == "reader")) || '
        f'((request.resource.resource == "clusterrolebindings" || ({inside})) && '
        '(object.roleRef.kind == "ClusterRole" && object.roleRef.name == "view")) || '
        f'(({inside}) && (object.roleRef.kind == "ClusterRole" && object.roleRef.name{NAME}))'
    )


def test_without_a_role_for_it_nothing_is_bound_everywhere() -> None:
    """A ClusterRoleBinding has no subject where no role allows one."""
    assert _checks(_policies(READER)["bindings"])[1].endswith("? s.namespace == request.namespace : (false)))")


def test_roles_have_the_rules_of_the_operators() -> None:
    """A made role has rules that a role of kubevend's has, of its kind, and where that says so."""
    _, rules = _checks(_policies(GENERATED, EVERYWHERE)["roles"])
    granted = (
        "!has(object.aggregationRule) && (!has(object.rules) || object.rules.all(r, r in [ "
        '{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"]}]))'
    )
    assert rules == (
        "request.operation == 'DELETE' || "
        f'(((request.resource.resource == "roles") && ({IN_APPS})) && ({granted})) || '
        f'((request.resource.resource == "clusterroles") && ({granted}))'
    )


def test_namespaces_are_selected_as_kubernetes_does() -> None:
    """A label selector holds in the policy as in Kubernetes, besides the namespaces that are named."""
    (_, _, within) = _checks(_policies(role(revocation="PER_LEASE", allowed_namespace_selector=SELECTED))["secrets"])
    label = "namespaceObject.metadata.?labels"
    assert within == (
        f"request.operation == 'DELETE' || ({IN_APPS} || "
        f'({label}[?"team"].optMap(v, v in ["a"]).orValue(false)) && '
        f'({label}[?"x"].optMap(v, v in ["1", "2"]).orValue(false)) && '
        f'(!{label}[?"y"].optMap(v, v in ["3"]).orValue(false)) && '
        f'(!{label}[?"z"].hasValue()))'
    )


def test_what_is_different_has_another_version() -> None:
    """A policy's version changes with what it allows and whom it holds, and with nothing else."""
    first = role(revocation="PER_LEASE")
    same = role(revocation="PER_LEASE", name="roles/renamed", labels=(), etag="e2", allowed_audiences=("https://b",))
    other = role(revocation="PER_LEASE", allowed_namespaces=("other",))
    versions = [
        _policies(each, identity=identity)["secrets"].version
        for each, identity in ((first, OWN), (same, OWN), (other, OWN), (first, "somebody"))
    ]
    assert versions[0] == versions[1]
    assert len(set(versions)) == 3


@pytest.mark.parametrize(
    "identity", ["admin", 'say "hi"', "a\n---\nkind: x", '" || true || "', "a\\", "a\x01b", "ключ", "a b" * 200]
)
def test_an_identity_is_quoted(identity: str) -> None:
    """Whatever a user is called, the policies are of that user, and their names are ones that Kubernetes takes."""
    for policy in _policies(READER, identity=identity).values():
        made = yaml.safe_load(policy.manifests[0])
        (condition,) = made["spec"]["matchConditions"]
        told = condition["expression"].removeprefix("request.userInfo.username == ")
        # CEL's strings are YAML's, with these escapes.
        assert yaml.safe_load(told) == identity
        assert len(made["metadata"]["name"]) <= 120
        assert not set(made["metadata"]["name"]) - set("abcdefghijklmnopqrstuvwxyz0123456789.-")


def test_long_names_stay_apart() -> None:
    """A name that would be too long is cut, and still differs from another identity's."""
    names = {
        policy.name
        for name in ("a", "b")
        for policy in _policies(READER, identity=f"system:serviceaccount:{'n' * 63}:{'s' * 200}{name}").values()
    }
    assert len(names) == 6
    assert all(len(name) <= 120 for name in names)


@pytest.mark.parametrize(
    ("max_ttls", "longest"),
    [((), 600), ((3600,), 3600), ((60,), 600), ((3600, 7200), 7200), ((3600, None), 86400), ((999999,), 86400)],
)
def test_the_longest_life_is_that_of_the_longest_role(max_ttls: tuple[int | None, ...], longest: int) -> None:
    """The longest life of a token is the largest max_ttl, at most the server's, at least what Kubernetes issues."""
    roles = [role(ttl=None, max_ttl=timedelta(seconds=each) if each else None) for each in max_ttls]
    assert longest_life(roles, limits()) == timedelta(seconds=longest)
