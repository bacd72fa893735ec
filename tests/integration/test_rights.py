"""The printed rights and admission policies on the real API server: what they allow, and what they hold back.

Each mode has two identities with the same RBAC: one that the policies hold, and a control, without them. What the one
is refused, the control can do, so that a refusal is the policies' doing.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import grpc
import pytest

from devcluster import DevCluster
from kubevend.v1 import issue_service_pb2, lease_service_pb2, role_service_pb2
from kubevend_server.checks import Checker
from kubevend_server.clock import utc_now
from kubevend_server.cluster.clusters import Clusters, OwnCluster
from kubevend_server.cluster.connection import Transport
from kubevend_server.config_rules import ConfigRules
from kubevend_server.configs import Config, Credential
from kubevend_server.findings import Report
from kubevend_server.permissions import AT_ONCE
from kubevend_server.policy.limits import Limits
from kubevend_server.policy.made import ANCHOR_TYPE
from kubevend_server.rbac.admission import Policy, admission_policies
from kubevend_server.rbac.manifests import own_name, role_manifests
from kubevend_server.rbac.needs import needs
from kubevend_server.roles import GeneratedRole, KubernetesRole, LabelSelector, Requirement, Role
from tests.integration.conftest import Start, Vending
from tests.integration.test_checks import look
from tests.support.client import take_apart
from tests.support.clusters import works
from tests.support.kubernetes_api import Answer, Request, send
from tests.support.waiting import until

CONFIG = "configs/default"
API = "https://kubernetes.default.svc"
GROUP = "rbac.authorization.k8s.io"
RULES = "[{apiGroups: ['', apps], resources: [pods, deployments], verbs: [get, list]}, "
RULES += "{apiGroups: [''], resources: [configmaps], resourceNames: [settings], verbs: [get]}]"
PARSED_RULES = [
    {"apiGroups": ["", "apps"], "resources": ["pods", "deployments"], "verbs": ["get", "list"]},
    {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["settings"], "verbs": ["get"]},
]
LABELS = {"app.kubernetes.io/managed-by": "kubevend", "kubevend.dev/instance": "test"}
LIMITS = Limits(timedelta(hours=1), timedelta(hours=2), frozenset({"kubevend"}))
BASE = Role(
    name="roles/test",
    allowed_audiences=(API,),
    max_ttl=timedelta(hours=1),
)


@dataclass(frozen=True)
class Place:
    """Where a mode is tried.

    Attributes:
        namespace: the test's own; it has what is somebody else's, all named `foreign`.
        other: another one, which no role allows.
        kubernetes_role: what roles name: a Role of the namespace, and a ClusterRole.
    """

    namespace: str
    other: str

    @property
    def shared(self) -> str:
        """The name of the Role, and of the ClusterRole, that roles name."""
        return f"reader-{self.namespace}"


def anchored(place: Place) -> Role:
    """Tokens of one ServiceAccount that exists, which can be revoked."""
    names = {"allowed_namespaces": (place.namespace,), "allowed_service_accounts": ("demo",)}
    return replace(BASE, **names, revocation="PER_LEASE")  # type: ignore[arg-type]


def bound(place: Place) -> Role:
    """ServiceAccounts bound to a Role that exists."""
    named = KubernetesRole("Role", place.shared)
    return replace(BASE, allowed_namespaces=(place.namespace,), kubernetes_role=named, revocation="PER_LEASE")


def bound_widely(place: Place) -> Role:
    """ServiceAccounts bound to a ClusterRole that exists, in a namespace or in all of them."""
    return replace(bound(place), kubernetes_role=KubernetesRole("ClusterRole", place.shared), cluster_wide_allowed=True)


def selected(place: Place) -> Role:
    """ServiceAccounts bound to a ClusterRole that exists, in namespaces with a label."""
    selector = LabelSelector((("team", place.namespace),), (Requirement("frozen", "DOES_NOT_EXIST"),))
    named = KubernetesRole("ClusterRole", place.shared)
    return replace(bound(place), allowed_namespaces=(), allowed_namespace_selector=selector, kubernetes_role=named)


def generated(place: Place) -> Role:
    """ServiceAccounts bound to a Role made with them."""
    return replace(bound(place), kubernetes_role=None, generated_role=GeneratedRole("Role", RULES))


def generated_widely(place: Place) -> Role:
    """ServiceAccounts bound to a ClusterRole made with them, in a namespace or in all of them."""
    made = GeneratedRole("ClusterRole", RULES)
    return replace(bound(place), kubernetes_role=None, generated_role=made, cluster_wide_allowed=True)


MODES = (anchored, bound, bound_widely, selected, generated, generated_widely)


@dataclass(frozen=True)
class Vendor:
    """An identity of kubevend's, with the printed rights of a role.

    Attributes:
        name: the ServiceAccount's, which is part of the names of all that it makes.
        policies: those that hold it, by what they are about.
    """

    cluster: DevCluster
    place: Place
    role: Role
    name: str
    token: str = field(repr=False)
    policies: dict[str, Policy]

    def send(self, request: Request) -> Answer:
        """Make a request as this identity."""
        return send(self.cluster, self.token, request)

    @property
    def makes_accounts(self) -> bool:
        """Whether its role has ServiceAccounts made."""
        return self.role.makes_accounts


@dataclass(frozen=True)
class Pair:
    """An identity that the policies hold, and one with the same RBAC that they do not."""

    held: Vendor
    control: Vendor


@dataclass(frozen=True)
class Attempt:
    """Something that kubevend never does.

    Attributes:
        topic: of the policy that holds it back.
        what: in words.
    """

    topic: str
    what: str
    request: Request


# What is asked of the API server.


def core(namespace: str, resource: str, name: str = "") -> str:
    """A path of the core API."""
    return f"/api/v1/namespaces/{namespace}/{resource}" + (f"/{name}" if name else "")


def rbac(namespace: str, resource: str, name: str = "") -> str:
    """A path of the RBAC API; without a namespace one of what is in none."""
    place = f"namespaces/{namespace}/" if namespace else ""
    return f"/apis/{GROUP}/v1/{place}{resource}" + (f"/{name}" if name else "")


def post(path: str, name: str, **fields: Any) -> Request:
    """Make an object with kubevend's labels; `metadata` adds to its metadata, or takes away from it."""
    metadata = {"name": name, "labels": LABELS, **fields.pop("metadata", {})}
    return Request("POST", path, {"metadata": metadata, **fields})


