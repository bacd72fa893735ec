"""Every failure of a cluster told apart, on the real API server: its reason, its words, its details."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from devcluster import DevCluster
from kubevend.v1 import config_service_pb2, issue_service_pb2, lease_service_pb2, role_service_pb2
from tests.integration.conftest import Start, Vending
from tests.support.client import Refusal
from tests.support.clusters import VENDOR, admit_tokens_alone, admit_tokens_by, grant_everywhere, throttle
from tests.support.https import impostor, reply
from tests.support.identities import client_certificate, expired_token
from tests.support.proxy import HoldingProxy
from tests.support.waiting import until

ALWAYS = ("google.rpc.ErrorInfo", "google.rpc.RequestInfo")
BAD_REQUEST = (*ALWAYS, "google.rpc.BadRequest")
PRECONDITION = (*ALWAYS, "google.rpc.PreconditionFailure")
RETRY = (*ALWAYS, "google.rpc.RetryInfo")


def check(refusal: Refusal, status: str, reason: str, details: tuple[str, ...], *words: str) -> None:
    """Hold a refusal against what it must be; each of `words` must be in its message."""
    assert (refusal.status, refusal.reason, refusal.details) == (status, reason, details), refusal
    missing = [word for word in words if word not in refusal.message]
    assert not missing, f"{missing} is not in: {refusal.message}"


def refused_by(vending: Vending, cluster: DevCluster, namespace: str, **config: Any) -> Refusal:
    """Ask for a token through a config of its own."""
    vending.add_config(cluster, "broken", **config)
    vending.admin.create_role("broken", config="configs/broken", allowed_namespaces=[namespace])
    return vending.admin.issue_refused("roles/broken")


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("https://127.0.0.1:9", "Connection refused"),
        ("https://api.nowhere.invalid:6443", "its name cannot be looked up"),
    ],
)
def test_unreachable(vending: Vending, cluster: DevCluster, namespace: str, host: str, words: str) -> None:
    """A host where nobody listens, or that has no address, is named with the config to mend."""
    refusal = refused_by(vending, cluster, namespace, kubernetes_host=host)

    check(refusal, "UNAVAILABLE", "KUBERNETES_UNREACHABLE", ALWAYS, host, words, "kubernetes_host of configs/broken")


def test_timed_out(start: Start, cluster: DevCluster, namespace: str) -> None:
    """A request that was sent and not answered in time says that its outcome is unknown, and where it can be found."""
    vending = start({"kubernetes": {"request_timeout_seconds": 1.0}})
    with HoldingProxy(cluster.server) as proxy:
        vending.add_config(cluster, kubernetes_host=proxy.url)
        vending.admin.create_role(allowed_namespaces=[namespace])
        vending.admin.issue()  # so that a connection is there
        proxy.hold_replies()
        refusal = vending.admin.issue_refused()
        proxy.release()

    audit_id = refusal.metadata["kubernetes_audit_id"]
    check(refusal, "UNKNOWN", "KUBERNETES_TIMED_OUT", ALWAYS, "request_timeout_seconds", f"auditID {audit_id}")
    assert cluster.audit_log.read_text().count(audit_id) >= 1
    assert vending.events(reason="KUBERNETES_TIMED_OUT")[0]["outcome"] == "OUTCOME_UNKNOWN"


def test_connection_lost(vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """A connection that breaks before the answer is told as such."""
    with HoldingProxy(cluster.server) as proxy, ThreadPoolExecutor() as pool:
        vending.add_config(cluster, "proxied", kubernetes_host=proxy.url)
        vending.admin.create_role("proxied", config="configs/proxied", allowed_namespaces=[namespace])
        vending.admin.issue("roles/proxied")
        proxy.hold_replies()
        refused = pool.submit(vending.admin.issue_refused, "roles/proxied")
        assert proxy.held.wait(30)
        proxy.cut()
        refusal = refused.result()

    check(refusal, "UNKNOWN", "KUBERNETES_CONNECTION_LOST", ALWAYS, "the connection was lost", "auditID")


def test_busy(start: Start, cluster: DevCluster, namespace: str) -> None:
    """Where every connection is taken, the caller is told which setting bounds them, and when to come again."""
    vending = start({"kubernetes": {"max_connections": 1, "connect_timeout_seconds": 1.0}})
    with HoldingProxy(cluster.server) as proxy, ThreadPoolExecutor() as pool:
        vending.add_config(cluster, kubernetes_host=proxy.url)
        vending.admin.create_role(allowed_namespaces=[namespace])
        vending.admin.issue()
        proxy.hold_replies()
        held = pool.submit(vending.admin.issue)
        assert proxy.held.wait(30)
        refusal = vending.admin.issue_refused()
        proxy.release()
        held.result()

    check(refusal, "RESOURCE_EXHAUSTED", "CLUSTER_BUSY", RETRY, "All 1 connections", "kubernetes.max_connections")


def test_signed_by_another_ca(
    vending: Vending, cluster: DevCluster, capped_cluster: DevCluster, namespace: str
) -> None:
    """A certificate that the config's CA did not sign: the field to set, and the command that prints the right CA."""
    other = capped_cluster.ca_file.read_text()

    refusal = refused_by(vending, cluster, namespace, kubernetes_ca_cert=other)

    words = ("kubernetes_ca_cert of configs/broken", "kubectl config view --raw", "certificate-authority-data")
    check(refusal, "FAILED_PRECONDITION", "KUBERNETES_UNTRUSTED", PRECONDITION, cluster.server, *words)


