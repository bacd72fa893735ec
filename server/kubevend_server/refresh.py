"""Taking over the configs and roles that other processes have written to the store which they share with this one."""

from __future__ import annotations

import asyncio

import sqlalchemy as sa
import structlog

from kubevend_server.catalog import Catalog
from kubevend_server.cluster.clusters import Clusters
from kubevend_server.configs import Config
from kubevend_server.roles import Role
from kubevend_server.store import revision
from kubevend_server.store import roles as role_store
from kubevend_server.store.configs import ConfigStore
from kubevend_server.store.database import Database

_LOOK_SECONDS = 1.0

_log = structlog.get_logger()


class CatalogRefresh:
    """Keeps the catalog equal to the store, whoever writes there."""

    def __init__(self, database: Database, store: ConfigStore, catalog: Catalog, clusters: Clusters) -> None:
        self._database = database
        self._store = store
        self._catalog = catalog
        self._clusters = clusters
        # The start has read it; whether that was this revision is not known.
        self._seen: tuple[int, int] = (-1, 0)

    async def run(self) -> None:
        """Look every second, until cancelled."""
        while True:
            try:
                await self.look()
            except Exception:  # noqa: BLE001 - it must not end
                # A credential that is sealed under a key which this process has not read yet, or the store itself.
                _log.exception("catalog_not_refreshed", hint="it stays as it was, and is read again in a second")
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """Read all again if there was a change, by others or by this process, since the last time."""
        changes = self._catalog.changes
        number = await self._database.read(revision.current)
        if (number, changes) == self._seen:
            return
        number, configs, roles = await self._database.read(self._read)
        if self._catalog.changes != changes:
            return  # something of this process's own came in between, which may not be in what was read
        removed = {config.name for config in self._catalog.configs()} - {config.name for config in configs}
        self._catalog.replace(configs, roles)
        for name in removed:
            self._clusters.forget(name)
        self._seen = (number, changes)

    def _read(self, connection: sa.Connection) -> tuple[int, list[Config], list[Role]]:
        return revision.current(connection), self._store.all(connection), role_store.all_roles(connection)
