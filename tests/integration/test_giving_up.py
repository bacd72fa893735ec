"""Callers who give up at every step of a call, and what the audit log says of it: the truth."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from devcluster import DevCluster
from devcluster.server import BOOTSTRAP_POLICY
from kubevend.v1 import config_service_pb2, issue_service_pb2, lease_service_pb2, role_service_pb2
from kubevend.v1.role_service_pb2 import Role
from tests.integration.conftest import Start, Vending, config_of
from tests.support.client import Client
from tests.support.clusters import issued_jti, token_requests
from tests.support.events import steady
from tests.support.proxy import HoldingProxy
from tests.support.waiting import until

ISSUE = "kubevend.v1.IssueService/IssueToken"
CREATE_ROLE = "kubevend.v1.RoleService/CreateRole"
EVERY_CHANGE = [
    "kubevend.v1.ConfigService/CreateConfig",
    "kubevend.v1.ConfigService/DeleteConfig",
    "kubevend.v1.ConfigService/UpdateConfig",
    ISSUE,
    CREATE_ROLE,
    "kubevend.v1.RoleService/DeleteRole",
    "kubevend.v1.RoleService/UpdateRole",
]

LEAVES = 60

EVERYTHING = """
// Nothing but their leaving keeps ServiceAccounts from anything.
@id("everything")
permit (principal is ServiceAccount, action, resource);
"""


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
    callers = {"clusters": {"dev": reviewer}, "remember_seconds": 0}
    vending = start({"callers": callers}, policies=BOOTSTRAP_POLICY + EVERYTHING)
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


@pytest.fixture
def workload(behind: Vending, cluster: DevCluster, namespace: str) -> Client:
    """A ServiceAccount that may do everything, and whose every call is reviewed by the cluster, through the proxy."""
    caller = behind.client(cluster.token(namespace, "demo", audience="kubevend"))
    caller.call(caller.roles.GetRole, role_service_pb2.GetRoleRequest(name="roles/ci"))  # the connection is there
    return caller


def changes(caller: Client, cluster: DevCluster) -> list[tuple[Any, Any]]:
    """A method of each kind that changes something, with a request that succeeds, in an order in which all do."""
    roles, configs = caller.roles, caller.configs
    sound: dict[str, Any] = {
        "allowed_namespaces": ["default"],
        "allowed_service_accounts": ["demo"],
        "allowed_audiences": ["x"],
    }
    return [
        (configs.CreateConfig, config_service_pb2.CreateConfigRequest(config_id="new", config=config_of(cluster))),
        (
            configs.UpdateConfig,
            config_service_pb2.UpdateConfigRequest(config=config_of(cluster, name="configs/changed")),
        ),
        (configs.DeleteConfig, config_service_pb2.DeleteConfigRequest(name="configs/spare")),
        (roles.CreateRole, role_service_pb2.CreateRoleRequest(role_id="new", role=Role(**sound))),
        (roles.UpdateRole, role_service_pb2.UpdateRoleRequest(role=Role(name="roles/changed", **sound))),
        (roles.DeleteRole, role_service_pb2.DeleteRoleRequest(name="roles/spare")),
    ]


def contents(vending: Vending) -> tuple[Any, ...]:
    """Every role and config, with their etags, and every lease."""
    admin = vending.admin
    return (
        admin.call(admin.roles.ListRoles, role_service_pb2.ListRolesRequest(page_size=1000)),
        admin.call(admin.configs.ListConfigs, config_service_pb2.ListConfigsRequest()),
        admin.call(admin.leases.ListLeases, lease_service_pb2.ListLeasesRequest()),
    )


@pytest.mark.parametrize("way", ["cancel", "deadline"])
def test_during_authentication(
    behind: Vending, workload: Client, cluster: DevCluster, proxy: HoldingProxy, namespace: str, way: str
) -> None:
    """Who gives up any call while being recognized leaves a CANCELLED event without a caller, and nothing is done."""
    for name in ("changed", "spare"):
        behind.add_config(cluster, name)
        behind.admin.create_role(name, allowed_namespaces=[namespace])
    issue = (workload.issuing.IssueToken, issue_service_pb2.IssueTokenRequest(role="roles/ci"))
    asked = [*changes(workload, cluster), issue]
    before, minted = contents(behind), len(list(token_requests(cluster, namespace)))
    written = len(behind.server.events())
    timeout = 3 if way == "deadline" else None
    # Each shows a token of its own: those who show the same one wait for the same review.
    tokens = [cluster.token(namespace, "demo", audience="kubevend") for _ in asked]
    proxy.hold_replies()
    calls = [
        method.future(request, metadata=(("authorization", f"Bearer {token}"),), timeout=timeout)
        for token, (method, request) in zip(tokens, asked, strict=True)
    ]
    until(lambda: proxy.holding == len(calls), "a review of every caller")

    if way == "cancel":
        for call in calls:
            call.cancel()
    until(lambda: len(behind.server.events()) >= written + len(calls), "an event of every call")
    proxy.release()

    events = sorted((steady(event) for event in behind.server.events()[written:]), key=lambda e: str(e["method"]))
    assert events == [
        {"method": method, "stage": "STAGE_COMPLETE", "outcome": "OUTCOME_CANCELLED", "status": "CANCELLED"}
        for method in EVERY_CHANGE
    ]
    assert contents(behind) == before
    assert len(list(token_requests(cluster, namespace))) == minted
    # Had they stayed, each would have had what was asked for.
    for method, request in changes(workload, cluster):
        workload.call(method, request)
    workload.issue()


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


def test_at_any_moment_of_a_change(behind: Vending, workload: Client, proxy: HoldingProxy) -> None:
    """Whenever callers of CreateRole leave, a role is there, after a restart too, if and only if its event says so."""
    role = Role(allowed_namespaces=["default"], allowed_service_accounts=["demo"], allowed_audiences=["x"])
    for count in range(LEAVES):
        request = role_service_pb2.CreateRoleRequest(role_id=f"new-{count}", role=role)
        proxy.hold_replies()
        call = workload.roles.CreateRole.future(request, metadata=workload.metadata)
        assert proxy.held.wait(30)
        # The caller's leave races with the cluster's answer, or with what follows it: whichever wins, the log is true.
        proxy.release()
        if count % 2:
            until(lambda: proxy.holding == 0, "the cluster's answer to pass")
        call.cancel()
    behind.server.stop()
    behind.restart()

    events = behind.events(method=CREATE_ROLE)
    outcomes = [(event["outcome"], event.get("resource")) for event in events]
    made = {resource for outcome, resource in outcomes if outcome in {"OUTCOME_SUCCEEDED", "OUTCOME_ABANDONED"}}
    listed = behind.admin.call(behind.admin.roles.ListRoles, role_service_pb2.ListRolesRequest(page_size=1000))
    assert {role.name for role in listed.roles} == made
    assert len({event["requestId"] for event in events}) == len(events)
    assert {outcome for outcome, _ in outcomes} <= {"OUTCOME_SUCCEEDED", "OUTCOME_ABANDONED", "OUTCOME_CANCELLED"}


def test_the_answer_never_comes(behind: Vending, proxy: HoldingProxy) -> None:
    """A connection cut while the cluster is asked gives an unknown outcome, with the Audit-ID to look it up by."""
    proxy.hold_replies()
    call = ask(behind.admin)
    assert proxy.held.wait(30)

    proxy.cut()
    proxy.release()
    with pytest.raises(grpc.RpcError) as caught:
        call.result()
    event = last_event(behind, 2)

    assert caught.value.code() is grpc.StatusCode.UNKNOWN
    assert (event["outcome"], event["reason"]) == ("OUTCOME_UNKNOWN", "KUBERNETES_CONNECTION_LOST")
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
