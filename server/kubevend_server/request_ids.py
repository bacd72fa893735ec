"""Request ids: a call that is made again gets another token of the lease that it got, and no second lease.

A request id belongs to its caller. Which lease it has got is written down in the same transaction as the lease: a crash
leaves both or neither.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import sqlalchemy as sa

from kubevend_server.calls import Call
from kubevend_server.clock import Clock
from kubevend_server.errors import FailedPrecondition, InvalidArgument, KubevendError, Violation
from kubevend_server.in_flight import InFlight
from kubevend_server.journal import request_in_progress
from kubevend_server.leases import Lease
from kubevend_server.policy.terms import Terms
from kubevend_server.replaying import MOST_TOKENS, terms_digest, worth_more
from kubevend_server.store import leases as lease_store
from kubevend_server.store import replicas as replica_store
from kubevend_server.store import requests as request_store
from kubevend_server.store.database import Database
from kubevend_server.store.requests import Claim

Key = tuple[str, str]
"""A caller's name, and its request id."""


@dataclass(frozen=True, slots=True)
class Once:
    """What is to be done once, however often it is asked for.

    Attributes:
        id: the request id, a UUID in lower case.
        fingerprint: SHA-256 of the request's other fields, in hexadecimal.
        kind: a call, the first token of a stream, or one that follows on it: that takes the id to its own lease.
    """

    id: str
    fingerprint: str
    kind: Literal["call", "stream", "renewal"] = "call"


@dataclass(frozen=True, slots=True)
class Found:
    """What a request id has got.

    Attributes:
        once: what is asked; None where it may be done as often as it is asked for.
        replay: the lease of which another token is to be issued; None for a new lease.
        held: the claim that is there; None for none.
        refusal: why neither can be.
    """

    once: Once | None = None
    replay: Lease | None = None
    held: Claim | None = None
    refusal: KubevendError | None = None

    def claim(self, caller: str, terms: Terms, lease: str, now: datetime) -> Claim | None:
        """The hold of a new lease on the request id; None where it gets none."""
        if self.once is None:
            return None
        return Claim(
            id=self.once.id,
            caller=caller,
            role=terms.role,
            fingerprint=self.once.fingerprint,
            terms=terms_digest(terms),
            lease=lease,
            create_time=now,
            replaces=self.held.lease if self.held else "",
        )

    def would_differ(self, terms: Terms) -> bool:
        """Whether the role gives something else now than what the lease is of."""
        return self.replay is not None and self.held is not None and terms_digest(terms) != self.held.terms

    def anew(self) -> Found:
        """The same, for a new lease where the role gives something else now.

        Raises:
            FailedPrecondition: a call that is made again gets the lease that it got, or none. A stream goes on.
        """
        if self.once is not None and self.once.kind == "call" and self.replay is not None:
            raise FailedPrecondition(
                "REQUEST_ID_ROLE_CHANGED",
                f"{self.replay.role} gives something else now than when this request_id got {self.replay.name} through "
                "it. Use a new request_id for what it gives now.",
                metadata={"lease": self.replay.name, "role": self.replay.role, "subject": self.replay.name},
            )
        return Found(self.once, held=self.held)


NOTHING = Found()
"""For a call without a request id."""


