"""Two server processes on one store, on the real API server: they share the work, and one takes over the other's."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from devcluster import DevCluster
from kubevend.v1 import config_service_pb2, issue_service_pb2, lease_service_pb2, role_service_pb2
from tests.integration.conftest import Start, Vending, config_of
from tests.support.client import Client, take_apart
from tests.support.clusters import allow_anchors, anchors, works
from tests.support.faulty_server import COMMAND, FaultSwitch
from tests.support.made import Admin
from tests.support.waiting import until

Lease = lease_service_pb2.Lease
PER_LEASE, PER_ROLE = role_service_pb2.REVOCATION_PER_LEASE, role_service_pb2.REVOCATION_PER_ROLE
EVERYBODY = lease_service_pb2.LeaseFilter(caller="admin://local/bootstrap")
NOTICES = 5
"""Seconds; a process looks every second for what others have written."""


@dataclass
class Pair:
    """Replicas a and b of one kubevend, each with an audit log of its own."""

    a: Vending
    b: Vending
    switch: FaultSwitch
    store: Path

    @property
    def both(self) -> tuple[Vending, Vending]:
        """Both."""
        return self.a, self.b

    def rows(self, query: str) -> list[dict[str, Any]]:
        """Read the store."""
        with contextlib.closing(sqlite3.connect(self.store, timeout=30)) as store:
            store.row_factory = sqlite3.Row
            return [dict(row) for row in store.execute(query)]

    def leases(self, state: str) -> list[str]:
        """The leases in a state."""
        return [row["name"] for row in self.rows("SELECT name, state FROM leases") if row["state"] == state]

    def events(self, **narrowed: str) -> list[dict[str, Any]]:
        """The events of both."""
        return [event for each in self.both for event in each.events(**narrowed)]

    def a_again(self) -> None:
        """Start a again, which was killed."""
        assert self.a.server.process is not None
        assert self.a.server.process.wait(30) == -signal.SIGKILL
        self.switch.release()
        self.a.restart()

    def role(self, namespace: str, role_id: str, revocation: Any) -> str:
        """Make a role at a, and wait until b knows it."""
        name = self.a.admin.create_role(role_id, allowed_namespaces=[namespace], revocation=revocation).name
        until(lambda: knows(self.b, name), "b to know the role", NOTICES)
        return name


@pytest.fixture
def pair(start: Start, cluster: DevCluster, namespace: str, tmp_path: Path, empty_store: bytes) -> Iterator[Pair]:
    """Two of them, with a config; a can be made to fail."""
    switch = FaultSwitch(tmp_path / "faults")
    store = tmp_path / "shared.db"
    store.touch(0o600)
    store.write_bytes(empty_store)
    allow_anchors(cluster, namespace)

    def begin(replica: str) -> Vending:
        overrides = {
            "store": {"url": f"sqlite:///{store}", "key_file": str(tmp_path / "shared.key")},
            "instance": {"replica": replica, "id": namespace},
            "leases": {"reconcile_seconds": 1},
        }
        return start(
            overrides, environment=switch.environment, folder=replica, command=COMMAND if replica == "a" else ()
        )

    made = Pair(begin("a"), begin("b"), switch, store)
    made.a.add_config(cluster)
    yield made
    for each in made.both:
        each.server.stop()
        assert verified(each)


def verified(vending: Vending) -> bool:
    """Whether `audit verify` finds a replica's log sound."""
    command = ["kubevend-server", "audit", "verify", "--settings", str(vending.server.folder / "settings.toml")]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def knows(vending: Vending, role: str) -> bool:
    """Whether a replica knows a role."""
    try:
        vending.admin.call(vending.admin.roles.GetRole, role_service_pb2.GetRoleRequest(name=role))
    except grpc.RpcError:
        return False
    return True


def begin_issue(client: Client, role: str, request_id: str = "") -> Any:
    """Begin to issue."""
    request = issue_service_pb2.IssueTokenRequest(role=role, request_id=request_id)
    return client.issuing.IssueToken.future(request, metadata=client.metadata, timeout=60)


def issue_many(pair: Pair, role: str, each: int) -> list[issue_service_pb2.IssueTokenResponse]:
    """Have so many tokens issued by each, all at once."""
    calls = [begin_issue(vending.admin, role) for _ in range(each) for vending in pair.both]
    replies = [call.result() for call in calls]
    pair.a.admin.tokens += [reply.token for reply in replies]
    return replies


