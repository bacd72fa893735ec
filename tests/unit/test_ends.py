"""Expiry, removal and reconcile by a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kubevend_server import anchors, ending
from kubevend_server.anchors import Scope
from kubevend_server.audit.log import AuditLog
from kubevend_server.errors import Unavailable
from kubevend_server.leases import ClusterObject, Lease
from kubevend_server.reconcile import Order, Presence
from kubevend_server.roles import KubernetesRole, Role
from kubevend_server.store import objects as object_store
from kubevend_server.store import replicas
from tests.unit.builders import NOW, config, lease, role
from tests.unit.endings import AWAY, ME, OTHER, Endings, path_of

SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
SCOPE = Scope("configs/default", "apps", "roles/ci")


def anchor(number: int = 1, **overrides: Any) -> ClusterObject:
    """The anchor of `lease(number)`."""
    made = ClusterObject(
        f"{number:026d}",
        "configs/default",
        "Secret",
        "apps",
        f"kubevend-{number}",
        lease=f"leases/{number:026d}",
        uid="u",
    )
    return replace(made, **overrides)


def own(number: int = 1, **overrides: Any) -> Lease:
    """A lease with an anchor of its own."""
    made = lease(number, revocation="PER_LEASE", anchor=anchor(number).id, objects=(anchor(number),))
    return replace(made, **overrides)


def shared(uid: str = "u") -> ClusterObject:
    """An anchor that the leases of a role share."""
    return anchor(50, lease="", scope=SCOPE.text, uid=uid)


def on(stands_on: ClusterObject, number: int = 1, **overrides: Any) -> Lease:
    """A lease on a shared anchor; the first one brings it."""
    made = lease(number, revocation="PER_ROLE", anchor=stands_on.id, objects=(stands_on,) if number == 1 else ())
    return replace(made, **overrides)


def pending(of: Lease, owner: str = OTHER) -> Lease:
    """A lease whose issuance is under way."""
    made = tuple(replace(each, uid="") for each in of.objects)
    return replace(of, stored_state="PENDING", owner=owner, tokens=(), objects=made)


def makes(**overrides: Any) -> Role:
    """A role whose leases have accounts of their own."""
    return role(kubernetes_role=KubernetesRole("Role", "reader"), allowed_service_accounts=(), **overrides)


class Failing(AuditLog):
    """An audit log whose disk fails once after the next write."""

    fails = 0

    def sync(self) -> None:
        """Fail."""
        if self.fails:
            self.fails -= 1
            raise OSError("the test's disk fails")
        super().sync()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Endings]:
    """A store, a clock and a cluster."""
    made = Endings(tmp_path, makes(), audit_log=Failing)
    made.beat(ME)
    yield made
    made.close()


def unavailable() -> Unavailable:
    """What a cluster says that cannot be reached."""
    return Unavailable("KUBERNETES_UNREACHABLE", "It cannot be reached.")


# Expiry and removal.


async def test_a_lease_ends_at_its_time(scene: Endings) -> None:
    """Up to its time a lease lives; then its anchor is deleted, and with that it is EXPIRED, and one event tells of
    it.
    """
    scene.add(own())
    scene.cluster.put(path_of(anchor()))

    scene.now = NOW + HOUR - SECOND
    early = await scene.expiry.look()
    scene.now = NOW + HOUR
    late = await scene.expiry.look()
    between = scene.lease(own().name)
    await scene.remove()

    assert (early, late) == (0, 1)
    assert (between.stored_state, between.ends_as) == ("REVOKING", "EXPIRED")
    ended = scene.lease(own().name)
    assert (ended.stored_state, ended.end_time, ended.objects) == ("EXPIRED", NOW + HOUR, ())
    assert [(event["stage"], event["lease"], event["reason"]) for event in scene.events()] == [
        ("STAGE_ENDED", own().name, "EXPIRED")
    ]


async def test_a_shared_anchor_goes_with_its_last_lease(scene: Endings) -> None:
    """While a lease stands on an anchor, or is about to, it stays."""
    scene.add(on(shared()), on(shared(), 2, expire_time=NOW + 2 * HOUR))

    scene.now = NOW + HOUR
    await scene.expiry.look()
    await scene.remove()
    first = (scene.lease(on(shared()).name).stored_state, [each["state"] for each in scene.objects()])
    scene.now = NOW + 2 * HOUR
    scene.in_flight.take(shared().id)
    await scene.expiry.look()
    spared = [each["state"] for each in scene.objects()]
    scene.in_flight.drop(shared().id)
    await scene.reconciler.look()
    await scene.remove()

    assert first == ("EXPIRED", ["LIVE"])
    assert spared == ["LIVE"]
    assert scene.objects() == []


async def test_a_deletion_that_fails_is_tried_again(scene: Endings) -> None:
    """Ever later, but never later than a reconcile's period, and for as long as it takes; the lease says what fails."""
    scene.add(own())
    scene.cluster.fails = unavailable()
    scene.do(lambda connection: ending.revoke(connection, [own()], "for the test", NOW))

    pauses = []
    for _ in range(12):
        before = scene.now
        await scene.remove()
        (row,) = scene.objects()
        how = scene.lease(own().name).ending
        assert how is not None
        assert how.next_attempt_time is not None
        scene.now = how.next_attempt_time
        pauses.append((scene.now - before).total_seconds())
    held = scene.lease(own().name)
    scene.cluster.fails = None
    await scene.remove()

    assert all(0.8 * 2**n <= pause <= 1.2 * 2**n for n, pause in enumerate(pauses[:5]))
    assert all(48 <= pause <= 72 for pause in pauses[6:])
    assert row["reason"] == "KUBERNETES_UNREACHABLE"
    assert held.ending is not None
    assert (held.stored_state, held.ending.attempts) == ("REVOKING", 12)
    assert scene.lease(own().name).stored_state == "REVOKED"


