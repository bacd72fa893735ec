"""Anchors that leases share: found in memory or in the store, one for each config, namespace and scope."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass

from kubevend_server.leases import ClusterObject
from kubevend_server.policy.grant import Grant
from kubevend_server.store import objects as object_store
from kubevend_server.store.database import Database

_MOST_KNOWN = 10_000
"""Of the others the store knows."""


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
    """Finds the anchors that leases share.

    What is remembered here may be on its way out; the journal's fence finds that before a lease is written. Only
    whoever wrote an anchor down makes it, and nobody stands on it before its uid is written down too: so a deletion
    knows whether something may still come after it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
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
