"""Nothing is left behind: a real server that really dies at every step of a lease's life, on the real API server."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import grpc
import pytest

from devcluster import DevCluster
from kubevend.v1 import issue_service_pb2, lease_service_pb2, role_service_pb2
from kubevend.v1.role_service_pb2 import (
    KUBERNETES_ROLE_KIND_CLUSTER_ROLE,
    KUBERNETES_ROLE_KIND_ROLE,
    GeneratedRole,
    KubernetesRole,
)
from kubevend_server.audit.chain import Head
from kubevend_server.audit.verify import verify
from kubevend_server.encryption import read_one_key
from tests.integration.conftest import Start, Vending
from tests.support import disks
from tests.support.clusters import works
from tests.support.faulty_server import COMMAND, FaultSwitch
from tests.support.made import RULES, Admin, Standing, allow_makers, kinds
from tests.support.proxy import HoldingProxy
from tests.support.waiting import until

ANCHOR = {"Secret": 1}
STANDS = {
    "none": {},
    "lease": ANCHOR,
    "caller": ANCHOR,
    "role": ANCHOR,
    "joined": ANCHOR,
    "bound": {"RoleBinding": 1, "ServiceAccount": 1},
    "bound-cluster": {"RoleBinding": 1, "ServiceAccount": 1},
    "generated": {"Role": 1, "RoleBinding": 1, "ServiceAccount": 1},
    "wide": {"ClusterRoleBinding": 1, "ServiceAccount": 1},
    "wide-generated": {"ClusterRole": 1, "ClusterRoleBinding": 1, "ServiceAccount": 1},
}
"""For each role what stands for a lease of it in the cluster. `joined` shares an anchor that is there already."""

MAKING = [mode for mode in STANDS if mode not in ("none", "joined")]
ISSUE = {
    "issue.intended": ["none", "joined"],
    "issue.pending": MAKING,
    **{
        f"issue.made.{kind}": [mode for mode in MAKING if kind in STANDS[mode]]
        for kind in ("Secret", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "ServiceAccount")
    },
    "issue.minted": list(STANDS),
    "call.recorded": list(STANDS),
}
"""For each place of an issuance the modes that come by it."""

OBJECTS = sum(sum(standing.values()) for standing in STANDS.values())
REVOKE = {
    "revoke.intended": 1,
    "revoke.marked": 1,
    "remove.claimed": 1,
    "remove.deleted": OBJECTS,
    "remove.recorded": OBJECTS,
}
EXPIRE = {"expire.found": 1, "expire.marked": 1}
"""For each place of an end how often it is come by, when all leases end at once."""

AGAIN = {grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE}
"""After these a client makes its call again."""

FINAL = {"EXPIRED", "REVOKED", "FAILED"}


@dataclass
class Scene:
    """A server that can be made to fail at every place, with a role of every mode."""

    vending: Vending
    switch: FaultSwitch
    proxy: HoldingProxy
    admin: Admin
    store: Path
    audit: Path
    held: dict[str, str] = field(default_factory=dict)

    # What is done.

    def issue(self, mode: str, request_id: str = "", timeout: float = 60) -> Any:
        """Begin to issue."""
        client = self.vending.admin
        request = issue_service_pb2.IssueTokenRequest(
            role=f"roles/{mode}", cluster_wide=mode.startswith("wide"), request_id=request_id
        )
        return client.issuing.IssueToken.future(request, metadata=client.metadata, timeout=timeout)

    def take(self, calls: Sequence[Any]) -> None:
        """Wait for calls to end, and keep the leases of the tokens that came."""
        for call in calls:
            with contextlib.suppress(grpc.RpcError, grpc.FutureCancelledError):
                reply = call.result()
                if isinstance(reply, issue_service_pb2.IssueTokenResponse):
                    self.vending.admin.tokens.append(reply.token)
                    self.held[reply.jti] = reply.lease

    def issue_again(self, mode: str, request_id: str) -> issue_service_pb2.IssueTokenResponse:
        """Issue as a client does that wants an answer: again and again, where that is what the error says."""
        replies: list[issue_service_pb2.IssueTokenResponse] = []

        def answered() -> bool:
            call = self.issue(mode, request_id)
            if call.exception() is None:
                self.take([call])
                replies.append(call.result())
                return True
            assert call.code() in AGAIN, call.details()
            return False

        until(answered, f"a token through {mode}", 30)
        return replies[0]

    def revoke_all(self) -> Any:
        """Begin to end all leases."""
        client = self.vending.admin
        request = lease_service_pb2.RevokeLeasesRequest(
            filter=lease_service_pb2.LeaseFilter(caller="admin://local/bootstrap"), end_shared=True
        )
        return client.leases.RevokeLeases.future(request, metadata=client.metadata, timeout=60)

    def run_out(self) -> None:
        """Let the time of all leases run out."""
        with contextlib.closing(sqlite3.connect(self.store, timeout=30)) as store, store:
            store.execute("UPDATE leases SET expire_time = create_time WHERE state = 'ACTIVE'")

    def clear(self) -> None:
        """End all leases, and let what is to be looked for again be looked for now."""
        self.revoke_all().result()
        self.settle()
        with contextlib.closing(sqlite3.connect(self.store, timeout=30)) as store, store:
            store.execute("UPDATE objects SET next_attempt_time = 0")
        until(lambda: not self.rows("SELECT * FROM objects"), "everything to be forgotten")
        assert self.admin.made(self.instance) == set()
        self.held.clear()

    # What is seen.

    def rows(self, query: str) -> list[dict[str, Any]]:
        """Read the store."""
        with contextlib.closing(sqlite3.connect(self.store, timeout=30)) as store:
            store.row_factory = sqlite3.Row
            return [dict(row) for row in store.execute(query)]

    @property
    def instance(self) -> str:
        """The instance's id."""
        return str(self.rows("SELECT id FROM instance")[0]["id"])

    def events(self) -> list[dict[str, Any]]:
        """The whole lines of the audit log."""
        return [json.loads(line) for line in self.audit.read_text().split("\n") if line.endswith("}")]

    def settle(self) -> None:
        """Wait until nothing is wrong any more, the longest for what a few reconciles of a second take."""
        found: list[str] = []

        def sound() -> bool:
            found[:] = self.faults()
            return not found

        try:
            until(sound, "everything to be as it should", 20)
        except AssertionError as late:
            log = self.vending.server.log_file.read_text().splitlines()[-30:]
            raise AssertionError("\n".join([*found, *log])) from late

    def faults(self) -> list[str]:
        """What is not as it should be."""
        leases = self.rows("SELECT * FROM leases")
        objects = self.rows("SELECT * FROM objects")
        there = self.admin.made(self.instance)
        wanted: set[Standing] = set()
        faults = []
        for lease in leases:
            if lease["state"] == "ACTIVE":
                own = [o for o in objects if lease["name"] == o["lease"] or lease["anchor"] == o["id"]]
                standing = {Standing(o["kind"], o["namespace"], o["name"]) for o in own if o["state"] == "LIVE"}
                if kinds(standing) != Counter(STANDS[lease["role"].removeprefix("roles/")]) or not standing <= there:
                    faults.append(f"live lease lacks its objects: {lease} {own} {there}")
                wanted |= standing
            elif lease["state"] not in FINAL or lease["end_time"] is None:
                faults.append(f"not at its end: {lease}")
        if there - wanted:
            faults.append(f"owned by nobody: {there - wanted}")
        return faults + self.untrue(leases)

    def untrue(self, leases: list[dict[str, Any]]) -> list[str]:
        """What the audit log tells that is not so, or does not tell."""
        events = self.events()
        told = {(e.get("lease"), e.get("jti")): e["outcome"] for e in events if e["stage"] == "STAGE_COMPLETE"}
        ended = [
            name for e in events if e["stage"] == "STAGE_ENDED" for name in [e.get("lease"), *e.get("endedLeases", ())]
        ]
        tokens = {(row["lease"], row["jti"]) for row in self.rows("SELECT * FROM tokens")}
        known = {lease["name"] for lease in leases}
        faults = [
            f"a client's token has no lease: {jti}" for jti, lease in self.held.items() if (lease, jti) not in tokens
        ]
        faults += [f"an ended lease is not known: {name}" for name in ended if name and name not in known]
        faults += [
            f"no event tells of {jti} of {name}: {told}"
            for name, jti in tokens
            if told.get((name, jti)) not in ("OUTCOME_SUCCEEDED", "OUTCOME_ABANDONED")
        ]
        for lease in leases:
            name = lease["name"]
            by_deletion = lease["state"] == "REVOKED" or (
                lease["state"] == "EXPIRED" and lease["revocation"] == "PER_LEASE"
            )
            if by_deletion and lease["revocation"] != "NONE" and ended.count(name) != 1:
                faults.append(f"{ended.count(name)} events tell of the end of {lease}")
        head = self.rows("SELECT sequence, hash FROM audit_head")[0]
        key = read_one_key(self.vending.server.folder / "audit.key")
        report = verify(self.audit.read_bytes().splitlines(), key, Head(head["sequence"], head["hash"]))
        return faults + report.faults


