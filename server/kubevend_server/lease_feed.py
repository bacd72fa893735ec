"""Which leases have ended, or begun to, told to whoever follows them: streams of tokens, and watches.

The store is asked, once a second and after each revocation by this process, and only while somebody follows: so it
makes no difference which process has ended a lease. Indexes find what is being revoked and what ended lately, however
many leases there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from kubevend_server.clock import Clock
from kubevend_server.leases import Lease
from kubevend_server.store import lease_ends
from kubevend_server.store import leases as lease_store
from kubevend_server.store.database import Database
from kubevend_server.store.lease_ends import Change

_LOOK_SECONDS = 1.0
_OVERLAP = timedelta(seconds=5)
"""Other processes' clocks may be behind, and their transactions take a moment: so far back each look reaches."""

_log = structlog.get_logger()

Listener = Callable[[Sequence[Lease]], None]
"""Told of leases that have ended, or begun to, each time that their state is another one."""


@dataclass(slots=True)
class Followed:
    """A lease that somebody follows, and what became of it, once that is known."""

    ring: Callable[[], None]
    change: Change | None = None


class LeaseFeed:
    """Tells of leases that end. To be used on the event loop's thread only."""

    def __init__(self, database: Database, clock: Clock) -> None:
        """Take where to look."""
        self._database = database
        self._clock = clock
        self._followed: dict[str, list[Followed]] = {}
        self._listeners: list[Listener] = []
        self._told: dict[str, Change] = {}
        self._since: datetime | None = None
        self._poked = asyncio.Event()

    @property
    def told_until(self) -> datetime:
        """All that ended before this moment was told, to those who have listened long enough."""
        return (self._since or self._clock()) - _OVERLAP

    @contextmanager
    def following(self, lease: str, ring: Callable[[], None]) -> Iterator[Followed]:
        """Follow one lease that lives; `ring` is called once when it is ended before its time."""
        followed = Followed(ring)
        self._begin()
        self._followed.setdefault(lease, []).append(followed)
        try:
            yield followed
        finally:
            self._followed[lease].remove(followed)
            if not self._followed[lease]:
                del self._followed[lease]

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Listen to all leases that end from here on."""
        self._begin()
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def poke(self) -> None:
        """Look at once: this process has just ended leases."""
        self._poked.set()

    async def run(self) -> None:
        """Look while somebody follows, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._poked.wait()
            except TimeoutError:
                pass
            self._poked.clear()
            if self._followed or self._listeners:
                try:
                    await self.look()
                except Exception:  # noqa: BLE001 - the store, most likely; the next look finds what this one did not
                    _log.exception("leases_not_followed")
            else:
                self._since, self._told = None, {}

    async def look(self) -> None:
        """Find out what has ended, or begun to, and tell it."""
        now = self._clock()
        since = (self._since or now) - _OVERLAP
        changes = await self._database.read(lambda connection: lease_ends.changed_since(connection, since))
        new = [change for change in changes if self._told.get(change.name) != change]
        self._told = {change.name: change for change in changes}
        self._since = now
        for change in new:
            self._tell_followers(change)
        if new and self._listeners:
            names = [change.name for change in new]
            found = await self._database.read(lambda connection: lease_store.get_all(connection, names))
            for listener in list(self._listeners):
                listener(found)

    def _begin(self) -> None:
        if self._since is None:
            self._since = self._clock()

    def _tell_followers(self, change: Change) -> None:
        if change.is_by_time:
            return
        for followed in self._followed.get(change.name, ()):
            followed.change = change
            followed.ring()
