"""Ending leases before their time and on time, on the real API server: the token ends too, or the reply says not."""

from __future__ import annotations

import contextlib
import http.client
import json
import sqlite3
import ssl
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from devcluster import DevCluster
from kubevend.v1 import issue_service_pb2, lease_service_pb2, role_service_pb2
from tests.integration.conftest import Vending
from tests.support.client import Refusal
from tests.support.clusters import allow_anchors, anchors, make_namespace, works
from tests.support.waiting import until

Lease = lease_service_pb2.Lease
PER_LEASE, PER_CALLER, PER_ROLE = (
    role_service_pb2.REVOCATION_PER_LEASE,
    role_service_pb2.REVOCATION_PER_CALLER,
    role_service_pb2.REVOCATION_PER_ROLE,
)
CACHE = timedelta(seconds=12)


def make_role(vending: Vending, cluster: DevCluster, namespace: str, revocation: int, role_id: str = "own") -> str:
    """Make a role whose leases can be ended; returns its name."""
    allow_anchors(cluster, namespace)
    return vending.admin.create_role(role_id, allowed_namespaces=[namespace], revocation=revocation).name


def get(vending: Vending, name: str) -> lease_service_pb2.Lease:
    """Read a lease."""
    return vending.admin.call(vending.admin.leases.GetLease, lease_service_pb2.GetLeaseRequest(name=name)).lease


def revoke(vending: Vending, name: str, **fields: Any) -> lease_service_pb2.RevokeLeaseResponse:
    """End a lease."""
    request = lease_service_pb2.RevokeLeaseRequest(name=name, **fields)
    return vending.admin.call(vending.admin.leases.RevokeLease, request)


def revoke_refused(vending: Vending, name: str, **fields: Any) -> Refusal:
    """Ask for a lease's end, which must be refused."""
    request = lease_service_pb2.RevokeLeaseRequest(name=name, **fields)
    return vending.admin.refused(vending.admin.leases.RevokeLease, request)


def revoke_all(vending: Vending, **fields: Any) -> lease_service_pb2.RevokeLeasesResponse:
    """End the leases of a filter."""
    return vending.admin.call(vending.admin.leases.RevokeLeases, lease_service_pb2.RevokeLeasesRequest(**fields))


def stops(cluster: DevCluster, token: str) -> None:
    """Wait until the API server no longer accepts a token."""
    until(lambda: not works(cluster, token), "the token to stop working", seconds=20)