@pytest.fixture(scope="module")
def scene(
    cluster: DevCluster, start_for_all: Start, tmp_path_factory: pytest.TempPathFactory, empty_store: bytes
) -> Iterator[Scene]:
    """The one server of this module, with store and audit log on a small disk, behind a proxy to the cluster."""
    folder = tmp_path_factory.mktemp("nothing-left")
    namespace = "nothing-left"
    cluster.apply(f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}")
    cluster.apply(f"apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: demo, namespace: {namespace}}}")
    maker = allow_makers(cluster, namespace)
    with disks.small_disk(folder / "disk", 12) as disk, HoldingProxy(cluster.server) as proxy:
        switch = FaultSwitch(folder / "faults")
        store, audit = disk / "kubevend.db", disk / "audit.jsonl"
        store.touch(0o600)
        store.write_bytes(empty_store)
        vending = start_for_all(
            {
                "store": {"url": f"sqlite:///{store}"},
                "audit": {"file": str(audit)},
                "leases": {"reconcile_seconds": 1},
                "kubernetes": {"connect_timeout_seconds": 2},
            },
            environment=switch.environment,
            command=COMMAND,
        )
        token = cluster.token("kubevend", maker)
        vending.add_config(cluster, kubernetes_host=proxy.url, service_account_jwt=token)
        make_roles(vending, namespace)
        yield Scene(vending, switch, proxy, Admin(cluster, folder), store, audit)
        assert vending.server.stop() == 0


