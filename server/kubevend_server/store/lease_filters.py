"""How the leases of a filter are found without a look at all of them: through which index, and in which order."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import sqlalchemy as sa

from kubevend_server.leases import LIVE, LeaseFilter
from kubevend_server.names import first_lease_name
from kubevend_server.store.schema import Moment, leases, literal

MOST_SCANNED = 1000
"""How many rows a page looks at, where an index cannot tell which of them fit."""

_MOST_COUNTED = 5000
_MOST_ENDED_COUNTED = 20_000
_CLOCKS = timedelta(minutes=10)
"""By how much the clocks of kubevend and of a cluster differ at the most: the one tells when a lease was granted, the
other when its token ends."""

_MILLISECOND = timedelta(milliseconds=1)

Condition = sa.ColumnElement[bool]
Held = tuple[str, Callable[[Any, Any], Any], object]
"""A column, how it is compared, and with what."""

_EXACT = ("caller", "service_account", "namespace", "role", "config")
"""Those fields of a filter whose values an index finds; what is most likely to find few comes first."""

_ACTIVE = literal("ACTIVE")


class Listed(Protocol):
    """What a position in a list is told by: a lease, or its row."""

    @property
    def name(self) -> str:
        """The lease's name."""

    @property
    def expire_time(self) -> datetime:
        """When it ends."""


@dataclass(frozen=True, slots=True)
class Walk:
    """How a page goes about finding its leases.

    Attributes:
        looked_up: what an index finds.
        held: what is held against what that finds.
        order: the columns by which the list is sorted, descending. Together they are unique.
        whole: whether all that is looked up is looked at, being little; else only the first of it in that order.
    """

    looked_up: Sequence[Condition]
    held: Sequence[Held]
    order: Sequence[sa.Column[Any]]
    whole: bool = False


def by_end(narrowed: LeaseFilter) -> bool:
    """Whether the list of a filter is sorted by when the leases end, and not by when they were granted.

    It is where nothing but their ends narrows it: in the other order one would look at all that end at another time.
    """
    ends = narrowed.expire_before is not None or narrowed.expire_after is not None
    others = any(getattr(narrowed, column) for column in _EXACT)
    return ends and not others and narrowed.state in (None, "ACTIVE", "EXPIRED")


def position(narrowed: LeaseFilter, last: Listed) -> str:
    """Where the list of a filter goes on after a lease."""
    return f"{last.expire_time.isoformat()} {last.name}" if by_end(narrowed) else last.name


def walk(connection: sa.Connection, narrowed: LeaseFilter, after: str, most_scanned: int = MOST_SCANNED) -> Walk:
    """How to find the leases of a filter.

    Args:
        connection: where to count, if there are several ways to find them.
        narrowed: the filter.
        after: the position after which the list goes on; empty for its beginning.
        most_scanned: how many rows the page looks at.
    """
    if by_end(narrowed):
        return _walk_by_end(narrowed, after)
    exact = _exact(narrowed)
    held = [*((column, operator.eq, value) for column, value in exact.items()), *_ranges(narrowed)]
    bounds = _bounds(narrowed)
    if after:
        bounds.append(leases.c.name < after)
    ways = {column: [leases.c[column] == value, *bounds] for column, value in exact.items()}
    counts = {column: _count(connection, way, _MOST_COUNTED) for column, way in ways.items()} if len(held) > 1 else {}
    ends = [compare(leases.c[column], value) for column, compare, value in held if column == "expire_time"]
    few = min(counts.values(), default=0) <= most_scanned
    if ends and not few and _count(connection, ends, most_scanned + 1) <= most_scanned:
        others: list[Held] = [each for each in held if each[0] != "expire_time"]
        if after:
            others.append(("name", operator.lt, after))
        return Walk(ends, others, (leases.c.name,), whole=True)
    # The first of them, where several find equally many.
    column = min(ways, key=lambda each: counts.get(each, 0), default="")
    found = ways.get(column, bounds)
    return Walk(found, [each for each in held if each[0] != column], (leases.c.name,))


