"""Issuing tokens, on the real API server."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import ssl
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from devcluster import DevCluster
from devcluster.certificates import make_loopback_certificate
from kubevend.v1 import config_service_pb2, lease_service_pb2, role_service_pb2
from tests.integration.conftest import Start, Vending, config_of
from tests.support.client import KUBERNETES_AUDIENCE, claims
from tests.support.clusters import issued_jti, make_namespace, token_requests


def seconds(count: int) -> Duration:
    """A protobuf duration."""
    return Duration(seconds=count)


def test_a_token_works_at_the_cluster(vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """A token authenticates at the cluster as exactly the ServiceAccount that was granted."""
    reply = vending.admin.issue()

    who = json.loads(cluster.kubectl("auth", "whoami", "-o", "json", token=reply.token))

    assert who["status"]["userInfo"]["username"] == f"system:serviceaccount:{namespace}:demo"
    assert (reply.namespace, reply.service_account, list(reply.audiences)) == (
        namespace,
        "demo",
        [KUBERNETES_AUDIENCE],
    )


def test_the_reply_tells_what_the_token_says(vending: Vending) -> None:
    """Lifetime, audiences and jti of the reply are those in the token."""
    reply = vending.admin.issue(ttl=seconds(1200))

    said = claims(reply.token)

    assert said["exp"] == reply.token_expiration.seconds == reply.expiration.seconds
    assert said["exp"] - said["iat"] == reply.granted_ttl.seconds == 1200
    assert (said["jti"], said["aud"]) == (reply.jti, list(reply.audiences))


def test_the_logs_join(vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """The jti and the Audit-ID of an audit event are found in the API server's own audit log, and so is the use."""
    reply = vending.admin.issue()
    cluster.kubectl("auth", "whoami", token=reply.token)

    (event,) = vending.events(jti=reply.jti)
    (entry,) = [e for e in token_requests(cluster, namespace) if e["auditID"] == event["kubernetesAuditId"]]
    used = [line for line in cluster.audit_log.read_text().splitlines() if f"JTI={reply.jti}" in line]

    assert issued_jti(entry) == event["jti"] == reply.jti
    assert event["kubernetesAuditId"] == reply.kubernetes_audit_id
    assert len(used) >= 2, "one entry for the issuing, at least one for the use"


def test_the_event_tells_everything(vending: Vending, namespace: str) -> None:
    """An issuance leaves an intent and a completion that say who, what, why, what came of it, and nothing else."""
    reply = vending.admin.issue(ttl=seconds(90000))

    intent, done = vending.events(method="kubevend.v1.IssueService/IssueToken")

    grant = {
        "config": "configs/default",
        "namespace": namespace,
        "serviceAccount": "demo",
        "audiences": [KUBERNETES_AUDIENCE],
        "ttl": "86400s",
    }
    common = {
        "method": "kubevend.v1.IssueService/IssueToken",
        "caller": {"name": "admin://local/bootstrap", "mechanism": "bootstrap_token"},
        "resource": "roles/ci",
        "grant": grant,
        "lease": reply.lease,
        "kubernetesAuditId": reply.kubernetes_audit_id,
    }
    assert steady(intent) == {**common, "stage": "STAGE_INTENT"}
    assert steady(done) == {
        **common,
        "stage": "STAGE_COMPLETE",
        "request": {"role": "roles/ci", "ttl": "90000s"},
        "decision": {
            "policies": ["bootstrap-admin"],
            "rules": [
                "namespace: the only one that roles/ci allows",
                "service_account_name: the only one that roles/ci allows",
                "audiences: the only one that roles/ci allows",
                "ttl: asked",
                "ttl: shortened from 90000s to 86400s by the server's max_ttl",
            ],
        },
        "jti": reply.jti,
        "expiration": reply.expiration.ToDatetime().strftime("%Y-%m-%dT%H:%M:%S.000000Z"),
        "tokenExpiration": reply.token_expiration.ToDatetime().strftime("%Y-%m-%dT%H:%M:%S.000000Z"),
        "warnings": [
            {
                "reason": "TTL_CAPPED_BY_SERVER",
                "message": "The TTL was shortened from 90000s to 86400s by the server's max_ttl.",
                "metadata": {"by": "the server's max_ttl", "from": "90000s", "to": "86400s"},
            }
        ],
        "outcome": "OUTCOME_SUCCEEDED",
        "status": "OK",
    }


