"""The store's key, rotated while the server runs: what is sealed is sealed anew as soon as the key file changes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import sqlalchemy as sa
import structlog

from kubevend_server.catalog import Catalog
from kubevend_server.cluster.files import WatchedFile
from kubevend_server.encryption import Keyring, parse_keys
from kubevend_server.journal import Journal
from kubevend_server.store.configs import ConfigStore

_LOOK_SECONDS = 1.0

_log = structlog.get_logger()


class StoreKeyRotation:
    """Watches the store's key file."""

    def __init__(self, file: Path, keyring: Keyring, journal: Journal, store: ConfigStore, catalog: Catalog) -> None:
        self._file = WatchedFile(file)
        self._keyring = keyring
        self._journal = journal
        self._store = store
        self._catalog = catalog
        self._seen = self._file.read()

    async def run(self) -> None:
        """Look at the file every second, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Take the file's keys if it has changed, and seal everything under the first of them.

        A file that cannot be used is told in the log once, and the keys stay as they were.
        """
        try:
            found = self._file.read()
            if found == self._seen:
                return
            keys = parse_keys(found, self._file.path)
        except (OSError, ValueError) as error:
            if self._seen:
                _log.error("store_key_unusable", file=str(self._file.path), error=str(error))
            self._seen = ""
            return
        before = self._keyring.keys
        self._keyring.replace(keys)
        try:
            # The catalog has the secrets opened, so it does not matter whether the old key is still in the file.
            await self._journal.change(self._reseal)
        except sa.exc.SQLAlchemyError:
            self._keyring.replace(before)
            _log.exception("store_not_resealed", hint="the keys stay as they were, and it is tried again")
            return
        self._seen = found
        _log.info("store_key_rotated", keys=list(keys), sealed_under=next(iter(keys)))

    def _reseal(self, connection: sa.Connection) -> None:
        self._store.reseal(self._catalog.configs())(connection)