def make_roles(vending: Vending, namespace: str) -> None:
    """A role of every mode."""
    exists = {"allowed_service_accounts": ["demo"]}
    made: dict[str, dict[str, Any]] = {
        "none": exists,
        "lease": {**exists, "revocation": role_service_pb2.REVOCATION_PER_LEASE},
        "caller": {**exists, "revocation": role_service_pb2.REVOCATION_PER_CALLER},
        "role": {**exists, "revocation": role_service_pb2.REVOCATION_PER_ROLE},
        "joined": {**exists, "revocation": role_service_pb2.REVOCATION_PER_ROLE},
        "bound": {"kubernetes_role": KubernetesRole(kind=KUBERNETES_ROLE_KIND_ROLE, name=namespace)},
        "bound-cluster": {"kubernetes_role": KubernetesRole(kind=KUBERNETES_ROLE_KIND_CLUSTER_ROLE, name=namespace)},
        "generated": {"generated_role": GeneratedRole(kind=KUBERNETES_ROLE_KIND_ROLE, rules=RULES)},
        "wide": {
            "kubernetes_role": KubernetesRole(kind=KUBERNETES_ROLE_KIND_CLUSTER_ROLE, name=namespace),
            "cluster_wide_allowed": True,
        },
        "wide-generated": {
            "generated_role": GeneratedRole(kind=KUBERNETES_ROLE_KIND_CLUSTER_ROLE, rules=RULES),
            "cluster_wide_allowed": True,
        },
    }
    for mode, fields in made.items():
        vending.admin.create_role(mode, **{"allowed_service_accounts": [], **fields}, allowed_namespaces=[namespace])


