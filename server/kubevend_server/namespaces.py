"""What is known of the namespaces of roles that allow them by their labels."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kubevend_server.catalog import Catalog
from kubevend_server.cluster.namespaces import FRESH_SECONDS, NamespaceWatch, NamespaceWatches
from kubevend_server.errors import KubevendError, Unavailable
from kubevend_server.policy.terms import KnownNamespaces, NothingKnown
from kubevend_server.roles import Role

_LOOK_SECONDS = 1.0
_FIRST_SECONDS = 5.0
"""How long the first request waits for what has only begun to be watched."""


@dataclass(frozen=True, slots=True)
class Watched:
    """The namespaces of a cluster that is watched."""

    config: str
    watch: NamespaceWatch
    clock: Callable[[], float]

    def labels(self, namespace: str) -> Mapping[str, str] | None:
        """A namespace's labels; None where there is no such namespace.

        Raises:
            Unavailable: nothing was heard of the namespaces for too long.
        """
        if self.watch.fresh(self.clock()):
            return self.watch.labels(namespace)
        fault = self.watch.fault
        raise Unavailable(
            "NAMESPACES_UNKNOWN",
            f"The role allows namespaces by their labels, and kubevend has not heard of those of {self.config} for "
            f"{FRESH_SECONDS:.0f} s. {fault.message if fault else 'Try again.'}",
            metadata={"config": self.config, "namespace": namespace, "cause": fault.reason if fault else ""},
        )


class Namespaces:
    """What is known of the namespaces of each config's cluster."""

    def __init__(self, catalog: Catalog, watches: NamespaceWatches, clock: Callable[[], float]) -> None:
        """Take where to look.

        Args:
            catalog: configs and roles.
            watches: by config.
            clock: that of the watches.
        """
        self._catalog = catalog
        self._watches = watches
        self._clock = clock

    def begin(self) -> None:
        """Begin to watch for all roles that need it, so that their first request need not wait."""
        for role in self._catalog.roles():
            config = self._catalog.config(role.config)
            if role.allowed_namespace_selector is not None and config is not None:
                try:
                    self._watches.of(config)
                except KubevendError:
                    continue  # whoever asks is told

    async def run(self) -> None:
        """End the watches that no role needs any more, until cancelled.

        A config that was changed or deleted is not to be called any more, with a credential that it no longer has.
        """
        while True:
            self.look()
            await asyncio.sleep(_LOOK_SECONDS)

    def look(self) -> None:
        """End them once."""
        needed = {role.config for role in self._catalog.roles() if role.allowed_namespace_selector is not None}
        self._watches.keep(config for config in self._catalog.configs() if config.name in needed)

    async def of(self, role: Role) -> KnownNamespaces:
        """The namespaces of a role's cluster.

        Raises:
            FailedPrecondition: its config cannot be used as it is.
        """
        config = self._catalog.config(role.config)
        if config is None:
            return NothingKnown()
        watch = self._watches.of(config)
        try:
            async with asyncio.timeout(_FIRST_SECONDS):
                await watch.wait_ready()
        except TimeoutError:
            pass  # what is known is then too old, which `Watched` says
        return Watched(config.name, watch, self._clock)