def anchor(namespace: str, name: str, **fields: Any) -> Request:
    """Make an anchor."""
    return post(core(namespace, "secrets"), name, **{"type": ANCHOR_TYPE, "immutable": True, **fields})


def token_request(namespace: str, name: str, seconds: int = 3600, audience: str = API, to: str = "") -> Request:
    """Request a token, maybe one that is bound to a Secret."""
    spec: dict[str, Any] = {"audiences": [audience], "expirationSeconds": seconds}
    if to:
        spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Secret", "name": to}
    return Request("POST", core(namespace, "serviceaccounts", f"{name}/token"), {"spec": spec})


def binding(namespace: str, name: str, to: tuple[str, str], *subjects: dict[str, str], **fields: Any) -> Request:
    """Bind subjects to a role, which is its kind and its name."""
    ref = {"apiGroup": GROUP, "kind": to[0], "name": to[1]}
    path = rbac(namespace, "rolebindings" if namespace else "clusterrolebindings")
    return post(path, name, roleRef=ref, subjects=list(subjects), **fields)


def account(namespace: str, name: str) -> dict[str, str]:
    """A ServiceAccount as a subject."""
    return {"kind": "ServiceAccount", "name": name, "namespace": namespace}


def delete(path: str) -> Request:
    """Delete an object."""
    return Request("DELETE", path)


# What kubevend does.