async def test_a_cluster_that_is_away_keeps_nobody_waiting(scene: Endings) -> None:
    """However much is to be deleted where nobody answers, what is to be deleted elsewhere is, at once."""
    far = [
        own(number, config=AWAY, objects=(replace(anchor(number), config=AWAY),), expire_time=NOW)
        for number in range(100, 150)
    ]
    scene.add(*far)
    await scene.expiry.look()
    scene.add(own(1))
    scene.now += SECOND
    scene.do(lambda connection: ending.revoke(connection, [own(1)], "for the test", scene.now))

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        removing = group.create_task(scene.remover.run())
        await scene.cluster.was_asked.wait()
        removing.cancel()

    assert scene.cluster.deleted == [path_of(anchor(1))]


async def test_a_deletion_that_overtakes_its_creation(scene: Endings) -> None:
    """What nobody has seen made is looked for once more, when its creation must have ended; its lease need not wait."""
    scene.add(pending(own()))

    await scene.reconciler.look()
    await scene.remove()
    ended = scene.lease(own().name)
    scene.cluster.put(path_of(anchor()))
    scene.now += 70 * SECOND
    await scene.remove()
    too_early = dict(scene.cluster.objects)
    scene.now += 5 * SECOND
    await scene.remove()

    assert (ended.stored_state, ended.end_time) == ("FAILED", NOW)
    assert list(too_early) == [path_of(anchor())]
    assert scene.cluster.objects == {}
    assert scene.objects() == []
    assert len(scene.events()) == 1


async def test_an_end_that_cannot_be_recorded(scene: Endings) -> None:
    """Where the disk fails after a deletion no event tells of an end that the store does not have; it is done again."""
    assert isinstance(scene.audit, Failing)
    scene.add(own())
    scene.cluster.put(path_of(anchor()))
    scene.do(lambda connection: ending.revoke(connection, [own()], "for the test", NOW))

    scene.audit.fails = 1
    await scene.remove()
    failed = (scene.lease(own().name).stored_state, scene.events())
    await scene.reconciler.look()
    await scene.remove()

    assert failed == ("REVOKING", [])
    assert scene.lease(own().name).stored_state == "REVOKED"
    assert len(scene.events()) == 1


async def test_what_one_process_deletes_others_leave_alone(scene: Endings) -> None:
    """A deletion that a living process has taken is its own; one that a dead one has taken is everybody's."""
    scene.add(own())
    scene.do(lambda connection: ending.revoke(connection, [own()], "for the test", NOW))
    scene.do(lambda connection: object_store.claim(connection, config().name, OTHER, NOW, NOW + 60 * SECOND, 16))
    scene.beat(OTHER)

    await scene.reconciler.look()
    await scene.remove()
    left = list(scene.cluster.deleted)
    scene.now += 46 * SECOND
    await scene.reconciler.look()
    await scene.remove()

    assert left == []
    assert scene.cluster.deleted == [path_of(anchor())]


# What is left of issuances.


