"""What tests put into the real API server, and what they read from its audit log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from devcluster import DevCluster

VENDOR = "system:serviceaccount:kubevend:kubevend"
"""Kubevend's own identity in the clusters."""

_JTI = "authentication.kubernetes.io/issued-credential-id"


def install(cluster: DevCluster) -> None:
    """Make kubevend's own namespace and ServiceAccount, which may review tokens and nothing else."""
    cluster.apply(
        """
apiVersion: v1
kind: Namespace
metadata: {name: kubevend}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: kubevend, namespace: kubevend}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: kubevend-auth-delegator}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:auth-delegator"}
subjects: [{kind: ServiceAccount, name: kubevend, namespace: kubevend}]
"""
    )


def make_namespace(cluster: DevCluster, name: str) -> None:
    """Make a namespace with ServiceAccount demo, for which kubevend may mint tokens: the least that works."""
    cluster.apply(
        f"""
apiVersion: v1
kind: Namespace
metadata: {{name: {name}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: demo, namespace: {name}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: kubevend, namespace: {name}}}
rules:
- {{apiGroups: [""], resources: [serviceaccounts/token], resourceNames: [demo, ghost], verbs: [create]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: kubevend, namespace: {name}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: kubevend}}
subjects: [{{kind: ServiceAccount, name: kubevend, namespace: kubevend}}]
"""
    )


def token_requests(cluster: DevCluster, namespace: str) -> Iterator[dict[str, Any]]:
    """The entries of the API server's audit log for kubevend's TokenRequests in a namespace that were answered."""
    for line in cluster.audit_log.read_text().splitlines():
        if '"subresource":"token"' not in line:
            continue
        entry = json.loads(line)
        if entry["user"].get("username") == VENDOR and entry["objectRef"].get("namespace") == namespace:
            yield entry


def issued_jti(entry: dict[str, Any]) -> str:
    """The jti of the token that a TokenRequest issued, or empty."""
    annotation: str = entry.get("annotations", {}).get(_JTI, "")
    return annotation.removeprefix("JTI=")
