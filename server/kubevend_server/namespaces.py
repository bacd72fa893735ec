"""What is known of the namespaces of roles that allow them by their labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kubevend_server.catalog import Catalog
from kubevend_server.cluster.namespaces import NamespaceWatch, NamespaceWatches
from kubevend_server.errors import Unavailable
from kubevend_server.policy.terms import KnownNamespaces, NothingKnown
from kubevend_server.roles import Role


@dataclass(frozen=True, slots=True)
class Watched:
    """The namespaces of a cluster that is watched."""

    config: str
    watch: NamespaceWatch

    def labels(self, namespace: str) -> Mapping[str, str] | None:
        """A namespace's labels; None where there is no such namespace.

        Raises:
            Unavailable: nothing was heard of the namespaces for too long.
        """
        if not self.watch.fresh():
            raise Unavailable(
                "NAMESPACES_UNKNOWN",
                f"The role allows namespaces by their labels, and kubevend has not heard of those of {self.config} for "
                f"30 s: {self.watch.problem or 'it has only begun to watch them'}. Try again; if it stays so, CheckConfig on "
                f"{self.config} tells whether kubevend may watch namespaces.",
                metadata={"config": self.config, "namespace": namespace},
            )
        return self.watch.labels(namespace)


class Namespaces:
    """What is known of the namespaces of each config's cluster."""

    def __init__(self, catalog: Catalog, watches: NamespaceWatches) -> None:
        self._catalog = catalog
        self._watches = watches

    def of(self, role: Role) -> KnownNamespaces:
        """The namespaces of a role's cluster."""
        config = self._catalog.config(role.config)
        return NothingKnown() if config is None else Watched(config.name, self._watches.of(config))