class RequestIds:
    """What request ids have got. To be used on the event loop's thread only."""

    def __init__(
        self, database: Database, in_flight: InFlight, process: str, dead: timedelta, window: timedelta, clock: Clock
    ) -> None:
        """Take where it looks.

        Args:
            database: the store.
            in_flight: knows what this process is issuing.
            process: which this is, among those that share the store.
            dead: after how long without a word another one counts as dead.
            window: for how long a request id counts.
            clock: the time of day.
        """
        self._database = database
        self._in_flight = in_flight
        self._process = process
        self._dead = dead
        self._window = window
        self._clock = clock
        self._locks: dict[Key, asyncio.Lock] = {}
        self._users: Counter[Key] = Counter()

    @property
    def under_way(self) -> int:
        """How many calls have an id that others wait for, or wait for it themselves."""
        return self._users.total()

    async def look(self, call: Call, once: Once) -> Found:
        """Find out what a request id has got, once no other call with it is under way in this process.

        Others wait until this one is settled, if it is to have a new lease.
        """
        release = await self._take((call.who.name, once.id))
        try:
            # In this thread: it is one row, found by its key, and a thread would cost more than that.
            found = self._database.read_now(lambda connection: self._find(connection, call.who.name, once))
        except BaseException:
            release()
            raise
        if found.replay is not None or found.refusal is not None:
            release()
        else:
            call.record.settled.append(lambda _: release())
        return found

    async def _take(self, key: Key) -> Callable[[], None]:
        lock = self._locks.setdefault(key, asyncio.Lock())
        self._users[key] += 1
        try:
            await lock.acquire()
        except BaseException:
            self._leave(key)
            raise

        def release() -> None:
            lock.release()
            self._leave(key)

        return release

    def _leave(self, key: Key) -> None:
        self._users[key] -= 1
        if not self._users[key]:
            del self._users[key], self._locks[key]

    def _find(self, connection: sa.Connection, caller: str, once: Once) -> Found:
        held = request_store.find(connection, caller, once.id)
        now = self._clock()
        if held is None or held.create_time + self._window <= now:
            return Found(once, held=held)
        lease = lease_store.get(connection, held.lease)
        pending = lease is not None and lease.stored_state == "PENDING" and self._is_under_way(connection, lease, now)
        # Of a lease without a token nobody has anything, once it has failed, or whoever issued it is dead.
        if lease is None or not (lease.tokens or pending):
            return Found(once, held=held)
        if held.fingerprint != once.fingerprint:
            # A stream that has had the id for long goes on without it, if the caller uses it for something else.
            return NOTHING if once.kind == "renewal" else Found(refusal=_reused(once, held))
        return Found(refusal=request_in_progress(once.id)) if pending else self._of_lease(once, held, lease, now)

    def _of_lease(self, once: Once, held: Claim, lease: Lease, now: datetime) -> Found:
        """What comes of a request id whose lease has had a token."""
        lives = lease.state(now) == "ACTIVE"
        if once.kind == "renewal" or (once.kind == "stream" and not _goes_on_with(lease, now, lives=lives)):
            return Found(once, held=held)
        if lives and len(lease.tokens) >= MOST_TOKENS:
            return Found(refusal=_used_up(once, lease))
        return Found(once, lease, held) if lives else Found(refusal=lease_over(lease))

    def _is_under_way(self, connection: sa.Connection, lease: Lease, now: datetime) -> bool:
        if lease.owner == self._process:
            return lease.name in self._in_flight.leases
        return lease.owner in replica_store.alive(connection, now - self._dead)


def _goes_on_with(lease: Lease, now: datetime, *, lives: bool) -> bool:
    """Whether a stream is to be held to a lease: it still gives something, or was ended before its time."""
    return worth_more(lease, now) if lives else "REVOKED" in (lease.stored_state, lease.ends_as)


def _reused(once: Once, held: Claim) -> InvalidArgument:
    return InvalidArgument(
        "REQUEST_ID_REUSED",
        f"request_id {once.id} was sent before with other fields, for {held.role}. Use a new one for each token that "
        "you want, and the same one only to make the same call again.",
        metadata={"request_id": once.id, "role": held.role},
        violations=[Violation("request_id", "a new one for each request, unless all other fields are the same")],
    )


def _used_up(once: Once, lease: Lease) -> FailedPrecondition:
    return FailedPrecondition(
        "REQUEST_ID_USED_UP",
        f"request_id {once.id} has got {len(lease.tokens)} tokens of {lease.name} already. Use a new one for each that "
        "you want, and the same one only where the answer was lost.",
        metadata={"request_id": once.id, "lease": lease.name, "most": str(MOST_TOKENS), "subject": lease.name},
    )


def lease_over(lease: Lease) -> FailedPrecondition:
    """The refusal of another token of a lease that has ended."""
    return FailedPrecondition(
        "REQUEST_ID_LEASE_ENDED",
        f"{lease.name}, which this request_id has got, has ended. Use a new request_id for another lease.",
        metadata={"lease": lease.name, "subject": lease.name},
    )
