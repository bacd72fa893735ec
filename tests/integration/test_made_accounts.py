"""Credentials that are made for one lease and go with it, on the real API server."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from devcluster import DevCluster
from devcluster.cluster import DevClusterError
from kubevend.v1 import config_service_pb2, issue_service_pb2, lease_service_pb2, role_service_pb2
from kubevend.v1.role_service_pb2 import (
    KUBERNETES_ROLE_KIND_CLUSTER_ROLE,
    KUBERNETES_ROLE_KIND_ROLE,
    GeneratedRole,
    KubernetesRole,
    KubernetesRoleKind,
)
from tests.integration.conftest import Start, Vending, config_of
from tests.support.client import KUBERNETES_AUDIENCE
from tests.support.clusters import install, works
from tests.support.made import RULES, Admin, Standing, allow_makers, kinds
from tests.support.waiting import until

Lease = lease_service_pb2.Lease
CACHE = 20
JSON_RULES = json.dumps({"rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]})
ROLE, CLUSTER_ROLE = KUBERNETES_ROLE_KIND_ROLE, KUBERNETES_ROLE_KIND_CLUSTER_ROLE


@dataclass
class Scene:
    """A kubevend that may make accounts in one namespace, with Role and ClusterRole of its name, and another one."""

    vending: Vending
    cluster: DevCluster
    admin: Admin
    namespace: str
    elsewhere: str
    instance: str

    def role(self, role_id: str, **fields: Any) -> str:
        """Make a role for the namespace."""
        made = self.vending.admin.create_role(
            role_id, **{"allowed_service_accounts": [], "allowed_namespaces": [self.namespace], **fields}
        )
        return made.name

    def lease(self, reply: issue_service_pb2.IssueTokenResponse) -> lease_service_pb2.Lease:
        """The lease of a token."""
        leases = self.vending.admin.leases
        return self.vending.admin.call(leases.GetLease, lease_service_pb2.GetLeaseRequest(name=reply.lease)).lease

    def revoke(self, reply: issue_service_pb2.IssueTokenResponse) -> lease_service_pb2.LeaseRevocation:
        """End the lease of a token."""
        request = lease_service_pb2.RevokeLeaseRequest(name=reply.lease)
        return self.vending.admin.call(self.vending.admin.leases.RevokeLease, request).revocation

    def made(self) -> dict[Standing, dict[str, Any]]:
        """All that this kubevend has made."""
        return self.admin.manifests(self.instance)

    def may(self, token: str, verb: str, resource: str, namespace: str = "") -> bool:
        """Whether the cluster lets the bearer of a token do something, as kubectl finds by doing it."""
        where = f"--namespace={namespace or self.namespace}"
        try:
            self.cluster.kubectl(verb, resource, where, token=token)
        except DevClusterError as error:
            if "Forbidden" not in str(error):
                raise
            return False
        return True


@pytest.fixture(scope="module")
def scene(cluster: DevCluster, start_for_all: Start, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """One server for the module."""
    return begin(cluster, start_for_all, tmp_path_factory.mktemp("made"), "made-accounts")


def begin(cluster: DevCluster, start: Start, folder: Path, namespace: str, reconcile_seconds: int = 60) -> Scene:
    """A server with its namespaces and its rights."""
    elsewhere = f"{namespace}-elsewhere"
    for name in (namespace, elsewhere):
        cluster.apply(f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}")
    vending = start({"instance": {"id": namespace}, "leases": {"reconcile_seconds": reconcile_seconds}})
    vending.add_config(cluster, service_account_jwt=cluster.token("kubevend", allow_makers(cluster, namespace)))
    return Scene(vending, cluster, Admin(cluster, folder), namespace, elsewhere, namespace)


def bound(kind: KubernetesRoleKind.ValueType, namespace: str) -> dict[str, Any]:
    """The fields of a role that binds an existing one."""
    return {"kubernetes_role": KubernetesRole(kind=kind, name=namespace)}


def generated(kind: KubernetesRoleKind.ValueType, rules: str) -> dict[str, Any]:
    """The fields of a role that makes one."""
    return {"generated_role": GeneratedRole(kind=kind, rules=rules)}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (bound(ROLE, "made-accounts"), {"ServiceAccount", "RoleBinding"}),
        (bound(CLUSTER_ROLE, "made-accounts"), {"ServiceAccount", "RoleBinding"}),
        (generated(ROLE, RULES), {"ServiceAccount", "RoleBinding", "Role"}),
        (generated(ROLE, JSON_RULES), {"ServiceAccount", "RoleBinding", "Role"}),
        (generated(CLUSTER_ROLE, JSON_RULES), {"ServiceAccount", "RoleBinding", "ClusterRole"}),
    ],
    ids=["a Role", "a ClusterRole", "a Role of YAML", "a Role of JSON", "a ClusterRole of JSON"],
)
def test_an_account_is_made_for_a_lease(scene: Scene, fields: dict[str, Any], expected: set[str]) -> None:
    """The token has the role's rights, in its namespace; all that was made names its lease, and goes with it."""
    role_id = f"made-{'-'.join(sorted(expected))}-{len(str(fields))}".lower()
    role = scene.role(role_id, **fields)

    reply = scene.vending.admin.issue(role)

    made = scene.made()
    assert {each.kind for each in made} == expected
    lease = scene.lease(reply)
    assert {Standing(o.kind, o.namespace, o.name) for o in lease.objects} == set(made)
    first = min((each.kind for each in made), key=["ClusterRole", "Role", "RoleBinding", "ServiceAccount"].index)
    (owner,) = (each for each in made if each.kind == first)
    for each, manifest in made.items():
        metadata = manifest["metadata"]
        assert each.name == reply.service_account
        assert metadata["labels"] == {
            "app.kubernetes.io/managed-by": "kubevend",
            "kubevend.dev/instance": scene.instance,
            "kubevend.dev/role": role_id,
            "kubevend.dev/lease": reply.lease.removeprefix("leases/"),
        }
        assert metadata["annotations"] == {"kubevend.dev/caller": "admin://local/bootstrap"}
        owners = [(o["kind"], o["name"], o["uid"]) for o in metadata.get("ownerReferences", ())]
        assert owners == ([] if each == owner else [(owner.kind, owner.name, made[owner]["metadata"]["uid"])])
    assert scene.may(reply.token, "get", "configmaps")
    assert not scene.may(reply.token, "get", "secrets")
    assert not scene.may(reply.token, "get", "configmaps", scene.elsewhere)

    revocation = scene.revoke(reply)

    assert revocation.state == Lease.STATE_REVOKED
    assert scene.made() == {}
    if "ClusterRole" in expected:
        # It takes the API server's cache 10 s, so once is enough.
        until(lambda: not works(scene.cluster, reply.token), "the token to stop working", CACHE)
    (ended,) = scene.vending.events(stage="STAGE_ENDED", lease=reply.lease)
    assert ended["reason"] == "REVOKED"


