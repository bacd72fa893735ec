"""A right, as Kubernetes' RBAC knows them: what roles need and what a cluster is asked for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Right:
    """One right.

    Attributes:
        verb: as `create`.
        resource: with its subresource, as `serviceaccounts/token`.
        group: its API group; empty for the core group.
        namespace: empty for every namespace, or for a resource that is in none.
        name: the object's name; empty for every one.
        path: for what is no resource: the URL's path, as `/metrics`; the resource is then empty.
    """

    verb: str
    resource: str
    group: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""

    def __str__(self) -> str:
        """The right in words, as `bind on clusterroles.rbac.authorization.k8s.io view`."""
        whole = f"{self.resource}.{self.group}" if self.group else self.resource
        return " ".join(filter(None, (f"{self.verb} on {whole or self.path}", self.name)))
