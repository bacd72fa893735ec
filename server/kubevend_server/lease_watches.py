"""Watches: whoever holds one open is told of leases that end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import cast

import sqlalchemy as sa
from google.protobuf.message import Message

from kubevend.v1 import lease_service_pb2 as pb
from kubevend_server.authorization import Authorizer
from kubevend_server.calls import Call
from kubevend_server.clock import Clock
from kubevend_server.errors import Aborted, InvalidArgument, Violation
from kubevend_server.lease_feed import LeaseFeed
from kubevend_server.leases import Lease, LeaseFilter
from kubevend_server.policy.access import Server
from kubevend_server.services import convert
from kubevend_server.store import lease_ends
from kubevend_server.store import leases as lease_store
from kubevend_server.store.database import Database
from kubevend_server.store.lease_ends import Position
from kubevend_server.streams import Stream

_ASK_SECONDS = 60.0
_LONGEST_AGO = timedelta(days=1)
_MOST_WAITING = 10_000
"""Leases that a caller has not read yet."""
_PAGE = 500


@dataclass(slots=True, eq=False)
class _Watch:
    """One watch.

    Attributes:
        filter: what it is about.
        since: from which moment on it is told first what has ended; None for nothing.
        call: the last one by which its caller was known.
        next_ask: when that is asked again.
        waiting: what it was not told yet.
        is_behind: that was too much, and is forgotten.
    """

    filter: LeaseFilter
    since: datetime | None
    call: Call
    next_ask: datetime
    waiting: list[Lease] = field(default_factory=list)
    is_behind: bool = False

    def hear(self, ended: Sequence[Lease]) -> bool:
        """Take in what has ended. Returns whether there is something to tell."""
        if self.is_behind:
            return False
        self.waiting += [lease for lease in ended if self.filter.fits(lease)]
        if len(self.waiting) > _MOST_WAITING:
            self.is_behind = True
            self.waiting.clear()
        return self.is_behind or bool(self.waiting)

    def take(self) -> Sequence[Lease]:
        """What it was not told yet.

        Raises:
            Aborted: that was too much.
        """
        if self.is_behind:
            raise Aborted(
                "WATCH_BEHIND",
                f"More than {_MOST_WAITING} leases have ended that this watch has not read yet. Narrow its filter or "
                "read faster, and watch again from the last watched_until (end_after).",
                metadata={"most": str(_MOST_WAITING)},
            )
        taken, self.waiting = self.waiting, []
        return taken


class LeaseWatches:
    """Tells callers of the ends of leases."""

    def __init__(
        self,
        database: Database,
        authorizer: Authorizer,
        feed: LeaseFeed,
        clock: Clock,
        read: Callable[[pb.LeaseFilter], LeaseFilter],
        write: Callable[[Lease, datetime], pb.Lease],
    ) -> None:
        """Take where leases are, who may get which, and how filters and leases are read and written as protos."""
        self._database = database
        self._authorizer = authorizer
        self._feed = feed
        self._clock = clock
        self._read = read
        self._write = write

    async def run(self, stream: Stream) -> AsyncGenerator[Message, None]:
        """Answer with each lease that ends.

        Raises:
            KubevendError: see the comment of LeaseService.WatchLeases.
        """
        watch = await self._begin(stream)

        def hear(ended: Sequence[Lease]) -> None:
            if watch.hear(ended):
                stream.ring()

        with self._feed.listening(hear):
            yield _bookmark(watch.since or self._feed.told_until)
            if watch.since is not None:
                async with aclosing(self._ended_since(watch.since, watch, stream)) as ended:
                    async for lease in ended:
                        yield lease
                yield _bookmark(max(watch.since, self._feed.told_until))
            while True:
                # What was heard by then is told before it is said that it was.
                told_until = self._feed.told_until
                for response in self._allowed(watch.take(), watch):
                    yield response
                if await self._ask_in_time(watch, stream):
                    yield _bookmark(told_until)
                elif not watch.waiting:
                    await stream.wait((watch.next_ask - self._clock()).total_seconds())

    async def _begin(self, stream: Stream) -> _Watch:
        begun: list[_Watch] = []

        async def begin(call: Call) -> Message:
            self._authorizer.require(call, Server())
            request = cast("pb.WatchLeasesRequest", call.request)
            begun.append(_Watch(self._read(request.filter), self._since(request), call, self._next_ask()))
            return pb.WatchLeasesResponse()

        await stream.step(begin)
        stream.may_go_on = self._may_watch
        return begun[0]

    async def _may_watch(self, call: Call) -> bool:
        return self._authorizer.may(call, "WatchLeases", Server())

    async def _ask_in_time(self, watch: _Watch, stream: Stream) -> bool:
        """Ask who the caller is and whether it may, where that is due. Returns whether it was.

        Raises:
            KubevendError: it may not, or it cannot be told.
        """
        if not stream.is_to_ask and self._clock() < watch.next_ask:
            return False

        async def ask(call: Call) -> Message:
            self._authorizer.require(call, Server())
            watch.call = call
            return pb.WatchLeasesResponse()

        stream.is_to_ask = False
        await stream.step(ask)
        watch.next_ask = self._next_ask()
        return True

    def _next_ask(self) -> datetime:
        return self._clock() + timedelta(seconds=_ASK_SECONDS)

    async def _ended_since(self, since: datetime, watch: _Watch, stream: Stream) -> AsyncGenerator[Message, None]:
        # Before any name: what ended at the moment itself is told too.
        position = Position(since)
        while True:
            page = await self._database.read(partial(_page_after, position=position))
            for response in self._allowed([lease for lease, _ in page if watch.filter.fits(lease)], watch):
                yield response
            if len(page) < _PAGE:
                return
            position = page[-1][1]
            await self._ask_in_time(watch, stream)

    def _allowed(self, ended: Sequence[Lease], watch: _Watch) -> Sequence[Message]:
        now = self._clock()
        return [
            pb.WatchLeasesResponse(lease=self._write(lease, now))
            for lease in ended
            if self._authorizer.may(watch.call, "GetLease", lease)
        ]

    def _since(self, request: pb.WatchLeasesRequest) -> datetime | None:
        since = convert.moment(request, "end_after")
        if since is not None and since < self._clock() - _LONGEST_AGO:
            fault = Violation("end_after", "must be at most a day ago")
            raise InvalidArgument(
                "WATCH_TOO_EARLY",
                f"{fault.field} {fault.description}: ListLeases finds what ended before.",
                violations=[fault],
            )
        return since


def _bookmark(until: datetime) -> Message:
    response = pb.WatchLeasesResponse()
    convert.set_timestamp(response.watched_until, until)
    return response


def _page_after(connection: sa.Connection, position: Position) -> list[tuple[Lease, Position]]:
    page = lease_ends.changes_after(connection, position, _PAGE)
    found = {lease.name: lease for lease in lease_store.get_all(connection, [change.name for change, _ in page])}
    return [(found[change.name], at) for change, at in page]