def target(vendor: Vendor, name: str) -> tuple[str, str]:
    """To what the ServiceAccounts of a role are bound; a made one has the name of its lease."""
    role = vendor.role
    if role.kubernetes_role is not None:
        return role.kubernetes_role.kind, role.kubernetes_role.name
    assert role.generated_role is not None
    return role.generated_role.kind, name


def leases(vendor: Vendor) -> Iterator[Request]:
    """All that kubevend asks of a cluster for the leases of a role, in order."""
    namespace, name = vendor.place.namespace, f"kubevend-{vendor.name}-1"
    if not vendor.makes_accounts:
        yield anchor(namespace, name)
        yield token_request(namespace, "demo", to=name)
        yield delete(core(namespace, "secrets", name))
        return
    kind, role_name = target(vendor, name)
    roles = rbac(namespace if kind == "Role" else "", f"{kind.lower()}s")
    made = [core(namespace, "serviceaccounts"), rbac(namespace, "rolebindings")]
    yield post(core(namespace, "serviceaccounts"), name)
    if vendor.role.generated_role is not None:
        yield post(roles, name, rules=PARSED_RULES)
        made.append(roles)
    yield binding(namespace, name, (kind, role_name), account(namespace, name))
    if vendor.role.cluster_wide_allowed:
        yield binding("", name, (kind, role_name), account(namespace, name))
        made.append(rbac("", "clusterrolebindings"))
    yield token_request(namespace, name)
    if vendor.role.allowed_namespace_selector is not None:
        yield Request("GET", "/api/v1/namespaces")
        yield Request("GET", "/api/v1/namespaces?watch=true&timeoutSeconds=1")
    for path in made:
        yield Request("GET", f"{path}?labelSelector=kubevend.dev/instance=test")
        yield delete(f"{path}/{name}")


# What kubevend never does.


def misuses(vendor: Vendor) -> Iterator[Attempt]:
    """What RBAC cannot keep from kubevend's identity, so that the policies must."""
    if vendor.makes_accounts:
        yield from accounts(vendor)
        yield from bindings(vendor)
        yield from tokens(vendor, f"kubevend-{vendor.name}-own")
        if vendor.role.generated_role is not None:
            yield from roles(vendor, vendor.role.generated_role)
    else:
        yield from anchors(vendor)
        yield from tokens(vendor, "demo")


def anchors(vendor: Vendor) -> Iterator[Attempt]:
    """Secrets other than anchors."""
    namespace, name = vendor.place.namespace, f"kubevend-{vendor.name}-a"
    token = {"annotations": {"kubernetes.io/service-account.name": "foreign"}}
    owner = {"apiVersion": "v1", "kind": "ServiceAccount", "name": "foreign", "uid": "1"}
    for what, request in (
        ("a long-lived token", anchor(namespace, name, type="kubernetes.io/service-account-token", metadata=token)),
        ("data", anchor(namespace, f"{name}-data", data={"a": "Yg=="})),
        ("data as text", anchor(namespace, f"{name}-text", stringData={"a": "b"})),
        ("another type", anchor(namespace, f"{name}-type", type="Opaque")),
        ("no type", anchor(namespace, f"{name}-untyped", type=None)),
        ("another name", anchor(namespace, f"{vendor.name}-a")),
        ("a name with a colon's place", anchor(namespace, f"kubevend-{vendor.name}.a")),
        ("a name that the cluster makes", anchor(namespace, "", metadata={"generateName": f"{vendor.name}-"})),
        ("one that can be changed", anchor(namespace, f"{name}-mutable", immutable=False)),
        ("a finalizer", anchor(namespace, f"{name}-final", metadata={"finalizers": ["example.com/never"]})),
        ("an owner", anchor(namespace, f"{name}-owner", metadata={"ownerReferences": [owner]})),
        ("the deletion of a foreign one", delete(core(namespace, "secrets", f"foreign-{vendor.name}"))),
    ):
        yield Attempt("secrets", f"a Secret with {what}", request)


