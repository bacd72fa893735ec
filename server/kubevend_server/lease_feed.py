"""Which leases have ended, or begun to, told to whoever follows them: streams of tokens, and watches.

The store is asked, once a second and after each revocation by this process, and only while somebody follows: so it
makes no difference which process has ended a lease. What is new is found by an index, in the order in which it was
written, so that each change is read once, however many leases there are and whatever other processes' clocks say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
import structlog

from kubevend_server.clock import Clock
from kubevend_server.leases import Lease
from kubevend_server.store import lease_ends
from kubevend_server.store import leases as lease_store
from kubevend_server.store.database import Database
from kubevend_server.store.lease_ends import Change, Position

_LOOK_SECONDS = 1.0
_PAGE = 500
_LATE = timedelta(minutes=1)
"""A change can be written so long after the moment that it has: it waits for the store's lock, and clocks differ."""

_log = structlog.get_logger()

Listener = Callable[[Sequence[Lease]], None]
"""Told of leases that have ended, or begun to, each time that their state is another one."""


@dataclass(slots=True, eq=False)
class Followed:
    """A lease that somebody follows, and what became of it, once that is known."""

    ring: Callable[[], None]
    change: Change | None = None


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look at the store has found: the next changes, how leases stand that were asked for, and who listens."""

    page: Sequence[tuple[Change, Position]]
    asked: Sequence[Change]
    whole: Sequence[Lease]


class LeaseFeed:
    """Tells of leases that end. To be used on the event loop's thread only."""

    def __init__(self, database: Database, clock: Clock) -> None:
        """Take where to look."""
        self._database = database
        self._clock = clock
        self._followed: dict[str, list[Followed]] = {}
        self._listeners: list[Listener] = []
        self._unasked: set[str] = set()
        self._position: Position | None = None
        self._looked = clock()
        self._poked = asyncio.Event()

    @property
    def told_until(self) -> datetime:
        """All that ended before this moment was told, to those who have listened long enough."""
        return max(self._begin().moment, self._looked - _LATE)

    @property
    def is_followed(self) -> bool:
        """Whether anybody follows a lease, or listens to all."""
        return bool(self._followed or self._listeners)

    @contextmanager
    def following(self, lease: str, ring: Callable[[], None]) -> Iterator[Followed]:
        """Follow one lease; `ring` is called when it is ended before its time, or was before it was followed."""
        followed = Followed(ring)
        self._begin()
        self._followed.setdefault(lease, []).append(followed)
        # It may have ended just now, and the others have been told that already.
        self._unasked.add(lease)
        self.poke()
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
            if not self.is_followed:
                self._position = None
                self._unasked.clear()
                continue
            try:
                await self.look()
            except Exception:  # noqa: BLE001 - the store, most likely; the next look goes on where the last one ended
                _log.exception("leases_not_followed")

    async def look(self) -> None:
        """Find out what has ended, or begun to, and tell it."""
        while True:
            began = self._clock()
            if await self._look_at_page() < _PAGE:
                self._looked = began
                return

    async def _look_at_page(self) -> int:
        after = self._begin()
        asked, self._unasked = self._unasked, set()
        try:
            found = await self._database.read(lambda connection: self._read(connection, after, sorted(asked)))
        except BaseException:
            self._unasked |= asked
            raise
        if found.page:
            self._position = found.page[-1][1]
        for change in (*(change for change, _ in found.page), *found.asked):
            self._tell_followers(change)
        if found.whole:
            for listener in list(self._listeners):
                listener(found.whole)
        return len(found.page)

    def _read(self, connection: sa.Connection, after: Position, asked: Sequence[str]) -> _Look:
        page = lease_ends.changes_after(connection, after, _PAGE)
        names = [change.name for change, _ in page]
        whole = {each.name: each for each in lease_store.get_all(connection, names)} if self._listeners else {}
        return _Look(page, lease_ends.changes_of(connection, asked), [whole[name] for name in names if name in whole])

    def _begin(self) -> Position:
        if self._position is None:
            # At once: what ends from here on is to be told, and this finds one row.
            self._position = self._database.read_now(lease_ends.last_change)
            self._looked = self._clock()
        return self._position

    def _tell_followers(self, change: Change) -> None:
        if change.is_by_time:
            return
        for followed in self._followed.get(change.name, ()):
            if followed.change != change:
                followed.change = change
                followed.ring()
