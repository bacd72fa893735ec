"""Putting right what crashes and others have left in a cluster: strays, lost objects, lost stores."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from devcluster import DevCluster
from kubevend.v1 import issue_service_pb2, lease_service_pb2
from kubevend.v1.role_service_pb2 import KUBERNETES_ROLE_KIND_ROLE, KubernetesRole
from tests.integration.conftest import Start, Vending
from tests.support.made import Admin, allow_makers
from tests.support.waiting import until

Lease = lease_service_pb2.Lease
Issued = issue_service_pb2.IssueTokenResponse
EACH = 2
"""For each lease a ServiceAccount and a RoleBinding."""


class Scene:
    """A kubevend that looks at the cluster every second, and makes accounts."""

    def __init__(self, start: Start, cluster: DevCluster, namespace: str, folder: Path) -> None:
        """Start the first server."""
        self._start = start
        self._cluster = cluster
        self._namespace = namespace
        self._admin = Admin(cluster, folder)
        self._token = cluster.token("kubevend", allow_makers(cluster, namespace))
        self.vending = self.begin()
        self.furnish()

    def begin(self, folder: str = "kubevend", **leases: Any) -> Vending:
        """Start a server, on what is there; `leases` are its settings."""
        overrides = {"instance": {"id": self._namespace}, "leases": {"reconcile_seconds": 1, **leases}}
        self.vending = self._start(overrides, folder=folder)
        return self.vending

    def furnish(self) -> None:
        """Make config and role."""
        self.vending.add_config(self._cluster, service_account_jwt=self._token)
        self.vending.admin.create_role(
            "made",
            allowed_service_accounts=[],
            allowed_namespaces=[self._namespace],
            kubernetes_role=KubernetesRole(kind=KUBERNETES_ROLE_KIND_ROLE, name=self._namespace),
        )

    def issue(self, count: int) -> list[Issued]:
        """Have credentials made."""
        return [self.vending.admin.issue("roles/made") for _ in range(count)]

    def forget(self, *replies: Issued) -> None:
        """Take leases out of the store of the stopped server."""
        with contextlib.closing(sqlite3.connect(self.vending.server.store_file)) as store, store:
            for reply in replies:
                store.execute("DELETE FROM tokens WHERE lease = ?", [reply.lease])
                store.execute("DELETE FROM objects WHERE lease = ?", [reply.lease])
                store.execute("DELETE FROM leases WHERE name = ?", [reply.lease])

    def there(self, instance: str = "") -> set[str]:
        """The names of what an instance has in the cluster; all kinds of a lease have one name."""
        return {each.name for each in self._admin.made(instance or self._namespace)}

    def log(self) -> str:
        """The process log."""
        return self.vending.server.log_file.read_text()

    def reconciled(self) -> None:
        """Wait until a server that has just started has looked twice."""
        token = self.vending.admin.issue("roles/made")
        name = token.service_account
        self._cluster.kubectl("delete", "serviceaccount", name, f"--namespace={self._namespace}")
        until(lambda: name not in self.there(), "a reconcile to find what lacks")

    def lease(self, reply: Issued) -> lease_service_pb2.Lease:
        """The lease of a token."""
        request = lease_service_pb2.GetLeaseRequest(name=reply.lease)
        return self.vending.admin.call(self.vending.admin.leases.GetLease, request).lease


@pytest.fixture
def scene(start: Start, cluster: DevCluster, namespace: str, tmp_path: Path) -> Scene:
    """One with a namespace of its own."""
    return Scene(start, cluster, namespace, tmp_path)


def names(replies: list[Issued]) -> set[str]:
    """How what was made for them is called."""
    return {reply.service_account for reply in replies}


def foreign(cluster: DevCluster, namespace: str, instance: str) -> None:
    """A ServiceAccount that another kubevend has made there."""
    cluster.apply(
        f"""
apiVersion: v1
kind: ServiceAccount
metadata:
  name: kubevend-of-another
  namespace: {namespace}
  labels: {{app.kubernetes.io/managed-by: kubevend, kubevend.dev/instance: {instance}}}
