"""Callers who give up at every step of an issuance, and what the audit log says of it: the truth."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from devcluster import DevCluster
from kubevend.v1 import issue_service_pb2, lease_service_pb2
from tests.integration.conftest import Start, Vending
from tests.support.client import Client
from tests.support.clusters import issued_jti, token_requests
from tests.support.proxy import HoldingProxy
from tests.support.waiting import until

ISSUE = "kubevend.v1.IssueService/IssueToken"


@pytest.fixture
def proxy(cluster: DevCluster) -> Iterator[HoldingProxy]:
    """The way from kubevend to the API server, in the test's hands."""
    with HoldingProxy(cluster.server) as between:
        yield between


@pytest.fixture
def behind(start: Start, cluster: DevCluster, namespace: str, proxy: HoldingProxy) -> Vending:
    """A kubevend that reaches the API server, for tokens and for reviews, only through the proxy."""
    token = cluster.token("kubevend", "kubevend")
    token_file = cluster.ca_file.parent / f"token-{namespace}"
    token_file.write_text(token)
    reviewer = {"kubernetes_host": proxy.url, "ca_file": str(cluster.ca_file), "token_file": str(token_file)}
    vending = start({"callers": {"clusters": {"dev": reviewer}}})
    vending.add_config(cluster, kubernetes_host=proxy.url)
    vending.admin.create_role(allowed_namespaces=[namespace])
    vending.admin.issue()  # the connection is there
    return vending


def ask(client: Client, timeout: float | None = None) -> Any:
    """Start an issuance and do not wait for it."""
    request = issue_service_pb2.IssueTokenRequest(role="roles/ci")
    return client.issuing.IssueToken.future(request, metadata=client.metadata, timeout=timeout)


def last_event(vending: Vending, count: int) -> dict[str, Any]:
    """The completion of the `count`-th issuance, once it is written."""
    done = until(
        lambda: vending.events(method=ISSUE, stage="STAGE_COMPLETE")[count - 1 : count],
        f"the audit event of issuance {count}",
    )
    return done[0]


def noticed(vending: Vending) -> None:
    """Wait until the server knows that the caller has given up."""
    until(lambda: '"caller_gave_up"' in vending.server.log_file.read_text(), "the server to notice")


def lease_of(vending: Vending, event: dict[str, Any]) -> lease_service_pb2.Lease:
    """The lease that an event names."""
    request = lease_service_pb2.GetLeaseRequest(name=event["lease"])
    return vending.admin.call(vending.admin.leases.GetLease, request).lease


def test_during_authentication(behind: Vending, cluster: DevCluster, proxy: HoldingProxy, namespace: str) -> None:
    """Who gives up while the caller is being recognized leaves a CANCELLED event without a caller, and no request."""
    caller = behind.client(cluster.token(namespace, "demo", audience="kubevend"))
    minted = len(list(token_requests(cluster, namespace)))
    proxy.hold_replies()
    call = ask(caller)
    assert proxy.held.wait(30)

    call.cancel()
    event = last_event(behind, 2)
    proxy.release()

    assert (event["outcome"], event["status"], "caller" in event, "lease" in event) == (
        "OUTCOME_CANCELLED",
        "CANCELLED",
        False,
        False,
    )
    assert len(list(token_requests(cluster, namespace))) == minted


@pytest.mark.parametrize("way", ["cancel", "deadline"])
def test_while_the_cluster_works(
    behind: Vending, cluster: DevCluster, proxy: HoldingProxy, namespace: str, way: str
) -> None:
    """Who gives up while the cluster is minting leaves an ABANDONED event with the token's jti, and its lease."""
    proxy.hold_replies()
    call = ask(behind.admin, timeout=2 if way == "deadline" else None)
    assert proxy.held.wait(30)

    if way == "cancel":
        call.cancel()
    with pytest.raises((grpc.RpcError, grpc.FutureCancelledError)):
        call.result()
    noticed(behind)
    proxy.release()
    event = last_event(behind, 2)

    (entry,) = [e for e in token_requests(cluster, namespace) if e["auditID"] == event["kubernetesAuditId"]]
    assert event["outcome"] == "OUTCOME_ABANDONED"
    assert event["jti"] == issued_jti(entry)
    assert lease_of(behind, event).tokens[0].jti == event["jti"]


def test_while_it_is_being_recorded(behind: Vending, proxy: HoldingProxy) -> None:
    """Who gives up while lease and event are being written finds both written, with the token's jti."""
    lock = sqlite3.connect(behind.server.folder / "kubevend.db", isolation_level=None)
    proxy.hold_replies()
    call = ask(behind.admin)
    assert proxy.held.wait(30)
    lock.execute("BEGIN IMMEDIATE")
    proxy.release()
    # Nothing shows from outside that the server waits for the lock; whichever step the cancel meets, the event is true.
    call.cancel()
    lock.execute("ROLLBACK")
    lock.close()

    event = last_event(behind, 2)

    assert event["outcome"] in {"OUTCOME_ABANDONED", "OUTCOME_SUCCEEDED"}
    assert lease_of(behind, event).tokens[0].jti == event["jti"]


def test_the_answer_never_comes(behind: Vending, proxy: HoldingProxy) -> None:
    """A connection that is cut while the cluster is asked gives OUTCOME_UNKNOWN, with the Audit-ID to look it up by."""
    proxy.hold_replies()
    call = ask(behind.admin)
    assert proxy.held.wait(30)

    proxy.cut()
    proxy.release()
    with pytest.raises(grpc.RpcError) as caught:
        call.result()
    event = last_event(behind, 2)

    assert caught.value.code() is grpc.StatusCode.UNKNOWN
    assert (event["outcome"], event["reason"]) == ("OUTCOME_UNKNOWN", "OUTCOME_UNKNOWN")
    assert event["kubernetesAuditId"] in event["message"]
    assert "lease" not in event


def test_a_stop_waits_for_what_runs(behind: Vending, proxy: HoldingProxy) -> None:
    """SIGTERM lets a running issuance end: the caller gets the token, the event is there, the server ends with 0."""
    proxy.hold_replies()
    call = ask(behind.admin)
    assert proxy.held.wait(30)

    behind.server.terminate()
    until(lambda: '"draining"' in behind.server.log_file.read_text(), "the drain")
    proxy.release()
    reply = call.result()

    assert behind.server.stop() == 0
    (event,) = behind.events(jti=reply.jti)
    assert event["outcome"] == "OUTCOME_SUCCEEDED"
    behind.admin.tokens.append(reply.token)


def test_a_stop_records_what_was_abandoned(behind: Vending, proxy: HoldingProxy) -> None:
    """A caller who left, and then a SIGTERM: the server still waits for the cluster's answer and records it."""
    proxy.hold_replies()
    call = ask(behind.admin)
    assert proxy.held.wait(30)
    call.cancel()
    noticed(behind)

    behind.server.terminate()
    stopping = threading.Thread(target=behind.server.stop)
    stopping.start()
    until(lambda: '"draining"' in behind.server.log_file.read_text(), "the drain")
    proxy.release()
    stopping.join(60)

    assert last_event(behind, 2)["outcome"] == "OUTCOME_ABANDONED"