@pytest.mark.parametrize(("owner", "in_flight", "fails"), [(OTHER, False, True), (ME, False, True), (ME, True, False)])
async def test_issuances_that_nobody_goes_on_with(scene: Endings, owner: str, fails: bool, in_flight: bool) -> None:
    """A pending lease of a dead process, or of this one which knows nothing of it, has FAILED."""
    scene.add(pending(own(), owner))
    if in_flight:
        scene.in_flight.begin(own().name)

    await scene.reconciler.look()
    await scene.remove()

    assert scene.lease(own().name).stored_state == ("FAILED" if fails else "PENDING")


async def test_a_pending_lease_of_a_living_process_stays(scene: Endings) -> None:
    """What another process issues just now is left alone."""
    scene.add(pending(own()))
    scene.beat(OTHER)

    await scene.reconciler.look()

    assert scene.lease(own().name).stored_state == "PENDING"


async def test_an_interrupted_first_lease_on_an_anchor(scene: Endings) -> None:
    """An anchor that others stand on outlives the issuance that made it; one that is not known to be made goes."""
    scene.add(replace(pending(on(shared())), objects=(shared(),)), on(shared(), 2))

    await scene.reconciler.look()
    await scene.remove()

    assert scene.lease(on(shared()).name).stored_state == "FAILED"
    assert [(each["state"], each["uid"]) for each in scene.objects()] == [("LIVE", "u")]
    assert await scene.anchors.find(SCOPE) == shared()


async def test_an_anchor_that_was_not_made_goes(scene: Endings) -> None:
    """An anchor without a uid goes with the lease that was to bring it, so that another one can be made."""
    scene.add(pending(on(shared(uid=""))))
    before = await scene.anchors.find(SCOPE)

    await scene.reconciler.look()
    await scene.remove()

    assert before is not None
    assert before.uid == ""
    assert await scene.anchors.find(SCOPE) is None
    assert scene.cluster.deleted == [path_of(shared())]


async def test_a_failure_whose_objects_were_forgotten_already(scene: Endings) -> None:
    """What was made after somebody had ended the lease, and forgotten its objects, is deleted all the same."""
    scene.add(replace(own(), stored_state="REVOKED", end_time=NOW, objects=()))
    scene.cluster.put(path_of(anchor()))

    scene.do(lambda connection: ending.fail(connection, own(), [anchor()], "its issuance failed", NOW))
    await scene.remove()

    assert scene.cluster.objects == {}
    assert scene.lease(own().name).stored_state == "REVOKED"
    assert scene.objects() == []


async def test_what_others_delete_is_not_forgotten(scene: Endings) -> None:
    """Where another process has taken this one for dead, the lease that it ends does end, whatever becomes of the
    issuance.
    """
    scene.add(pending(own()))
    scene.cluster.fails = unavailable()
    await scene.reconciler.look()
    await scene.remove()

    scene.do(lambda connection: ending.fail(connection, pending(own()), [], "its issuance failed", NOW))
    scene.cluster.fails = None
    scene.now += 2 * SECOND
    await scene.remove()

    assert scene.lease(own().name).stored_state == "FAILED"


async def test_what_was_refused_is_forgotten(scene: Endings) -> None:
    """Objects that were never asked for are not deleted, and a lease without any has FAILED at once."""
    scene.add(pending(own()))

    scene.do(lambda connection: ending.fail(connection, pending(own()), [], "its issuance failed", NOW))

    failed = scene.lease(own().name)
    assert (failed.stored_state, failed.end_time, failed.end_cause) == ("FAILED", NOW, "its issuance failed")
    assert scene.objects() == []


# Strays.


async def test_what_is_being_deleted_is_no_stray(scene: Endings) -> None:
    """An object that is listed, and whose row goes before the store is read, is not taken for one that nobody knows."""
    account = anchor(7, kind="ServiceAccount")
    scene.add(replace(own(7), objects=(account,)))
    scene.cluster.put(path_of(account))
    listed = scene.cluster._list

    def list_and_forget(path: str) -> Any:
        found = listed(path)
        scene.do(lambda connection: object_store.remove(connection, account.id))
        return found

    scene.cluster._list = list_and_forget  # type: ignore[method-assign]
    await scene.reconciler.look()

    assert scene.objects() == []
    assert list(scene.cluster.objects) == [path_of(account)]