# What can go wrong.


def killed(scene: Scene, go: Callable[[], list[Any]], place: str, count: int) -> None:
    """The process is killed once all are at the place, and started again."""
    scene.switch.kill(place, count)
    calls = go()
    process = scene.vending.server.process
    assert process is not None
    assert process.wait(60) == -signal.SIGKILL
    scene.take(calls)
    scene.switch.release()
    scene.vending.restart()


def unreachable(scene: Scene, go: Callable[[], list[Any]], place: str, count: int) -> None:
    """From the place on the API server cannot be reached, until something has failed over it or all is done."""
    scene.switch.hold(place)
    calls = go()
    scene.switch.await_arrivals(count)
    scene.proxy.refuse()
    fail(scene, calls)
    scene.proxy.accept()
    scene.take(calls)


def full(scene: Scene, go: Callable[[], list[Any]], place: str, count: int) -> None:
    """From the place on the disk is full, until something has failed over it or all is done."""
    scene.switch.hold(place)
    calls = go()
    scene.switch.await_arrivals(count)
    filler = disks.fill(scene.store.parent)
    fail(scene, calls)
    filler.unlink()
    scene.take(calls)


def fail(scene: Scene, calls: list[Any]) -> None:
    """Let all go on, and wait until something has failed, or all calls have ended."""
    log = scene.vending.server.log_file
    said = len(log.read_text())
    scene.switch.release()

    def failed() -> bool:
        news = log.read_text()[said:]
        return '"error"' in news or '"warning"' in news or (bool(calls) and all(call.done() for call in calls))

    until(failed, "something to fail, or all calls to end")


def left(scene: Scene, go: Callable[[], list[Any]], place: str, count: int) -> None:
    """The callers go away while all are at the place."""
    log = scene.vending.server.log_file
    said = len(log.read_text())
    scene.switch.hold(place)
    calls = go()
    scene.switch.await_arrivals(count)
    for call in calls:
        call.cancel()
    until(lambda: log.read_text()[said:].count('"caller_gave_up"') == count, "the server to notice")
    scene.switch.release()


WAYS = [killed, unreachable, full]


@pytest.mark.parametrize("place", ISSUE)
@pytest.mark.parametrize("way", [*WAYS, left])
def test_an_issuance_that_is_interrupted(scene: Scene, way: Callable[..., None], place: str) -> None:
    """Wherever an issuance of any mode is interrupted: each lease is live with its objects, or has ended without."""
    modes = ISSUE[place]
    scene.clear()
    if "joined" in modes:
        scene.take([scene.issue("joined")])
        assert len(scene.held) == 1

    way(scene, lambda: [scene.issue(mode) for mode in modes], place, len(modes))

    scene.settle()
    if way is left:
        outcomes = [e["outcome"] for e in scene.events() if e["stage"] == "STAGE_COMPLETE"][-len(modes) :]
        said = "OUTCOME_SUCCEEDED" if place == "call.recorded" else "OUTCOME_ABANDONED"
        assert outcomes == [said] * len(modes)


