from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import product
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kubevend_server.rbac.manifests import review_manifests, role_manifests
from kubevend_server.rbac.needs import NOWHERE, Need, needs
from kubevend_server.rights import Right
from kubevend_server.roles import GeneratedRole, KubernetesRole, LabelSelector, Role
from tests.unit.builders import role

OWN = "system:serviceaccount:kubevend:server"
GROUP = "rbac.authorization.k8s.io"
ANYWHERE = ""


def _parsed(manifests: Iterable[str]) -> list[dict[str, Any]]:
    """The objects of YAML that is put together as `checks` puts it together, each after a comment of one line."""
    manifests = list(manifests)
    for manifest in manifests:
        comment, second, *_ = manifest.split("\n")
        assert comment.startswith("# ")
        assert second == f"apiVersion: {GROUP}/v1"
    found = list(yaml.safe_load_all("---\n".join(manifests)))
    assert len(found) == len(manifests)
    return found


def _tokens(roles: Iterable[Role], identity: str = OWN, config: str = "configs/default") -> list[dict[str, Any]]:
    return _parsed(role_manifests(config, identity, needs(roles)))


def _objects(namespace: str, rule: dict[str, Any], name: str = "kubevend:default:kubevend:server") -> list[Any]:
    """A role and its binding to the usual identity."""
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    kind = "Role" if namespace else "ClusterRole"
    return [
        {"apiVersion": f"{GROUP}/v1", "kind": kind, "metadata": metadata, "rules": [rule]},
        {
            "apiVersion": f"{GROUP}/v1",
            "kind": f"{kind}Binding",
            "metadata": metadata,
            "roleRef": {"apiGroup": GROUP, "kind": kind, "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": "server", "namespace": "kubevend"}],
        },
    ]