async def test_what_others_have_given_our_label_is_no_stray(tmp_path: Path) -> None:
    """Of what has the label only what has a name of kubevend's is deleted, and not without end at once."""
    scene = Endings(tmp_path, makes(), most_strays=1.0)
    for name in ("theirs", *(f"kubevend-{number}" for number in range(600))):
        scene.cluster.put(f"/api/v1/namespaces/apps/serviceaccounts/{name}")

    await scene.reconciler.look()
    await scene.remove()
    first = len(scene.cluster.objects)
    await scene.reconciler.look()
    await scene.remove()
    left = list(scene.cluster.objects)
    scene.close()

    assert first == 101
    assert left == ["/api/v1/namespaces/apps/serviceaccounts/theirs"]


async def test_a_cluster_that_is_away_hides_no_other(tmp_path: Path) -> None:
    """What is to be found in one cluster is found, also where the one before it does not answer."""
    scene = Endings(tmp_path, makes(name="roles/far", config=AWAY), makes())

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        looking = group.create_task(scene.reconciler.run())
        await scene.cluster.was_asked.wait()
        looking.cancel()
    scene.close()


async def test_only_one_process_looks_at_the_clusters(scene: Endings) -> None:
    """Of those that live the first by name looks for strays; the others leave it to that one until it is dead."""
    scene.beat("a/1")
    scene.cluster.put("/api/v1/namespaces/apps/serviceaccounts/kubevend-stray")
    scene.add(replace(own(7), objects=(anchor(7, kind="ServiceAccount"),)))
    scene.cluster.put(path_of(anchor(7, kind="ServiceAccount")))

    await scene.reconciler.look()
    await scene.remove()
    left = len(scene.cluster.objects)
    scene.now += 46 * SECOND
    await scene.reconciler.look()
    await scene.remove()

    assert (left, len(scene.cluster.objects)) == (2, 1)


async def test_leases_are_forgotten_after_their_retention(scene: Endings) -> None:
    """A lease that ended longer ago than the retention is forgotten, its tokens too; others are not."""
    for number, days in ((1, 31), (2, 29)):
        scene.add(lease(number, stored_state="REVOKED", expire_time=NOW))
        moment = NOW - timedelta(days=days)
        scene.do(
            lambda c, n=number, m=moment: c.exec_driver_sql(
                f"UPDATE leases SET end_time = {int(m.timestamp() * 1e6)} WHERE name = '{lease(n).name}'"  # noqa: S608
            )
        )

    await scene.reconciler.look()

    with scene.database.writer.begin() as connection:
        names = [row[0] for row in connection.exec_driver_sql("SELECT name FROM leases")]
    assert names == [lease(2).name]


# Processes.


@pytest.mark.parametrize(("every", "beat", "dead"), [(60, 10, 45), (3600, 10, 45), (30, 5, 22.5), (1, 1, 4.5)])
async def test_when_a_process_counts_as_dead(scene: Endings, every: float, beat: float, dead: float) -> None:
    """It says several times in each reconcile's period that it lives, within bounds; who leaves is dead at once."""
    order = Order("world", "x", "x/1", every, HOUR, 0.5, HOUR)
    presence = Presence(scene.journal, order, scene.clock)

    await presence.beat()
    scene.now = NOW + order.dead
    alive = scene.database.read_now(lambda connection: replicas.alive(connection, scene.now - order.dead))
    await presence.leave()

    assert (order.beat, order.dead) == (beat, timedelta(seconds=dead))
    assert "x/1" in alive
    assert "x/1" not in scene.database.read_now(lambda connection: replicas.alive(connection, NOW))


async def test_turns_at_an_anchor(scene: Endings) -> None:
    """One at a time makes an anchor for a scope, also while some come and go; afterwards nothing of it is
    remembered.
    """
    inside: list[int] = []
    most = 0

    async def take(number: int) -> None:
        nonlocal most
        for _ in range(5):
            async with scene.anchors.turn(SCOPE):
                inside.append(number)
                most = max(most, len(inside))
                await asyncio.sleep(0)
                inside.remove(number)

    await asyncio.gather(*map(take, range(5)))

    assert most == 1
    assert scene.anchors._turns == {}


async def test_few_anchors_are_remembered(scene: Endings, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process has ended is not remembered for ever: the oldest make room, and are read again."""
    monkeypatch.setattr(anchors, "_MOST_KNOWN", 2)
    for number in range(3):
        scene.anchors.remember(replace(SCOPE, text=f"roles/{number}"), shared())

    found = [await scene.anchors.find(replace(SCOPE, text=f"roles/{number}")) for number in range(3)]

    assert found == [None, shared(), shared()]