def live(connection: sa.Connection, narrowed: LeaseFilter) -> list[Condition]:
    """The conditions for the leases of a filter that live, made so that SQLite goes through the index that finds few.

    Where a field finds many leases, most of them have ended: then those that live are looked through.
    """
    exact = _exact(narrowed)
    exact.pop("state", None)
    bounds = _bounds(narrowed)
    counts = {
        column: _count(connection, [leases.c[column] == value, *bounds], _MOST_ENDED_COUNTED)
        for column, value in exact.items()
    }
    fewest = min(counts, key=lambda column: counts[column], default="")
    chosen = fewest if counts.get(fewest, _MOST_ENDED_COUNTED) < _MOST_ENDED_COUNTED else "state"
    wanted = [narrowed.state] if narrowed.state else [*LIVE]
    conditions = [column_for(column, chosen) == value for column, value in exact.items()]
    conditions += [compare(leases.c[column], value) for column, compare, value in _ranges(narrowed)]
    conditions += [column_for("state", chosen).in_(LIVE), column_for("state", chosen).in_(wanted)]
    return [*conditions, *bounds]


def column_for(column: str, chosen: str) -> sa.ColumnElement[Any]:
    """A column, in a form that no index has unless it is the chosen one."""
    return leases.c[column] if column == chosen else leases.c[column].concat("")


def _walk_by_end(narrowed: LeaseFilter, after: str) -> Walk:
    ranges = _ranges(narrowed)
    found = [compare(leases.c[column], value) for column, compare, value in ranges if column == "expire_time"]
    held: list[Held] = [each for each in ranges if each[0] != "expire_time"]
    if narrowed.state == "ACTIVE":
        found.append(leases.c.state == _ACTIVE)
    elif narrowed.state is not None:
        held.append(("state", operator.eq, narrowed.state))
    order = (leases.c.expire_time, leases.c.name)
    if after:
        moment, _, name = after.partition(" ")
        last = sa.tuple_(sa.literal(datetime.fromisoformat(moment), Moment), sa.literal(name))
        found.append(sa.tuple_(*order) < last)
    return Walk(found, held, order)


def _exact(narrowed: LeaseFilter) -> dict[str, str]:
    """The fields that must have one value, those that are likely to find few first."""
    columns = ("state", *_EXACT) if narrowed.state in LIVE else (*_EXACT, "state")
    return {column: value for column in columns if (value := getattr(narrowed, column))}


def _ranges(narrowed: LeaseFilter) -> list[Held]:
    ranges: list[tuple[str, Callable[[Any, Any], Any], datetime | None]] = [
        ("expire_time", operator.lt, narrowed.expire_before),
        ("expire_time", operator.ge, narrowed.expire_after),
        ("create_time", operator.lt, narrowed.create_before),
        ("create_time", operator.ge, narrowed.create_after),
    ]
    return [(column, compare, moment) for column, compare, moment in ranges if moment is not None]


def _bounds(narrowed: LeaseFilter) -> list[Condition]:
    """Between which names the leases of a filter are: a name tells when its lease was granted, to the millisecond."""
    bounds: list[Condition] = []
    if narrowed.create_before is not None:
        bounds.append(leases.c.name < first_lease_name(_later(narrowed.create_before, _MILLISECOND)))
    if narrowed.create_after is not None:
        bounds.append(leases.c.name >= first_lease_name(narrowed.create_after))
    if narrowed.expire_before is not None:
        # None ends before it was granted.
        bounds.append(leases.c.name < first_lease_name(_later(narrowed.expire_before, _CLOCKS)))
    return bounds


def _later(moment: datetime, delta: timedelta) -> datetime:
    last = datetime.max.replace(tzinfo=UTC)
    return moment + delta if moment < last - delta else last


def _count(connection: sa.Connection, conditions: Sequence[Condition], most: int) -> int:
    """How many rows there are, counted up to `most`; the index alone tells."""
    some = sa.select(sa.literal(1)).select_from(leases).where(*conditions).limit(most).subquery()
    return connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0