def revoke_all(vending: Vending, narrowed: lease_service_pb2.LeaseFilter = EVERYBODY) -> Any:
    """End the leases of a filter."""
    request = lease_service_pb2.RevokeLeasesRequest(filter=narrowed, end_shared=True)
    return vending.admin.call(vending.admin.leases.RevokeLeases, request, 60)


def deletions(cluster: DevCluster, namespace: str) -> Counter[str]:
    """How often the API server was asked to delete each Secret in a namespace."""
    found: Counter[str] = Counter()
    for line in cluster.audit_log.read_text().splitlines():
        if '"verb":"delete"' in line and f'"namespace":"{namespace}"' in line:
            entry = json.loads(line)
            if entry["stage"] == "ResponseComplete" and entry["objectRef"]["resource"] == "secrets":
                found[entry["objectRef"]["name"]] += 1
    return found


def test_no_work_is_done_twice(pair: Pair, cluster: DevCluster, namespace: str) -> None:
    """Of hundreds of leases that run out or are ended at both, each object is deleted once, and each end told once."""
    role = pair.role(namespace, "own", PER_LEASE)
    replies = issue_many(pair, role, 100)
    made = set(anchors(cluster, namespace))
    expired = sorted(reply.lease for reply in replies)[:100]

    with contextlib.closing(sqlite3.connect(pair.store, timeout=30)) as store, store:
        marks = ", ".join("?" * len(expired))
        store.execute(f"UPDATE leases SET expire_time = create_time WHERE name IN ({marks})", expired)  # noqa: S608
    threads = [threading.Thread(target=revoke_all, args=(each,)) for each in pair.both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: not pair.leases("ACTIVE") + pair.leases("REVOKING"), "all to end")

    assert len(made) == len(replies) == 200
    assert anchors(cluster, namespace) == []
    assert deletions(cluster, namespace) == Counter(made)
    ended = Counter(event["lease"] for event in pair.events(stage="STAGE_ENDED"))
    assert ended == Counter(reply.lease for reply in replies)
    assert pair.rows("SELECT * FROM objects") == []


def test_both_make_the_same_anchor_at_once(pair: Pair, cluster: DevCluster, namespace: str) -> None:
    """Where both need an anchor that is not there they make one, and all tokens of both work on it."""
    for turn in range(4):
        role = pair.role(namespace, f"shared-{turn}", PER_ROLE)
        replies = issue_many(pair, role, 10)
        (anchor,) = pair.rows(f"SELECT * FROM objects WHERE scope = '{role}'")  # noqa: S608 - the test's own name
        assert anchor["state"] == "LIVE"
        assert anchor["name"] in anchors(cluster, namespace)
        assert len(anchors(cluster, namespace)) == turn + 1
        assert works(cluster, replies[0].token)
        assert works(cluster, replies[1].token)
    assert len(pair.leases("ACTIVE")) == 80


