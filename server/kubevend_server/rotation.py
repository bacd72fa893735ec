"""The store's key, rotated while the server runs: what is sealed is sealed anew as soon as the key file changes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import sqlalchemy as sa
import structlog

from kubevend_server.catalog import Catalog
from kubevend_server.encryption import Keyring, parse_keys
from kubevend_server.files import WatchedFile
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
        # With several keys nobody knows under which of them everything is sealed.
        self._sealed_under = next(iter(keyring.keys)) if len(keyring.keys) == 1 else ""
        self._broken = ""

    async def run(self) -> None:
        """Look at the file every second, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Take the file's keys if they are others, and seal everything under the first of them.

        A file that cannot be used is told in the log once, and the keys stay as they were.
        """
        try:
            keys = parse_keys(self._file.read(), self._file.path)
        except (OSError, ValueError) as error:
            if str(error) != self._broken:
                self._broken = str(error)
                _log.error("store_key_unusable", file=str(self._file.path), error=str(error))
            return
        self._broken = ""
        before, first = self._keyring.keys, next(iter(keys))
        if list(keys.items()) == list(before.items()) and self._sealed_under == first:
            return
        self._keyring.replace(keys)
        try:
            # The catalog has the secrets opened, so it does not matter whether the old key is still in the file.
            await self._journal.change(self._reseal)
        except sa.exc.SQLAlchemyError:
            self._keyring.replace(before)
            _log.exception("store_not_resealed", hint="the keys stay as they were, and it is tried again")
            return
        self._sealed_under = first
        _log.info("store_key_rotated", keys=list(keys), sealed_under=first)

    def _reseal(self, connection: sa.Connection) -> None:
        self._store.reseal(self._catalog.configs())(connection)
