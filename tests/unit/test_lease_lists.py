"""Lists of leases: what they hold, in which order, and that they look at few; and what is due, found among many."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from kubevend.v1 import issue_service_pb2, lease_service_pb2
from kubevend_server import ending
from kubevend_server.leases import Lease, LeaseFilter
from kubevend_server.names import first_lease_name, new_lease_name
from kubevend_server.store import lease_ends, lease_filters, leases, migrations
from kubevend_server.store.database import Database
from kubevend_server.store.schema import Moment
from kubevend_server.store.schema import leases as table
from tests.support.plans import plans
from tests.unit.builders import NOW, config, lease, role
from tests.unit.world import World, migrated

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


def add(database: Database, *added: Lease) -> None:
    """Write leases down."""
    with database.writer.begin() as connection:
        for each in added:
            for found, row in leases.rows(each):
                connection.execute(sa.insert(found).values(row))


# Pages.

MOMENTS = st.integers(0, 6).map(lambda number: NOW + number * MINUTE) | st.integers(0, 2000).map(
    lambda number: NOW + timedelta(microseconds=number)
)
VALUES = {
    "role": st.sampled_from(["roles/a", "roles/b"]),
    "config": st.sampled_from(["configs/a", "configs/b"]),
    "caller": st.sampled_from(["admin://local/a", "admin://local/b"]),
    "namespace": st.sampled_from(["a", "b"]),
    "service_account": st.sampled_from(["a", "b"]),
}
STATES = st.sampled_from(["ACTIVE", "ACTIVE", "EXPIRED", "REVOKED", "FAILED", "REVOKING", "PENDING"])
FILTERS = st.builds(
    LeaseFilter,
    **{field: st.just("") | values for field, values in VALUES.items()},
    state=st.none() | STATES,
    expire_before=st.none() | MOMENTS,
    expire_after=st.none() | MOMENTS,
    create_before=st.none() | MOMENTS,
    create_after=st.none() | MOMENTS,
)
# Most filters of many fields find nothing.
NARROW = st.lists(st.sampled_from([*VALUES, "state", "expire_before", "expire_after", "create_before", "create_after"]))


@st.composite
def stored(draw: st.DrawFn) -> Lease:
    """A lease that was granted at any time, and ends at any later one."""
    granted = draw(MOMENTS)
    values: dict[str, Any] = {field: draw(found) for field, found in VALUES.items()}
    expires = granted + draw(st.integers(0, 3)) * MINUTE
    state = draw(STATES)
    return lease(
        name=new_lease_name(granted), create_time=granted, expire_time=expires, tokens=(), stored_state=state, **values
    )


@st.composite
def narrowed_by_few(draw: st.DrawFn) -> LeaseFilter:
    """A filter of at most a few fields."""
    full, fields = draw(FILTERS), draw(NARROW)
    return LeaseFilter(**{field: getattr(full, field) for field in fields})


def fits(narrowed: LeaseFilter, each: Lease) -> bool:
    """Whether a filter finds a lease, told field by field."""
    exact = (*VALUES, "state")
    values = {**{field: getattr(each, field) for field in VALUES}, "state": each.stored_state}
    return (
        all(not getattr(narrowed, field) or getattr(narrowed, field) == values[field] for field in exact)
        and (narrowed.expire_before is None or each.expire_time < narrowed.expire_before)
        and (narrowed.expire_after is None or each.expire_time >= narrowed.expire_after)
        and (narrowed.create_before is None or each.create_time < narrowed.create_before)
        and (narrowed.create_after is None or each.create_time >= narrowed.create_after)
    )


def in_order(narrowed: LeaseFilter, found: Sequence[Lease]) -> list[Lease]:
    """Leases in the order of a list: the newest first, or where only their ends narrow it, those that end last."""
    names = sorted(found, key=lambda each: each.name, reverse=True)
    if lease_filters.by_end(narrowed):
        return sorted(names, key=lambda each: (each.expire_time, each.name), reverse=True)
    return names


@given(st.lists(stored(), max_size=30), st.lists(FILTERS | narrowed_by_few(), min_size=3), st.integers(1, 4), st.data())
def test_pages_together_are_the_list(
    found: list[Lease], filters: list[LeaseFilter], limit: int, data: st.DataObject
) -> None:
    """Whatever the filter, and however few rows a page may look at: page after page, each lease that fits comes once,
    in order, and no page looks at more rows than it may.
    """
    most_scanned = data.draw(st.integers(limit, 8))
    with tempfile.TemporaryDirectory() as folder:
        database = migrated(Path(folder) / "kubevend.sqlite")
        add(database, *found)
        for narrowed in filters:
            listed: list[Lease] = []
            position, pages = "", 0
            while position or not pages:
                page = database.read_now(
                    lambda c, narrowed=narrowed, position=position: leases.page(  # type: ignore[misc]
                        c, narrowed, position, limit, most_scanned
                    )
                )
                assert page.scanned <= most_scanned
                assert len(page.found) <= limit
                assert page.found or page.scanned or not page.position
                listed += page.found
                position, pages = page.position, pages + 1
                assert pages <= len(found) + 1
            assert listed == in_order(narrowed, [each for each in found if fits(narrowed, each)])
        database.close()


@settings(max_examples=25)
@given(
    st.lists(stored(), max_size=30),
    st.lists(FILTERS.filter(lambda narrowed: not lease_filters.by_end(narrowed)), min_size=2, max_size=4),
    st.integers(1, 4),
    st.data(),
)
def test_pages_of_several_filters_are_one_list(
    found: list[Lease], filters: list[LeaseFilter], limit: int, data: st.DataObject
) -> None:
    """What any of several filters finds comes once, the newest first, and together they look at no more rows than one
    may.
    """
    most_scanned = data.draw(st.integers(len(filters) * limit, 20))
    with tempfile.TemporaryDirectory() as folder:
        database = migrated(Path(folder) / "kubevend.sqlite")
        add(database, *found)
        listed: list[Lease] = []
        position, pages = "", 0
        while position or not pages:
            query = partial(leases.merged_page, filters=filters, after=position, limit=limit, most_scanned=most_scanned)
            page = database.read_now(query)
            assert page.scanned <= most_scanned
            assert len(page.found) <= limit
            listed += page.found
            position, pages = page.position, pages + 1
            assert pages <= 4 * len(found) + 1
        fitting = [each for each in found if any(fits(narrowed, each) for narrowed in filters)]
        assert listed == sorted(fitting, key=lambda each: each.name, reverse=True)
        database.close()


@pytest.mark.parametrize("moment", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
def test_ranges_may_be_of_any_time(database: Database, moment: datetime) -> None:
    """The first and the last moments that a request can name bound nothing, or everything."""
    stored_ = lease(name=new_lease_name(NOW))
    add(database, stored_)
    everything = [stored_] if moment > NOW else []
    for field in ("create_before", "expire_before"):
        for role_ in ("", stored_.role):
            fields: dict[str, Any] = {field: moment, "role": role_}
            narrowed = LeaseFilter(**fields)
            page = database.read_now(lambda c, narrowed=narrowed: leases.page(c, narrowed, "", 10))  # type: ignore[misc]
            assert page.found == everything


async def test_what_ends_last_comes_first(world: World) -> None:
    """A list that only the ends narrow goes on, over the API, in the order of the ends, and by its tokens."""
    granted = [NOW + number * timedelta(milliseconds=1) for number in range(5)]
    hours = (3, 1, 5, 2, 4)
    found = [
        lease(name=new_lease_name(moment), create_time=moment, expire_time=NOW + hour * HOUR, tokens=())
        for moment, hour in zip(granted, hours, strict=True)
    ]
    add(world.database, *found)
    request = lease_service_pb2.ListLeasesRequest(page_size=2)
    request.filter.expire_before.FromDatetime(NOW + 5 * HOUR)
    listed = []
    while True:
        reply = await world.call(request)
        listed += [each.name for each in reply.leases]
        request.page_token = reply.next_page_token
        if not request.page_token:
            break
    assert listed == [found[number].name for number in (4, 0, 3, 1)]


async def test_a_lease_was_granted_when_its_name_says(world: World) -> None:
    """The time of creation is by kubevend's clock, not by the cluster's, so that ranges of it find the lease."""
    with world.database.writer.begin() as connection:
        world.config_store.insert(config())(connection)
    world.catalog.put(config())
    world.catalog.put(role())
    issued = await world.call(issue_service_pb2.IssueTokenRequest(role="roles/ci"))
    found = world.database.read_now(lambda connection: leases.get(connection, issued.lease))
    assert found is not None
    assert found.create_time == NOW
    assert first_lease_name(NOW) <= found.name < first_lease_name(NOW + timedelta(milliseconds=1))


def test_leases_of_before_were_granted_when_their_names_say(tmp_path: Path) -> None:
    """The migration sets times of creation that do not agree with the names, and leaves the others as they are."""
    database = Database(f"sqlite:///{tmp_path / 'old.sqlite'}")
    script = alembic.config.Config()
    script.set_main_option("script_location", str(Path(migrations.__file__).parent))
    with database.writer.begin() as connection:
        script.attributes["connection"] = connection
        alembic.command.upgrade(script, "0003")
    right, wrong = new_lease_name(NOW), new_lease_name(NOW + HOUR)
    add(database, lease(name=right, create_time=NOW, tokens=()), lease(name=wrong, create_time=NOW, tokens=()))
    database.migrate()
    query = sa.select(table.c.name, table.c.create_time)
    found = dict(tuple(row) for row in database.read_now(lambda connection: connection.execute(query).all()))
    milliseconds = (NOW + HOUR).replace(microsecond=NOW.microsecond // 1000 * 1000)
    assert found == {right: NOW, wrong: milliseconds}
    assert Moment().process_bind_param(milliseconds, database.writer.dialect)
    database.close()


# Plans.

IN_NAMES = "USING INDEX sqlite_autoindex_leases_1"
PLANS: list[tuple[dict[str, Any], str]] = [
    ({}, f"SCAN leases {IN_NAMES}"),
    *(
        ({field: "x"}, f"SEARCH leases USING INDEX leases_{field} ({field}=?)")
        for field in ("role", "config", "caller", "namespace", "service_account")
    ),
    *(({"state": state}, "SEARCH leases USING INDEX leases_state (state=?)") for state in ("ACTIVE", "REVOKING")),
    ({"expire_before": NOW}, "SEARCH leases USING INDEX leases_expire_time (expire_time<?)"),
    ({"expire_after": NOW}, "SEARCH leases USING INDEX leases_expire_time (expire_time>?)"),
    (
        {"expire_before": NOW, "state": "ACTIVE"},
        "SEARCH leases USING INDEX leases_expiry (state=? AND expire_time<?)",
    ),
    ({"expire_before": NOW, "state": "EXPIRED"}, "SEARCH leases USING INDEX leases_expire_time (expire_time<?)"),
    ({"create_before": NOW}, f"SEARCH leases {IN_NAMES} (name<?)"),
    ({"create_after": NOW}, f"SEARCH leases {IN_NAMES} (name>?)"),
    ({"role": "x", "create_after": NOW}, "SEARCH leases USING INDEX leases_role (role=? AND name>?)"),
    ({"caller": "x", "role": "y"}, "SEARCH leases USING INDEX leases_caller (caller=?)"),
]


def steps(database: Database, work: Callable[[sa.Connection], object]) -> list[str]:
    """All steps of all statements."""
    return [step for _, found in plans(database.writer, work) for step in found]


@pytest.mark.parametrize(("fields", "wanted"), PLANS)
def test_a_list_goes_through_an_index(database: Database, fields: dict[str, Any], wanted: str) -> None:
    """Each single filter, and those that are asked together, has an index, in the order of the list."""
    found = steps(database, lambda connection: leases.page(connection, LeaseFilter(**fields), "", 200))
    assert wanted in found
    assert {step for step in found if "leases" in step and "COVERING" not in step} == {wanted}


@pytest.mark.parametrize(("fields", "_wanted"), PLANS)
def test_a_later_page_is_found_without_those_before(database: Database, fields: dict[str, Any], _wanted: str) -> None:
    """A position is looked up too: no step walks over what earlier pages have shown."""
    narrowed = LeaseFilter(**fields)
    position = lease_filters.position(narrowed, lease())
    found = steps(database, lambda connection: leases.page(connection, narrowed, position, 200))
    bounded = "expire_time" if lease_filters.by_end(narrowed) else "name"
    read = {step.replace("(expire_time,name)<(?,?)", "expire_time<?") for step in found if "leases" in step}
    assert all(f"{bounded}<?" in step for step in read)


def test_what_has_run_out_is_found_through_its_index(database: Database) -> None:
    """The query that runs several times a second looks at nothing but what has run out, in order."""
    found = steps(database, lambda connection: lease_ends.due(connection, NOW, 500))
    assert found == ["SEARCH leases USING INDEX leases_expiry (state=? AND expire_time<?)"]


def test_what_is_counted_is_in_an_index(database: Database) -> None:
    """The metrics read two indexes and no rows."""
    assert steps(database, lambda connection: leases.count(connection, NOW)) == [
        "SEARCH leases USING COVERING INDEX leases_expiry (state=? AND expire_time>?)",
        "SEARCH leases USING COVERING INDEX leases_state (state=?)",
    ]


def test_the_purge_finds_what_ended_long_ago(database: Database) -> None:
    """What is forgotten is found by when it ended."""
    add(database, lease(stored_state="EXPIRED"))
    with database.writer.begin() as connection:
        connection.execute(sa.update(table).values(end_time=NOW))
    first, *others = steps(database, lambda connection: lease_ends.purge(connection, NOW + HOUR, 500))
    assert first == "SEARCH leases USING INDEX leases_ended (end_time>? AND end_time<?)"
    assert others
    assert all(step.startswith("SEARCH") for step in others)


def test_ending_by_a_filter_looks_at_few(database: Database) -> None:
    """RevokeLeases goes through the field that finds few leases, and through those that live where none does."""
    few = steps(database, lambda c: leases.find_live(c, LeaseFilter(caller="x", role="y"), 10))
    assert few[-1] == "SEARCH leases USING INDEX leases_caller (caller=?)"
    ranged = steps(database, lambda c: leases.find_live(c, LeaseFilter(expire_before=NOW), 10))
    assert any("leases_state (state=? AND name<?)" in step for step in ranged)


# What runs out.


def test_only_what_is_due_is_touched(database: Database) -> None:
    """Of 100,000 leases that live, ending those whose time has come changes these and no other row."""
    count, due = 100_000, 25
    one = dict(leases.rows(lease(tokens=()))[0][1])
    del one["name"], one["expire_time"]
    with database.writer.begin() as connection:
        ends = (
            (number, NOW if number % (count // due) == 0 else NOW + number * MINUTE) for number in range(1, count + 1)
        )
        connection.execute(
            sa.insert(table),
            [{**one, "name": f"leases/{number:026d}", "expire_time": end} for number, end in ends],
        )
    with database.writer.begin() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        before = raw.total_changes
        found = lease_ends.due(connection, NOW, 500)
        ending.expire(connection, found, NOW)
        assert raw.total_changes - before == due
        again = lease_ends.due(connection, NOW, 500)
    assert [each.name for each in found] == [f"leases/{number * count // due:026d}" for number in range(1, due + 1)]
    assert again == []
    states = sa.select(table.c.state, sa.func.count()).group_by(table.c.state)
    assert dict(tuple(row) for row in database.read_now(lambda c: c.execute(states).all())) == {
        "ACTIVE": count - due,
        "EXPIRED": due,
    }
