"""Ending leases on request, where others have a hand in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from google.rpc import error_details_pb2

from kubevend.v1 import lease_service_pb2 as ls
from kubevend_server import revocation
from kubevend_server.leases import ClusterObject, Lease
from kubevend_server.services.leases import LeaseService
from kubevend_server.store import leases as lease_store
from tests.unit.builders import PERMIT_ALL, lease
from tests.unit.world import Refused, World

ANCHOR = ClusterObject("0" * 26, "configs/default", "Secret", "apps", "kubevend-x", scope="roles/ci", uid="u")
MINE, THEIRS = "admin://local/bootstrap", "kubernetes://prod/ci/other"
MY_OWN = """
@id("mine") permit(principal, action == Action::"RevokeLease", resource) when { resource.caller == principal.name };
@id("all") permit(principal, action == Action::"RevokeLeases", resource);
"""


def on_anchor(number: int, caller: str = MINE, **overrides: Any) -> Lease:
    """A lease on the anchor; the first one brings it."""
    made = lease(number, caller=caller, revocation="PER_ROLE", anchor=ANCHOR.id, **overrides)
    return replace(made, objects=(ANCHOR,) if number == 1 else ())


def add(world: World, leases: Iterable[Lease]) -> None:
    """Write leases down, as another process may."""
    with world.database.writer.begin() as connection:
        for each in leases:
            for table, row in lease_store.rows(each):
                connection.execute(sa.insert(table).values(row))


def states(world: World) -> dict[str, str]:
    """The states of all leases."""
    with world.database.writer.begin() as connection:
        return dict(connection.execute(sa.text("SELECT name, state FROM leases")).all())


def meanwhile(world: World, *joining: Lease) -> None:
    """Let leases come onto the anchor between the decision and the end."""
    (service,) = [service for service in world.services if isinstance(service, LeaseService)]

    async def join(place: str) -> None:
        if place == "revoke.intended":
            add(world, joining)

    service._revocation._checkpoint = join


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody deletes anything here, so nobody waits for it."""
    monkeypatch.setattr(revocation, "_SETTLE_SECONDS", 0.0)


@pytest.mark.parametrize(
    ("policies", "end_shared", "reason"),
    [(PERMIT_ALL, False, "LEASE_SHARES_ANCHOR"), (MY_OWN, True, "ACCESS_DENIED"), (PERMIT_ALL, True, "")],
)
async def test_who_comes_onto_an_anchor_that_is_being_ended(
    tmp_path: Path, policies: str, end_shared: bool, reason: str
) -> None:
    """Somebody else's lease that comes meanwhile ends with the others only where that is meant, and allowed; and the
    event names it.
    """
    world = World(tmp_path, policies)
    add(world, [on_anchor(1)])
    meanwhile(world, on_anchor(2, THEIRS))
    request = ls.RevokeLeaseRequest(name=on_anchor(1).name, end_shared=end_shared)

    told, named = "", []
    try:
        await world.call(request)
        named = world.lines()[-1]["endedLeases"]
    except Refused as refusal:
        told = refusal.detail(error_details_pb2.ErrorInfo).reason
    after = states(world)
    world.close()

    assert told == reason
    assert set(after.values()) == ({"ACTIVE"} if reason else {"REVOKING"})
    assert named == ([] if reason else [on_anchor(1).name, on_anchor(2).name])


async def test_a_filter_takes_along_what_it_finds_meanwhile(world: World) -> None:
    """Where the newcomer is one that the filter finds, all end; else the leases of its anchor are left as they are."""
    add(world, [on_anchor(1), on_anchor(2)])
    meanwhile(world, on_anchor(3, THEIRS))
    left = await world.call(ls.RevokeLeasesRequest(filter=ls.LeaseFilter(caller=MINE)))
    untouched = states(world)
    meanwhile(world, on_anchor(4, THEIRS))
    ended = await world.call(ls.RevokeLeasesRequest(filter=ls.LeaseFilter(role="roles/ci")))

    assert {each.state for each in left.revocations} == {ls.Lease.STATE_ACTIVE}
    assert "1 other lease that the filter does not find" in left.revocations[0].message
    assert set(untouched.values()) == {"ACTIVE"}
    assert [each.lease for each in ended.revocations] == [on_anchor(number).name for number in (4, 3, 2, 1)]
    assert set(states(world).values()) == {"REVOKING"}


@pytest.mark.parametrize(
    ("hiding", "policies"),
    [({"stored_state": "REVOKING", "ends_as": "REVOKED"}, PERMIT_ALL), ({"caller": THEIRS}, MY_OWN)],
)
async def test_others_do_not_hide_what_is_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hiding: dict[str, Any], policies: str
) -> None:
    """Newer leases that are ending already, or are not the caller's to end, do not keep those back that are meant."""
    monkeypatch.setattr(revocation, "MOST_AT_ONCE", 3)
    monkeypatch.setattr(revocation, "_BATCH", 2)
    world = World(tmp_path, policies)
    add(world, [lease(number, caller=MINE) for number in range(1, 6)])
    add(world, [replace(lease(number, caller=MINE), **hiding) for number in range(6, 16)])

    request = ls.RevokeLeasesRequest(filter=ls.LeaseFilter(config="configs/default"))
    first, second = await world.call(request), await world.call(request)
    after = states(world)
    world.close()

    assert (first.more, second.more) == (True, False)
    assert [after[lease(number).name] for number in range(1, 6)] == ["REVOKED"] * 5
