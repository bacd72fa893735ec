"""Watches of leases, by a clock that goes on only where a watch waits."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import pytest

from kubevend.v1 import lease_service_pb2 as pb
from kubevend_server.authorization import Authorizer
from kubevend_server.calls import Call
from kubevend_server.errors import PermissionDenied
from kubevend_server.lease_feed import LeaseFeed
from kubevend_server.lease_watches import LeaseWatches
from kubevend_server.leases import Lease, LeaseFilter
from kubevend_server.services import convert
from kubevend_server.store.database import Database
from tests.unit.builders import NOW, call, lease
from tests.unit.test_lease_feed import end
from tests.unit.test_lease_lists import add
from tests.unit.test_token_streams import PlayedStream

MINUTE = timedelta(minutes=1)


class Judge:
    """An access policy that can be told to deny, and that hides the leases of one role."""

    def __init__(self) -> None:
        """Allow."""
        self.asked = 0
        self.denies = False

    def require(self, _call: Call, _resource: object) -> None:
        """Whether the caller may watch."""
        self.asked += 1
        if self.denies:
            raise PermissionDenied("ACCESS_DENIED", "no")

    def may(self, _call: Call, action: str, resource: object) -> bool:
        """Whether the caller may get a lease."""
        return action != "GetLease" or cast("Lease", resource).role != "roles/hidden"


class Watched:
    """A watch over a store."""

    def __init__(self, database: Database, **asked: Any) -> None:
        """Open it."""
        self.stream, self.judge = PlayedStream(), Judge()
        self.stream.first = call(request=pb.WatchLeasesRequest(**asked))
        self.feed = LeaseFeed(database, self.stream.clock)
        watches = LeaseWatches(
            database,
            cast("Authorizer", self.judge),
            self.feed,
            self.stream.clock,
            lambda proto: LeaseFilter(role=proto.role),
            lambda lease, _: pb.Lease(name=lease.name),
        )
        self.answers = watches.run(self.stream)

    async def next(self) -> pb.WatchLeasesResponse:
        """Its next answer."""
        answer = await anext(self.answers)
        assert isinstance(answer, pb.WatchLeasesResponse)
        return answer

    async def names(self, count: int) -> list[str]:
        """The leases that its next answers tell of; a bookmark is empty."""
        return [(await self.next()).lease.name for _ in range(count)]


async def test_a_watch_asks_each_minute_whether_it_may_go_on(database: Database) -> None:
    """Each minute the caller is asked for, a bookmark follows, and who may no longer watch is told so."""
    watched = Watched(database)

    bookmarks = [(await watched.next()).watched_until.ToDatetime(tzinfo=NOW.tzinfo) for _ in range(3)]
    assert watched.judge.asked == 3
    assert watched.stream.waits == [60, 60]
    # Nobody looked meanwhile, so nothing is said to have been told that was not.
    assert bookmarks == [NOW - MINUTE] * 3

    watched.judge.denies = True
    with pytest.raises(PermissionDenied):
        await watched.next()


async def test_a_watch_asks_at_once_when_it_is_told_to(database: Database) -> None:
    """When policies have changed a watch does not wait for its minute."""
    watched = Watched(database)
    await watched.next()
    watched.judge.denies = True
    watched.stream.ask()

    with pytest.raises(PermissionDenied):
        await watched.next()

    assert watched.stream.waits == []


async def test_what_ends_while_a_watch_tells_is_told(database: Database) -> None:
    """What is heard while an answer is on its way out comes next, before any bookmark, and no lease that is hidden."""
    add(database, lease(1), lease(2), lease(3, role="roles/hidden"), lease(4))
    watched = Watched(database)
    await watched.next()
    for numbers in ((1,), (2, 3, 4)):
        end(database, *numbers)
        await watched.feed.look()

    assert await watched.names(4) == [lease(1).name, lease(2).name, lease(4).name, ""]


async def test_a_watch_begins_with_what_ended_since(database: Database) -> None:
    """Leases that ended at a moment or later come first, in their order, page by page; a bookmark follows."""
    numbers = range(1, 1103)
    add(database, *map(lease, numbers))
    for number in (1, 2):
        end(database, number, at=timedelta(seconds=number - 10))
    end(database, *numbers[2:], at=timedelta(seconds=-5))
    asked = pb.WatchLeasesRequest()
    convert.set_timestamp(asked.end_after, NOW - timedelta(seconds=8))
    watched = Watched(database, end_after=asked.end_after)

    assert (await watched.next()).watched_until == asked.end_after
    assert await watched.names(1101) == [lease(number).name for number in numbers[1:]]
    # They were written in three portions, each later than the one before.
    last = NOW - timedelta(seconds=5) + timedelta(microseconds=2)
    assert (await watched.next()).watched_until.ToDatetime(tzinfo=NOW.tzinfo) == last


async def test_a_filter_narrows_both(database: Database) -> None:
    """What does not fit the filter is told neither of what has ended nor of what ends."""
    add(database, lease(1), lease(2, role="roles/a"), lease(3), lease(4, role="roles/a"))
    end(database, 1, 2)
    asked = pb.WatchLeasesRequest()
    convert.set_timestamp(asked.end_after, NOW - MINUTE)
    watched = Watched(database, filter=pb.LeaseFilter(role="roles/a"), end_after=asked.end_after)

    assert await watched.names(3) == ["", lease(2).name, ""]
    end(database, 3, 4)
    await watched.feed.look()
    assert await watched.names(1) == [lease(4).name]
