"""The feed of leases that end: nothing is lost, nothing is read twice, and little is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest

from kubevend_server.errors import Aborted
from kubevend_server.lease_feed import LeaseFeed
from kubevend_server.lease_watches import _MOST_WAITING, _Watch
from kubevend_server.leases import End, Lease, LeaseFilter
from kubevend_server.store import lease_ends
from kubevend_server.store.database import Database
from kubevend_server.store.lease_ends import Position
from tests.unit.builders import NOW, call, clock, lease
from tests.unit.test_lease_lists import add, steps

SECOND = timedelta(seconds=1)


class Heard:
    """What a listener was told: each lease with its state."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def __call__(self, ended: Sequence[Lease]) -> None:
        """Take it in."""
        self.told += [(each.name, each.stored_state) for each in ended]


def end(database: Database, *numbers: int, at: timedelta = timedelta(), state: End = "REVOKED") -> None:
    """End leases for which nothing stands, by the clock of a process that is so far ahead."""
    with database.writer.begin() as connection:
        lease_ends.end_without_objects(connection, [lease(number).name for number in numbers], state, "why", NOW + at)


async def test_what_is_written_late_is_told(database: Database) -> None:
    """A change that waited for the store's lock, or whose process's clock is behind, is told after those before it."""
    add(database, *map(lease, range(1, 4)))
    feed, heard = LeaseFeed(database, clock), Heard()
    with feed.listening(heard):
        end(database, 1)
        await feed.look()
        end(database, 2, at=-3600 * SECOND)
        await feed.look()
        end(database, 3, at=3600 * SECOND)
        await feed.look()
        await feed.look()

    assert heard.told == [(lease(number).name, "REVOKED") for number in (1, 2, 3)]


async def test_each_state_is_told_once(database: Database) -> None:
    """A lease is told when its end begins, and when it has ended; by its time too, but that not to who follows it."""
    add(database, lease(1, revocation="PER_LEASE"), lease(2))
    feed, heard, rung = LeaseFeed(database, clock), Heard(), list[str]()
    with (
        feed.listening(heard),
        feed.following(lease(1).name, lambda: rung.append("1")) as first,
        feed.following(lease(2).name, lambda: rung.append("2")) as second,
    ):
        with database.writer.begin() as connection:
            lease_ends.begin_end(connection, [lease(1).name], "REVOKED", "why", NOW)
        end(database, 2, state="EXPIRED")
        await feed.look()
        end(database, 1)
        await feed.look()

    assert heard.told == [(lease(1).name, "REVOKING"), (lease(2).name, "EXPIRED")]
    assert (rung, second.change) == (["1"], None)
    assert first.change is not None
    assert (first.change.state, first.change.ends_as, first.change.cause) == ("REVOKING", "REVOKED", "why")


async def test_many_that_end_at_once_are_told_page_by_page(database: Database) -> None:
    """Leases that end in one statement, more than a look reads at once, are all told, each once."""
    numbers = range(1, 1202)
    add(database, *map(lease, numbers))
    feed, heard = LeaseFeed(database, clock), Heard()
    with feed.listening(heard):
        end(database, *numbers)
        await feed.look()

    assert sorted(heard.told) == [(lease(number).name, "REVOKED") for number in numbers]


async def test_a_bookmark_is_not_ahead_of_what_was_told(database: Database) -> None:
    """What ends after a bookmark was given is found from it on, and so is what ended in its very moment."""
    add(database, *map(lease, range(1, 4)))
    feed = LeaseFeed(database, clock)
    with feed.listening(Heard()):
        assert feed.told_until == NOW - timedelta(minutes=1)
        end(database, 1)
        await feed.look()
        bookmark = feed.told_until
        end(database, 2, 3, at=-SECOND)

    with database.writer.begin() as connection:
        found = lease_ends.changes_after(connection, Position(bookmark), 10)
    assert [change.name for change, _ in found] == [lease(number).name for number in (1, 2, 3)]


async def test_nobody_looks_where_nobody_follows(database: Database) -> None:
    """Who begins to listen is told of what ends from then on, and of nothing that ended before."""
    add(database, *map(lease, range(1, 3)))
    feed, heard = LeaseFeed(database, clock), Heard()
    end(database, 1)
    with feed.listening(heard):
        end(database, 2)
        await feed.look()

    assert heard.told == [(lease(2).name, "REVOKED")]


def test_what_is_new_is_found_by_an_index(database: Database) -> None:
    """A look reads what is new, and the last of all, and no other lease."""
    by_index = "SEARCH leases USING INDEX leases_change"

    found = steps(database, lambda connection: lease_ends.changes_after(connection, Position(NOW, "leases/x"), 500))
    assert found == [f"{by_index} ((change_time,name)>(?,?))"]
    found = steps(database, lease_ends.last_change)
    assert found in (
        ["SEARCH leases USING COVERING INDEX leases_change (change_time>?)"],
        ["SCAN leases USING COVERING INDEX leases_change"],
    )
    found = steps(database, lambda connection: lease_ends.changes_of(connection, ["leases/x"]))
    assert found == ["SEARCH leases USING INDEX sqlite_autoindex_leases_1 (name=?)"]


def test_who_does_not_read_is_told_to_come_again() -> None:
    """A watch holds so many leases that were not read yet, and no more: then it forgets them, and ends."""
    watch = _Watch(LeaseFilter(role="roles/ci"), None, call(), NOW)

    assert not watch.hear([lease(1, role="roles/other")])
    assert watch.hear([lease(1)] * _MOST_WAITING)
    assert len(watch.take()) == _MOST_WAITING
    assert watch.hear([lease(1)] * (_MOST_WAITING + 1))
    assert watch.waiting == []
    assert not watch.hear([lease(1)])
    with pytest.raises(Aborted, match="watch again from the last watched_until"):
        watch.take()
