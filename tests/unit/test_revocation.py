"""Who may end which leases, and which end together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from google.rpc import error_details_pb2

from kubevend.v1 import lease_service_pb2 as ls
from kubevend_server.leases import ClusterObject, Lease
from kubevend_server.store import leases as store
from tests.unit.builders import PERMIT_ALL, lease
from tests.unit.world import Refused, World

ACTIVE, REVOKED = ls.Lease.STATE_ACTIVE, ls.Lease.STATE_REVOKED
ANCHOR = ClusterObject("a" * 26, "configs/default", "Secret", "apps", "kubevend-a", scope="roles/ci", uid="u")
MINE, THEIRS = "kubernetes://prod/ci/runner", "kubernetes://prod/ci/other"
NOT_OTHERS = '@id("not-{0}") forbid(principal, action == Action::"{0}", resource) when {{ resource.caller == "{1}" }};'


def on_anchor(number: int, **overrides: Any) -> Lease:
    """A lease that shares the anchor; the first one brings it."""
    made = lease(number, revocation="PER_ROLE", anchor=ANCHOR.id, objects=(ANCHOR,) if number == 1 else ())
    return replace(made, **overrides)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a world keeps its files."""
    return tmp_path


def world_with(folder: Path, *leases: Lease, forbidden: tuple[str, ...] = ()) -> World:
    """A server with leases, in which `THEIRS` are out of bounds for some actions."""
    made = World(folder, "\n".join([PERMIT_ALL, *(NOT_OTHERS.format(each, THEIRS) for each in forbidden)]))
    with made.database.writer.begin() as connection:
        for each in leases:
            for table, row in store.rows(each):
                connection.execute(sa.insert(table).values(row))
    return made


async def refused(world: World, request: Any) -> tuple[str, str]:
    """The reason and the message of a refusal."""
    with pytest.raises(Refused) as refusal:
        await world.call(request)
    return refusal.value.detail(error_details_pb2.ErrorInfo).reason, refusal.value.status.message


def states(world: World, *leases: Lease) -> list[str]:
    """The states of leases, as they are written down."""
    found = [world.database.read_now(lambda c, n=each.name: store.get(c, n)) for each in leases]  # type: ignore[misc]
    return [each.stored_state for each in found if each is not None]


@pytest.fixture
def closing() -> Iterator[list[World]]:
    """Worlds to close in the end."""
    worlds: list[World] = []
    yield worlds
    for each in worlds:
        each.close()


async def test_a_lease_out_of_sight_is_not_there(folder: Path, closing: list[World]) -> None:
    """Ending a lease that one may not get is refused as ending one that is not there, in the same words."""
    hidden = lease(1, caller=THEIRS)
    world = world_with(folder, hidden, forbidden=("GetLease", "RevokeLease"))
    closing.append(world)

    told = [await refused(world, ls.RevokeLeaseRequest(name=name)) for name in (hidden.name, lease(2).name)]

    assert [reason for reason, _ in told] == ["LEASE_NOT_FOUND"] * 2
    assert told[0][1].replace(hidden.name, "X") == told[1][1].replace(lease(2).name, "X")
    assert states(world, hidden) == ["ACTIVE"]


async def test_a_lease_in_sight_may_be_out_of_reach(folder: Path, closing: list[World]) -> None:
    """Who may get a lease and not end it is told so."""
    world = world_with(folder, lease(1, caller=THEIRS), forbidden=("RevokeLease",))
    closing.append(world)

    reason, _ = await refused(world, ls.RevokeLeaseRequest(name=lease(1).name))

    assert reason == "ACCESS_DENIED"
    assert states(world, lease(1)) == ["ACTIVE"]


async def test_ending_one_takes_the_right_to_all_of_its_anchor(folder: Path, closing: list[World]) -> None:
    """Who may not end all leases of an anchor ends none of them, and is not told whose the others are."""
    world = world_with(folder, on_anchor(1), on_anchor(2, caller=THEIRS), forbidden=("GetLease", "RevokeLease"))
    closing.append(world)

    reason, message = await refused(world, ls.RevokeLeaseRequest(name=lease(1).name, end_shared=True))

    assert reason == "ACCESS_DENIED"
    assert THEIRS not in message
    assert lease(2).name not in message
    assert states(world, on_anchor(1), on_anchor(2)) == ["ACTIVE", "ACTIVE"]


