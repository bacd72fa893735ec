"""How a real server stands up to callers who ask for too much, send half of it, or never read."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any, cast

import grpc
import psutil
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from devcluster import DevCluster
from devcluster.server import BOOTSTRAP_POLICY
from kubevend.v1 import issue_service_pb2, role_service_pb2
from tests.integration.conftest import Start, Vending
from tests.support import faulty_server
from tests.support.crowd import CROWD, come_and_go
from tests.support.faulty_server import FaultSwitch
from tests.support.raw_http2 import GOAWAY, HEADERS, RST_STREAM, RawConnection
from tests.support.waiting import until

ISSUE = "/kubevend.v1.IssueService/IssueToken"
RESOURCE_EXHAUSTED, UNAUTHENTICATED = 8, 16
LIST = role_service_pb2.ListRolesRequest()
BUSY = 3
STREAMS = 4
CONNECTIONS = 40
OWN_DESCRIPTORS = 16
CROWDS = 5
GROWTH = 1.1
"""How much more memory so many crowds may leave than the first two did."""
ANYBODY = '@id("anybody") permit (principal is ServiceAccount, action, resource);'


def retry_after(error: grpc.RpcError) -> float:
    """The seconds that an error's RetryInfo names."""
    status = rpc_status.from_call(cast("grpc.Call", error))
    assert status is not None
    info = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    return float(info.retry_delay.ToTimedelta().total_seconds())


def reviewing(cluster: DevCluster, folder: Path) -> dict[str, Any]:
    """Settings by which the cluster's ServiceAccounts may call."""
    token_file = folder / "reviewer.token"
    token_file.write_text(cluster.token("kubevend", "kubevend"))
    reviewer = {"kubernetes_host": cluster.server, "ca_file": str(cluster.ca_file), "token_file": str(token_file)}
    return {"clusters": {"dev": reviewer}}


def assert_sound(vending: Vending) -> None:
    """Fail if `audit verify` finds something wrong."""
    settings = str(vending.server.folder / "settings.toml")
    command = [sys.executable, "-m", "kubevend_server.cli", "audit", "verify", "--settings", settings]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_a_caller_is_let_in_again_when_told(start: Start, cluster: DevCluster, namespace: str, tmp_path: Path) -> None:
    """Beyond its rate a caller is refused, and after the time that RetryInfo names it is let in; others always were.
    What was refused is one event, there once the server has stopped, in a log that is sound.
    """
    limits = {"caller_per_second": 0.5, "caller_burst": 2}
    vending = start({"limits": limits, "callers": reviewing(cluster, tmp_path)}, policies=BOOTSTRAP_POLICY + ANYBODY)
    other = vending.client(cluster.token(namespace, "demo", audience="kubevend"))
    delays = []
    for _ in range(2):
        vending.admin.call(vending.admin.roles.ListRoles, LIST)
    for _ in range(3):
        with pytest.raises(grpc.RpcError) as caught:
            vending.admin.call(vending.admin.roles.ListRoles, LIST)
        delays.append(retry_after(caught.value))
    other.call(other.roles.ListRoles, LIST)
    assert all(0 < delay <= 2 for delay in delays)
    assert delays == sorted(delays, reverse=True)

    def let_in() -> bool:
        try:
            return bool(vending.admin.call(vending.admin.roles.ListRoles, LIST) or True)
        except grpc.RpcError:
            return False

    until(let_in, "the caller to be let in again", 5)
    vending.server.stop()
    (event,) = vending.events(stage="STAGE_REFUSED")
    assert event["caller"]["name"] == "admin://local/bootstrap"
    assert event["reason"] == "CALLER_LIMIT"
    assert int(event["refusedCalls"]) >= 3
    assert event["source"] == "ipv4:127.0.0.1"
    assert vending.events(stage="STAGE_COMPLETE", reason="CALLER_LIMIT") == []
    assert_sound(vending)


def unauthenticated(vending: Vending, source: str, calls: int) -> list[int]:
    """The statuses of calls from a source that show no credential, each on a connection of its own."""
    found = []
    for _ in range(calls):
        with connect(vending, source=source) as connection:
            connection.begin(1, ISSUE, {})
            connection.send(1, b"")
            found.append(connection.status(1))
    return found


