"""Issuing on anchors that leases share, where another process has a hand in it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from google.rpc import error_details_pb2

from kubevend.v1 import issue_service_pb2
from kubevend_server.configs import Config
from kubevend_server.leases import ClusterObject, Lease
from kubevend_server.store import leases as lease_store
from kubevend_server.store import objects as object_store
from tests.unit.builders import config, lease, role
from tests.unit.world import Refused, World

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
        world.config_store.insert(config())(connection)
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
    for _ in range(50):  # turns of the store, of which it takes some too
        await shared.database.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())
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


async def test_a_token_that_is_not_bound_is_dropped(world: World) -> None:
    """What would not end with its anchor is not handed out: a webhook or a proxy can have taken the binding away."""
    shared = furnished(world)
    do(shared, lambda c: object_store.set_uids(c, [replace(THEIRS, uid="u1")]))
    shared.connection.binds = False

    with pytest.raises(Refused) as refusal:
        await shared.call(REQUEST)

    assert refusal.value.detail(error_details_pb2.ErrorInfo).reason == "TOKEN_NOT_AS_GRANTED"
    assert f"not bound to Secret apps/{THEIRS.name}" in refusal.value.status.message
    assert shared.database.read_now(lambda c: c.exec_driver_sql("SELECT count(*) FROM tokens").scalar()) == 0


@pytest.mark.parametrize("revocation", ["PER_LEASE", "PER_CALLER"])
@pytest.mark.parametrize(
    ("now", "reason"),
    [(config(kubernetes_host="https://10.0.0.2:6443", etag="e2"), "CONFIG_MOVED"), (None, "CONFIG_NOT_FOUND")],
)
async def test_nothing_is_made_at_a_cluster_that_was_left(
    world: World, revocation: Any, now: Config | None, reason: str
) -> None:
    """Where another process has pointed the config elsewhere, what was made here would be looked for there, and told
    to be gone; so it is not made.
    """
    world.catalog.put(config())
    world.catalog.put(role(revocation=revocation))
    if now is not None:
        do(world, world.config_store.insert(now))

    with pytest.raises(Refused) as refusal:
        await world.call(REQUEST)

    assert refusal.value.detail(error_details_pb2.ErrorInfo).reason == reason
    assert world.connection.asked == []
    assert [line["stage"] for line in world.lines()] == ["STAGE_COMPLETE"]