@pytest.mark.parametrize(
    ("way", "place"),
    [*product([killed, left], ISSUE), *product([unreachable, full], ["issue.pending", "issue.minted"])],
)
def test_an_interrupted_call_that_is_made_again(scene: Scene, way: Callable[..., None], place: str) -> None:
    """Wherever a call of any mode is interrupted: made again with its request id it leaves one live lease with its
    objects, that of the first call if that came to its end, and nothing else.
    """
    scene.clear()
    ids = {mode: str(uuid.uuid4()) for mode in ISSUE[place]}
    if "joined" in ids:
        scene.take([scene.issue("joined")])

    way(scene, lambda: [scene.issue(mode, request_id) for mode, request_id in ids.items()], place, len(ids))
    replies = {mode: scene.issue_again(mode, request_id) for mode, request_id in ids.items()}

    scene.settle()
    live = Counter(row["role"] for row in scene.rows("SELECT role FROM leases WHERE state = 'ACTIVE'"))
    assert live == Counter([*(f"roles/{mode}" for mode in ids), *(["roles/joined"] if "joined" in ids else [])])
    assert {r.lease for r in replies.values()} <= {row["lease"] for row in scene.rows("SELECT lease FROM requests")}
    if way in (killed, left):
        went_on = way is left or place == "call.recorded"
        assert {reply.replayed for reply in replies.values()} == {went_on}


def test_calls_that_are_made_again_share_one_set_of_objects(scene: Scene, cluster: DevCluster) -> None:
    """In every mode each further call gets another token of the same lease that works, and nothing is made for it."""
    scene.clear()
    ids = {mode: str(uuid.uuid4()) for mode in STANDS}
    first = {mode: scene.issue_again(mode, request_id) for mode, request_id in ids.items()}
    made = scene.admin.made(scene.instance)
    calls = {(mode, turn): scene.issue(mode, ids[mode]) for mode in ids for turn in range(3)}
    scene.take(list(calls.values()))

    assert len(made) == OBJECTS
    assert scene.admin.made(scene.instance) == made
    assert len(scene.held) == 4 * len(STANDS)
    for (mode, _), call in calls.items():
        reply = call.result()
        assert (reply.lease, reply.replayed) == (first[mode].lease, True)
        assert (reply.namespace, reply.service_account) == (first[mode].namespace, first[mode].service_account)
        assert works(cluster, reply.token)
    scene.revoke_all().result()
    bound = [call.result().token for (mode, turn), call in calls.items() if mode != "none" and not turn]
    until(lambda: not any(works(cluster, token) for token in bound), "all tokens to end with their leases", 20)
    scene.settle()


@pytest.mark.parametrize("place", REVOKE)
@pytest.mark.parametrize("way", WAYS)
def test_a_revocation_that_is_interrupted(scene: Scene, way: Callable[..., None], place: str) -> None:
    """Wherever the end of leases of all modes is interrupted, it comes to its end, or has not begun."""
    begin_leases(scene)

    way(scene, lambda: [scene.revoke_all()], place, REVOKE[place])

    scene.settle()


@pytest.mark.parametrize("place", [*EXPIRE, "remove.claimed", "remove.deleted", "remove.recorded"])
@pytest.mark.parametrize("way", WAYS)
def test_an_expiry_that_is_interrupted(scene: Scene, way: Callable[..., None], place: str) -> None:
    """Wherever the expiry of leases of all modes is interrupted, it comes to its end."""
    begin_leases(scene)

    def go() -> list[Any]:
        scene.run_out()
        return [AllEnded(scene)]

    way(scene, go, place, {**EXPIRE, **REVOKE}[place])

    until(AllEnded(scene).done, "all leases to end")
    scene.settle()
    assert scene.admin.made(scene.instance) == set()


@dataclass
class AllEnded:
    """The end of all leases, to be waited for like that of a call."""

    scene: Scene

    def done(self) -> bool:
        """Whether all have ended."""
        return not self.scene.rows("SELECT * FROM leases WHERE state IN ('PENDING', 'ACTIVE', 'REVOKING')")

    def result(self) -> None:
        """Nothing comes of it."""


def begin_leases(scene: Scene) -> None:
    """A lease of each mode, and nothing else."""
    scene.clear()
    scene.take([scene.issue(mode) for mode in STANDS])
    assert len(scene.held) == len(STANDS)
    assert len(scene.admin.made(scene.instance)) == OBJECTS
