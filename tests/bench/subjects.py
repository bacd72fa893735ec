"""What is measured: the API server asked directly, kubevend, and OpenBao, each with rights of its own and no more."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc

from devcluster.cluster import DevCluster
from devcluster.server import KubevendServer
from kubevend.v1 import (
    config_service_pb2,
    config_service_pb2_grpc,
    role_service_pb2,
    role_service_pb2_grpc,
)
from tests.bench.openbao import OpenBao

NAMESPACE = "bench"
MAKING = "bench-making"
"""Where objects are made for each token. They are removed after each measurement: the API server looks through all
bindings of a namespace at each request in it."""
AUDIENCE = "https://kubernetes.default.svc"
TTL = timedelta(hours=1)
BROKER_TTL = timedelta(hours=12)


@dataclass(frozen=True)
class Pace:
    """How long one measurement takes.

    Attributes:
        warmup: how long the callers ask before it counts.
        duration: how long it counts.
    """

    warmup: timedelta
    duration: timedelta


@dataclass(frozen=True)
class Subject:
    """One of those that are measured.

    Attributes:
        name: as `table.SUBJECTS` has it.
        mode: of the load program.
        options: for the load program.
        pids: the process IDs of the server and of what it asks, by name.
        paces: how to measure, by number of callers.
        clean: removes what a measurement has left in the cluster.
    """

    name: str
    mode: str
    options: tuple[str, ...]
    pids: Mapping[str, int]
    paces: Mapping[int, Pace]
    clean: Callable[[], None] = lambda: None


def direct(cluster: DevCluster, folder: Path, paces: Mapping[int, Pace]) -> list[Subject]:
    """Ask the API server itself, with a bearer token: for tokens alone, and for what kubevend makes beside them."""
    token_file = folder / "direct.token"
    token_file.write_text(make_broker(cluster, "direct"))
    secret = json.loads(cluster.kubectl("create", "-f", "-", "-o", "json", stdin=json.dumps(_anchor("direct"))))
    bound = {"apiVersion": "v1", "kind": "Secret", "name": "direct", "uid": secret["metadata"]["uid"]}
    reach = (f"-address={cluster.server}", f"-ca={cluster.ca_file}", f"-token-file={token_file}")

    def asked(name: str, body: Mapping[str, Any]) -> Subject:
        path = f"-path=/api/v1/namespaces/{NAMESPACE}/serviceaccounts/direct/token"
        return Subject(name, "direct", (*reach, path, f"-body={json.dumps(body)}"), cluster.pids, paces)

    def chained(name: str, *steps: tuple[str, Mapping[str, Any]]) -> Subject:
        body = json.dumps([{"path": path, "body": json.dumps(what)} for path, what in steps])
        options = (*reach, f"-body={body}")
        return Subject(name, "chain", options, cluster.pids, paces, lambda: remove_made(cluster))

    core, rbac = f"/api/v1/namespaces/{MAKING}", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{MAKING}"
    owner = {"apiVersion": "rbac.authorization.k8s.io/v1", "name": "{NAME}", "uid": "{UID}"}
    by_binding, by_role = [{**owner, "kind": "RoleBinding"}], [{**owner, "kind": "Role"}]
    token = (f"{core}/serviceaccounts/{{NAME}}/token", _token_request())
    return [
        asked("direct", _token_request()),
        asked("direct-bound", _token_request(bound)),
        chained(
            "direct-per-lease",
            (f"{core}/secrets", _anchor("{NAME}", MAKING)),
            (
                f"{core}/serviceaccounts/direct/token",
                _token_request({**bound, "name": "{NAME}", "uid": "{UID}"}),
            ),
        ),
        chained(
            "direct-kubernetes-role",
            (f"{rbac}/rolebindings", _binding("reader", [])),
            (f"{core}/serviceaccounts", _object("v1", "ServiceAccount", "{NAME}", by_binding)),
            token,
        ),
        chained(
            "direct-generated-role",
            (f"{rbac}/roles", {**_object(_RBAC, "Role", "{NAME}"), "rules": RULES}),
            (f"{rbac}/rolebindings", _binding("{NAME}", by_role)),
            (f"{core}/serviceaccounts", _object("v1", "ServiceAccount", "{NAME}", by_role)),
            token,
        ),
    ]


_RBAC = "rbac.authorization.k8s.io/v1"
RULES = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]
"""What generated credentials may do; their makers may too, or the API server would refuse it to them."""


def _token_request(bound: Mapping[str, Any] | None = None) -> dict[str, Any]:
    spec = {"audiences": [AUDIENCE], "expirationSeconds": int(TTL.total_seconds())}
    if bound is not None:
        spec["boundObjectRef"] = dict(bound)
    return {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}


def _object(
    version: str, kind: str, name: str, owners: Sequence[Mapping[str, str]] = (), namespace: str = MAKING
) -> dict[str, Any]:
    """An object with as many labels and annotations as kubevend gives its own."""
    metadata = {
        "name": name,
        "namespace": namespace,
        "labels": {f"bench.example/{label}": "0123456789abcdefghijklmnop" for label in ("instance", "role", "lease")},
        "annotations": {"bench.example/caller": "admin://local/bootstrap"},
        "ownerReferences": list(owners),
    }
    return {"apiVersion": version, "kind": kind, "metadata": metadata}


def _anchor(name: str, namespace: str = NAMESPACE) -> dict[str, Any]:
    made = _object("v1", "Secret", name, namespace=namespace)
    return {**made, "type": "bench.example/anchor", "immutable": True}


def _binding(role: str, owners: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    return {
        **_object(_RBAC, "RoleBinding", "{NAME}", owners),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": "{NAME}", "namespace": MAKING}],
    }


def make_server(folder: Path) -> KubevendServer:
    """Prepare a kubevend server in a folder; it may read the tokens in that folder."""
    # No search of the cluster while something is measured, and what is made there is removed behind kubevend's back.
    overrides: dict[str, dict[str, Any]] = {
        "kubernetes": {"credential_folders": {str(folder): ["*"]}},
        "leases": {"reconcile_seconds": 86400.0},
    }
    return KubevendServer(folder, overrides=overrides)


@contextmanager
def kubevend(cluster: DevCluster, server: KubevendServer, paces: Mapping[int, Pace]) -> Iterator[list[Subject]]:
    """Start a kubevend server that issues from the cluster, as the bootstrap admin, by gRPC with TLS: a role a mode."""
    token_file = server.folder / "kubernetes.token"
    token_file.write_text(make_broker(cluster, "kubevend"))
    server.start()
    try:
        _define_roles(cluster, server, token_file)
        options = (
            f"-address={server.address}",
            f"-ca={server.folder / 'ca.crt'}",
            f"-token-file={server.folder / 'admin.token'}",
        )
        pids = {"kubevend": server.pid, **cluster.pids}
        yield [
            Subject(
                name,
                "kubevend",
                (*options, f"-role=roles/{name}"),
                pids,
                paces,
                (lambda: remove_made(cluster)) if MAKING in role.allowed_namespaces else (lambda: None),
            )
            for name, role in _roles().items()
        ]
    finally:
        server.stop()


@contextmanager
def openbao(cluster: DevCluster, folder: Path, paces: Mapping[int, Pace]) -> Iterator[Subject]:
    """Start OpenBao, and let its Kubernetes engine issue for an existing ServiceAccount."""
    bao = OpenBao(folder / "openbao")
    try:
        bao.write("sys/mounts/kubernetes", {"type": "kubernetes"})
        bao.write(
            "kubernetes/config",
            {
                "kubernetes_host": cluster.server,
                "kubernetes_ca_cert": cluster.ca_file.read_text(),
                "service_account_jwt": make_broker(cluster, "openbao"),
                "disable_local_ca_jwt": True,
            },
        )
        bao.write(
            "kubernetes/roles/bench",
            {
                "allowed_kubernetes_namespaces": [NAMESPACE],
                "service_account_name": "openbao",
                "token_default_ttl": int(TTL.total_seconds()),
                "token_default_audiences": [AUDIENCE],
            },
        )
        token_file = folder / "openbao.token"
        token_file.write_text(bao.root_token)
        options = (
            f"-address={bao.url}",
            f"-token-file={token_file}",
            "-path=/v1/kubernetes/creds/bench",
            f"-body={json.dumps({'kubernetes_namespace': NAMESPACE})}",
        )
        yield Subject("openbao", "openbao", options, {"openbao": bao.pid, **cluster.pids}, paces)
    finally:
        bao.stop()


def make_namespaces(cluster: DevCluster) -> None:
    """Make the namespaces in which everything happens."""
    for namespace in (NAMESPACE, MAKING):
        cluster.kubectl("create", "namespace", namespace)
    cluster.apply(_READER)


def remove_made(cluster: DevCluster) -> None:
    """Remove what was made for single tokens."""
    core, rbac = f"/api/v1/namespaces/{MAKING}", f"/apis/{_RBAC}/namespaces/{MAKING}"
    for resources in (f"{rbac}/rolebindings", f"{rbac}/roles", f"{core}/serviceaccounts", f"{core}/secrets"):
        cluster.kubectl("delete", "--raw", f"{resources}?labelSelector=%21bench.example%2Fkept")


def make_broker(cluster: DevCluster, name: str) -> str:
    """Make a ServiceAccount, and another one that may ask for its tokens, and in `MAKING` make what kubevend makes.

    Args:
        cluster: where.
        name: the ServiceAccount's; the other is called `{name}-broker`.

    Returns:
        A token of the broker.
    """
    cluster.apply(_RIGHTS.format(namespace=NAMESPACE, making=MAKING, name=name))
    return cluster.token(NAMESPACE, f"{name}-broker", duration=BROKER_TTL)


_RIGHTS = """\
apiVersion: v1
kind: ServiceAccount
metadata: {{namespace: {namespace}, name: {name}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{namespace: {namespace}, name: {name}-broker}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{namespace: {namespace}, name: {name}-broker}}
rules:
- {{apiGroups: [""], resources: [serviceaccounts/token], resourceNames: [{name}], verbs: [create]}}
- {{apiGroups: [""], resources: [secrets], verbs: [create, delete]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{namespace: {namespace}, name: {name}-broker}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {name}-broker}}
subjects:
- {{kind: ServiceAccount, namespace: {namespace}, name: {name}-broker}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{namespace: {making}, name: {name}, labels: {{bench.example/kept: "yes"}}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{namespace: {making}, name: {name}-broker, labels: {{bench.example/kept: "yes"}}}}
rules:
- {{apiGroups: [""], resources: [serviceaccounts/token], verbs: [create]}}
- {{apiGroups: [""], resources: [secrets, serviceaccounts], verbs: [create, delete]}}
- {{apiGroups: [rbac.authorization.k8s.io], resources: [roles, rolebindings], verbs: [create, delete]}}
- {{apiGroups: [rbac.authorization.k8s.io], resources: [roles], resourceNames: [reader], verbs: [bind]}}
# What one does not have oneself, one cannot give.
- {{apiGroups: [""], resources: [configmaps], verbs: [get]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{namespace: {making}, name: {name}-broker, labels: {{bench.example/kept: "yes"}}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {name}-broker}}
subjects:
- {{kind: ServiceAccount, namespace: {namespace}, name: {name}-broker}}
"""

_READER = f"""\
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{namespace: {MAKING}, name: reader, labels: {{bench.example/kept: "yes"}}}}
rules: {json.dumps(RULES)}
"""


def _roles() -> dict[str, role_service_pb2.Role]:
    """The roles of kubevend, by id: one for each way in which its tokens can be ended, or made."""
    pb = role_service_pb2
    found = {
        "kubevend": pb.Role(),
        "kubevend-per-caller": pb.Role(revocation=pb.REVOCATION_PER_CALLER),
        "kubevend-per-role": pb.Role(revocation=pb.REVOCATION_PER_ROLE),
        "kubevend-per-lease": pb.Role(revocation=pb.REVOCATION_PER_LEASE),
        "kubevend-kubernetes-role": pb.Role(kubernetes_role=pb.KubernetesRole(name="reader")),
        "kubevend-generated-role": pb.Role(generated_role=pb.GeneratedRole(rules=json.dumps(RULES))),
    }
    for role in found.values():
        accounts = role.HasField("kubernetes_role") or role.HasField("generated_role")
        if not accounts:
            role.allowed_service_accounts.append("kubevend")
        for_each = accounts or role.revocation == pb.REVOCATION_PER_LEASE
        role.allowed_namespaces.append(MAKING if for_each else NAMESPACE)
        role.allowed_audiences.append(AUDIENCE)
        role.ttl.FromTimedelta(TTL)
    return found


def _define_roles(cluster: DevCluster, server: KubevendServer, token_file: Path) -> None:
    credentials = grpc.ssl_channel_credentials((server.folder / "ca.crt").read_bytes())
    metadata = (("authorization", f"Bearer {server.admin_token}"),)
    config = config_service_pb2.Config(
        kubernetes_host=cluster.server,
        kubernetes_ca_cert=cluster.ca_file.read_text(),
        token_file=str(token_file),
    )
    with grpc.secure_channel(server.address, credentials) as channel:
        config_service_pb2_grpc.ConfigServiceStub(channel).CreateConfig(
            config_service_pb2.CreateConfigRequest(config_id="default", config=config), metadata=metadata
        )
        for role_id, role in _roles().items():
            role_service_pb2_grpc.RoleServiceStub(channel).CreateRole(
                role_service_pb2.CreateRoleRequest(role_id=role_id, role=role), metadata=metadata
            )