def tokens(vendor: Vendor, own: str) -> Iterator[Attempt]:
    """Tokens that no role allows."""
    namespace = vendor.place.namespace
    yield Attempt("tokens", "a token that lives longer", token_request(namespace, own, seconds=3601))
    yield Attempt("tokens", "a token for another audience", token_request(namespace, own, audience="elsewhere"))
    yield Attempt("tokens", "a token for kubevend itself", token_request(namespace, own, audience="kubevend"))
    if vendor.makes_accounts:
        yield Attempt("tokens", "a token of a foreign ServiceAccount", token_request(namespace, "foreign"))
        yield Attempt("tokens", "a token of its own ServiceAccount", token_request(namespace, vendor.name))
    if vendor.role.allowed_namespace_selector is not None:
        elsewhere = token_request(vendor.place.other, "kubevend-quickstart")
        yield Attempt("tokens", "a token in a namespace that is not selected", elsewhere)


def accounts(vendor: Vendor) -> Iterator[Attempt]:
    """ServiceAccounts that are not kubevend's."""
    namespace, name = vendor.place.namespace, f"kubevend-{vendor.name}-s"
    path = core(namespace, "serviceaccounts")
    for what, request in (
        ("with another name", post(path, f"{vendor.name}-s")),
        ("without labels", post(path, f"{name}1", metadata={"labels": {}})),
        (
            "without an instance",
            post(path, f"{name}2", metadata={"labels": {"app.kubernetes.io/managed-by": "kubevend"}}),
        ),
        (
            "by another manager",
            post(path, f"{name}3", metadata={"labels": {**LABELS, "app.kubernetes.io/managed-by": "x"}}),
        ),
        ("that is foreign, deleted", delete(f"{path}/foreign-{vendor.name}")),
        ("that is called as its own, deleted", delete(f"{path}/kubevend-{vendor.name}-foreign")),
    ):
        yield Attempt("serviceaccounts", f"a ServiceAccount {what}", request)
    if vendor.role.allowed_namespace_selector is not None:
        elsewhere = post(core(vendor.place.other, "serviceaccounts"), name)
        yield Attempt("serviceaccounts", "a ServiceAccount in a namespace that is not selected", elsewhere)


def bindings(vendor: Vendor) -> Iterator[Attempt]:
    """Bindings of others, and to what no role names."""
    place, name = vendor.place, f"kubevend-{vendor.name}-b"
    namespace, own = place.namespace, f"kubevend-{vendor.name}-own"
    to = target(vendor, own)
    made = account(namespace, own)
    for what, request in (
        ("of a foreign ServiceAccount", binding(namespace, f"{name}1", to, account(namespace, "foreign"))),
        ("of its own identity", binding(namespace, f"{name}2", to, account(namespace, vendor.name))),
        ("of another namespace's", binding(namespace, f"{name}3", to, account(place.other, own))),
        ("of a user", binding(namespace, f"{name}4", to, {"apiGroup": GROUP, "kind": "User", "name": own})),
        ("of a group", binding(namespace, f"{name}5", to, made, {"apiGroup": GROUP, "kind": "Group", "name": own})),
        ("with another name", binding(namespace, f"{vendor.name}-b", to, made)),
        ("without labels", binding(namespace, f"{name}6", to, made, metadata={"labels": {}})),
        ("to all of its own rights", binding(namespace, f"{name}7", own_rights(vendor), made)),
        ("that is foreign, deleted", delete(rbac(namespace, "rolebindings", f"foreign-{vendor.name}"))),
    ):
        yield Attempt("bindings", f"a binding {what}", request)
    if vendor.role.cluster_wide_allowed:
        foreign = rbac("", "clusterrolebindings", f"foreign-{namespace}-{vendor.name}")
        for what, request in (
            ("of a foreign ServiceAccount", binding("", f"{name}1", to, account(namespace, "foreign"))),
            ("of another namespace's", binding("", f"{name}2", to, account(place.other, own))),
            ("that is foreign, deleted", delete(foreign)),
        ):
            yield Attempt("bindings", f"a binding everywhere {what}", request)
    if vendor.role.allowed_namespace_selector is not None:
        elsewhere = binding(place.other, name, to, account(place.other, own))
        yield Attempt("bindings", "a binding in a namespace that is not selected", elsewhere)