def _rule(*names: str) -> dict[str, Any]:
    rule: dict[str, Any] = {"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]}
    return {**rule, "resourceNames": list(names)} if names else rule


def _token(where: str, name: str) -> Need:
    namespace = "" if where == "*" else where
    return Need("TOKENS", where, Right("create", "serviceaccounts/token", "", namespace, name))


def test_needs_name_the_roles_of_each_right() -> None:
    """Each namespace with each ServiceAccount is a right, in order, with all roles that need it."""
    first = role(name="roles/a", allowed_namespaces=("web", "apps"), allowed_service_accounts=("x", "*"))
    second = role(name="roles/b", allowed_namespaces=("apps",), allowed_service_accounts=("x",))
    assert list(needs([first, second]).items()) == [
        (_token("apps", ""), ("roles/a",)),
        (_token("apps", "x"), ("roles/a", "roles/b")),
        (_token("web", ""), ("roles/a",)),
        (_token("web", "x"), ("roles/a",)),
    ]


def test_named_service_accounts_are_granted_by_name() -> None:
    """Named ServiceAccounts of a namespace are one Role there with their names, and its binding."""
    manifests = role_manifests("configs/default", OWN, needs([role(allowed_service_accounts=("worker", "deployer"))]))
    assert _parsed(manifests) == _objects("apps", _rule("deployer", "worker"))
    assert [line for manifest in manifests for line in manifest.split("\n") if line.strip().startswith("#")] == [
        "# What kubevend needs in namespace apps, and in no other, for roles/ci.",
        "  # For roles/ci: to request tokens of deployer, worker and of no other ServiceAccount.",
        "# Gives that right to kubevend.",
    ]


def test_each_namespace_has_a_role_of_its_own() -> None:
    """Several namespaces have a Role and a RoleBinding each, in order, and no ClusterRole."""
    found = _tokens([role(allowed_namespaces=("web", "apps"))])
    assert found == _objects("apps", _rule("deployer")) + _objects("web", _rule("deployer"))


def test_every_service_account_of_a_namespace_is_a_role_without_names() -> None:
    """For `*` the Role has no names, whatever else is named, and stays within the namespace."""
    found = _tokens([role(allowed_service_accounts=("*",)), role(name="roles/other")])
    assert found == _objects("apps", _rule())


@pytest.mark.parametrize(("accounts", "rule"), [(("deployer",), _rule("deployer")), (("*",), _rule())])
def test_only_every_namespace_needs_a_cluster_role(accounts: tuple[str, ...], rule: dict[str, Any]) -> None:
    """For all namespaces there is no smaller form than a ClusterRole, which has the names where there are some."""
    found = _tokens([role(allowed_namespaces=("*",), allowed_service_accounts=accounts)])
    assert found == _objects(ANYWHERE, rule)


def test_without_roles_nothing_is_granted() -> None:
    """A config without roles needs no RBAC."""
    assert _tokens([]) == []


def test_the_right_to_review_is_a_right_of_its_own() -> None:
    """To review tokens is a ClusterRole with that one right, and its binding."""
    rule = {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}
    name = "kubevend-callers:kubevend:server"
    assert _parsed(review_manifests(OWN)) == _objects(ANYWHERE, rule, name)


def test_configs_of_one_cluster_do_not_overwrite_each_other() -> None:
    """Two configs, or two identities, have objects of different names in the same namespace."""
    made = [("configs/a", OWN), ("configs/b", OWN), ("configs/a", "system:serviceaccount:kubevend:other")]
    names = [_tokens([role()], identity, config)[0]["metadata"]["name"] for config, identity in made]
    assert len(set(names)) == len(names)


def test_no_configs_name_is_that_of_the_right_to_review() -> None:
    """What a config needs in every namespace and the right to review tokens do not overwrite each other."""
    everywhere = role(allowed_namespaces=("*",))
    tokens = _tokens([everywhere], config="configs/reviews-tokens")
    reviews = _parsed(review_manifests(OWN))
    assert tokens[0]["metadata"]["name"] != reviews[0]["metadata"]["name"]


IDENTITIES = [
    "admin",
    "o'brien",
    'say "hi"',
    "a\nb: c",
    "a\n---\nkind: x",
    "a\r\nb",
    "a # b",
    "a/b/c",
    "100%",
    "%2F",
    "a:b",
    ": {",
    "- a",
    "true",
    "123",
    "\\n",
    "\t",
    "a\x01b",
    "a\u2028b",
    "ключ",
    "system:node:a",
    "system:serviceaccount:",
    "system:serviceaccount:only-a-namespace",
    pytest.param("\U0001f600"),
    "a\x7fb",
]


@pytest.mark.parametrize("identity", IDENTITIES)
def test_a_user_is_quoted(identity: str) -> None:
    """Whatever a user is called, the YAML names exactly this user and no other one, in objects whose names Kubernetes
    takes.
    """
    for found in (_tokens([role()], identity), _parsed(review_manifests(identity))):
        granted, binding = found
        assert binding["subjects"] == [{"apiGroup": GROUP, "kind": "User", "name": identity}]
        name = granted["metadata"]["name"]
        assert name == binding["metadata"]["name"] == binding["roleRef"]["name"]
        # apimachinery's path segment names, which RBAC's objects have.
        assert isinstance(name, str)
        assert not set(name) & {"/", "%"}
        assert name not in {"", ".", ".."}


NUMBERS = [
    "deployer",
    "a.b-c",
    "1e3",
    *(pytest.param(text) for text in ("123", "0x1f", "true", "null", "on", "0.5", "2026-05-04")),
]


@pytest.mark.parametrize("text", NUMBERS)
def test_a_name_stays_a_text(text: str) -> None:
    """A namespace or a ServiceAccount whose name looks like a number, a boolean or a date to YAML is still a text."""
    identity = f"system:serviceaccount:{text}:{text}"
    found = _tokens([role(allowed_namespaces=(text,), allowed_service_accounts=(text,))], identity)
    assert [each["metadata"]["namespace"] for each in found] == [text, text]
    assert found[0]["rules"] == [_rule(text)]
    assert found[1]["subjects"] == [{"kind": "ServiceAccount", "name": text, "namespace": text}]


@pytest.mark.parametrize(
    "identity",
    [
        pytest.param("system:serviceaccount:a:b\n  - kind: Group\n    name: system:authenticated"),
        pytest.param("system:serviceaccount:a\n    evil: x:b"),
        pytest.param("system:serviceaccount:a:b # c"),
        pytest.param("system:serviceaccount:a:{"),
    ],
)
def test_no_identity_adds_to_what_is_granted(identity: str) -> None:
    """An identity that begins like a ServiceAccount's and goes on as YAML grants to nobody else."""
    (subject,) = _parsed(review_manifests(identity))[1]["subjects"]
    namespace, _, name = identity.removeprefix("system:serviceaccount:").partition(":")
    assert subject in (
        {"kind": "ServiceAccount", "name": name, "namespace": namespace},
        {"apiGroup": GROUP, "kind": "User", "name": identity},
    )


# The modes, whole.


GROUPS = {
    "secrets": "",
    "serviceaccounts": "",
    "serviceaccounts/token": "",
    "namespaces": "",
    "rolebindings": GROUP,
    "clusterrolebindings": GROUP,
    "roles": GROUP,
    "clusterroles": GROUP,
}
MADE = ["create", "delete", "list"]
READER = KubernetesRole("Role", "reader")
VIEW = KubernetesRole("ClusterRole", "view")
RULES = "[{apiGroups: ['', apps], resources: [pods], verbs: [get, list]}, {nonResourceURLs: [/metrics], verbs: [get]}]"
LISTED = [
    {"apiGroups": ["", "apps"], "resources": ["pods"], "verbs": ["get", "list"]},
]


def _on(resource: str, verbs: list[str], *names: str) -> dict[str, Any]:
    rule: dict[str, Any] = {"apiGroups": [GROUPS[resource]], "resources": [resource], "verbs": verbs}
    return {**rule, "resourceNames": list(names)} if names else rule


def _making(**overrides: Any) -> Role:
    return role(allowed_service_accounts=(), revocation="PER_LEASE", **overrides)


IN_A_NAMESPACE = [
    _on("serviceaccounts", MADE),
    _on("rolebindings", MADE),
    _on("serviceaccounts/token", ["create"]),
]
EVERYWHERE_TOO = [_on("clusterrolebindings", MADE), _on("clusterroles", ["bind"], "view")]
MODES: list[tuple[str, Role, dict[str, list[dict[str, Any]]]]] = [
    ("NONE", role(), {"apps": [_on("serviceaccounts/token", ["create"], "deployer")]}),
    *(
        (
            revocation,
            role(revocation=revocation),
            {"apps": [_on("serviceaccounts/token", ["create"], "deployer"), _on("secrets", ["create", "delete"])]},
        )
        for revocation in ("PER_LEASE", "PER_CALLER", "PER_ROLE")
    ),
    (
        "a Role that exists",
        _making(kubernetes_role=READER),
        {"apps": [*IN_A_NAMESPACE, _on("roles", ["bind"], "reader")]},
    ),
    (
        "a ClusterRole that exists",
        _making(kubernetes_role=VIEW),
        {"apps": [*IN_A_NAMESPACE, _on("clusterroles", ["bind"], "view")]},
    ),
    (
        "a ClusterRole that exists, everywhere too",
        _making(kubernetes_role=VIEW, cluster_wide_allowed=True),
        {ANYWHERE: EVERYWHERE_TOO, "apps": [*IN_A_NAMESPACE, _on("clusterroles", ["bind"], "view")]},
    ),
    (
        "a Role to make",
        _making(generated_role=GeneratedRole("Role", RULES.partition(", {non")[0] + "]")),
        {"apps": [*IN_A_NAMESPACE, _on("roles", MADE), *LISTED]},
    ),
    (
        "a ClusterRole to make",
        _making(generated_role=GeneratedRole("ClusterRole", RULES), cluster_wide_allowed=True),
        {
            ANYWHERE: [
                _on("clusterrolebindings", MADE),
                _on("clusterroles", MADE),
                {"nonResourceURLs": ["/metrics"], "verbs": ["get"]},
                *LISTED,
            ],
            "apps": IN_A_NAMESPACE,
        },
    ),
    (
        "namespaces by labels",
        _making(kubernetes_role=READER, allowed_namespaces=(), allowed_namespace_selector=LabelSelector()),
        {ANYWHERE: [_on("namespaces", ["list", "watch"]), *IN_A_NAMESPACE, _on("roles", ["bind"], "reader")]},
    ),
    (
        "namespaces by labels, and by name",
        role(allowed_namespace_selector=LabelSelector()),
        {
            ANYWHERE: [_on("namespaces", ["list", "watch"]), _on("serviceaccounts/token", ["create"], "deployer")],
            "apps": [_on("serviceaccounts/token", ["create"], "deployer")],
        },
    ),
]


@pytest.mark.parametrize(("what", "needing", "rules"), MODES, ids=[what for what, *_ in MODES])
def test_each_mode_is_granted_what_it_needs(what: str, needing: Role, rules: dict[str, list[dict[str, Any]]]) -> None:
    """Of each mode the whole rules of each Role, by namespace, and of the ClusterRole: nothing is wider than needed."""
    del what
    found = _tokens([needing])
    granted = {each["metadata"].get("namespace", ANYWHERE): each["rules"] for each in found[::2]}
    assert granted == rules
    assert [binding["roleRef"]["kind"] for binding in found[1::2]] == [each["kind"] for each in found[::2]]


def test_what_several_roles_need_is_one_role_in_a_namespace() -> None:
    """The needs of several roles are joined in one Role, without a name beside the right to all, each told for whom."""
    first = role(name="roles/a", revocation="PER_LEASE")
    second = _making(name="roles/b", kubernetes_role=READER)
    third = _making(name="roles/c", kubernetes_role=VIEW)
    text, _ = role_manifests("configs/default", OWN, needs([first, second, third]))
    assert [line.strip() for line in text.split("\n") if line.startswith("  # For")] == [
        (
            "# For roles/a: to make and delete anchors, empty Secrets that revocable tokens are bound to. Never to "
            "read a Secret."
        ),
        (
            "# For roles/b, roles/c: to make ServiceAccounts and their bindings, one for each lease, and to find and "
            "delete these."
        ),
        "# For roles/b, roles/c: to request the tokens of those ServiceAccounts, whose names nobody knows beforehand.",
        '# For roles/b, roles/c: to bind those ServiceAccounts to "reader", "view".',
    ]
    (made,) = _parsed([text])
    assert made["rules"] == [
        _on("secrets", ["create", "delete"]),
        *IN_A_NAMESPACE,
        _on("clusterroles", ["bind"], "view"),
        _on("roles", ["bind"], "reader"),
    ]


def test_no_name_of_a_role_ends_a_comment() -> None:
    """Whatever a Role of the cluster's is called, the YAML grants nothing else."""
    evil = 'x"\n  - apiGroups: ["*"]\n    resources: ["*"]\n    verbs: ["*"]\n#'
    made, _ = _tokens([_making(kubernetes_role=KubernetesRole("Role", evil))])
    assert made["rules"] == [*IN_A_NAMESPACE, _on("roles", ["bind"], evil)]


# The names that Kubernetes and the API allow.
_LABELS = st.from_regex("[a-z]([-a-z0-9]{0,8}[a-z])?", fullmatch=True).filter(
    lambda name: isinstance(yaml.safe_load(name), str)
)
_NAMES = st.lists(_LABELS, min_size=1, max_size=3, unique=True).map(tuple) | st.just(("*",))
_ROLES = st.lists(
    st.builds(
        lambda number, namespaces, accounts: role(
            name=f"roles/r{number}", allowed_namespaces=namespaces, allowed_service_accounts=accounts
        ),
        st.integers(0, 9),
        _NAMES,
        _NAMES,
    ),
    max_size=5,
)


_WORDS = st.sampled_from(["a", "b", "c", "*"])
_RULES = st.lists(
    st.fixed_dictionaries(
        {
            "apiGroups": st.lists(_WORDS, min_size=1, max_size=2, unique=True),
            "resources": st.lists(_WORDS, min_size=1, max_size=2, unique=True),
            "verbs": st.lists(_WORDS, min_size=1, max_size=2, unique=True),
        },
        optional={"resourceNames": st.lists(st.sampled_from(["x", "y"]), min_size=1, max_size=2, unique=True)},
    ),
    min_size=1,
    max_size=4,
)
_MAKING = st.builds(
    lambda rules, namespaces: _making(
        generated_role=GeneratedRole("Role", json.dumps(rules)), allowed_namespaces=namespaces
    ),
    _RULES,
    _NAMES,
)


def _rights_of(namespace: str, rule: dict[str, Any]) -> set[tuple[str, ...]]:
    """The single rights of a rule; the empty name stands for all."""
    names = rule.get("resourceNames", [""])
    return {(namespace, *each) for each in product(rule["apiGroups"], rule["resources"], names, rule["verbs"])}


@settings(max_examples=100)
@given(_ROLES, st.lists(_MAKING, max_size=2))
def test_what_is_granted_is_what_is_needed(existing: list[Role], making: list[Role]) -> None:
    """For any roles the YAML grants each right that one of them needs, and none that none does, to the one identity."""
    needed = needs([*existing, *making])
    wanted = {
        (
            "" if need.where == "*" else need.where,
            need.right.group,
            need.right.resource,
            need.right.name,
            need.right.verb,
        )
        for need in needed
    }
    found = _tokens([*existing, *making])
    granted: set[tuple[str, ...]] = set()
    for made, binding in zip(found[::2], found[1::2], strict=True):
        namespace = made["metadata"].get("namespace", "")
        assert [made, binding] == [
            {**made, "rules": made["rules"]},
            {**_objects(namespace, {})[1]},
        ]
        granted |= set().union(*(_rights_of(namespace, rule) for rule in made["rules"]))

    def covered(right: tuple[str, ...]) -> bool:
        # The right to all names holds each, so that none needs to be written beside it.
        return right in granted or (*right[:3], "", right[4]) in granted

    assert granted <= wanted
    assert [right for right in wanted if not covered(right)] == []
    assert NOWHERE not in {need.where for need in needed}
