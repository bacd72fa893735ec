"""What is measured: the API server asked directly, kubevend, and OpenBao, each with rights of its own and no more."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

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
        name: "direct", "kubevend" or "openbao"; a mode of the load program too.
        options: for the load program.
        pids: the process IDs of the server and of what it asks, by name.
        paces: how to measure, by number of callers.
    """

    name: str
    options: tuple[str, ...]
    pids: Mapping[str, int]
    paces: Mapping[int, Pace]


@contextmanager
def direct(cluster: DevCluster, folder: Path, paces: Mapping[int, Pace]) -> Iterator[Subject]:
    """Ask the API server itself for tokens, with a bearer token."""
    token_file = folder / "direct.token"
    token_file.write_text(make_broker(cluster, "direct"))
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": [AUDIENCE], "expirationSeconds": int(TTL.total_seconds())},
    }
    options = (
        f"-address={cluster.server}",
        f"-ca={cluster.ca_file}",
        f"-token-file={token_file}",
        f"-path=/api/v1/namespaces/{NAMESPACE}/serviceaccounts/direct/token",
        f"-body={json.dumps(body)}",
    )
    yield Subject("direct", options, cluster.pids, paces)


def make_server(folder: Path) -> KubevendServer:
    """Prepare a kubevend server in a folder; it may read the tokens in that folder."""
    return KubevendServer(folder, overrides={"kubernetes": {"credential_folders": {str(folder): ["*"]}}})


@contextmanager
def kubevend(cluster: DevCluster, server: KubevendServer, paces: Mapping[int, Pace]) -> Iterator[Subject]:
    """Start a kubevend server that issues from the cluster, as the bootstrap admin, by gRPC with TLS."""
    token_file = server.folder / "kubernetes.token"
    token_file.write_text(make_broker(cluster, "kubevend"))
    server.start()
    try:
        _define_role(cluster, server, token_file)
        options = (
            f"-address={server.address}",
            f"-ca={server.folder / 'ca.crt'}",
            f"-token-file={server.folder / 'admin.token'}",
            "-role=roles/bench",
        )
        yield Subject("kubevend", options, {"kubevend": server.pid, **cluster.pids}, paces)
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
        yield Subject("openbao", options, {"openbao": bao.pid, **cluster.pids}, paces)
    finally:
        bao.stop()


def make_namespace(cluster: DevCluster) -> None:
    """Make the namespace in which everything happens."""
    cluster.kubectl("create", "namespace", NAMESPACE)


def make_broker(cluster: DevCluster, name: str) -> str:
    """Make a ServiceAccount, and another one that may ask for its tokens and nothing else.

    Args:
        cluster: where.
        name: the ServiceAccount's; the other is called `{name}-broker`.

    Returns:
        A token of the broker.
    """
    cluster.apply(_RIGHTS.format(namespace=NAMESPACE, name=name))
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
- apiGroups: [""]
  resources: [serviceaccounts/token]
  resourceNames: [{name}]
  verbs: [create]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{namespace: {namespace}, name: {name}-broker}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {name}-broker}}
subjects:
- {{kind: ServiceAccount, namespace: {namespace}, name: {name}-broker}}
"""


def _define_role(cluster: DevCluster, server: KubevendServer, token_file: Path) -> None:
    credentials = grpc.ssl_channel_credentials((server.folder / "ca.crt").read_bytes())
    metadata = (("authorization", f"Bearer {server.admin_token}"),)
    config = config_service_pb2.Config(
        kubernetes_host=cluster.server,
        kubernetes_ca_cert=cluster.ca_file.read_text(),
        token_file=str(token_file),
    )
    role = role_service_pb2.Role(
        allowed_namespaces=[NAMESPACE],
        allowed_service_accounts=["kubevend"],
        allowed_audiences=[AUDIENCE],
    )
    role.ttl.FromTimedelta(TTL)
    with grpc.secure_channel(server.address, credentials) as channel:
        config_service_pb2_grpc.ConfigServiceStub(channel).CreateConfig(
            config_service_pb2.CreateConfigRequest(config_id="default", config=config), metadata=metadata
        )
        role_service_pb2_grpc.RoleServiceStub(channel).CreateRole(
            role_service_pb2.CreateRoleRequest(role_id="bench", role=role), metadata=metadata
        )