def own_rights(vendor: Vendor) -> tuple[str, str]:
    """The role that gives kubevend its own rights, in the namespace or in all of them."""
    identity = f"system:serviceaccount:{vendor.place.namespace}:{vendor.name}"
    everywhere = vendor.role.allowed_namespace_selector is not None
    return "ClusterRole" if everywhere else "Role", own_name(CONFIG, identity)


def roles(vendor: Vendor, generated_role: GeneratedRole) -> Iterator[Attempt]:
    """Roles with other rules than those that the operator wrote, and others' roles."""
    namespace, name, kind = vendor.place.namespace, f"kubevend-{vendor.name}-r", generated_role.kind
    path = rbac(namespace if kind == "Role" else "", f"{kind.lower()}s")
    # With which whoever is bound to it could take every ServiceAccount's place, held by no policy.
    rights = (
        {"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]}
        if kind == "Role"
        else {"apiGroups": [GROUP], "resources": ["clusterrolebindings"], "verbs": ["create"]}
    )
    aggregated = {"labels": {**LABELS, f"{GROUP}/aggregate-to-view": "true"}}
    for what, request in (
        ("with another name", post(path, f"{vendor.name}-r", rules=PARSED_RULES)),
        ("without labels", post(path, f"{name}1", rules=PARSED_RULES, metadata={"labels": {}})),
        ("with its own rights", post(path, f"{name}2", rules=[*PARSED_RULES, rights])),
        ("that adds to others'", post(path, f"{name}3", rules=PARSED_RULES, metadata=aggregated)),
        ("that is foreign, deleted", delete(f"{path}/foreign-{namespace}-{vendor.name}")),
    ):
        yield Attempt("roles", f"a role {what}", request)


# What is there before.


def make_place(cluster: DevCluster) -> Place:
    """Two namespaces with what is somebody else's, and the ServiceAccounts that controllers would make."""
    place = Place(f"rights-{secrets.token_hex(4)}", f"rights-{secrets.token_hex(4)}")
    for namespace, labels in ((place.namespace, f"{{team: {place.namespace}}}"), (place.other, "{}")):
        cluster.apply(
            f"""
apiVersion: v1
kind: Namespace
metadata: {{name: {namespace}, labels: {labels}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: foreign, namespace: {namespace}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: demo, namespace: {namespace}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: default, namespace: {namespace}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: kubevend-quickstart, namespace: {namespace}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: foreign, namespace: {namespace}}}
---
apiVersion: {GROUP}/v1
kind: Role
metadata: {{name: {place.shared}, namespace: {namespace}}}
rules: [{{apiGroups: [""], resources: [pods], verbs: [get]}}]
---
apiVersion: {GROUP}/v1
kind: Role
metadata: {{name: foreign, namespace: {namespace}}}
rules: []
---
apiVersion: {GROUP}/v1
kind: RoleBinding
metadata: {{name: foreign, namespace: {namespace}}}
roleRef: {{apiGroup: {GROUP}, kind: Role, name: foreign}}
"""
        )
    cluster.apply(
        f"""
apiVersion: v1
kind: ServiceAccount
metadata: {{name: default, namespace: default}}
---
apiVersion: {GROUP}/v1
kind: ClusterRole
metadata: {{name: {place.shared}}}
rules: [{{apiGroups: [""], resources: [pods], verbs: [get]}}]
---
apiVersion: {GROUP}/v1
kind: ClusterRoleBinding
metadata: {{name: foreign-{place.namespace}}}
roleRef: {{apiGroup: {GROUP}, kind: ClusterRole, name: {place.shared}}}
---
apiVersion: {GROUP}/v1
kind: ClusterRole
metadata: {{name: foreign-{place.namespace}}}
rules: []
"""
    )
    return place


def make_vendor(cluster: DevCluster, place: Place, role: Role, name: str, *, policies: bool) -> Vendor:
    """Make an identity, what it is to try itself on, and what is printed for it, as the cluster's admin."""
    namespace = place.namespace
    cluster.apply(
        f"""
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}, namespace: {namespace}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: kubevend-{name}-own, namespace: {namespace}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: kubevend-{name}-foreign, namespace: {namespace}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: foreign-{name}, namespace: {namespace}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: foreign-{name}, namespace: {namespace}}}
---
apiVersion: {GROUP}/v1
kind: Role
metadata: {{name: foreign-{namespace}-{name}, namespace: {namespace}}}
rules: []
---
apiVersion: {GROUP}/v1
kind: ClusterRole
metadata: {{name: foreign-{namespace}-{name}}}
rules: []
---
apiVersion: {GROUP}/v1
kind: RoleBinding
metadata: {{name: foreign-{name}, namespace: {namespace}}}
roleRef: {{apiGroup: {GROUP}, kind: Role, name: nothing}}
---
apiVersion: {GROUP}/v1
kind: ClusterRoleBinding
metadata: {{name: foreign-{namespace}-{name}}}
roleRef: {{apiGroup: {GROUP}, kind: ClusterRole, name: nothing}}
---
# As kubevend would have made it, for bindings to it.
apiVersion: {GROUP}/v1
kind: Role
metadata: {{name: kubevend-{name}-own, namespace: {namespace}}}
rules: {RULES}
---
apiVersion: {GROUP}/v1
kind: ClusterRole
metadata: {{name: kubevend-{name}-own}}
rules: {RULES}
"""
    )
    identity = f"system:serviceaccount:{namespace}:{name}"
    guards = admission_policies(CONFIG, identity, [role], LIMITS)
    printed = [manifest for guard in guards for manifest in guard.manifests] if policies else []
    cluster.apply("---\n".join([*printed, *role_manifests(CONFIG, identity, needs([role]))]))
    return Vendor(cluster, place, role, name, cluster.token(namespace, name), {guard.topic: guard for guard in guards})


def wait_for(vendor: Vendor, what_comes: Callable[[Attempt, Answer], bool]) -> None:
    """Wait until rights and policies are in force: what is tried first of each topic comes out as it should."""
    first = {attempt.topic: attempt for attempt in reversed(list(misuses(vendor))) if attempt.request.method == "POST"}
    assert set(first) == set(vendor.policies)
    for attempt in first.values():
        dry = replace(attempt.request, path=f"{attempt.request.path}?dryRun=All")
        until(lambda a=attempt, r=dry: what_comes(a, vendor.send(r)), f"{attempt.topic} of {vendor.name}")  # type: ignore[misc]


def is_held_back(vendor: Vendor, attempt: Attempt, answer: Answer) -> bool:
    """Whether it was the policy that refused it."""
    return answer.status == 403 and f"(policy {vendor.policies[attempt.topic].version})" in answer.message


@pytest.fixture(scope="module", params=MODES, ids=lambda mode: mode.__name__)
def pair(request: pytest.FixtureRequest, cluster: DevCluster) -> Pair:
    """Both identities of a mode, once what was applied for them is in force."""
    place = make_place(cluster)
    role = request.param(place)
    # What is in no namespace must not be called as in another mode.
    held = make_vendor(cluster, place, role, f"held-{secrets.token_hex(4)}", policies=True)
    control = make_vendor(cluster, place, role, f"control-{secrets.token_hex(4)}", policies=False)
    wait_for(held, lambda attempt, answer: is_held_back(held, attempt, answer))
    wait_for(control, lambda _, answer: answer.done)
    return Pair(held, control)


def test_everything_that_kubevend_does_works(pair: Pair) -> None:
    """With the printed rights, and the policies in force, all that kubevend asks for its leases is done."""
    asked = list(leases(pair.held))
    answers = [pair.held.send(request) for request in asked]

    refused = [
        (request.method, request.path, answer.message)
        for request, answer in zip(asked, answers, strict=True)
        if not answer.done
    ]
    assert refused == []


def test_what_kubevend_never_does_is_held_back(pair: Pair) -> None:
    """What kubevend has no use for is refused to it, by the policy that is about it."""
    refused = {
        attempt.what: is_held_back(pair.held, attempt, pair.held.send(attempt.request))
        for attempt in misuses(pair.held)
    }

    assert refused == dict.fromkeys(refused, True)


def test_without_policies_nothing_is_held_back(pair: Pair) -> None:
    """The same can be done with the same RBAC where no policy holds it back, so it is the policies that do."""
    answers = {attempt.what: pair.control.send(attempt.request) for attempt in misuses(pair.control)}

    assert {what: answer.message for what, answer in answers.items() if not answer.done} == {}


def test_no_secret_is_read_or_changed(pair: Pair) -> None:
    """RBAC alone keeps kubevend from reading and changing Secrets, in every mode."""
    path = core(pair.held.place.namespace, "secrets")
    reads = [
        Request("GET", path),
        Request("GET", f"{path}?watch=true&timeoutSeconds=1"),
        Request("GET", f"{path}/foreign"),
        Request("GET", "/api/v1/secrets"),
        Request("PATCH", f"{path}/foreign", {"metadata": {"labels": {"a": "b"}}}),
        Request("PUT", f"{path}/foreign", {"metadata": {"name": "foreign"}}),
        Request("DELETE", path),
    ]

    answers = [vendor.send(read) for vendor in (pair.held, pair.control) for read in reads]

    assert [answer.status for answer in answers] == [403] * 14
    assert all("cannot" in answer.message for answer in answers)


def check(vendor: Vendor) -> Report:
    """Have kubevend look at the cluster as an identity, for its role."""
    transport = Transport(connect_timeout=5, request_timeout=15, max_connections=AT_ONCE, trust_env=False)
    clusters = Clusters(OwnCluster(environ={}), ConfigRules("", {}), transport)
    config = Config(
        CONFIG,
        vendor.cluster.server,
        vendor.cluster.ca_file.read_text(),
        Credential("service_account_jwt", service_account_jwt=vendor.token),
    )
    return asyncio.run(Checker(clusters, (), LIMITS, utc_now).check(config, [vendor.role]))


def test_a_check_finds_rights_and_policies(pair: Pair) -> None:
    """With what was printed a check finds every right and every policy, and nothing missing."""
    report = check(pair.held)

    # The credential is a token that nothing renews, and so always told of.
    unwell = [found for found in report.findings if found.state != "PASSED" and found.item != "CREDENTIAL"]
    assert unwell == []
    assert [found.metadata["policy"] for found in report.findings if found.item == "ADMISSION"] == [
        policy.name for policy in pair.held.policies.values()
    ]
    assert report.missing_rbac == ""


def test_a_check_finds_that_policies_are_missing(pair: Pair) -> None:
    """Without the policies a check finds that, prints them, and leaves nothing behind by asking."""
    report = check(pair.control)

    told = [(found.state, found.reason) for found in report.findings if found.item == "ADMISSION"]
    assert told == [("WARNING", "ADMISSION_POLICY_MISSING")] * len(pair.control.policies)
    wanted = [manifest for policy in pair.control.policies.values() for manifest in policy.manifests]
    assert report.missing_rbac == "---\n".join(wanted)
    for kind in ("secrets", "serviceaccounts", "roles", "rolebindings", "clusterroles", "clusterrolebindings"):
        assert "kubevend-check" not in pair.control.cluster.kubectl("get", kind, "--all-namespaces", "--output=name")


def test_a_check_finds_what_the_policies_are_for(cluster: DevCluster) -> None:
    """Before anything is applied a check prints all of it, policies first; applied as it stands, all is found."""
    place = make_place(cluster)
    name = f"bare-{secrets.token_hex(4)}"
    cluster.kubectl("create", "serviceaccount", name, f"--namespace={place.namespace}")
    bare = Vendor(cluster, place, generated(place), name, cluster.token(place.namespace, name), {})
    before = check(bare)

    cluster.apply(before.missing_rbac)

    lacking = {found.metadata["resource"] for found in before.findings if found.state == "FAILED"}
    assert lacking == {
        "serviceaccounts",
        "rolebindings",
        "serviceaccounts/token",
        "roles",
        "pods",
        "deployments",
        "configmaps",
    }
    assert before.missing_rbac.startswith("# Holds kubevend, and nobody else, to tokens that its roles allow.")
    until(lambda: is_well(check(bare)), "all that was printed to be in force")


def is_well(report: Report) -> bool:
    """Whether all rights and policies were found."""
    return all(found.state == "PASSED" for found in report.findings if found.item in {"PERMISSION", "ADMISSION"})


# The whole server.


NAMED = {"kind": role_service_pb2.KUBERNETES_ROLE_KIND_CLUSTER_ROLE}
MADE: dict[str, Any] = {"allowed_service_accounts": []}
WHOLE: dict[str, Callable[[Place], dict[str, Any]]] = {
    "per lease": lambda _: {"revocation": role_service_pb2.REVOCATION_PER_LEASE},
    "per caller": lambda _: {"revocation": role_service_pb2.REVOCATION_PER_CALLER},
    "bound": lambda place: {**MADE, "kubernetes_role": {"name": place.shared}},
    "bound widely": lambda place: {
        **MADE,
        "kubernetes_role": {**NAMED, "name": place.shared},
        "cluster_wide_allowed": True,
    },
    "generated": lambda _: {**MADE, "generated_role": {"rules": RULES}},
    "generated widely": lambda _: {**MADE, "generated_role": {**NAMED, "rules": RULES}, "cluster_wide_allowed": True},
    "selected": lambda place: {
        **MADE,
        "allowed_namespaces": [],
        "allowed_namespace_selector": {"match_labels": {"team": place.namespace}},
        "kubernetes_role": {"name": place.shared},
    },
}


@pytest.mark.parametrize("mode", WHOLE)
def test_a_server_does_its_work_with_what_is_printed(start: Start, cluster: DevCluster, mode: str) -> None:
    """With what CheckConfig prints for a role, and nothing else, a server issues its tokens and ends its leases."""
    place = make_place(cluster)
    name = f"whole-{secrets.token_hex(4)}"
    cluster.kubectl("create", "serviceaccount", name, f"--namespace={place.namespace}")
    vending = start()
    vending.add_config(cluster, service_account_jwt=cluster.token(place.namespace, name))
    fields = WHOLE[mode](place)
    role = vending.admin.create_role("whole", **{"allowed_namespaces": [place.namespace], **fields}).name
    asked = {"namespace": place.namespace} | ({"cluster_wide": True} if "cluster_wide_allowed" in fields else {})
    cluster.apply(look(vending).missing_rbac)
    until(lambda: not look(vending).missing_rbac, "what was printed to be in force")

    before = made(cluster)
    # Nobody tells when the watch of the namespaces has begun.
    issued = until(lambda: issue(vending, role, asked), "a token")
    meanwhile = made(cluster)
    assert works(cluster, issued.token)
    request = lease_service_pb2.RevokeLeaseRequest(name=issued.lease)
    vending.admin.call(vending.admin.leases.RevokeLease, request)

    assert before < meanwhile
    assert made(cluster) == before


def issue(vending: Vending, role: str, asked: dict[str, Any]) -> issue_service_pb2.IssueTokenResponse | None:
    """Have a token issued, or None while the namespaces are not known yet."""
    try:
        return vending.admin.issue(role, **asked)
    except grpc.RpcError as error:
        if take_apart(error).reason != "NAMESPACES_UNKNOWN":
            raise
        return None


def made(cluster: DevCluster) -> set[str]:
    """What there is of all that can be made, by kind and name."""
    kinds = "secrets,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings"
    return set(cluster.kubectl("get", kinds, "--all-namespaces", "--output=name").split())
