"""What tests put into the real API server, and what they read from its audit log."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from devcluster import DevCluster
from tests.support.waiting import until

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


def allow_anchors(cluster: DevCluster, namespace: str) -> None:
    """Let kubevend make and delete Secrets in a namespace, and nothing else with them."""
    cluster.apply(
        f"""
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: kubevend-anchors, namespace: {namespace}}}
rules:
- {{apiGroups: [""], resources: [secrets], verbs: [create, delete]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: kubevend-anchors, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: kubevend-anchors}}
subjects: [{{kind: ServiceAccount, name: kubevend, namespace: kubevend}}]
"""
    )


def anchors(cluster: DevCluster, namespace: str) -> list[str]:
    """The names of the anchors in a namespace."""
    listed = cluster.kubectl(
        "get", "secrets", f"--namespace={namespace}", "--field-selector=type=kubevend.dev/anchor", "--output=name"
    )
    return [name.removeprefix("secret/") for name in listed.split()]


def works(cluster: DevCluster, token: str) -> bool:
    """Whether the API server accepts a token."""
    headers = {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{cluster.server}/version", headers=headers)  # noqa: S310 - the devcluster's https URL
    trust = ssl.create_default_context(cafile=str(cluster.ca_file))
    try:
        with urllib.request.urlopen(request, context=trust):  # noqa: S310
            return True
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.UNAUTHORIZED:
            return False
        raise


def grant_everywhere(cluster: DevCluster, service_account: str) -> None:
    """Make a ServiceAccount in namespace kubevend that may request the tokens of every namespace."""
    cluster.apply(
        f"""
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {service_account}, namespace: kubevend}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: {service_account}}}
rules:
- {{apiGroups: [""], resources: [serviceaccounts/token], verbs: [create]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: {service_account}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {service_account}}}
subjects: [{{kind: ServiceAccount, name: {service_account}, namespace: kubevend}}]
"""
    )


def throttle(cluster: DevCluster, service_account: str) -> None:
    """Have the API server turn a ServiceAccount of namespace kubevend away (429) while a request of its runs."""
    cluster.apply(
        f"""
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: PriorityLevelConfiguration
metadata: {{name: {service_account}}}
spec:
  type: Limited
  limited: {{nominalConcurrencyShares: 0, borrowingLimitPercent: 0, limitResponse: {{type: Reject}}}}
---
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: FlowSchema
metadata: {{name: {service_account}}}
spec:
  matchingPrecedence: 2
  priorityLevelConfiguration: {{name: {service_account}}}
  rules:
  - subjects: [{{kind: ServiceAccount, serviceAccount: {{name: {service_account}, namespace: kubevend}}}}]
    resourceRules: [{{verbs: ["*"], apiGroups: ["*"], resources: ["*"], namespaces: ["*"], clusterScope: true}}]
"""
    )
    uid = cluster.kubectl("get", "flowschema", service_account, "--output=jsonpath={.metadata.uid}")
    token = cluster.token("kubevend", service_account)
    until(lambda: _flow_schema(cluster, token) == uid, "the flow schema to come into force")


def _flow_schema(cluster: DevCluster, token: str) -> str:
    """By which flow schema the API server classifies the bearer of a token, as each of its answers says."""
    url = f"{cluster.server}/apis/authentication.k8s.io/v1/selfsubjectreviews"
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    review = b'{"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}'
    request = urllib.request.Request(url, review, headers)  # noqa: S310 - the devcluster's https URL
    trust = ssl.create_default_context(cafile=str(cluster.ca_file))
    with urllib.request.urlopen(request, context=trust) as answer:  # noqa: S310
        return str(answer.headers["X-Kubernetes-PF-FlowSchema-UID"])


def admit_tokens_by(cluster: DevCluster, namespace: str, url: str, ca: str) -> None:
    """Have the API server ask a webhook about the TokenRequests in a namespace, until `admit_tokens_alone`."""
    bundle = base64.b64encode(ca.encode()).decode()
    cluster.apply(
        f"""
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {{name: {namespace}}}
webhooks:
- name: tokens.{namespace}.example
  admissionReviewVersions: [v1]
  sideEffects: None
  timeoutSeconds: 30
  namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {namespace}}}}}
  rules: [{{operations: [CREATE], apiGroups: [""], apiVersions: [v1], resources: [serviceaccounts/token]}}]
  clientConfig: {{url: "{url}", caBundle: {bundle}}}
"""
    )


def admit_tokens_alone(cluster: DevCluster, namespace: str) -> None:
    """Take the webhook of `admit_tokens_by` away."""
    cluster.kubectl("delete", "validatingwebhookconfiguration", namespace)


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