def steady(event: dict[str, Any]) -> dict[str, Any]:
    """An event without what differs from run to run; each of those must be there."""
    varying = ["sequence", "time", "requestId", "source", "userAgent", "previousHash", "hash"]
    if event["stage"] == "STAGE_COMPLETE":
        varying.append("duration")
    assert all(event.get(key) for key in varying)
    return {key: value for key, value in event.items() if key not in varying}


def test_the_lease_is_there(vending: Vending, namespace: str) -> None:
    """Every token has its lease, which says to whom, through which role, and until when."""
    reply = vending.admin.issue()

    request = lease_service_pb2.GetLeaseRequest(name=reply.lease)
    lease = vending.admin.call(vending.admin.leases.GetLease, request).lease

    assert lease == lease_service_pb2.Lease(
        name=reply.lease,
        role="roles/ci",
        config="configs/default",
        caller="admin://local/bootstrap",
        namespace=namespace,
        service_account="demo",
        audiences=[KUBERNETES_AUDIENCE],
        state=lease_service_pb2.Lease.STATE_ACTIVE,
        create_time=lease.create_time,
        expire_time=reply.expiration,
        tokens=[
            lease_service_pb2.LeaseToken(
                jti=reply.jti,
                kubernetes_audit_id=reply.kubernetes_audit_id,
                issue_time=lease.create_time,
                expire_time=reply.token_expiration,
            )
        ],
    )


def test_leases_are_listed_in_pages(vending: Vending, namespace: str) -> None:
    """A list goes through all leases of a filter, page by page, the newest first, each once."""
    active = lease_service_pb2.LeaseFilter(namespace=namespace, state=lease_service_pb2.Lease.STATE_ACTIVE)
    expired = lease_service_pb2.LeaseFilter(namespace=namespace, state=lease_service_pb2.Lease.STATE_EXPIRED)
    names = [vending.admin.issue().lease for _ in range(5)]
    found, token = [], ""
    while True:
        request = lease_service_pb2.ListLeasesRequest(filter=active, page_size=2, page_token=token)
        reply = vending.admin.call(vending.admin.leases.ListLeases, request)
        found += [lease.name for lease in reply.leases]
        token = reply.next_page_token
        if not token:
            break
    nothing = lease_service_pb2.ListLeasesRequest(filter=expired)

    assert found == sorted(names, reverse=True)
    assert not vending.admin.call(vending.admin.leases.ListLeases, nothing).leases


def test_a_page_token_is_for_its_own_list(vending: Vending) -> None:
    """A page token with another filter, or one that was changed, is refused."""
    vending.admin.issue()
    vending.admin.issue()
    first = vending.admin.call(vending.admin.leases.ListLeases, lease_service_pb2.ListLeasesRequest(page_size=1))
    other = lease_service_pb2.ListLeasesRequest(
        filter=lease_service_pb2.LeaseFilter(role="roles/ci"), page_size=1, page_token=first.next_page_token
    )
    forged = lease_service_pb2.ListLeasesRequest(page_token="x" + first.next_page_token)

    for request in (other, forged):
        assert vending.admin.refused(vending.admin.leases.ListLeases, request).reason == "PAGE_TOKEN_INVALID"