@pytest.mark.parametrize(
    "fields", [bound(CLUSTER_ROLE, "made-accounts"), generated(CLUSTER_ROLE, RULES)], ids=["bound", "made"]
)
def test_rights_in_the_whole_cluster(scene: Scene, fields: dict[str, Any]) -> None:
    """Rights hold in every namespace where the role allows it and the request asks for it, and only then."""
    role = scene.role(f"wide-{next(iter(fields))}".replace("_", "-"), **fields, cluster_wide_allowed=True)

    narrow = scene.vending.admin.issue(role)
    wide = scene.vending.admin.issue(role, cluster_wide=True)

    assert not scene.may(narrow.token, "get", "configmaps", scene.elsewhere)
    assert scene.may(wide.token, "get", "configmaps", scene.elsewhere)
    assert not scene.may(wide.token, "get", "secrets", scene.elsewhere)
    assert kinds({Standing(o.kind, o.namespace, o.name) for o in scene.lease(wide).objects})["ClusterRoleBinding"] == 1
    assert scene.lease(wide).cluster_wide
    for reply in (narrow, wide):
        scene.revoke(reply)
    assert scene.made() == {}


def test_rights_in_the_whole_cluster_that_the_role_does_not_allow(scene: Scene) -> None:
    """What asks for rights in the whole cluster of a role that does not allow it is refused, and nothing is made."""
    role = scene.role("narrow", **bound(CLUSTER_ROLE, scene.namespace))

    refusal = scene.vending.admin.issue_refused(role, cluster_wide=True)

    assert refusal.status == "PERMISSION_DENIED"
    assert "cluster_wide" in refusal.message
    assert scene.made() == {}


