"""What kubevend makes in the real API server for leases: the rights that it needs for it, and what of it is there."""

from __future__ import annotations

import base64
import http.client
import json
import re
import ssl
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from devcluster import DevCluster

_PATHS = {
    "Secret": "/api/v1/secrets",
    "ServiceAccount": "/api/v1/serviceaccounts",
    "Role": "/apis/rbac.authorization.k8s.io/v1/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/rolebindings",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
}

RULES = """
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list]
"""
"""The rules that `allow_makers` lets kubevend give."""


@dataclass(frozen=True, order=True)
class Standing:
    """An object in the cluster."""

    kind: str
    namespace: str
    name: str


class Admin:
    """The cluster's admin, who sees everything, without a process for each look."""

    def __init__(self, cluster: DevCluster, folder: Path) -> None:
        """Take the admin's certificate out of the kubeconfig, through a file in a folder."""
        text = cluster.kubeconfig.read_text()
        pem = b"".join(
            base64.b64decode(re.findall(rf"client-{part}-data: (\S+)", text)[0]) for part in ("certificate", "key")
        )
        file = folder / "cluster-admin.pem"
        file.touch(0o600)
        file.write_bytes(pem)
        self._trust = ssl.create_default_context(cafile=str(cluster.ca_file))
        self._trust.load_cert_chain(file)
        self._host = urlsplit(cluster.server).netloc

    def list(self, kind: str, selector: str) -> list[dict[str, Any]]:
        """The objects of a kind in all namespaces that a label selector finds."""
        connection = http.client.HTTPSConnection(self._host, context=self._trust)
        try:
            connection.request("GET", f"{_PATHS[kind]}?labelSelector={selector}")
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        assert answer.status == http.HTTPStatus.OK, body
        items: list[dict[str, Any]] = json.loads(body)["items"]
        return items

    def manifests(self, instance: str) -> dict[Standing, dict[str, Any]]:
        """All that an instance of kubevend has made, anchors too."""
        return {
            Standing(kind, item["metadata"].get("namespace", ""), item["metadata"]["name"]): item
            for kind in _PATHS
            for item in self.list(kind, f"kubevend.dev/instance={instance}")
        }

    def made(self, instance: str) -> set[Standing]:
        """All that an instance of kubevend has made, anchors too."""
        return set(self.manifests(instance))


def kinds(found: set[Standing]) -> Counter[str]:
    """How many there are of each kind."""
    return Counter(each.kind for each in found)


def allow_makers(cluster: DevCluster, namespace: str) -> str:
    """Let a ServiceAccount of kubevend's make whatever a role can ask for in a namespace, and in the whole cluster.

    The least that works: anchors and accounts are made and deleted, accounts listed; Role and ClusterRole `{namespace}`
    can be bound, and `RULES` be given.

    Returns:
        The ServiceAccount's name, in namespace kubevend.
    """
    subject = f"{{kind: ServiceAccount, name: {namespace}, namespace: kubevend}}"
    rbac = "rbac.authorization.k8s.io"
    rules = "{apiGroups: [''], resources: [configmaps], verbs: [get, list]}"
    cluster.apply(
        f"""
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {namespace}, namespace: kubevend}}
---
apiVersion: {rbac}/v1
kind: Role
metadata: {{name: {namespace}, namespace: {namespace}}}
rules: [{rules}]
---
apiVersion: {rbac}/v1
kind: ClusterRole
metadata: {{name: {namespace}}}
rules: [{rules}]
---
apiVersion: {rbac}/v1
kind: Role
metadata: {{name: {namespace}-makes, namespace: {namespace}}}
rules:
- {rules}
- {{apiGroups: [""], resources: [serviceaccounts/token], verbs: [create]}}
- {{apiGroups: [""], resources: [secrets], verbs: [create, delete]}}
- {{apiGroups: [""], resources: [serviceaccounts], verbs: [create, delete, list]}}
- {{apiGroups: [{rbac}], resources: [roles, rolebindings], verbs: [create, delete, list]}}
- {{apiGroups: [{rbac}], resources: [roles, clusterroles], resourceNames: [{namespace}], verbs: [bind]}}
---
apiVersion: {rbac}/v1
kind: RoleBinding
metadata: {{name: {namespace}-makes, namespace: {namespace}}}
roleRef: {{apiGroup: {rbac}, kind: Role, name: {namespace}-makes}}
subjects: [{subject}]
---
apiVersion: {rbac}/v1
kind: ClusterRole
metadata: {{name: {namespace}-makes}}
rules:
- {rules}
- {{apiGroups: [{rbac}], resources: [clusterroles, clusterrolebindings], verbs: [create, delete, list]}}
- {{apiGroups: [{rbac}], resources: [clusterroles], resourceNames: [{namespace}], verbs: [bind]}}
---
apiVersion: {rbac}/v1
kind: ClusterRoleBinding
metadata: {{name: {namespace}-makes}}
roleRef: {{apiGroup: {rbac}, kind: ClusterRole, name: {namespace}-makes}}
subjects: [{subject}]
"""
    )
    return namespace