def test_one_ends_what_the_other_issues(pair: Pair, cluster: DevCluster, namespace: str, tmp_path: Path) -> None:
    """While b issues on an anchor that a ends again and again: tokens end with their leases, and no anchor is left."""
    role = pair.role(namespace, "shared", PER_ROLE)
    held: list[issue_service_pb2.IssueTokenResponse] = []
    refused: list[tuple[str, str]] = []
    stop = threading.Event()

    def issue() -> None:
        client = pair.b.client(pair.b.server.admin_token)
        while not stop.is_set():
            try:
                held.append(client.issue(role))
            except grpc.RpcError as error:
                refusal = take_apart(error)
                refused.append((refusal.status, refusal.reason))

    threads = [threading.Thread(target=issue) for _ in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(1, 11):
        until(lambda turn=turn: len(held) >= 10 * turn, "b to issue")  # type: ignore[misc]
        revoke_all(pair.a)
    stop.set()
    for thread in threads:
        thread.join()
    until(lambda: not pair.leases("REVOKING") + pair.leases("PENDING"), "all to come to rest")

    live = set(pair.leases("ACTIVE"))
    known = {row["lease"] for row in pair.rows("SELECT lease FROM tokens")}
    assert {reply.lease for reply in held} <= known
    assert set(refused) <= {("ABORTED", "LEASE_ENDED")}
    assert len(anchors(cluster, namespace)) == len(pair.rows("SELECT * FROM objects WHERE state = 'LIVE'"))
    assert len(Admin(cluster, tmp_path).made(namespace)) == len(anchors(cluster, namespace))
    over = [reply.token for reply in held if reply.lease not in live]
    assert len(over) >= 90
    assert all(works(cluster, reply.token) for reply in held if reply.lease in live)
    until(lambda: not works(cluster, over[-1]), "the last to stop working", 20)
    assert not any(works(cluster, token) for token in over[::5])


@pytest.mark.parametrize("revocation", ["REVOCATION_NONE", "REVOCATION_PER_LEASE"])
def test_one_tells_of_what_the_other_ends(pair: Pair, namespace: str, revocation: Any) -> None:
    """A stream and a watch at b are told of a lease that is revoked at a."""
    role = pair.role(namespace, "own", revocation)
    stream = pair.b.admin.stream(role)
    token = next(stream).token
    watch = pair.b.admin.leases.WatchLeases(
        lease_service_pb2.WatchLeasesRequest(), metadata=pair.b.admin.metadata, timeout=60
    )
    assert next(watch).HasField("watched_until")

    revoke_all(pair.a)

    notice = next(stream).notice
    assert (notice.reason, notice.lease) == ("LEASE_REVOKED", token.lease)
    with pytest.raises(grpc.RpcError) as ended:
        next(stream)
    refusal = take_apart(ended.value)
    assert (refusal.status, refusal.metadata["cause"]) == ("ABORTED", "revoked by admin://local/bootstrap")
    assert next(watch).lease.name == token.lease
    watch.cancel()


def test_a_role_that_goes_at_one_ends_streams_at_the_other(pair: Pair, namespace: str) -> None:
    """A stream at b ends once b knows that its role was deleted at a."""
    role = pair.role(namespace, "own", PER_LEASE)
    stream = pair.b.admin.stream(role)
    next(stream)

    pair.a.admin.call(pair.a.admin.roles.DeleteRole, role_service_pb2.DeleteRoleRequest(name=role))

    assert next(stream).notice.reason == "ROLE_NOT_FOUND"


@pytest.mark.parametrize("place", ["remove.claimed", "remove.deleted"])
def test_deletions_of_one_that_dies(pair: Pair, cluster: DevCluster, namespace: str, place: str) -> None:
    """What a killed process had taken on the other takes over; all ends."""
    role = pair.role(namespace, "own", PER_LEASE)
    issue_many(pair, role, 3)
    pair.switch.kill(place, 1)
    with contextlib.suppress(grpc.RpcError):
        revoke_all(pair.a)
    # Whichever looked first has taken them: where it was b, a gets others.
    while pair.a.server.process and pair.a.server.process.poll() is None:
        # It can die at any moment of this; what b has issued by then b ends.
        for call in [begin_issue(vending.admin, role) for _ in range(3) for vending in pair.both]:
            with contextlib.suppress(grpc.RpcError):
                call.result()
        with contextlib.suppress(grpc.RpcError):
            revoke_all(pair.a)
    revoke_all(pair.b)

    until(lambda: not pair.leases("ACTIVE") + pair.leases("REVOKING"), "b to end all", 30)

    assert anchors(cluster, namespace) == []
    pair.a_again()


@pytest.mark.parametrize("place", ["issue.pending", "issue.made.Secret", "issue.minted"])
def test_issuances_of_one_that_dies(pair: Pair, cluster: DevCluster, namespace: str, place: str) -> None:
    """What a killed process was about to issue has FAILED, and the other goes on with the same roles."""
    roles = [pair.role(namespace, "own", PER_LEASE), pair.role(namespace, "shared", PER_ROLE)]
    pair.switch.kill(place, len(roles))
    calls = [begin_issue(pair.a.admin, role) for role in roles]
    for call in calls:
        with pytest.raises(grpc.RpcError):
            call.result()

    replies = [pair.b.admin.issue(role) for role in roles]
    until(lambda: len(pair.leases("FAILED")) == len(roles), "b to end the leases", 30)
    until(lambda: len(anchors(cluster, namespace)) == len(roles), "what a made to go")

    assert all(works(cluster, reply.token) for reply in replies)
    assert sorted(pair.leases("ACTIVE")) == sorted(reply.lease for reply in replies)
    pair.a_again()


@pytest.mark.parametrize("revocation", [role_service_pb2.REVOCATION_NONE, PER_LEASE, PER_ROLE])
def test_one_request_id_at_both(pair: Pair, cluster: DevCluster, namespace: str, revocation: Any) -> None:
    """Calls with one id at both at once make one lease and its objects; who is told to come again has a token then."""
    role = pair.role(namespace, "ci", revocation)
    for turn in range(1, 6):
        request_id = str(uuid.uuid4())
        calls = [begin_issue(each.admin, role, request_id) for _ in range(5) for each in pair.both]
        replies = [call.result() for call in calls if call.exception() is None]
        refused = {(r.status, r.reason) for r in map(take_apart, filter(None, (call.exception() for call in calls)))}
        again = [each.admin.issue(role, request_id=request_id) for each in pair.both]
        pair.a.admin.tokens += [reply.token for reply in replies]

        assert refused <= {("ABORTED", "REQUEST_ID_IN_PROGRESS")}
        assert len({reply.lease for reply in [*replies, *again]}) == 1
        assert all(reply.replayed for reply in again)
        assert all(works(cluster, reply.token) for reply in again)
        until(lambda: not pair.leases("PENDING") + pair.leases("REVOKING"), "all to come to rest")
        assert len(pair.leases("ACTIVE")) == turn
        standing = {role_service_pb2.REVOCATION_NONE: 0, PER_LEASE: turn, PER_ROLE: 1}[revocation]
        assert len(anchors(cluster, namespace)) == standing


@pytest.mark.parametrize("place", ["issue.pending", "issue.made.Secret", "issue.minted"])
def test_a_request_id_of_one_that_dies(pair: Pair, cluster: DevCluster, namespace: str, place: str) -> None:
    """The id of a call over which a process died is taken over by the other once it counts as dead: one lease lives."""
    role, request_id = pair.role(namespace, "own", PER_LEASE), str(uuid.uuid4())
    pair.switch.kill(place, 1)
    with pytest.raises(grpc.RpcError):
        begin_issue(pair.a.admin, role, request_id).result()

    first = begin_issue(pair.b.admin, role, request_id)
    refusal = take_apart(first.exception())
    replies: list[issue_service_pb2.IssueTokenResponse] = []

    def answered() -> bool:
        call = begin_issue(pair.b.admin, role, request_id)
        if call.exception() is None:
            replies.append(call.result())
        return bool(replies)

    until(answered, "b to take the id over", 30)
    pair.b.admin.tokens += [reply.token for reply in replies]
    until(lambda: len(anchors(cluster, namespace)) == 1, "what a made to go", 30)

    assert (refusal.status, refusal.reason) == ("ABORTED", "REQUEST_ID_IN_PROGRESS")
    assert "google.rpc.RetryInfo" in refusal.details
    assert not replies[0].replayed
    assert pair.leases("ACTIVE") == [replies[0].lease]
    assert works(cluster, replies[0].token)
    pair.a_again()
    assert pair.a.admin.issue(role, request_id=request_id).lease == replies[0].lease


def test_what_one_learns_the_other_knows(pair: Pair, cluster: DevCluster, namespace: str) -> None:
    """Configs and roles made, changed and deleted at one are so at the other within a second or two."""
    admin, other = pair.a.admin, pair.b.admin
    role = pair.role(namespace, "ci", role_service_pb2.REVOCATION_NONE)
    other.issue(role)
    pair.a.add_config(cluster, "second")
    name = config_service_pb2.GetConfigRequest(name="configs/second")
    until(lambda: answers(other, other.configs.GetConfig, name), "b to know the config", NOTICES)
    host = config_of(cluster, name="configs/second", kubernetes_host="https://127.0.0.1:1")
    admin.call(admin.configs.UpdateConfig, config_service_pb2.UpdateConfigRequest(config=host))
    until(
        lambda: other.call(other.configs.GetConfig, name).config.kubernetes_host == "https://127.0.0.1:1",
        "b to know its new host",
        NOTICES,
    )
    admin.call(admin.configs.DeleteConfig, config_service_pb2.DeleteConfigRequest(name="configs/second"))
    until(lambda: not answers(other, other.configs.GetConfig, name), "b to know that it is deleted", NOTICES)

    admin.call(admin.roles.DeleteRole, role_service_pb2.DeleteRoleRequest(name=role))

    until(lambda: not knows(pair.b, role), "b to know that the role is deleted", NOTICES)
    assert other.issue_refused(role).reason == "ROLE_NOT_FOUND"


def answers(client: Client, method: Any, request: Any) -> bool:
    """Whether a call succeeds."""
    try:
        client.call(method, request)
    except grpc.RpcError:
        return False
    return True
