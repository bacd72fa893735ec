"""Configs and the clusters behind them: credentials, refusals, clusters that fail or lie."""

from __future__ import annotations

import base64
import gzip
import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from devcluster import DevCluster
from kubevend.v1 import config_service_pb2, role_service_pb2
from tests.integration.conftest import Start, Vending, config_of
from tests.support.clusters import make_namespace
from tests.support.https import impostor


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
    assert (missing.status, missing.reason) == ("FAILED_PRECONDITION", "KUBERNETES_SERVICE_ACCOUNT_NOT_FOUND")
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

    assert (untrusted.status, untrusted.reason) == ("FAILED_PRECONDITION", "KUBERNETES_UNTRUSTED")
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
    assert {(r.status, r.details[2]) for r in (with_role, move, with_lease)} == {
        ("FAILED_PRECONDITION", "google.rpc.PreconditionFailure")
    }
    assert "roles/ci" in with_role.message
    assert "live leases" in move.message
    assert "live leases" in with_lease.message


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

    assert (refusal.status, refusal.reason) == ("FAILED_PRECONDITION", "NOT_KUBERNETES")
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
    assert refusals == ["TOKEN_NOT_AS_GRANTED", "KUBERNETES_UNREADABLE"]
    assert [event["reason"] for event in done] == refusals
    assert done[0]["jti"] == "x"