def test_a_flood_costs_no_disk(start: Start) -> None:
    """Whoever keeps failing is refused before anything is asked, and leaves one event. Another source goes on, and so
    does, from the same one, whose credential was accepted before.
    """
    vending = start({"limits": {"source_failures_per_second": 0.01, "source_failures_burst": 3}})
    statuses = unauthenticated(vending, "127.0.0.2", 23)
    assert statuses == [UNAUTHENTICATED] * 3 + [RESOURCE_EXHAUSTED] * 20
    assert unauthenticated(vending, "127.0.0.3", 1) == [UNAUTHENTICATED]
    vending.admin.call(vending.admin.roles.ListRoles, LIST)
    assert unauthenticated(vending, "127.0.0.1", 5) == [UNAUTHENTICATED] * 3 + [RESOURCE_EXHAUSTED] * 2
    vending.admin.call(vending.admin.roles.ListRoles, LIST)
    vending.server.stop()
    assert len(vending.events()) == 3 + 1 + 3 + 2
    summed = vending.events(stage="STAGE_REFUSED", reason="SOURCE_FAILURES_LIMIT")
    assert [(e["source"], e["refusedCalls"]) for e in summed] == [("ipv4:127.0.0.2", "20"), ("ipv4:127.0.0.1", "2")]
    assert_sound(vending)


@pytest.fixture
def faults(tmp_path: Path) -> FaultSwitch:
    """Holds what reaches a place in the server."""
    return FaultSwitch(tmp_path / "faults")


def metric(vending: Vending, name: str) -> float:
    """A metric, as Prometheus gets it."""
    lines = vending.server.log_file.read_text().splitlines()
    port = next(line for line in lines if '"event": "metrics"' in line).partition('"port": ')[2].partition(",")[0]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        text = page.read().decode()
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def test_a_callers_line_is_its_own(
    start: Start, cluster: DevCluster, namespace: str, tmp_path: Path, faults: FaultSwitch
) -> None:
    """A caller's many calls wait in a line of their own, and another's one call goes before most of them; beyond what
    may be under way a caller is refused at once, and others are not.
    """
    vending = start(
        {
            "limits": {"issuing_per_cluster": 1, "in_flight_per_caller": 6},
            "callers": reviewing(cluster, tmp_path),
            "metrics": {"address": "127.0.0.1:0"},
        },
        policies=BOOTSTRAP_POLICY + ANYBODY,
        command=faulty_server.COMMAND,
        environment=faults.environment,
    )
    vending.add_config(cluster)
    vending.admin.create_role(allowed_namespaces=[namespace])
    other = vending.client(cluster.token(namespace, "demo", audience="kubevend"))
    faults.hold("issue.intended")
    request = issue_service_pb2.IssueTokenRequest(role="roles/ci")
    asked = [vending.admin.issuing.IssueToken.future(request, metadata=vending.admin.metadata) for _ in range(6)]
    until(lambda: metric(vending, "kubevend_issuances_waiting") == 5, "five to wait in line")

    refusal = vending.admin.refused(vending.admin.roles.ListRoles, LIST)
    asked.append(other.issuing.IssueToken.future(request, metadata=other.metadata))
    until(lambda: metric(vending, "kubevend_issuances_waiting") == 6, "the other to wait in line")
    assert faults.arrivals == 1
    faults.release()
    replies = [call.result(timeout=60) for call in asked]
    vending.admin.tokens += [reply.token for reply in replies]

    assert (refusal.status, refusal.reason) == ("RESOURCE_EXHAUSTED", "TOO_MANY_IN_FLIGHT")
    assert refusal.metadata == {"setting": "limits.in_flight_per_caller", "most": "6"}
    order = [e["caller"]["name"] for e in vending.events(stage="STAGE_INTENT")]
    assert order.index(f"kubernetes://dev/{namespace}/demo") <= 2
    assert vending.admin.call(vending.admin.roles.ListRoles, LIST).roles


@pytest.fixture(scope="module")
def narrow(start_for_all: Start) -> Vending:
    """A server with little patience, and few connections and streams."""
    limits = {
        "request_seconds": 1.0,
        "request_bytes": 1 << 14,
        "metadata_bytes": 1 << 13,
        "connections": CONNECTIONS,
        "streams_per_connection": STREAMS,
        "connection_idle_seconds": 2.0,
    }
    return start_for_all({"limits": limits})


def connect(vending: Vending, **how: Any) -> RawConnection:
    """A connection to a server."""
    return RawConnection(vending.server.address, vending.server.folder / "ca.crt", **how)


def whole_call(vending: Vending, connection: RawConnection, stream: int = 1) -> None:
    """Send a call that will be answered with an error, by the bootstrap admin."""
    connection.begin(stream, ISSUE, {"authorization": f"Bearer {vending.server.admin_token}"})
    connection.send(stream, issue_service_pb2.IssueTokenRequest(role="roles/none").SerializeToString())


def test_half_a_request_is_given_up(narrow: Vending) -> None:
    """A call whose message never comes ends with an error of ours, while others are answered."""
    with connect(narrow) as half:
        half.begin(1, ISSUE, {})
        half.send_raw(1, b"\0\0\0\0\x09half")
        narrow.admin.call(narrow.admin.roles.ListRoles, LIST)
        assert half.status(1) == RESOURCE_EXHAUSTED


