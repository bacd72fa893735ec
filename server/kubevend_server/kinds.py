"""The kinds of what kubevend makes in clusters, and how the paths of Kubernetes' API have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

Kind = Literal["Secret", "ServiceAccount", "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"]

RBAC_GROUP = "rbac.authorization.k8s.io"
"""The API group of roles and bindings."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind, as the API server's paths have it.

    Attributes:
        plural: as `roles`.
        group: its API group; empty for the core group.
        namespaced: whether its objects are in namespaces.
    """

    plural: str
    group: str = ""
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """Group and version, as a manifest has them."""
        return f"{self.group}/v1" if self.group else "v1"

    @property
    def qualified(self) -> str:
        """As kubectl wants it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str, name: str = "") -> str:
        """The path of an object, or of all; an empty namespace stands for every one, or for none."""
        root = f"/apis/{self.group}/v1" if self.group else "/api/v1"
        within = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
        return f"{root}{within}/{self.plural}" + (f"/{quote(name, safe='')}" if name else "")

    def place(self, namespace: str) -> str:
        """Where an object for a lease in a namespace is: there, or in none."""
        return namespace if self.namespaced else ""


RESOURCES: dict[Kind, Resource] = {
    "Secret": Resource("secrets"),
    "ServiceAccount": Resource("serviceaccounts"),
    "Role": Resource("roles", RBAC_GROUP),
    "ClusterRole": Resource("clusterroles", RBAC_GROUP, namespaced=False),
    "RoleBinding": Resource("rolebindings", RBAC_GROUP),
    "ClusterRoleBinding": Resource("clusterrolebindings", RBAC_GROUP, namespaced=False),
}
