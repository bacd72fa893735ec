"""Issuing on anchors that leases share, where another process has a hand in it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from kubevend.v1 import issue_service_pb2
from kubevend_server.leases import ClusterObject, Lease
from kubevend_server.store import leases as lease_store
from kubevend_server.store import objects as object_store
from tests.unit.builders import config, lease, role
from tests.unit.world import World

REQUEST = issue_service_pb2.IssueTokenRequest(role="roles/ci")
THEIRS = ClusterObject("0" * 26, "configs/default", "Secret", "apps", "kubevend-theirs", scope="roles/ci")


def their_lease() -> Lease:
    """The first lease on it, which another process is issuing."""
    made = lease(1, revocation="PER_ROLE", stored_state="PENDING", owner="other/1", anchor=THEIRS.id, tokens=())
    return replace(made, objects=(THEIRS,))


def furnished(world: World) -> World:
    """A world with a role whose leases share an anchor, which another process has written down and not made yet."""
    world.catalog.put(config())
    world.catalog.put(role(revocation="PER_ROLE"))
    with world.database.writer.begin() as connection:
        assert lease_store.insert_pending(connection, their_lease())
    return world


def do(world: World, change: Any) -> None:
    """The other process makes a change."""
    with world.database.writer.begin() as connection:
        change(connection)


async def test_it_waits_for_what_another_process_makes(world: World) -> None:
    """An anchor that another process is about to make is not made here; once it is made, the token is bound to it."""
    shared = furnished(world)
    call = asyncio.create_task(shared.call(REQUEST))
    await asyncio.sleep(0.1)
    before = (call.done(), list(shared.connection.asked))

    do(shared, lambda c: object_store.set_uids(c, [replace(THEIRS, uid="u1")]))
    reply = await call

    assert before == (False, [])
    ((path, body),) = shared.connection.asked
    assert path.endswith("/token")
    assert body["spec"]["boundObjectRef"] == {"apiVersion": "v1", "kind": "Secret", "name": THEIRS.name, "uid": "u1"}
    assert reply.token


async def test_it_gives_up_what_another_process_does_not_make(tmp_path: Path) -> None:
    """What is not made in time ends with its lease, and is deleted: another one is made in its place."""
    shared = furnished(World(tmp_path, anchor_patience=0))
    created = {"kind": "PartialObjectMetadata", "metadata": {"name": "x", "uid": "u2"}}
    shared.connection.answers.insert(0, created)

    reply = await shared.call(REQUEST)

    (making, _), (minting, body) = shared.connection.asked
    assert making.endswith("/secrets")
    assert minting.endswith("/token")
    assert body["spec"]["boundObjectRef"]["uid"] == "u2"
    with shared.database.writer.begin() as connection:
        states = {row.name: row.state for row in connection.execute(sa.text("SELECT name, state FROM leases"))}
        anchors = {row.name: row.state for row in connection.execute(sa.text("SELECT name, state FROM objects"))}
    shared.close()
    assert states == {their_lease().name: "REVOKING", reply.lease: "ACTIVE"}
    assert sorted(anchors.values()) == ["DELETING", "LIVE"]
    assert anchors[THEIRS.name] == "DELETING"