def test_validate_only_mints_nothing(vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """With validate_only the answer says what would be and why, and nothing is asked of the cluster."""
    reply = vending.admin.issue(validate_only=True, ttl=seconds(1800))

    assert (reply.token, reply.lease, reply.jti, reply.kubernetes_audit_id) == ("", "", "", "")
    assert reply.granted_ttl.seconds == 1800
    assert list(reply.decision.policies) == ["bootstrap-admin"]
    assert not list(token_requests(cluster, namespace))
    assert [e["stage"] for e in vending.events(method="kubevend.v1.IssueService/IssueToken")] == ["STAGE_COMPLETE"]


def test_the_cluster_shortens(start: Start, capped_cluster: DevCluster) -> None:
    """A lifetime that the cluster itself cuts is told with a warning; min_ttl refuses it instead."""
    make_namespace(capped_cluster, "capped")
    vending = start()
    vending.add_config(capped_cluster)
    vending.admin.create_role(allowed_namespaces=["capped"])

    reply = vending.admin.issue(ttl=seconds(7200))
    refusal = vending.admin.issue_refused(ttl=seconds(7200), min_ttl=seconds(7000))

    assert [(w.reason, dict(w.metadata)) for w in reply.warnings] == [
        ("TTL_CAPPED_BY_CLUSTER", {"by": "the cluster's maximum", "from": "7200s", "to": "3600s"})
    ]
    assert reply.granted_ttl.seconds == 3600
    assert claims(reply.token)["exp"] - claims(reply.token)["iat"] == 3600
    assert (refusal.status, refusal.reason) == ("FAILED_PRECONDITION", "MIN_TTL_NOT_MET")
    dropped = vending.events(reason="MIN_TTL_NOT_MET")[0]
    assert (dropped["outcome"], bool(dropped["jti"]), "lease" in dropped) == ("OUTCOME_FAILED", True, False)


def test_several_clusters_at_once(
    vending: Vending, cluster: DevCluster, capped_cluster: DevCluster, namespace: str
) -> None:
    """Each role's tokens come from the cluster of its own config."""
    make_namespace(capped_cluster, namespace)
    vending.add_config(capped_cluster, "other")
    vending.admin.create_role("other", config="configs/other", allowed_namespaces=[namespace])

    here, there = vending.admin.issue("roles/ci"), vending.admin.issue("roles/other")

    for token, its_own, foreign in ((here.token, cluster, capped_cluster), (there.token, capped_cluster, cluster)):
        assert f"{namespace}:demo" in its_own.kubectl("auth", "whoami", token=token)
        with pytest.raises(Exception, match=r"Unauthorized|must be logged in"):
            foreign.kubectl("auth", "whoami", token=token)


@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        ({"namespace": "kube-system"}, "PERMISSION_DENIED", "NAMESPACE_NOT_ALLOWED"),
        ({"service_account_name": "other"}, "PERMISSION_DENIED", "SERVICE_ACCOUNT_NOT_ALLOWED"),
        ({"audiences": ["vault"]}, "PERMISSION_DENIED", "AUDIENCE_NOT_ALLOWED"),
        ({"audiences": ["kubevend"]}, "PERMISSION_DENIED", "AUDIENCE_NOT_ALLOWED"),
        ({"ttl": seconds(599)}, "INVALID_ARGUMENT", "TTL_TOO_SHORT"),
        ({"ttl": seconds(600), "min_ttl": seconds(700)}, "INVALID_ARGUMENT", "MIN_TTL_ABOVE_TTL"),
        ({"min_ttl": seconds(90000)}, "FAILED_PRECONDITION", "MIN_TTL_NOT_MET"),
        ({"namespace": "Not/A/Name"}, "INVALID_ARGUMENT", "FIELD_INVALID"),
        ({"role": "roles/none"}, "NOT_FOUND", "ROLE_NOT_FOUND"),
    ],
)
def test_what_is_not_allowed_is_refused(
    vending: Vending, cluster: DevCluster, namespace: str, fields: dict[str, Any], status: str, reason: str
) -> None:
    """What the role does not allow is refused, recorded with its reason, and never asked of the cluster."""
    refusal = vending.admin.issue_refused(**fields)

    (event,) = vending.events(method="kubevend.v1.IssueService/IssueToken")
    assert (refusal.status, refusal.reason) == (status, reason)
    assert (event["status"], event["reason"], event["message"]) == (status, reason, refusal.message)
    assert not list(token_requests(cluster, namespace))


