"""Watches: whoever holds one open is told of leases that end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
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
from kubevend_server.streams import Stream

_ASK_SECONDS = 60.0
_LONGEST_AGO = timedelta(days=1)
_MOST_WAITING = 10_000
"""Leases that a caller has not read yet."""
_PAGE = 500


@dataclass(slots=True)
class _Watch:
    """What a watch is about, and the last call by which its caller was known."""

    filter: LeaseFilter
    call: Call


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

    async def run(self, stream: Stream) -> AsyncIterator[Message]:
        """Answer with each lease that ends.

        Raises:
            KubevendError: see the comment of LeaseService.WatchLeases.
        """
        watch = _Watch(LeaseFilter(), stream.first)

        async def begin(call: Call) -> Message:
            self._authorizer.require(call, Server())
            watch.call = call
            return pb.WatchLeasesResponse()

        await stream.step(begin)
        request = cast("pb.WatchLeasesRequest", stream.first.request)
        watch.filter = self._read(request.filter)
        since = self._since(request)
        waiting: list[Lease] = []

        def hear(ended: Sequence[Lease]) -> None:
            # One more than may wait is enough to know that it is too many.
            room = _MOST_WAITING + 1 - len(waiting)
            waiting.extend([lease for lease in ended if watch.filter.fits(lease)][:room])
            stream.ring()

        with self._feed.listening(hear):
            yield self._bookmark(since or self._feed.told_until)
            if since is not None:
                async for lease in self._ended_since(since, watch):
                    yield lease
            while True:
                next_ask = self._clock() + timedelta(seconds=_ASK_SECONDS)
                while (left := (next_ask - self._clock()).total_seconds()) > 0:
                    await stream.wait(left)
                    told, waiting[:] = list(waiting), []
                    for lease in self._allowed(told, watch):
                        yield lease
                        _check_keeps_up(waiting)
                await stream.step(begin)
                yield self._bookmark(self._feed.told_until)

    async def _ended_since(self, since: datetime, watch: _Watch) -> AsyncIterator[Message]:
        position = (since, "")
        while True:
            page = await self._database.read(partial(_page_after, position=position))
            for lease in self._allowed([lease for lease in page if watch.filter.fits(lease)], watch):
                yield lease
            if len(page) < _PAGE:
                return
            position = (page[-1].end_time or since, page[-1].name)

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
                "FIELD_INVALID",
                f"{fault.field} {fault.description}: ListLeases finds what ended before.",
                violations=[fault],
            )
        return since

    def _bookmark(self, until: datetime) -> Message:
        response = pb.WatchLeasesResponse()
        convert.set_timestamp(response.watched_until, until)
        return response


def _page_after(connection: sa.Connection, position: tuple[datetime, str]) -> list[Lease]:
    names = lease_ends.ended_after(connection, position, _PAGE)
    found = {lease.name: lease for lease in lease_store.get_all(connection, names)}
    return [found[name] for name in names]


def _check_keeps_up(waiting: Sequence[Lease]) -> None:
    if len(waiting) > _MOST_WAITING:
        raise Aborted(
            "WATCH_BEHIND",
            f"More than {_MOST_WAITING} leases have ended that this watch has not read yet. Narrow its filter or read "
            "faster, and watch again from the last watched_until (end_after).",
            metadata={"most": str(_MOST_WAITING)},
        )
