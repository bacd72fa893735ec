"""Calls that are made again with their request id, on the real API server."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from devcluster import DevCluster
from devcluster.server import BOOTSTRAP_POLICY
from kubevend.v1 import issue_service_pb2, lease_service_pb2, role_service_pb2
from tests.integration.conftest import Start, Vending
from tests.support.client import Client, take_apart
from tests.support.clusters import allow_anchors, anchors, token_requests, works
from tests.support.proxy import HoldingProxy
from tests.support.waiting import until

ISSUE = "kubevend.v1.IssueService/IssueToken"
EVERYBODY = """
@id("everybody")
permit (principal, action, resource);
"""


@pytest.fixture
def proxy(cluster: DevCluster) -> Iterator[HoldingProxy]:
    """The way from kubevend to the API server, in the test's hands."""
    with HoldingProxy(cluster.server) as between:
        yield between


@pytest.fixture
def behind(start: Start, cluster: DevCluster, namespace: str, proxy: HoldingProxy) -> Vending:
    """A server that reaches the API server through the proxy, with roles `ci` and `anchored`."""
    vending = start()
    vending.add_config(cluster, kubernetes_host=proxy.url)
    allow_anchors(cluster, namespace)
    vending.admin.create_role(allowed_namespaces=[namespace])
    vending.admin.create_role(
        "anchored", allowed_namespaces=[namespace], revocation=role_service_pb2.REVOCATION_PER_LEASE
    )
    vending.admin.issue()  # the connection is there
    return vending


def new_id() -> str:
    """A request id."""
    return str(uuid.uuid4())


def ask(client: Client, request_id: str, role: str = "roles/ci", timeout: float = 60) -> Any:
    """Begin to issue."""
    request = issue_service_pb2.IssueTokenRequest(role=role, request_id=request_id)
    return client.issuing.IssueToken.future(request, metadata=client.metadata, timeout=timeout)


def leases(vending: Vending) -> list[lease_service_pb2.Lease]:
    """All leases."""
    return list(
        vending.admin.call(vending.admin.leases.ListLeases, lease_service_pb2.ListLeasesRequest(page_size=1000)).leases
    )


