"""The server as a process: its start, its settings, health, reflection, metrics."""

from __future__ import annotations

import stat
import subprocess
import urllib.request
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc

from devcluster import DevCluster, grpcurl
from devcluster.server import KubevendServer, ServerError
from kubevend.v1 import audit_event_pb2, role_service_pb2
from tests.integration.conftest import Start, Vending, metrics_port
from tests.support.client import Client
from tests.support.waiting import until

SERVICES = {
    "",
    "kubevend.v1.ConfigService",
    "kubevend.v1.IdentityService",
    "kubevend.v1.IssueService",
    "kubevend.v1.LeaseService",
    "kubevend.v1.RoleService",
    "kubevend.policies",
}


def test_unknown_settings_stop_the_start(tmp_path: Path) -> None:
    """A setting that is not known stops the start, and the error names the nearest that is."""
    server = KubevendServer(tmp_path / "kubevend", overrides={"listener": {"adress": "127.0.0.1:0"}})

    with pytest.raises(ServerError, match=r"listener\.adress is not a setting; did you mean listener\.address\?"):
        server.start()


def test_policies_that_do_not_fit_stop_the_start(tmp_path: Path) -> None:
    """Policies that the schema does not know stop the start, and the error names the policy and the fault."""
    policy = '@id("wrong") permit (principal, action, resource) when { resource.colour == "red" };'
    server = KubevendServer(tmp_path / "kubevend", policies=policy)

    with pytest.raises(ServerError, match=r"wrong: .*colour"):
        server.start()


def test_what_the_first_start_makes_is_private(start: Start) -> None:
    """The admin's token, the keys, the audit log and the store are for their owner only."""
    vending = start(fresh=True)

    modes = {
        name: stat.S_IMODE((vending.server.folder / name).stat().st_mode)
        for name in ("admin.token", "store.key", "audit.key", "audit.jsonl", "kubevend.db")
    }

    assert modes == dict.fromkeys(modes, 0o600)


def test_plain_text_on_loopback(start: Start, cluster: DevCluster, namespace: str) -> None:
    """With `insecure_loopback` the server is called without TLS, and issues tokens as it does with it."""
    vending = start({"listener": {"insecure_loopback": True, "certificate_file": "", "private_key_file": ""}})
    vending.clients.append(vending.admin)
    vending.admin = Client(vending.server.address, None, vending.server.admin_token)
    vending.add_config(cluster)
    vending.admin.create_role(allowed_namespaces=[namespace])

    reply = vending.admin.issue()

    assert f"{namespace}:demo" in cluster.kubectl("auth", "whoami", token=reply.token)


def test_health_is_open_to_anyone(start: Start) -> None:
    """Check, Watch and List answer without a credential; a stop is told to who watches before it happens."""
    vending = start()
    stub = health_pb2_grpc.HealthStub(vending.client().channel)

    checked = stub.Check(health_pb2.HealthCheckRequest(service="kubevend.v1.IssueService"))
    listed = stub.List(health_pb2.HealthListRequest())
    watched = stub.Watch(health_pb2.HealthCheckRequest())
    before = next(watched)
    vending.server.terminate()
    after = next(watched)
    watched.cancel()

    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert checked.status == serving
    everything = {*SERVICES, "kubevend.policies"}
    assert {name: each.status for name, each in listed.statuses.items()} == dict.fromkeys(everything, serving)
    assert (before.status, after.status) == (serving, not_serving)
    assert vending.server.stop() == 0


def test_grpcurl_finds_its_way(start: Start) -> None:
    """By reflection alone grpcurl lists the services, describes one, calls it, and names fields as proto JSON does."""
    vending = start()

    listed = run_grpcurl(vending, "list")
    described = run_grpcurl(vending, "describe", "kubevend.v1.IssueService")
    called = run_grpcurl(vending, "kubevend.v1.RoleService/ListRoles")
    message = run_grpcurl(vending, "-msg-template", "describe", "kubevend.v1.IssueTokenResponse")

    assert SERVICES - {"", "kubevend.policies"} <= set(listed.split())
    assert "rpc IssueToken" in described
    assert called.strip() == "{}"
    assert '"kubernetesAuditId"' in message


@pytest.mark.parametrize("name", ["grpc.reflection.v1", "grpc.reflection.v1alpha"])
def test_both_reflections_answer(start: Start, name: str) -> None:
    """Both versions of the reflection service are served."""
    vending = start()

    call = vending.client().channel.stream_stream(
        f"/{name}.ServerReflection/ServerReflectionInfo", lambda raw: raw, lambda raw: raw
    )
    # list_services, field 7, of any content.
    reply = next(call(iter([b"\x3a\x01*"])))

    assert b"kubevend.v1.IssueService" in reply


def run_grpcurl(vending: Vending, *arguments: str) -> str:
    """Run grpcurl as the bootstrap admin."""
    folder = vending.server.folder
    options = ["-cacert", str(folder / "ca.crt"), "-H", f"authorization: Bearer {vending.server.admin_token}"]
    flags = [argument for argument in arguments if argument.startswith("-")]
    rest = [argument for argument in arguments if not argument.startswith("-")]
    command = [str(grpcurl()), *options, *flags, vending.server.address, *rest]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_metrics_count(start: Start) -> None:
    """The metrics count issuances and failures by reason, and tell live leases and the next end."""
    with_metrics = start({"metrics": {"address": "127.0.0.1:0"}}, folder="metrics")
    port = until(lambda: metrics_port(with_metrics), "the metrics' port")
    with_metrics.admin.issue_refused("roles/none")

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        text = reply.read().decode()

    assert 'kubevend_issuance_failures_total{reason="ROLE_NOT_FOUND"} 1.0' in text
    assert "kubevend_live_leases 0.0" in text
    assert "kubevend_next_lease_expiry_timestamp_seconds 0.0" in text


def test_the_request_id_joins(start: Start) -> None:
    """A caller's own request id and trace id are in the event, and the id is in the error's details."""
    vending = start()
    trace = "0af7651916cd43dd8448eb211c80319c"
    request_id = "7d8f3f5e-3c55-4b6e-8f0e-2b1d5a9c0d11"
    vending.admin.metadata += (("x-request-id", request_id), ("traceparent", f"00-{trace}-b7ad6b7169203331-01"))

    refusal = vending.admin.issue_refused("roles/none")

    (event,) = vending.events(requestId=request_id)
    assert event["traceId"] == trace
    assert "google.rpc.RequestInfo" in refusal.details


def test_bytes_that_are_no_message(start: Start) -> None:
    """Raw bytes that are no message are INVALID_ARGUMENT, not UNKNOWN, and leave an event."""
    vending = start()
    method = vending.admin.channel.unary_unary("/kubevend.v1.IssueService/IssueToken", lambda raw: raw, lambda raw: raw)

    with pytest.raises(grpc.RpcError) as caught:
        method(b"\xff\xff\xff", metadata=vending.admin.metadata)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert vending.events(reason="REQUEST_MALFORMED")


def test_every_line_is_an_audit_event(vending: Vending) -> None:
    """Every line that a real server writes parses as an AuditEvent, without a field that it does not know."""
    vending.admin.issue()
    vending.admin.issue_refused("roles/none")
    vending.client().issue_refused()
    vending.admin.call(vending.admin.roles.DeleteRole, role_service_pb2.DeleteRoleRequest(name="roles/ci"))

    lines = vending.server.audit_file.read_text().split("\n")[:-1]
    events = [json_format.Parse(line, audit_event_pb2.AuditEvent()) for line in lines]

    assert [event.sequence for event in events] == list(range(1, len(lines) + 1))
    assert len(lines) == 7