def test_certificate_for_another_name(vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """A certificate for another address than the config's host is told as that, not as one of a wrong CA."""
    with HoldingProxy(cluster.server, "127.0.0.2") as proxy:
        refusal = refused_by(vending, cluster, namespace, kubernetes_host=proxy.url)

    asks = f"openssl s_client -connect {proxy.url.removeprefix('https://')} </dev/null | openssl x509"
    words = (proxy.url, "IP address mismatch", "Set kubernetes_host of configs/broken", asks)
    check(refusal, "FAILED_PRECONDITION", "KUBERNETES_UNTRUSTED", PRECONDITION, *words)


@pytest.fixture
def plain_http() -> Iterator[str]:
    """A server that speaks plain HTTP."""
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_no_tls(vending: Vending, cluster: DevCluster, namespace: str, plain_http: str) -> None:
    """A port that does not speak TLS is told as that."""
    refusal = refused_by(vending, cluster, namespace, kubernetes_host=plain_http)

    words = (plain_http, "does not speak TLS", "kubernetes_host of configs/broken", "kubectl cluster-info")
    check(refusal, "FAILED_PRECONDITION", "KUBERNETES_TLS_FAILED", PRECONDITION, *words)


def test_something_else_answers(vending: Vending, cluster: DevCluster, namespace: str, tmp_path: Path) -> None:
    """An HTTPS server that is no API server is told as that."""
    with impostor(tmp_path, lambda handler: reply(handler, 404, b"<html>")) as (host, ca, _):
        refusal = refused_by(vending, cluster, namespace, kubernetes_host=host, kubernetes_ca_cert=ca)

    words = (host, "is not a Kubernetes API server", "answers 404", "kubernetes_host of configs/broken")
    check(refusal, "FAILED_PRECONDITION", "NOT_KUBERNETES", PRECONDITION, *words)


def test_credential_refused(vending: Vending, cluster: DevCluster, capped_cluster: DevCluster, namespace: str) -> None:
    """Another cluster's token is refused by naming the config and which of its credentials it was."""
    refusal = refused_by(vending, cluster, namespace, service_account_jwt=capped_cluster.token("kubevend", "kubevend"))

    words = ("configs/broken", "service_account_jwt", "of another cluster", "kubectl create token")
    check(refusal, "FAILED_PRECONDITION", "KUBERNETES_UNAUTHORIZED", PRECONDITION, *words)


def test_credential_expired(vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """An expired token is told as that, with the file that it is in and since when."""
    file = vending.server.folder / "credentials" / "token"
    file.write_text(expired_token(cluster, "kubevend", "kubevend"))

    refusal = refused_by(vending, cluster, namespace, token_file=str(file))

    command = "`kubectl create token kubevend --namespace=kubevend` makes one for the same ServiceAccount"
    words = (str(file), "configs/broken", f"it expired at {refusal.metadata['expired']}", "Put a fresh one", command)
    check(refusal, "FAILED_PRECONDITION", "KUBERNETES_UNAUTHORIZED", PRECONDITION, *words)


def test_a_stored_credential_expired(vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """Of a token that is in the config itself, the refusal says by which call a fresh one is given."""
    refusal = refused_by(
        vending, cluster, namespace, service_account_jwt=expired_token(cluster, "kubevend", "kubevend")
    )

    update = 'UpdateConfig \'{"config":{"name":"configs/broken","serviceAccountJwt":"TOKEN"}}\' takes it'
    words = ("the stored token", "it expired at", "`kubectl create token kubevend --namespace=kubevend`", update)
    check(refusal, "FAILED_PRECONDITION", "KUBERNETES_UNAUTHORIZED", PRECONDITION, *words)


def test_a_credential_for_another_audience(vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """A token that was made for somebody else than the API server is refused by telling for whom it is."""
    refusal = refused_by(
        vending, cluster, namespace, service_account_jwt=cluster.token("kubevend", "kubevend", audience="vault")
    )

    words = ("configs/broken", "for another audience than the API server's (it is for vault)")
    check(refusal, "FAILED_PRECONDITION", "KUBERNETES_UNAUTHORIZED", PRECONDITION, *words)


def test_a_client_certificate_refused(
    vending: Vending, cluster: DevCluster, capped_cluster: DevCluster, namespace: str
) -> None:
    """A client certificate that another cluster signed is told as that, and how one is made that will do."""
    certificate, private_key = client_certificate(capped_cluster, "kubevend")
    pair = config_service_pb2.ClientCertificate(certificate=certificate, private_key=private_key)

    refusal = refused_by(vending, cluster, namespace, client_certificate=pair)

    update = '"clientCertificate":{"certificate":"PEM","privateKey":"PEM"}}}\' takes it'
    words = ("the client certificate (configs/broken)", "not signed by", "kubernetes.io/kube-apiserver-client", update)
    check(refusal, "FAILED_PRECONDITION", "KUBERNETES_UNAUTHORIZED", PRECONDITION, *words)


def test_no_right(vending: Vending) -> None:
    """RBAC that lacks altogether: who lacks what and where, that the namespace may not exist, and what grants it."""
    vending.admin.create_role("elsewhere", allowed_namespaces=["nowhere"])

    refusal = vending.admin.issue_refused("roles/elsewhere")

    words = (
        VENDOR,
        "create on serviceaccounts/token in namespace 'nowhere'",
        "may also not exist",
        "is a slip",
        "CheckConfig",
    )
    check(refusal, "FAILED_PRECONDITION", "KUBERNETES_FORBIDDEN", PRECONDITION, *words)
    assert (refusal.metadata["identity"], refusal.metadata["namespace"]) == (VENDOR, "nowhere")


def test_the_commands_in_a_refusal_mend_it(vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """The kubectl commands that a refusal prints, run as they stand, are enough."""
    cluster.kubectl("create", "serviceaccount", "web", f"--namespace={namespace}")
    vending.admin.create_role("web", allowed_namespaces=[namespace], allowed_service_accounts=["web"])
    refusal = vending.admin.issue_refused("roles/web")
    commands = refusal.message[refusal.message.index("kubectl create role") :].partition("`")[0].split(" && ")

    for command in commands:
        cluster.kubectl(*command.split()[1:])

    assert len(commands) == 2
    assert until(lambda: issued(vending, "roles/web"), "the role binding to come into force").service_account == "web"


@pytest.mark.parametrize("broken", ["kubernetes_host", "kubernetes_ca_cert"])
def test_the_update_in_a_refusal_mends_it(
    vending: Vending, cluster: DevCluster, capped_cluster: DevCluster, namespace: str, broken: str
) -> None:
    """The call that a refusal prints, with its capitals filled in as the refusal says, is enough."""
    wrong = {"kubernetes_host": "https://127.0.0.1:9", "kubernetes_ca_cert": capped_cluster.ca_file.read_text()}
    refusal = refused_by(vending, cluster, namespace, **{broken: wrong[broken]})
    printed = refusal.message.partition("ConfigService/UpdateConfig '")[2].partition("'")[0]
    # As `awk '{printf "%s\\n", $0}'` writes it.
    authority = cluster.ca_file.read_text().replace("\n", "\\n")
    for words, value in (
        ("https://HOST:PORT", cluster.server),
        ("PEM", authority),
        ("TOKEN", cluster.token("kubevend", "kubevend")),
    ):
        printed = printed.replace(f'"{words}"', f'"{value}"')

    config = json_format.Parse(printed, config_service_pb2.UpdateConfigRequest())
    vending.admin.call(vending.admin.configs.UpdateConfig, config)

    assert vending.admin.issue("roles/broken").token


def issued(vending: Vending, role: str) -> issue_service_pb2.IssueTokenResponse | None:
    """A token, or None where it is refused for want of a right."""
    try:
        return vending.admin.issue(role)
    except Exception as error:
        if "RBAC" in str(error) or "resourceNames" in str(error):
            return None
        raise


def test_resource_names(vending: Vending, namespace: str) -> None:
    """A Role whose resourceNames leave the ServiceAccount out is told apart from none, without those that it has."""
    vending.admin.create_role("other", allowed_namespaces=[namespace], allowed_service_accounts=["other"])

    refusal = vending.admin.issue_refused("roles/other")

    words = (VENDOR, "resourceNames of its Kubernetes Role", "'other' is not among them", "--resource-name=other")
    check(refusal, "FAILED_PRECONDITION", "KUBERNETES_RESOURCE_NAMES", PRECONDITION, *words)
    assert "ghost" not in f"{refusal.message}{refusal.metadata}"


def test_namespace_missing(vending: Vending, cluster: DevCluster) -> None:
    """Where kubevend's rights are wide enough to know that a namespace does not exist, it says so."""
    grant_everywhere(cluster, "wide")
    token = cluster.token("kubevend", "wide")

    refusal = refused_by(vending, cluster, "nowhere", service_account_jwt=token)

    words = ("has no namespace 'nowhere'", "kubectl create namespace nowhere")
    check(refusal, "FAILED_PRECONDITION", "KUBERNETES_NAMESPACE_NOT_FOUND", PRECONDITION, *words)


def test_namespace_terminating(vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """A namespace that is being deleted is told as that."""
    grant_everywhere(cluster, "wide")
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")

    refusal = refused_by(vending, cluster, namespace, service_account_jwt=cluster.token("kubevend", "wide"))

    words = (namespace, "is being deleted")
    check(refusal, "FAILED_PRECONDITION", "KUBERNETES_NAMESPACE_TERMINATING", PRECONDITION, *words)


def test_service_account_missing(vending: Vending, namespace: str) -> None:
    """A ServiceAccount that is not there is named with the command that makes it."""
    vending.admin.create_role("ghost", allowed_namespaces=[namespace], allowed_service_accounts=["ghost"])

    refusal = vending.admin.issue_refused("roles/ghost")

    words = ("has no ServiceAccount 'ghost'", f"kubectl create serviceaccount ghost --namespace={namespace}")
    check(refusal, "FAILED_PRECONDITION", "KUBERNETES_SERVICE_ACCOUNT_NOT_FOUND", PRECONDITION, *words)


def admission(handler: Any, **response: Any) -> None:
    """Answer as an admission webhook."""
    said = {"uid": json.loads(handler.body)["request"]["uid"], **response}
    answer = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": said}
    reply(handler, 200, json.dumps(answer).encode(), Content_Type="application/json")


def test_throttled(vending: Vending, cluster: DevCluster, namespace: str, tmp_path: Path) -> None:
    """A 429 of the API server's own priority and fairness is passed on with its delay."""
    grant_everywhere(cluster, "throttled")
    throttle(cluster, "throttled")
    vending.add_config(cluster, "throttled", service_account_jwt=cluster.token("kubevend", "throttled"))
    vending.admin.create_role("throttled", config="configs/throttled", allowed_namespaces=[namespace])
    holding, entered, may_leave = threading.Event(), threading.Event(), threading.Event()

    def hold(handler: Any) -> None:
        if holding.is_set():
            entered.set()
            assert may_leave.wait(30)
        admission(handler, allowed=True)

    with impostor(tmp_path, hold) as (url, ca, visits), ThreadPoolExecutor() as pool:
        admit_tokens_by(cluster, namespace, url, ca)
        until(lambda: cluster.token(namespace, "demo") and visits, "the webhook to come into force")
        holding.set()
        held = pool.submit(vending.admin.issue, "roles/throttled")
        assert entered.wait(30)
        refusal = vending.admin.issue_refused("roles/throttled")
        may_leave.set()
        held.result()
        admit_tokens_alone(cluster, namespace)

    words = ("throttles kubevend", "RetryInfo", "FlowSchemas")
    check(refusal, "RESOURCE_EXHAUSTED", "KUBERNETES_THROTTLED", RETRY, *words)


def refusal_of(vending: Vending, role: str, reason: str = "") -> Refusal | None:
    """The refusal of an issuance, of this reason where one is given; None while it is issued."""
    try:
        refusal = vending.admin.issue_refused(role)
    except AssertionError:
        return None
    return refusal if reason in ("", refusal.reason) else None


@pytest.mark.parametrize(
    ("code", "status", "reason", "details", "words"),
    [
        (409, "ABORTED", "KUBERNETES_CONFLICT", RETRY, "because of a conflict"),
        (403, "FAILED_PRECONDITION", "KUBERNETES_DENIED", PRECONDITION, "An admission policy or webhook"),
        (400, "FAILED_PRECONDITION", "KUBERNETES_REJECTED", PRECONDITION, "rejected"),
        (500, "UNAVAILABLE", "KUBERNETES_UNAVAILABLE", RETRY, "failed with 500"),
    ],
)
def test_what_admission_says(
    vending: Vending,
    cluster: DevCluster,
    namespace: str,
    tmp_path: Path,
    code: int,
    status: str,
    reason: str,
    details: tuple[str, ...],
    words: str,
) -> None:
    """What an admission webhook of the real API server answers is told apart, in the webhook's own words."""

    def admit(handler: Any) -> None:
        admission(handler, allowed=False, status={"code": code, "message": "not on a Friday"})

    with impostor(tmp_path, admit) as (url, ca, _):
        admit_tokens_by(cluster, namespace, url, ca)
        refusal = until(lambda: refusal_of(vending, "roles/ci"), "the webhook to come into force")
        admit_tokens_alone(cluster, namespace)

    check(refusal, status, reason, details, words, "not on a Friday")


def test_an_oversized_message(vending: Vending) -> None:
    """What is larger than the server takes is refused by grpc-core itself, so without details, and leaves an event."""
    refusal = vending.admin.issue_refused(audiences=["x" * 300_000])

    assert (refusal.status, refusal.reason, refusal.details) == ("RESOURCE_EXHAUSTED", "", ())
    assert "larger than max" in refusal.message
    (event,) = vending.events(method="kubevend.v1.IssueService/IssueToken")
    assert (event["outcome"], event["reason"]) == ("OUTCOME_FAILED", "REQUEST_MISSING")


def test_names_that_are_taken(vending: Vending, cluster: DevCluster) -> None:
    """A second resource of one name is told as that, with what to do."""
    admin = vending.admin
    config = config_service_pb2.Config(kubernetes_host=cluster.server, service_account_jwt="x")
    again = config_service_pb2.CreateConfigRequest(config_id="default", config=config)

    refusal = admin.refused(admin.configs.CreateConfig, again)
    role = admin.call(admin.roles.GetRole, role_service_pb2.GetRoleRequest(name="roles/ci")).role
    second = admin.refused(admin.roles.CreateRole, role_service_pb2.CreateRoleRequest(role_id="ci", role=role))

    words = ("configs/default exists already", "UpdateConfig")
    check(refusal, "ALREADY_EXISTS", "CONFIG_EXISTS", ALWAYS, *words)
    check(second, "ALREADY_EXISTS", "ROLE_EXISTS", ALWAYS, "roles/ci exists already", "UpdateRole")


@pytest.mark.parametrize(
    ("field", "value", "reason", "words"),
    [
        ("namespace", "apps", "NAMESPACE_REQUIRED", ("roles/two allows apps, web", "set namespace")),
        (
            "service_account_name",
            "demo",
            "SERVICE_ACCOUNT_REQUIRED",
            ("roles/two allows demo, ghost", "set service_account_name"),
        ),
        ("audiences", ["a"], "AUDIENCE_REQUIRED", ("roles/two allows the audiences a, b", "set audiences")),
    ],
)
def test_what_a_role_leaves_open_must_be_said(
    vending: Vending, field: str, value: Any, reason: str, words: tuple[str, ...]
) -> None:
    """Where a role allows several, the request that does not say which is told the field and what it can be."""
    vending.admin.create_role(
        "two",
        allowed_namespaces=["apps", "web"],
        allowed_service_accounts=["demo", "ghost"],
        allowed_audiences=["a", "b"],
    )
    whole = {"namespace": "apps", "service_account_name": "demo", "audiences": ["a"], "validate_only": True}

    refusal = vending.admin.issue_refused("roles/two", **{name: whole[name] for name in whole if name != field})

    check(refusal, "INVALID_ARGUMENT", reason, BAD_REQUEST, *words)
    assert refusal.violations == (field,)
    assert vending.admin.issue("roles/two", **{**whole, field: value}).namespace == "apps"


def test_a_config_moves_with_its_credential(vending: Vending, cluster: DevCluster) -> None:
    """Another host without the credential is refused by naming the field that is missing, and then taken with it."""
    admin = vending.admin
    config = config_service_pb2.Config(name="configs/default", kubernetes_host="https://127.0.0.1:9")

    refusal = admin.refused(admin.configs.UpdateConfig, config_service_pb2.UpdateConfigRequest(config=config))

    words = ("give configs/default its credential again", "in the same UpdateConfig, as service_account_jwt")
    check(refusal, "INVALID_ARGUMENT", "CREDENTIAL_REQUIRED", BAD_REQUEST, *words)
    assert refusal.violations == ("config.service_account_jwt",)
    config.service_account_jwt = cluster.token("kubevend", "kubevend")
    admin.call(admin.configs.UpdateConfig, config_service_pb2.UpdateConfigRequest(config=config))


def test_a_role_that_cannot_be(vending: Vending) -> None:
    """A role that contradicts itself is refused by every field at fault, a mask by the fields that it can name."""
    admin = vending.admin
    role = role_service_pb2.Role(
        allowed_namespaces=["apps"],
        allowed_service_accounts=["demo"],
        allowed_audiences=["a"],
        ttl=Duration(seconds=60),
        max_ttl=Duration(seconds=30),
    )
    masked = role_service_pb2.UpdateRoleRequest(
        role=role_service_pb2.Role(name="roles/ci"), update_mask=FieldMask(paths=["create_time"])
    )

    impossible = admin.refused(admin.roles.CreateRole, role_service_pb2.CreateRoleRequest(role_id="no", role=role))
    refusal = admin.refused(admin.roles.UpdateRole, masked)

    check(impossible, "INVALID_ARGUMENT", "ROLE_INVALID", BAD_REQUEST, "role.ttl: 60s is less than 600s")
    assert {"role.ttl", "role.max_ttl"} <= set(impossible.violations)
    check(refusal, "INVALID_ARGUMENT", "UPDATE_MASK_INVALID", BAD_REQUEST, "create_time", "allowed_namespaces")


def test_a_lease_that_is_none(vending: Vending) -> None:
    """A lease that is not there is told with what lists those that are."""
    request = lease_service_pb2.GetLeaseRequest(name=f"leases/{'0' * 26}")

    refusal = vending.admin.refused(vending.admin.leases.GetLease, request)

    check(refusal, "NOT_FOUND", "LEASE_NOT_FOUND", ALWAYS, request.name, "ListLeases")