def test_names_labels_and_annotations(scene: Scene) -> None:
    """Objects are called by the role's template, and have its labels and annotations besides kubevend's own."""
    role = scene.role(
        "named",
        **bound(ROLE, scene.namespace),
        name_template="kubevend-x-{role}-{random}",
        extra_labels={"team": "payments", "kubevend.example/x": "y"},
        extra_annotations={"example.com/why": "a reason, with spaces"},
    )

    reply = scene.vending.admin.issue(role)

    assert reply.service_account.startswith("kubevend-x-named-")
    for each, manifest in scene.made().items():
        assert each.name == reply.service_account
        labels, annotations = manifest["metadata"]["labels"], manifest["metadata"]["annotations"]
        assert labels["team"] == "payments"
        assert labels["kubevend.example/x"] == "y"
        assert labels["kubevend.dev/lease"] == reply.lease.removeprefix("leases/")
        assert annotations["example.com/why"] == "a reason, with spaces"
    scene.revoke(reply)
    assert scene.made() == {}


def test_an_account_goes_when_its_lease_runs_out(scene: Scene) -> None:
    """A lease of 30 s ends by itself, and with it the token and all that was made."""
    role = scene.role("short", **generated(ROLE, RULES))

    reply = scene.vending.admin.issue(role, ttl=Duration(seconds=30))
    others = scene.vending.admin.issue(role)

    assert reply.granted_ttl.ToTimedelta() == timedelta(seconds=30)
    until(lambda: scene.lease(reply).state == Lease.STATE_EXPIRED, "the lease to end", 40)
    assert {each.name for each in scene.made()} == {others.service_account}
    until(lambda: not works(scene.cluster, reply.token), "the token to stop working", CACHE)
    assert works(scene.cluster, others.token)
    scene.revoke(others)


@pytest.mark.parametrize("way", ["the rules", "the role to bind", "the right to make bindings"])
def test_an_account_that_the_cluster_refuses(scene: Scene, way: str) -> None:
    """Where kubevend lacks a right the lease is FAILED, what was made before goes, and the refusal says what lacks."""
    more = json.dumps([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}])
    fields = {
        "the rules": generated(ROLE, more),
        "the role to bind": bound(ROLE, "another"),
        "the right to make bindings": generated(ROLE, RULES),
    }[way]
    role = scene.role(f"refused-{way.replace(' ', '-')}", **fields)
    if way == "the right to make bindings":
        take_away(scene, "rolebindings")

    refusal = scene.vending.admin.issue_refused(role)

    assert refusal.status == "FAILED_PRECONDITION", refusal
    assert refusal.reason in ("KUBERNETES_ESCALATION", "KUBERNETES_FORBIDDEN", "KUBERNETES_ROLE_NOT_FOUND"), refusal
    until(lambda: scene.made() == {}, "what was made to go")
    listed = scene.vending.admin.call(
        scene.vending.admin.leases.ListLeases,
        lease_service_pb2.ListLeasesRequest(filter=lease_service_pb2.LeaseFilter(role=role)),
    )
    (lease,) = listed.leases
    until(
        lambda: (
            lease.state == Lease.STATE_FAILED
            or scene.vending.admin.call(
                scene.vending.admin.leases.GetLease, lease_service_pb2.GetLeaseRequest(name=lease.name)
            ).lease.state
            == Lease.STATE_FAILED
        ),
        "the lease to be FAILED",
    )
    assert not lease.tokens
    if way == "the right to make bindings":
        allow_makers(scene.cluster, scene.namespace)


