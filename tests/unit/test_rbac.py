from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kubevend_server import rbac
from kubevend_server.rbac import Pair
from kubevend_server.roles import Role
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
    return _parsed(rbac.token_manifests(config, identity, rbac.needs(roles)))


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


def test_needs_name_the_roles_of_each_pair() -> None:
    """Each namespace with each ServiceAccount is a pair, in order, with all roles that need it."""
    first = role(name="roles/a", allowed_namespaces=("web", "apps"), allowed_service_accounts=("x", "*"))
    second = role(name="roles/b", allowed_namespaces=("apps",), allowed_service_accounts=("x",))
    needed = rbac.needs([first, second])
    assert list(needed.items()) == [
        (Pair("apps", "*"), ("roles/a",)),
        (Pair("apps", "x"), ("roles/a", "roles/b")),
        (Pair("web", "*"), ("roles/a",)),
        (Pair("web", "x"), ("roles/a",)),
    ]


def test_named_service_accounts_are_granted_by_name() -> None:
    """Named ServiceAccounts of a namespace are one Role there with their names, and its binding."""
    named = role(allowed_service_accounts=("worker", "deployer"))
    manifests = rbac.token_manifests("configs/default", OWN, rbac.needs([named]))
    assert _parsed(manifests) == _objects("apps", _rule("deployer", "worker"))
    assert [manifest.partition("\n")[0] for manifest in manifests] == [
        (
            "# Lets kubevend request tokens of deployer, worker in namespace apps, and of no other ServiceAccount, for "
            "roles/ci."
        ),
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
    assert _parsed(rbac.review_manifests(OWN)) == _objects(ANYWHERE, rule, name)


def test_configs_of_one_cluster_do_not_overwrite_each_other() -> None:
    """Two configs, or two identities, have objects of different names in the same namespace."""
    made = [("configs/a", OWN), ("configs/b", OWN), ("configs/a", "system:serviceaccount:kubevend:other")]
    names = [_tokens([role()], identity, config)[0]["metadata"]["name"] for config, identity in made]
    assert len(set(names)) == len(names)


def test_no_configs_name_is_that_of_the_right_to_review() -> None:
    """What a config needs in every namespace and the right to review tokens do not overwrite each other."""
    everywhere = role(allowed_namespaces=("*",))
    tokens = _tokens([everywhere], config="configs/reviews-tokens")
    reviews = _parsed(rbac.review_manifests(OWN))
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
    for found in (_tokens([role()], identity), _parsed(rbac.review_manifests(identity))):
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
    (subject,) = _parsed(rbac.review_manifests(identity))[1]["subjects"]
    namespace, _, name = identity.removeprefix("system:serviceaccount:").partition(":")
    assert subject in (
        {"kind": "ServiceAccount", "name": name, "namespace": namespace},
        {"apiGroup": GROUP, "kind": "User", "name": identity},
    )


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


@settings(max_examples=50)
@given(_ROLES)
def test_what_is_granted_is_what_is_needed(roles: list[Role]) -> None:
    """For any roles the YAML grants each pair that one of them allows, and nothing that none does: to request tokens,
    of the ServiceAccounts that are named, in the namespaces that are named, to the one identity.
    """
    wanted: dict[str, set[str]] = defaultdict(set)
    for each in roles:
        for namespace in each.allowed_namespaces:
            wanted[namespace] |= set(each.allowed_service_accounts)
    found = _tokens(roles)
    granted: dict[str, set[str]] = {}
    for made, binding in zip(found[::2], found[1::2], strict=True):
        namespace = made["metadata"].get("namespace", "*")
        (rule,) = made["rules"]
        names = rule.get("resourceNames", ["*"])
        assert [made, binding] == _objects(
            "" if namespace == "*" else namespace, _rule(*(names if names != ["*"] else ()))
        )
        assert namespace not in granted
        granted[namespace] = set(names)
    # `*` holds every name, so that nothing needs to be named beside it.
    assert granted == {namespace: {"*"} if "*" in names else names for namespace, names in wanted.items()}
    assert {(pair.namespace, pair.service_account) for pair in rbac.needs(roles)} == {
        (namespace, name) for namespace, names in wanted.items() for name in names
    }
