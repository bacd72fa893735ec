"""Anchors that leases share, one for each config, namespace and scope: found, held on to, and given up."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from kubevend_server.calls import Call
from kubevend_server.clock import Clock
from kubevend_server.errors import KubevendError
from kubevend_server.in_flight import InFlight
from kubevend_server.journal import Entry, Journal
from kubevend_server.leases import ClusterObject
from kubevend_server.policy.grant import Grant
from kubevend_server.removal import Remover
from kubevend_server.store import lease_ends
from kubevend_server.store import objects as object_store
from kubevend_server.store.database import Database

_MAKING_SECONDS = 20.0
"""For how long an anchor may be about to be made: longer than a request to a cluster takes by default."""

_LOOK_SECONDS = 0.05

_MOST_KNOWN = 10_000
"""Of the others the store knows."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose leases share an anchor."""

    config: str
    namespace: str
    text: str


def scope_of(grant: Grant, caller: str) -> Scope:
    """Whose leases share the anchor of a grant: those of its role, or of its role and a caller."""
    terms = grant.terms
    whose = f" {hashlib.sha256(caller.encode()).hexdigest()}" if terms.revocation == "PER_CALLER" else ""
    return Scope(terms.config, terms.namespace, f"{terms.role}{whose}")


class SharedAnchors:
    """The anchors that leases share.

    What is remembered here may be on its way out; the journal's fence finds that before a lease is written. Only
    whoever wrote an anchor down makes it, and nobody stands on it before its uid is written down too: so a deletion
    knows whether something may still come after it.
    """

    def __init__(
        self,
        database: Database,
        journal: Journal,
        remover: Remover,
        in_flight: InFlight,
        clock: Clock,
        patience: float = _MAKING_SECONDS,
    ) -> None:
        """Take what it works with.

        Args:
            database: where it looks for anchors.
            journal: where it writes that one is lost.
            remover: deletes what is left of those.
            in_flight: knows on which anchors leases are about to stand.
            clock: the time of day.
            patience: seconds for which an anchor may be about to be made.
        """
        self._database = database
        self._journal = journal
        self._remover = remover
        self._in_flight = in_flight
        self._clock = clock
        self._patience = patience
        self._known: dict[Scope, ClusterObject] = {}
        self._turns: dict[Scope, asyncio.Lock] = {}
        self._waiting: Counter[Scope] = Counter()

    async def find(self, scope: Scope) -> ClusterObject | None:
        """The anchor of a scope that lives, or None. One without a uid is only about to be made."""
        known = self._known.get(scope)
        if known is not None:
            return known
        found = await self._database.read(
            lambda connection: object_store.live_anchor(connection, scope.config, scope.namespace, scope.text)
        )
        if found is None or not found.uid:
            # Somebody may have made one while the store was read.
            return self._known.get(scope, found)
        known = self._known.setdefault(scope, found)
        self._forget_oldest()
        return known

    def remember(self, scope: Scope, anchor: ClusterObject) -> None:
        """From now on this is the anchor of a scope."""
        self._known[scope] = anchor
        self._forget_oldest()

    def _forget_oldest(self) -> None:
        # Of those that another process has ended nobody tells.
        while len(self._known) > _MOST_KNOWN:
            del self._known[next(iter(self._known))]

    def forget(self, ids: Collection[str]) -> None:
        """These anchors are not to be stood on any more."""
        if ids:
            self._known = {scope: anchor for scope, anchor in self._known.items() if anchor.id not in ids}

    @asynccontextmanager
    async def turn(self, scope: Scope) -> AsyncIterator[None]:
        """Let one at a time make an anchor for a scope, while the others wait to find it."""
        lock = self._turns.setdefault(scope, asyncio.Lock())
        self._waiting[scope] += 1
        try:
            async with lock:
                yield
        finally:
            self._waiting[scope] -= 1
            if not self._waiting[scope]:
                del self._turns[scope], self._waiting[scope]

    async def wait_for(self, scope: Scope) -> None:
        """Wait until another process has made the anchor that it wrote down; one that takes too long is given up."""
        async with self.turn(scope):
            end = asyncio.get_running_loop().time() + self._patience
            while (anchor := await self.find(scope)) is not None and not anchor.uid:
                if asyncio.get_running_loop().time() > end:
                    await self.lose(anchor, "its anchor was not made in time")
                    return
                await asyncio.sleep(_LOOK_SECONDS)

    def hold(self, call: Call, anchor: ClusterObject) -> None:
        """Keep an anchor for as long as the call is not settled."""
        self._in_flight.take(anchor.id)

        def settle(error: KubevendError | None) -> None:
            self._in_flight.drop(anchor.id)
            if error is not None and error.reason == "LEASE_ENDED":
                self.forget({anchor.id})

        call.record.settled.append(settle)

    async def lose(self, anchor: ClusterObject, cause: str) -> None:
        """An anchor is not to be used: what stood on it has ended, and whatever is left of it is deleted.

        Raises:
            Unavailable: that could not be written down.
        """
        _log.warning("anchor_lost", config=anchor.config, namespace=anchor.namespace, name=anchor.name, cause=cause)
        now = self._clock()
        await self._journal.commit(
            Entry(
                lambda _: None,
                change=lambda connection: lease_ends.end_anchor(connection, anchor.id, "REVOKED", cause, now),
            )
        )
        self.forget({anchor.id})
        self._remover.poke()