def test_a_revoked_token_stops_working(vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """After RevokeLease the token is a 401, other tokens of its ServiceAccount work on, and all of it is on record."""
    role = make_role(vending, cluster, namespace, PER_LEASE)
    first, second, other = vending.admin.issue(role), vending.admin.issue(role), vending.admin.issue()
    assert all(works(cluster, reply.token) for reply in (first, second, other))
    assert first.revocation == PER_LEASE
    (standing,) = get(vending, first.lease).objects

    answer = revoke(vending, first.lease)

    assert answer.revocation.state == Lease.STATE_REVOKED
    assert "within 12 s" in answer.revocation.message
    soon = answer.revocation.works_until.ToDatetime(tzinfo=UTC)
    assert datetime.now(UTC) < soon <= datetime.now(UTC) + CACHE
    assert standing.name not in anchors(cluster, namespace)
    stops(cluster, first.token)
    assert works(cluster, second.token)
    assert works(cluster, other.token)
    ended = get(vending, first.lease)
    assert (ended.state, list(ended.objects)) == (Lease.STATE_REVOKED, [])
    assert ended.end_cause == "revoked by admin://local/bootstrap"
    method = "kubevend.v1.LeaseService/RevokeLease"
    intent, done = vending.events(method=method)
    (gone,) = vending.events(stage="STAGE_ENDED")
    assert intent["endedLeases"] == done["endedLeases"] == [first.lease]
    assert (intent["stage"], done["outcome"]) == ("STAGE_INTENT", "OUTCOME_SUCCEEDED")
    assert {key: gone[key] for key in ("lease", "resource", "reason")} == {
        "lease": first.lease,
        "resource": role,
        "reason": "REVOKED",
    }
    assert int(intent["sequence"]) < int(gone["sequence"]) < int(done["sequence"])


def test_revoking_what_nothing_ties_to_its_token(vending: Vending, cluster: DevCluster) -> None:
    """Where the role's revocation is NONE the lease ends, and the answer says until when the token works and why."""
    reply = vending.admin.issue()

    answer = revoke(vending, reply.lease)

    assert answer.revocation.state == Lease.STATE_REVOKED
    assert answer.revocation.works_until == reply.token_expiration
    assert "revocation is NONE" in answer.revocation.message
    assert works(cluster, reply.token)


def test_a_lease_that_has_ended_stays_as_it_is(vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """Ending a lease twice is no error, and changes nothing."""
    reply = vending.admin.issue(make_role(vending, cluster, namespace, PER_LEASE))
    revoke(vending, reply.lease)
    before = get(vending, reply.lease)

    answer = revoke(vending, reply.lease)

    assert (answer.revocation.state, answer.revocation.message) == (Lease.STATE_REVOKED, "It had ended already.")
    assert get(vending, reply.lease) == before


def test_a_short_lease_ends_on_time(vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """A lease of 30 s on a token of 600 s ends by itself, and its token with it."""
    role = make_role(vending, cluster, namespace, PER_LEASE)

    reply = vending.admin.issue(role, ttl=Duration(seconds=30))

    assert reply.granted_ttl.seconds == 30
    assert reply.token_expiration.seconds - reply.expiration.seconds > 500
    until(lambda: get(vending, reply.lease).state == Lease.STATE_EXPIRED, "the lease to end", seconds=40)
    late = get(vending, reply.lease).end_time.ToDatetime(tzinfo=UTC) - reply.expiration.ToDatetime(tzinfo=UTC)
    assert late >= timedelta()
    assert anchors(cluster, namespace) == []
    stops(cluster, reply.token)
    (event,) = vending.events(stage="STAGE_ENDED", lease=reply.lease)
    assert event["reason"] == "EXPIRED"


@pytest.mark.parametrize("revocation", [PER_CALLER, PER_ROLE])
def test_leases_that_share_an_anchor(vending: Vending, cluster: DevCluster, namespace: str, revocation: int) -> None:
    """Leases that share an anchor end together, only where that is said, and by one deletion."""
    role = make_role(vending, cluster, namespace, revocation)
    replies = [vending.admin.issue(role) for _ in range(5)]
    (anchor,) = anchors(cluster, namespace)

    refusal = revoke_refused(vending, replies[0].lease)
    answer = revoke(vending, replies[0].lease, end_shared=True)

    assert (refusal.status, refusal.reason) == ("FAILED_PRECONDITION", "LEASE_SHARES_ANCHOR")
    assert "4 other leases" in refusal.message
    assert {other.lease for other in answer.others} == {reply.lease for reply in replies[1:]}
    assert {each.state for each in [answer.revocation, *answer.others]} == {Lease.STATE_REVOKED}
    assert anchors(cluster, namespace) == []
    stops(cluster, replies[3].token)
    deletions = [line for line in cluster.audit_log.read_text().splitlines() if f"/secrets/{anchor}" in line]
    assert len([line for line in deletions if '"verb":"delete"' in line and '"ResponseComplete"' in line]) == 1
    again = vending.admin.issue(role)
    assert works(cluster, again.token)
    assert anchors(cluster, namespace) != [anchor]


def test_many_at_once_make_one_anchor(vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """Callers who come at the same moment to a role without an anchor make one, and share it."""
    role = make_role(vending, cluster, namespace, PER_ROLE)
    request = issue_service_pb2.IssueTokenRequest(role=role)
    calls = [vending.admin.issuing.IssueToken.future(request, metadata=vending.admin.metadata) for _ in range(30)]

    replies = [call.result() for call in calls]

    vending.admin.tokens += [reply.token for reply in replies]
    assert len({reply.lease for reply in replies}) == 30
    assert len(anchors(cluster, namespace)) == 1
    assert works(cluster, replies[-1].token)


def test_an_anchor_that_others_delete_is_made_again(vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """When somebody deletes a shared anchor its leases have ended, and the next issuance makes another one."""
    role = make_role(vending, cluster, namespace, PER_ROLE)
    lost = vending.admin.issue(role)
    (anchor,) = anchors(cluster, namespace)
    cluster.kubectl("delete", "secret", anchor, f"--namespace={namespace}")

    reply = vending.admin.issue(role)

    assert works(cluster, reply.token)
    (fresh,) = anchors(cluster, namespace)
    assert fresh != anchor
    until(lambda: get(vending, lost.lease).state == Lease.STATE_REVOKED, "the lost lease to end")
    assert "deleted in the cluster by somebody else" in get(vending, lost.lease).end_cause


def test_an_anchor_goes_with_its_last_lease(vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """A shared anchor stays while one lease lives on it, and goes with the last, even one that ended unseen."""
    role = make_role(vending, cluster, namespace, PER_CALLER)
    first, last = vending.admin.issue(role), vending.admin.issue(role)

    run_out(vending, first.lease)
    until(lambda: get(vending, first.lease).end_time.seconds, "the first lease to end")
    standing = anchors(cluster, namespace)
    run_out(vending, last.lease)
    until(lambda: anchors(cluster, namespace) == [], "the anchor to go")

    assert len(standing) == 1
    assert {get(vending, reply.lease).state for reply in (first, last)} == {Lease.STATE_EXPIRED}


def run_out(vending: Vending, lease: str) -> None:
    """Let a lease's time run out while the server is stopped."""
    vending.server.stop()
    with contextlib.closing(sqlite3.connect(vending.server.store_file)) as store, store:
        store.execute("UPDATE leases SET expire_time = create_time WHERE name = ?", [lease])
    vending.restart()


def test_a_finalizer_holds_a_revocation_up(vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """While a finalizer holds the anchor the lease is REVOKING and says so; once it is gone, the lease is REVOKED."""
    reply = vending.admin.issue(make_role(vending, cluster, namespace, PER_LEASE))
    (anchor,) = anchors(cluster, namespace)
    patch = '{"metadata":{"finalizers":["example.com/hold"]}}'
    cluster.kubectl("patch", "secret", anchor, f"--namespace={namespace}", "--patch", patch)

    answer = revoke(vending, reply.lease)

    held = get(vending, reply.lease)
    assert answer.revocation.state == held.state == Lease.STATE_REVOKING
    assert not answer.revocation.HasField("works_until")
    assert "finalizer" in answer.revocation.message
    assert (held.ending.reason, held.ending.attempts >= 1) == ("OBJECT_HELD", True)
    assert works(cluster, reply.token)
    cluster.kubectl(
        "patch", "secret", anchor, f"--namespace={namespace}", "--patch", '{"metadata":{"finalizers":null}}'
    )
    until(lambda: get(vending, reply.lease).state == Lease.STATE_REVOKED, "the lease to end")
    stops(cluster, reply.token)


def test_a_revocation_that_the_cluster_refuses(vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """A deletion that RBAC refuses is tried again until it is allowed; meanwhile lease, log and metric tell of it."""
    reply = vending.admin.issue(make_role(vending, cluster, namespace, PER_LEASE))
    cluster.kubectl("delete", "rolebinding", "kubevend-anchors", f"--namespace={namespace}")

    answer = revoke(vending, reply.lease)

    assert answer.revocation.state == Lease.STATE_REVOKING
    held = get(vending, reply.lease)
    assert held.ending.reason == "KUBERNETES_FORBIDDEN"
    assert "delete on secrets" in held.ending.message
    assert "not_deleted" in vending.server.log_file.read_text()
    allow_anchors(cluster, namespace)
    until(lambda: get(vending, reply.lease).state == Lease.STATE_REVOKED, "the lease to end")


def test_an_empty_filter_ends_nothing(vending: Vending) -> None:
    """RevokeLeases without a filter is refused."""
    reply = vending.admin.issue()

    refusal = vending.admin.refused(vending.admin.leases.RevokeLeases, lease_service_pb2.RevokeLeasesRequest())

    assert (refusal.status, refusal.reason) == ("INVALID_ARGUMENT", "FILTER_EMPTY")
    assert get(vending, reply.lease).state == Lease.STATE_ACTIVE


def test_an_anchor_that_a_filter_finds_in_part(vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """Leases whose anchor holds others that the filter does not find stay, unless end_shared is set."""
    role = make_role(vending, cluster, namespace, PER_ROLE)
    short, long = vending.admin.issue(role, ttl=Duration(seconds=600)), vending.admin.issue(role)
    narrowed = {"role": role, "expire_before": long.expiration}

    kept = revoke_all(vending, filter=narrowed)
    foreseen = revoke_all(vending, filter=narrowed, end_shared=True, validate_only=True)
    states = {get(vending, reply.lease).state for reply in (short, long)}
    ended = revoke_all(vending, filter=narrowed, end_shared=True)

    (left,) = kept.revocations
    assert (left.lease, left.state) == (short.lease, Lease.STATE_ACTIVE)
    assert "1 other lease that the filter does not find: set end_shared" in left.message
    assert {each.lease for each in foreseen.revocations} == {short.lease, long.lease}
    assert states == {Lease.STATE_ACTIVE}
    assert {each.state for each in ended.revocations} == {Lease.STATE_REVOKED}
    assert {get(vending, reply.lease).state for reply in (short, long)} == {Lease.STATE_REVOKED}


def test_a_caller_is_cut_off(vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """RevokeLeases by caller ends all of a PER_CALLER role's leases with one deletion for each namespace."""
    other = f"{namespace}-other"
    make_namespace(cluster, other)
    for name in (namespace, other):
        allow_anchors(cluster, name)
    allowed = [namespace, other]
    role = vending.admin.create_role("own", allowed_namespaces=allowed, revocation=PER_CALLER).name
    requests = [issue_service_pb2.IssueTokenRequest(role=role, namespace=name) for name in allowed]
    issue, metadata = vending.admin.issuing.IssueToken, vending.admin.metadata
    for _ in range(10):
        calls = [issue.future(request, metadata=metadata) for request in requests * 50]
        vending.admin.tokens += [call.result().token for call in calls]
    standing = [anchor for name in allowed for anchor in anchors(cluster, name)]

    answer = revoke_all(vending, filter={"caller": "admin://local/bootstrap", "role": role})

    assert len(standing) == 2
    assert len(answer.revocations) == 1000
    assert {each.state for each in answer.revocations} == {Lease.STATE_REVOKED}
    deleted = [name for line in cluster.audit_log.read_text().splitlines() for name in deleted_anchor(line, allowed)]
    assert sorted(deleted) == sorted(standing)
    for token in (*vending.admin.tokens[-2:], *vending.admin.tokens[-1000:-998]):
        stops(cluster, token)


def deleted_anchor(line: str, namespaces: Sequence[str]) -> Iterator[str]:
    """The name of the Secret of one of these namespaces that a line of the API server's audit log tells is deleted."""
    if '"resource":"secrets"' not in line or '"verb":"delete"' not in line:
        return
    entry = json.loads(line)
    if entry["stage"] == "ResponseComplete" and entry["objectRef"]["namespace"] in namespaces:
        yield entry["objectRef"]["name"]


def test_a_watch_that_is_open_goes_on(vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """What is open when a token ends goes on, as the page says: a watch still hears, while new requests are a 401."""
    role = make_role(vending, cluster, namespace, PER_LEASE)
    let_watch(cluster, namespace, "demo")
    reply = vending.admin.issue(role)
    with watch(cluster, namespace, reply.token) as events:
        make_configmap(cluster, namespace, "before")
        heard = [next_configmap(events)]
        revoke(vending, reply.lease)
        stops(cluster, reply.token)
        make_configmap(cluster, namespace, "after")
        heard.append(next_configmap(events))

    assert heard == ["before", "after"]


def let_watch(cluster: DevCluster, namespace: str, service_account: str) -> None:
    """Let a ServiceAccount watch the ConfigMaps of its namespace."""
    where = f"--namespace={namespace}"
    cluster.kubectl("create", "role", "watches", where, "--verb=watch", "--resource=configmaps")
    subject = f"--serviceaccount={namespace}:{service_account}"
    cluster.kubectl("create", "rolebinding", "watches", where, "--role=watches", subject)


@contextlib.contextmanager
def watch(cluster: DevCluster, namespace: str, token: str) -> Iterator[http.client.HTTPResponse]:
    """Watch the ConfigMaps of a namespace as the bearer of a token, from now on."""
    path = f"/api/v1/namespaces/{namespace}/configmaps?watch=true&timeoutSeconds=60&resourceVersion=0"
    trust = ssl.create_default_context(cafile=str(cluster.ca_file))
    connection = http.client.HTTPSConnection(cluster.server.removeprefix("https://"), context=trust, timeout=60)

    def answered() -> http.client.HTTPResponse | None:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        response = connection.getresponse()
        if response.status == HTTPStatus.OK:
            return response
        response.read()  # RBAC takes a moment to know the right
        return None

    with contextlib.closing(connection), until(answered, "the watch") as response:
        yield response


def make_configmap(cluster: DevCluster, namespace: str, name: str) -> None:
    """Make something to be heard of."""
    cluster.kubectl("create", "configmap", name, f"--namespace={namespace}")


def next_configmap(events: http.client.HTTPResponse) -> str:
    """The name of the next ConfigMap that a watch tells of, but for the cluster's own."""
    while True:
        name: str = json.loads(events.readline())["object"]["metadata"]["name"]
        if name != "kube-root-ca.crt":
            return name