def test_what_the_cluster_refuses_is_told(vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """A 403, a missing ServiceAccount and a credential that is not accepted are told apart, with what to do."""
    vending.admin.create_role(
        "wide", allowed_namespaces=[namespace, "default"], allowed_service_accounts=["demo", "ghost", "other"]
    )
    vending.add_config(cluster, "expired", service_account_jwt="e30.e30.e30")
    vending.admin.create_role("expired", config="configs/expired", allowed_namespaces=[namespace])

    forbidden = vending.admin.issue_refused("roles/wide", namespace="default", service_account_name="demo")
    missing = vending.admin.issue_refused("roles/wide", namespace=namespace, service_account_name="ghost")
    unauthorized = vending.admin.issue_refused("roles/expired")

    assert (forbidden.status, forbidden.reason) == ("FAILED_PRECONDITION", "KUBERNETES_FORBIDDEN")
    assert forbidden.metadata["identity"] == "system:serviceaccount:kubevend:kubevend"
    assert "serviceaccounts/token" in forbidden.message
    assert "default" in forbidden.message
    assert (missing.status, missing.reason) == ("FAILED_PRECONDITION", "KUBERNETES_NOT_FOUND")
    assert "ghost" in missing.message
    assert (unauthorized.status, unauthorized.reason) == ("FAILED_PRECONDITION", "KUBERNETES_UNAUTHORIZED")


def test_an_untrusted_and_an_absent_server_are_told(
    vending: Vending, cluster: DevCluster, capped_cluster: DevCluster, namespace: str
) -> None:
    """A certificate that the config's CA did not sign, and a port where nobody listens, are told apart."""
    vending.add_config(cluster, "untrusted", kubernetes_ca_cert=capped_cluster.ca_file.read_text())
    vending.add_config(cluster, "absent", kubernetes_host="https://127.0.0.1:9")
    for name in ("untrusted", "absent"):
        vending.admin.create_role(name, config=f"configs/{name}", allowed_namespaces=[namespace])

    untrusted = vending.admin.issue_refused("roles/untrusted")
    absent = vending.admin.issue_refused("roles/absent")

    assert (untrusted.status, untrusted.reason) == ("UNAVAILABLE", "KUBERNETES_UNTRUSTED")
    assert (absent.status, absent.reason) == ("UNAVAILABLE", "KUBERNETES_UNREACHABLE")


def test_the_credential_in_a_file_is_read_again(start: Start, cluster: DevCluster, namespace: str) -> None:
    """A token file that is swapped is used from the next call on, without a restart."""
    vending = start()
    file = vending.server.folder / "credentials" / "token"
    file.write_text("e30.e30.e30")
    vending.add_config(cluster, token_file=str(file))
    vending.admin.create_role(allowed_namespaces=[namespace])

    before = vending.admin.issue_refused()
    file.write_text(cluster.token("kubevend", "kubevend"))
    after = vending.admin.issue()

    assert before.reason == "KUBERNETES_UNAUTHORIZED"
    assert after.token


def test_the_in_cluster_credential(start: Start, cluster: DevCluster, namespace: str) -> None:
    """In a pod, a config without anything uses the pod's own API server, CA and token, and follows its rotation."""
    vending_folder = "pod"
    host, _, port = cluster.server.removeprefix("https://").partition(":")
    environment = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    secrets_folder = cluster.ca_file.parent / f"pod-{namespace}"
    rotate(secrets_folder, "first", "e30.e30.e30", cluster)
    overrides = {"kubernetes": {"service_account_folder": str(secrets_folder)}}
    vending = start(overrides, environment=environment, folder=vending_folder)
    request = config_service_pb2.CreateConfigRequest(config_id="default", config=config_service_pb2.Config())
    vending.admin.call(vending.admin.configs.CreateConfig, request)
    vending.admin.create_role(allowed_namespaces=[namespace])

    before = vending.admin.issue_refused()
    rotate(secrets_folder, "second", cluster.token("kubevend", "kubevend"), cluster)
    after = vending.admin.issue()
    elsewhere = config_service_pb2.CreateConfigRequest(
        config_id="elsewhere", config=config_service_pb2.Config(kubernetes_host="https://attacker.example")
    )
    refusal = vending.admin.refused(vending.admin.configs.CreateConfig, elsewhere)

    assert before.reason == "KUBERNETES_UNAUTHORIZED"
    assert after.token
    assert (refusal.reason, refusal.violations) == ("CONFIG_INVALID", ("config.kubernetes_host",))


def rotate(folder: Any, version: str, token: str, cluster: DevCluster) -> None:
    """Swap a symbolic link, as the kubelet does."""
    (folder / version).mkdir(parents=True)
    (folder / version / "token").write_text(token)
    for name in ("token",):
        link = folder / f"{name}.new"
        link.symlink_to(folder / version / name)
        link.replace(folder / name)
    (folder / "ca.crt").write_text(cluster.ca_file.read_text())


def test_a_config_in_use_stays(vending: Vending, cluster: DevCluster) -> None:
    """While roles or live leases use a config, it cannot be deleted, and its host cannot change."""
    vending.admin.issue()
    name = "configs/default"

    with_role = vending.admin.refused(
        vending.admin.configs.DeleteConfig, config_service_pb2.DeleteConfigRequest(name=name)
    )
    moved = config_of(cluster, name=name, kubernetes_host="https://127.0.0.1:9")
    move = vending.admin.refused(
        vending.admin.configs.UpdateConfig, config_service_pb2.UpdateConfigRequest(config=moved)
    )
    vending.admin.call(vending.admin.roles.DeleteRole, role_service_pb2.DeleteRoleRequest(name="roles/ci"))
    with_lease = vending.admin.refused(
        vending.admin.configs.DeleteConfig, config_service_pb2.DeleteConfigRequest(name=name)
    )

    assert [r.reason for r in (with_role, move, with_lease)] == ["CONFIG_IN_USE"] * 3
    assert "roles/ci" in with_role.message
    assert "live leases" in move.message
    assert "live leases" in with_lease.message


def test_a_changed_role_holds_at_once(vending: Vending) -> None:
    """An update changes the masked fields only, holds from the next call on, and an old etag is refused."""
    role = vending.admin.call(vending.admin.roles.GetRole, role_service_pb2.GetRoleRequest(name="roles/ci")).role
    update = role_service_pb2.UpdateRoleRequest(
        role=role_service_pb2.Role(name="roles/ci", max_ttl=seconds(900), etag=role.etag)
    )

    changed = vending.admin.call(vending.admin.roles.UpdateRole, update).role
    stale = vending.admin.refused(vending.admin.roles.UpdateRole, update)
    reply = vending.admin.issue(ttl=seconds(3600))

    expected = role_service_pb2.Role()
    expected.CopyFrom(role)
    expected.max_ttl.seconds = 900
    expected.etag = changed.etag
    expected.update_time.CopyFrom(changed.update_time)
    assert changed == expected
    assert (stale.status, stale.reason) == ("ABORTED", "ETAG_MISMATCH")
    assert [(w.reason, dict(w.metadata)) for w in reply.warnings] == [
        ("TTL_CAPPED_BY_ROLE", {"by": "max_ttl of roles/ci", "from": "3600s", "to": "900s"})
    ]


def test_roles_and_configs_outlive_a_restart(vending: Vending) -> None:
    """After a restart everything is as it was: configs with their credentials, roles, leases, the chain."""
    lease = vending.admin.issue().lease
    vending.server.stop()
    vending.restart()

    vending.admin.issue()

    request = lease_service_pb2.GetLeaseRequest(name=lease)
    assert vending.admin.call(vending.admin.leases.GetLease, request).lease.name == lease
    assert [int(e["sequence"]) for e in vending.server.events()] == list(range(1, len(vending.server.events()) + 1))


@contextlib.contextmanager
def impostor(folder: Path, answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[tuple[str, str, list[str]]]:
    """An HTTPS server that is no API server: its URL, its CA, and the paths that were asked for."""
    ca_file, certificate, key = make_loopback_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    visits: list[str] = []

    class Impostor(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            visits.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            answer(self)

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Impostor) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://127.0.0.1:{server.server_port}", ca_file.read_text(), visits
        server.shutdown()


def test_a_redirect_is_not_followed(start: Start, cluster: DevCluster, namespace: str, tmp_path: Path) -> None:
    """A server that redirects gets no token sent elsewhere: the call ends, and says why."""

    def redirect(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(307)
        handler.send_header("Location", "/elsewhere")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    vending = start()
    with impostor(tmp_path, redirect) as (host, ca, visits):
        vending.add_config(cluster, kubernetes_host=host, kubernetes_ca_cert=ca)
        vending.admin.create_role(allowed_namespaces=[namespace])
        refusal = vending.admin.issue_refused()

    assert (refusal.status, refusal.reason) == ("UNKNOWN", "OUTCOME_UNKNOWN")
    assert "redirects" in refusal.message
    assert len(visits) == 1


def test_a_cluster_that_lies_harms_itself_only(
    start: Start, cluster: DevCluster, namespace: str, tmp_path: Path
) -> None:
    """A token that is wider than the grant is dropped, odd bytes in headers reach no event, no answer is unfolded."""
    payload = {"jti": "x", "aud": ["https://everything"], "iat": 1_800_000_000, "exp": 1_900_000_000}
    middle = base64.urlsafe_b64encode(json.dumps(payload).encode()).decode().rstrip("=")
    wide = {"spec": {"expirationSeconds": 3600}, "status": {"token": f"e30.{middle}.e30"}}
    bomb = gzip.compress(bytes(1 << 24))
    answers = [(json.dumps(wide).encode(), "identity"), (bomb, "gzip")]

    def lie(handler: BaseHTTPRequestHandler) -> None:
        body, encoding = answers.pop(0)
        handler.send_response(201)
        handler.send_header("Audit-Id", "\xff")
        handler.send_header("Warning", '299 - "\xff"')
        handler.send_header("Content-Encoding", encoding)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    vending = start()
    with impostor(tmp_path, lie) as (host, ca, _visits):
        vending.add_config(cluster, kubernetes_host=host, kubernetes_ca_cert=ca)
        vending.admin.create_role(allowed_namespaces=[namespace])
        refusals = [vending.admin.issue_refused().reason for _ in range(2)]

    done = vending.events(method="kubevend.v1.IssueService/IssueToken", stage="STAGE_COMPLETE")
    assert refusals == ["TOKEN_NOT_AS_GRANTED", "OUTCOME_UNKNOWN"]
    assert [event["reason"] for event in done] == refusals
    assert done[0]["jti"] == "x"


def test_a_large_request_is_refused_in_a_few_words(vending: Vending) -> None:
    """A message that breaks its rules 100,000 times gets a short answer, and leaves a short line."""
    refusal = vending.admin.issue_refused(audiences=[""] * 100_000)

    (event,) = vending.events(method="kubevend.v1.IssueService/IssueToken")
    assert (refusal.status, refusal.reason) == ("INVALID_ARGUMENT", "FIELD_INVALID")
    assert len(json.dumps(event)) < 5000


def test_an_issuance_is_counted(start: Start, cluster: DevCluster, namespace: str) -> None:
    """The metrics have each issuance by role, the live lease, and when it ends."""
    vending = start({"metrics": {"address": "127.0.0.1:0"}})
    vending.add_config(cluster)
    vending.admin.create_role(allowed_namespaces=[namespace])
    reply = vending.admin.issue()
    (line,) = [line for line in vending.server.log_file.read_text().splitlines() if '"event": "metrics"' in line]

    url = f"http://127.0.0.1:{json.loads(line)['port']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()

    assert 'kubevend_issuances_total{role="roles/ci"} 1.0' in text
    assert "kubevend_live_leases 1.0" in text
    (end,) = [line.split()[1] for line in text.splitlines() if line.startswith("kubevend_next_lease_expiry")]
    assert float(end) == reply.expiration.seconds