async def test_others_on_an_anchor_must_be_meant(folder: Path, closing: list[World]) -> None:
    """Without end_shared a lease that shares its anchor is not ended; with it, all would be."""
    world = world_with(folder, on_anchor(1), on_anchor(2))
    closing.append(world)

    reason, message = await refused(world, ls.RevokeLeaseRequest(name=lease(1).name))
    foreseen = await world.call(ls.RevokeLeaseRequest(name=lease(1).name, end_shared=True, validate_only=True))

    assert reason == "LEASE_SHARES_ANCHOR"
    assert "1 other lease" in message
    assert [each.lease for each in foreseen.others] == [lease(2).name]
    assert states(world, on_anchor(1), on_anchor(2)) == ["ACTIVE", "ACTIVE"]


async def test_a_pending_lease_is_not_ended(folder: Path, closing: list[World]) -> None:
    """A lease that is being issued just now is refused, with the word when to try again."""
    world = world_with(folder, lease(1, stored_state="PENDING", revocation="PER_LEASE", owner="main/1"))
    closing.append(world)

    reason, _ = await refused(world, ls.RevokeLeaseRequest(name=lease(1).name))

    assert reason == "LEASE_PENDING"
    assert states(world, lease(1)) == ["PENDING"]


async def test_a_filter_ends_what_one_may_end(folder: Path, closing: list[World]) -> None:
    """Of what a filter finds those leases end that the caller may end; of the others those are told that may be got."""
    world = world_with(folder, lease(1), lease(2, caller=THEIRS), lease(3), forbidden=("RevokeLease",))
    closing.append(world)

    answer = await world.call(ls.RevokeLeasesRequest(filter=ls.LeaseFilter(role="roles/ci")))

    told = {each.lease: (each.state, each.message) for each in answer.revocations}
    assert told[lease(2).name] == (ACTIVE, "You may not end it.")
    assert {state for name, (state, _) in told.items() if name != lease(2).name} == {REVOKED}
    assert states(world, lease(1), lease(2), lease(3)) == ["REVOKED", "ACTIVE", "REVOKED"]
    assert not answer.more


async def test_a_filter_tells_nothing_of_what_is_out_of_sight(folder: Path, closing: list[World]) -> None:
    """Leases that the caller may neither end nor get are not in the answer, and stay."""
    world = world_with(folder, lease(1), lease(2, caller=THEIRS), forbidden=("RevokeLease", "GetLease"))
    closing.append(world)

    answer = await world.call(ls.RevokeLeasesRequest(filter=ls.LeaseFilter(role="roles/ci")))

    assert [each.lease for each in answer.revocations] == [lease(1).name]
    assert states(world, lease(1), lease(2)) == ["REVOKED", "ACTIVE"]


@pytest.mark.parametrize("end_shared", [False, True])
async def test_an_anchor_with_leases_of_others_stays(folder: Path, closing: list[World], *, end_shared: bool) -> None:
    """Leases whose anchor holds some that the caller may not end are left, whatever the filter and end_shared say."""
    world = world_with(folder, on_anchor(1), on_anchor(2, caller=THEIRS), forbidden=("RevokeLease", "GetLease"))
    closing.append(world)

    answer = await world.call(ls.RevokeLeasesRequest(filter=ls.LeaseFilter(role="roles/ci"), end_shared=end_shared))

    (left,) = answer.revocations
    assert (left.lease, left.state) == (lease(1).name, ACTIVE)
    assert left.message
    assert states(world, on_anchor(1), on_anchor(2)) == ["ACTIVE", "ACTIVE"]


async def test_the_event_names_what_was_ended(folder: Path, closing: list[World]) -> None:
    """RevokeLeases leaves an intent before and a completion after, and both name the leases."""
    world = world_with(folder, lease(1), lease(2))
    closing.append(world)

    await world.call(ls.RevokeLeasesRequest(filter=ls.LeaseFilter(caller=MINE)))

    intent, done = world.lines()
    assert (intent["stage"], done["stage"], done["outcome"]) == ("STAGE_INTENT", "STAGE_COMPLETE", "OUTCOME_SUCCEEDED")
    assert sorted(intent["endedLeases"]) == sorted(done["endedLeases"]) == [lease(1).name, lease(2).name]
    assert done["request"] == {"filter": {"caller": MINE}}