"""
    )


def test_a_few_strays_are_deleted(scene: Scene, cluster: DevCluster, namespace: str) -> None:
    """What has the instance's label and no lease goes; what has one stays, and what is another instance's too."""
    known, lost = scene.issue(3), scene.issue(1)
    foreign(cluster, namespace, f"{namespace}-b")
    scene.vending.server.stop()
    scene.forget(*lost)

    scene.begin()
    until(lambda: scene.there() == names(known), "the strays to go")

    assert scene.log().count('"stray_found"') == EACH
    assert scene.there(f"{namespace}-b") == {"kubevend-of-another"}
    assert [scene.lease(reply).state for reply in known] == [Lease.STATE_ACTIVE] * 3


def test_many_strays_are_left_until_that_is_allowed(scene: Scene, cluster: DevCluster, namespace: str) -> None:
    """Where most of what is there has no lease nothing is deleted, and the log asks; with most_strays at 1 all goes."""
    known, lost = scene.issue(1), scene.issue(3)
    foreign(cluster, namespace, f"{namespace}-b")
    scene.vending.server.stop()
    scene.forget(*lost)

    scene.begin()
    until(lambda: '"too_many_strays"' in scene.log(), "the log to tell")
    left = scene.there()
    told = (
        f"6 of 8 objects in configs/default with the label of this instance ({namespace}) belong to no lease"
        in scene.log()
    )
    scene.vending.server.stop()
    scene.begin(most_strays=1)
    until(lambda: scene.there() == names(known), "the strays to go")

    assert told
    assert left == names([*known, *lost])
    assert scene.there(f"{namespace}-b") == {"kubevend-of-another"}
    assert scene.lease(known[0]).state == Lease.STATE_ACTIVE


def test_an_older_store_is_put_back(scene: Scene, tmp_path: Path) -> None:
    """What was made after a backup that is put back has no lease, and goes."""
    before = scene.issue(3)
    scene.vending.server.stop()
    shutil.copy(scene.vending.server.store_file, tmp_path / "backup.db")
    scene.vending.restart()
    scene.issue(2)
    scene.vending.server.stop()
    shutil.copy(tmp_path / "backup.db", scene.vending.server.store_file)

    scene.begin()

    until(lambda: scene.there() == names(before), "what the backup does not know to go")


def test_a_store_that_is_lost(scene: Scene) -> None:
    """A server on a new store with the lost one's instance.id finds what that has made, and deletes it where it may."""
    lost = scene.issue(2)
    scene.vending.server.stop()

    scene.begin(folder="another", most_strays=1)
    scene.furnish()
    until(lambda: not scene.there() & names(lost), "what the lost store knew to go")

    assert scene.there() == set()


def test_an_account_that_somebody_deletes(scene: Scene, cluster: DevCluster, namespace: str) -> None:
    """A lease whose ServiceAccount somebody deletes has ended: it is REVOKED, says why, and leaves nothing."""
    gone, other = scene.issue(2)
    cluster.kubectl("delete", "serviceaccount", gone.service_account, f"--namespace={namespace}")

    until(lambda: scene.lease(gone).state == Lease.STATE_REVOKED, "the lease to end")

    why = f"ServiceAccount {gone.service_account} was deleted in the cluster by somebody else"
    assert scene.lease(gone).end_cause == why
    (event,) = scene.vending.events(stage="STAGE_ENDED", lease=gone.lease)
    assert why in event["message"]
    assert scene.there() == {other.service_account}
    assert scene.lease(other).state == Lease.STATE_ACTIVE


def test_a_finalizer_on_a_stray(scene: Scene, cluster: DevCluster, namespace: str) -> None:
    """A stray that a finalizer holds up is deleted once, and is no stray of each reconcile anew."""
    kept, (lost,) = scene.issue(2), scene.issue(1)
    patch = '{"metadata":{"finalizers":["example.com/hold"]}}'
    where = f"--namespace={namespace}"
    cluster.kubectl("patch", "rolebinding", lost.service_account, where, "--patch", patch)
    scene.vending.server.stop()
    scene.forget(lost)

    scene.begin()
    until(lambda: "OBJECT_HELD" in scene.log(), "the log to tell")
    scene.reconciled()
    found = scene.log().count('"stray_found"')
    cluster.kubectl("patch", "rolebinding", lost.service_account, where, "--patch", '{"metadata":{"finalizers":null}}')
    until(lambda: scene.there() == names(kept), "the stray to go")

    assert found == EACH