def test_the_log_joins_both_tokens_to_the_lease(vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """Both tokens work, and each has its own line here and at the API server; the second says that it is a replay."""
    request_id = new_id()
    first = vending.admin.issue(request_id=request_id)
    second = vending.admin.issue(request_id=request_id)

    assert (first.lease, first.replayed, second.replayed) == (second.lease, False, True)
    assert works(cluster, first.token)
    assert works(cluster, second.token)
    assert second.token_expiration.ToSeconds() <= first.expiration.ToSeconds()
    lines = [e for e in vending.events(method=ISSUE) if e.get("lease") == first.lease]
    assert [(e["stage"], e.get("jti"), e.get("replayed")) for e in lines] == [
        ("STAGE_INTENT", None, None),
        ("STAGE_COMPLETE", first.jti, None),
        ("STAGE_INTENT", None, True),
        ("STAGE_COMPLETE", second.jti, True),
    ]
    assert {e["request"]["requestId"] for e in lines if e["stage"] == "STAGE_COMPLETE"} == {request_id}
    assert {e["kubernetesAuditId"] for e in lines} == {e["auditID"] for e in token_requests(cluster, namespace)}
    (lease,) = leases(vending)
    assert {token.jti for token in lease.tokens} == {first.jti, second.jti}


@pytest.mark.parametrize("role", ["roles/ci", "roles/anchored"])
def test_an_answer_that_was_lost(
    behind: Vending, cluster: DevCluster, proxy: HoldingProxy, namespace: str, role: str
) -> None:
    """Whose deadline passes while the cluster mints calls again, waits for the first call, and has its lease."""
    request_id, before = new_id(), len(leases(behind))
    proxy.hold_replies()
    lost = ask(behind.admin, request_id, role, timeout=2)
    with pytest.raises(grpc.RpcError) as error:
        lost.result()
    again = ask(behind.admin, request_id, role)
    impatient = ask(behind.admin, request_id, role, timeout=1)
    with pytest.raises(grpc.RpcError) as other:
        impatient.result()
    assert not again.done()
    proxy.release()
    reply = again.result()
    behind.admin.tokens.append(reply.token)

    assert {error.value.code(), other.value.code()} == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert reply.replayed
    assert works(cluster, reply.token)
    assert len(leases(behind)) == before + 1
    assert len(anchors(cluster, namespace)) == (1 if role == "roles/anchored" else 0)
    outcomes = [e["outcome"] for e in behind.events(method=ISSUE, stage="STAGE_COMPLETE")]
    assert sorted(outcomes[1:]) == ["OUTCOME_ABANDONED", "OUTCOME_CANCELLED", "OUTCOME_SUCCEEDED"]


@pytest.mark.parametrize("role", ["roles/ci", "roles/anchored"])
def test_many_at_once(behind: Vending, cluster: DevCluster, namespace: str, role: str) -> None:
    """Twenty calls at once with one id make one lease and one set of objects; all get tokens that differ and work."""
    request_id, before = new_id(), len(leases(behind))
    replies = [call.result() for call in [ask(behind.admin, request_id, role) for _ in range(20)]]
    behind.admin.tokens += [reply.token for reply in replies]

    assert len(leases(behind)) == before + 1
    assert len({reply.jti for reply in replies}) == 20
    assert sorted(reply.replayed for reply in replies) == [False, *[True] * 19]
    assert len(anchors(cluster, namespace)) == (1 if role == "roles/anchored" else 0)
    assert all(works(cluster, reply.token) for reply in replies)


def test_a_request_id_is_of_its_caller(start: Start, cluster: DevCluster, namespace: str) -> None:
    """The same id of another caller finds nothing of the first one's lease: it gets one of its own."""
    token_file = cluster.ca_file.parent / f"reviewer-{namespace}"
    token_file.write_text(cluster.token("kubevend", "kubevend"))
    reviewer = {"kubernetes_host": cluster.server, "ca_file": str(cluster.ca_file), "token_file": str(token_file)}
    vending = start({"callers": {"clusters": {"dev": reviewer}}}, policies=BOOTSTRAP_POLICY + EVERYBODY)
    vending.add_config(cluster)
    vending.admin.create_role(allowed_namespaces=[namespace])
    vending.admin.create_role("other", allowed_namespaces=[namespace])
    caller = vending.client(cluster.token(namespace, "demo", audience="kubevend"))
    request_id = new_id()

    first = vending.admin.issue(request_id=request_id)
    theirs = caller.issue(request_id=request_id)
    again = vending.admin.issue(request_id=request_id)
    # With other fields too, what another caller has used the id for does not show.
    reused = caller.issue_refused("roles/other", request_id=request_id)
    free = vending.admin.issue_refused("roles/other", request_id=request_id)

    assert first.lease == again.lease != theirs.lease
    assert (theirs.replayed, again.replayed) == (False, True)
    assert {reused.reason, free.reason} == {"REQUEST_ID_REUSED"}
    assert reused.metadata == {"request_id": request_id, "role": "roles/ci"}


def test_what_is_refused(vending: Vending) -> None:
    """Other fields, a lease that has ended, and too little left of it are told apart, and no token is minted."""
    admin = vending.admin
    short, ended = new_id(), new_id()
    first = admin.issue(request_id=ended)
    other = admin.issue_refused(request_id=ended, ttl={"seconds": 900})
    admin.call(admin.leases.RevokeLease, lease_service_pb2.RevokeLeaseRequest(name=first.lease))
    over = admin.issue_refused(request_id=ended)
    admin.issue(request_id=short, ttl={"seconds": 600})
    little = admin.issue_refused(request_id=short, ttl={"seconds": 600})

    assert (other.status, other.reason, other.violations) == ("INVALID_ARGUMENT", "REQUEST_ID_REUSED", ("request_id",))
    assert (over.status, over.reason) == ("FAILED_PRECONDITION", "REQUEST_ID_LEASE_ENDED")
    assert over.metadata["lease"] == first.lease
    assert (little.status, little.reason) == ("FAILED_PRECONDITION", "REQUEST_ID_LEASE_TOO_SHORT")
    assert 590 <= int(little.metadata["left"].removesuffix("s")) < 600
    assert len([e for e in vending.events(method=ISSUE, stage="STAGE_COMPLETE") if e.get("jti")]) == 2


@pytest.mark.parametrize("role", ["roles/ci", "roles/anchored"])
def test_a_revocation_comes_between(
    behind: Vending, cluster: DevCluster, proxy: HoldingProxy, namespace: str, role: str
) -> None:
    """Where the lease is ended while another token of it is minted, that token is dropped, and all end with it."""
    admin, request_id = behind.admin, new_id()
    first = admin.issue(role, request_id=request_id)
    proxy.hold_replies()
    again = ask(admin, request_id, role)
    assert proxy.held.wait(30)
    # What the token stands on is deleted once the proxy lets that through.
    ending = admin.leases.RevokeLease.future(
        lease_service_pb2.RevokeLeaseRequest(name=first.lease), metadata=admin.metadata, timeout=60
    )
    until(lambda: behind.events(method="kubevend.v1.LeaseService/RevokeLease"), "the revocation to be written")
    proxy.release()
    with pytest.raises(grpc.RpcError) as error:
        again.result()
    ending.result()

    refusal = take_apart(error.value)
    assert refusal.reason in {"LEASE_ENDED", "REQUEST_ID_LEASE_ENDED"}
    assert refusal.status in {"ABORTED", "FAILED_PRECONDITION"}
    assert admin.issue_refused(role, request_id=request_id).reason == "REQUEST_ID_LEASE_ENDED"
    (lease,) = [lease for lease in leases(behind) if lease.name == first.lease]
    assert [token.jti for token in lease.tokens] == [first.jti]
    if role == "roles/anchored":
        assert anchors(cluster, namespace) == []


def test_a_server_that_starts_again_remembers(vending: Vending) -> None:
    """Which lease an id has got outlives the server, killed or stopped."""
    request_id = new_id()
    first = vending.admin.issue(request_id=request_id)
    vending.server.kill()
    vending.restart()

    second = vending.admin.issue(request_id=request_id)

    assert (second.lease, second.replayed) == (first.lease, True)


def test_a_stream_that_is_opened_again(vending: Vending, cluster: DevCluster) -> None:
    """A stream that breaks goes on with its lease where it is opened again with its id."""
    request_id = new_id()
    broken = vending.admin.stream(request_id=request_id)
    first = next(broken).token
    broken.cancel()
    opened = vending.admin.stream(request_id=request_id)
    second = next(opened).token
    opened.cancel()

    assert (first.lease, first.replayed, second.replayed) == (second.lease, False, True)
    assert json.loads(cluster.kubectl("auth", "whoami", "-o", "json", token=second.token))
    assert len(leases(vending)) == 1