def test_too_much_is_refused_by_its_size(narrow: Vending) -> None:
    """A message or metadata beyond the setting is RESOURCE_EXHAUSTED, and the connection goes on."""
    large = issue_service_pb2.IssueTokenRequest(role="roles/" + "x" * (1 << 14))
    assert narrow.admin.issue_refused(large.role).status == "RESOURCE_EXHAUSTED"
    client = narrow.client()
    client.metadata = (("x-large", "y" * (1 << 13)),)
    refusal = client.refused(client.roles.ListRoles, LIST)
    assert refusal.status == "RESOURCE_EXHAUSTED"
    assert "metadata size exceeds hard limit" in refusal.message
    narrow.admin.call(narrow.admin.roles.ListRoles, LIST)


def test_more_streams_than_allowed_wait(narrow: Vending) -> None:
    """The server says how many streams a connection may have; clients let more calls wait, and none fails. Who opens
    more all the same has those refused.
    """
    with connect(narrow) as rude:
        assert rude.most_streams() == STREAMS
        for number in range(STREAMS + 1):
            rude.begin(2 * number + 1, ISSUE, {})
        last = 2 * STREAMS + 1
        assert next(f for f in rude.frames() if f.stream == last).kind == RST_STREAM
    calls = [narrow.admin.roles.ListRoles.future(LIST, metadata=narrow.admin.metadata) for _ in range(25 * STREAMS)]
    assert all(not call.result(timeout=30).roles for call in calls)


def test_who_takes_every_call_back_stops_nobody(narrow: Vending) -> None:
    """A connection that opens calls and resets them at once, thousands of times, does not keep others waiting."""
    with connect(narrow) as rapid:
        for number in range(5000):
            rapid.begin(2 * number + 1, ISSUE, {"authorization": "Bearer nobody"})
            rapid.reset(2 * number + 1)
            if number % 500 == 0:
                narrow.admin.call(narrow.admin.roles.ListRoles, LIST)
    narrow.admin.call(narrow.admin.roles.ListRoles, LIST)


def test_who_never_reads_stops_nobody(narrow: Vending) -> None:
    """Callers who open no window for what they are answered do not keep others waiting."""
    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS // 2):
            deaf = stack.enter_context(connect(narrow, window=0))
            for number in range(STREAMS):
                whole_call(narrow, deaf, 2 * number + 1)
        for _ in range(20):
            narrow.admin.call(narrow.admin.roles.ListRoles, LIST)


def test_idle_connections_are_closed(narrow: Vending) -> None:
    """A connection without calls is told to go; so is one that pings without end."""
    with connect(narrow) as idle, connect(narrow) as pinging:
        pinging.ping(5)
        assert any(b"too_many_pings" in frame.payload for frame in pinging.frames() if frame.kind == GOAWAY)
        assert any(b"connection idle" in frame.payload for frame in idle.frames() if frame.kind == GOAWAY)


def test_connections_are_bounded(narrow: Vending) -> None:
    """Beyond so many connections new ones are closed at once; the descriptors stay bounded, the connections that there
    were go on, and once some are gone others are let in.
    """
    narrow.admin.call(narrow.admin.roles.ListRoles, LIST)
    process = psutil.Process(narrow.server.pid)
    before = process.num_fds()
    with contextlib.ExitStack() as stack:
        refused = 0
        for _ in range(2 * CONNECTIONS):
            try:
                stack.enter_context(connect(narrow))
            except OSError:
                refused += 1
        most = process.num_fds()
        narrow.admin.call(narrow.admin.roles.ListRoles, LIST)
    assert refused >= CONNECTIONS
    assert most <= before + CONNECTIONS
    until(lambda: process.num_fds() <= before, "the connections to be gone")
    with connect(narrow) as fresh:
        whole_call(narrow, fresh)
        assert next(frame for frame in fresh.frames() if frame.kind == HEADERS)


def test_memory_comes_back(start: Start) -> None:
    """Crowds of connections that come and go, most of them without a proper end, leave no more memory and no more
    descriptors than the first ones did. `make bench-connections` does the same with 10,000.
    """
    vending = start()
    vending.admin.call(vending.admin.roles.ListRoles, LIST)
    process = psutil.Process(vending.server.pid)
    ca_file = vending.server.folder / "ca.crt"
    for _ in range(2):
        come_and_go(vending.server.address, ca_file)
    rss, descriptors = process.memory_info().rss, process.num_fds()
    for _ in range(CROWDS):
        come_and_go(vending.server.address, ca_file)
    # The server opens a few for itself, as threads that read the store come to be needed.
    until(lambda: process.num_fds() <= descriptors + OWN_DESCRIPTORS, "the connections to be gone")
    assert process.memory_info().rss <= rss * GROWTH, f"after {CROWDS * CROWD} connections"
    vending.admin.call(vending.admin.roles.ListRoles, LIST)
