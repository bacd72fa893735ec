"""Ending leases on time: what has run out is found in the store several times a second."""

from __future__ import annotations

import asyncio

import structlog

from kubevend_server import ending
from kubevend_server.anchors import SharedAnchors
from kubevend_server.checkpoints import Checkpoint, pass_by
from kubevend_server.clock import Clock
from kubevend_server.in_flight import InFlight
from kubevend_server.journal import Journal
from kubevend_server.removal import Remover
from kubevend_server.store import lease_ends
from kubevend_server.store.database import Database

_LOOK_SECONDS = 0.25
_MOST_AT_ONCE = 500
"""So that the transaction is short: others wait for it."""

_log = structlog.get_logger()


class Expiry:
    """Ends leases whose time has run out."""

    def __init__(
        self,
        database: Database,
        journal: Journal,
        anchors: SharedAnchors,
        remover: Remover,
        in_flight: InFlight,
        clock: Clock,
        checkpoint: Checkpoint = pass_by,
    ) -> None:
        """Take where it reads and writes, and whom it tells of what is to be deleted."""
        self._database = database
        self._journal = journal
        self._anchors = anchors
        self._remover = remover
        self._in_flight = in_flight
        self._clock = clock
        self._checkpoint = checkpoint

    async def run(self) -> None:
        """End what has run out, until cancelled."""
        while True:
            more = False
            try:
                more = await self.look() == _MOST_AT_ONCE
            except Exception:  # noqa: BLE001 - the store, most likely; a lease that is not ended yet is found again
                _log.exception("expiry_failed")
            # Others may wait for the store, even where more is to be done at once.
            await asyncio.sleep(0 if more else _LOOK_SECONDS)

    async def look(self) -> int:
        """End some of what has run out. Returns how many leases."""
        now = self._clock()
        found = self._database.read_now(lambda connection: lease_ends.due(connection, now, _MOST_AT_ONCE))
        if not found:
            return 0
        await self._checkpoint("expire.found")
        gone = await self._journal.change(
            lambda connection: ending.expire(connection, found, now, self._in_flight.anchors)
        )
        await self._checkpoint("expire.marked")
        self._anchors.forget(gone)
        self._remover.poke()
        return len(found)