def take_away(scene: Scene, resource: str) -> None:
    """Take the right to make something in the namespace from kubevend, but not that to delete it."""
    rule = {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["create", "delete", "list"]}
    role = json.loads(
        scene.cluster.kubectl(
            "get", "role", f"{scene.namespace}-makes", f"--namespace={scene.namespace}", "--output=json"
        )
    )
    role["rules"] = [each if resource not in each["resources"] else rule for each in role["rules"]]
    scene.cluster.kubectl("replace", "-f", "-", stdin=json.dumps(role))


def test_what_the_owner_owns_goes_with_it(start: Start, tmp_path: Path) -> None:
    """Where only the owner is deleted, Kubernetes collects the rest, without kubevend."""
    with DevCluster.start(controller_manager=True) as cluster:
        install(cluster)
        scene = begin(cluster, start, tmp_path, "made-owned", reconcile_seconds=3600)
        kinds_of_owner = {
            "bound": ("RoleBinding", bound(ROLE, scene.namespace)),
            "generated": ("Role", generated(ROLE, RULES)),
            "wide": ("ClusterRole", {**generated(CLUSTER_ROLE, RULES), "cluster_wide_allowed": True}),
        }
        for role_id, (kind, fields) in kinds_of_owner.items():
            reply = scene.vending.admin.issue(scene.role(role_id, **fields), cluster_wide=role_id == "wide")
            where = [] if kind == "ClusterRole" else [f"--namespace={scene.namespace}"]
            scene.cluster.kubectl("delete", kind, reply.service_account, *where)
            until(lambda: scene.made() == {}, f"what the {kind} owned to be collected", 60)
            until(lambda reply=reply: not works(cluster, reply.token), "the token to stop working", CACHE)  # type: ignore[misc]


def test_who_writes_a_role_is_warned(scene: Scene) -> None:
    """CreateRole and UpdateRole tell what the cluster would refuse later, and what they could not find out."""
    more = json.dumps([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}])
    config = config_of(scene.cluster, kubernetes_host="https://127.0.0.1:1")
    admin = scene.vending.admin
    request = config_service_pb2.CreateConfigRequest(config_id="away", config=config)
    admin.call(admin.configs.CreateConfig, request)

    sound = warnings_of(scene, "warned-sound", **bound(CLUSTER_ROLE, scene.namespace))
    too_wide = warnings_of(scene, "warned-wide", **generated(ROLE, more))
    unknown = warnings_of(scene, "warned-away", config="configs/away", **generated(ROLE, RULES))
    update = role_service_pb2.UpdateRoleRequest(
        role=role_service_pb2.Role(name="roles/warned-sound", **generated(ROLE, more)),
        update_mask=FieldMask(paths=["kubernetes_role", "generated_role"]),
    )
    updated = admin.call(admin.roles.UpdateRole, update).warnings

    assert sound == {}
    for told in (too_wide, {each.reason: each.message for each in updated}):
        assert list(told) == ["RULES_NOT_GRANTABLE"]
        assert "escalate" in told["RULES_NOT_GRANTABLE"]
    assert list(unknown) == ["RULES_NOT_CHECKED"]
    assert "cannot be reached" in unknown["RULES_NOT_CHECKED"]
    assert scene.made() == {}


def warnings_of(scene: Scene, role_id: str, **fields: Any) -> dict[str, str]:
    """The warnings at the making of a role, by reason."""
    role = role_service_pb2.Role(
        allowed_namespaces=[scene.namespace], allowed_audiences=[KUBERNETES_AUDIENCE], **fields
    )
    request = role_service_pb2.CreateRoleRequest(role_id=role_id, role=role)
    reply = scene.vending.admin.call(scene.vending.admin.roles.CreateRole, request)
    return {warning.reason: warning.message for warning in reply.warnings}
