"""What the first run makes in a cluster: two namespaces, two ServiceAccounts, and the least rights that do."""

from __future__ import annotations

from dataclasses import dataclass

QUICKSTART_NAMESPACE = "kubevend-quickstart"
DEMO = "demo"
"""The ServiceAccount whose tokens are issued."""

KUBEVEND_NAMESPACE = "kubevend"
KUBEVEND = "kubevend"
"""The ServiceAccount that kubevend itself is."""


@dataclass(frozen=True)
class Made:
    """An object that the first run makes.

    Attributes:
        what: Its kind, and its name with the namespace.
        why: What it is for.
        manifest: As YAML.
    """

    what: str
    why: str
    manifest: str


OBJECTS = (
    Made(
        f"Namespace {QUICKSTART_NAMESPACE}",
        "where tokens are issued",
        f"""\
apiVersion: v1
kind: Namespace
metadata:
  name: {QUICKSTART_NAMESPACE}
""",
    ),
    Made(
        f"ServiceAccount {QUICKSTART_NAMESPACE}/{DEMO}",
        "whose tokens are issued; it has no rights of its own",
        f"""\
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {DEMO}
  namespace: {QUICKSTART_NAMESPACE}
""",
    ),
    Made(
        f"Namespace {KUBEVEND_NAMESPACE}",
        "where kubevend itself lives",
        f"""\
apiVersion: v1
kind: Namespace
metadata:
  name: {KUBEVEND_NAMESPACE}
""",
    ),
    Made(
        f"ServiceAccount {KUBEVEND_NAMESPACE}/{KUBEVEND}",
        "as whom kubevend calls the cluster",
        f"""\
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {KUBEVEND}
  namespace: {KUBEVEND_NAMESPACE}
""",
    ),
    # With resourceNames: without them the right would hold for every ServiceAccount of the namespace.
    Made(
        f"Role {QUICKSTART_NAMESPACE}/kubevend-issues-{DEMO}",
        f"the right to create tokens of {DEMO}, and nothing else",
        f"""\
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: kubevend-issues-{DEMO}
  namespace: {QUICKSTART_NAMESPACE}
rules:
  - apiGroups: [""]
    resources: [serviceaccounts/token]
    resourceNames: [{DEMO}]
    verbs: [create]
""",
    ),
    Made(
        f"RoleBinding {QUICKSTART_NAMESPACE}/kubevend-issues-{DEMO}",
        "gives kubevend that right",
        f"""\
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: kubevend-issues-{DEMO}
  namespace: {QUICKSTART_NAMESPACE}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: kubevend-issues-{DEMO}
subjects:
  - kind: ServiceAccount
    name: {KUBEVEND}
    namespace: {KUBEVEND_NAMESPACE}
""",
    ),
    Made(
        "ClusterRoleBinding kubevend-reviews-tokens",
        "lets kubevend ask whose token a caller shows (system:auth-delegator)",
        f"""\
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: kubevend-reviews-tokens
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: system:auth-delegator
subjects:
  - kind: ServiceAccount
    name: {KUBEVEND}
    namespace: {KUBEVEND_NAMESPACE}
""",
    ),
)

MANIFESTS = "---\n".join(made.manifest for made in OBJECTS)
