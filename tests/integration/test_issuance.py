"""Issuing tokens, on the real API server."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from devcluster import DevCluster
from kubevend.v1 import lease_service_pb2, role_service_pb2
from tests.integration.conftest import Start, Vending
from tests.support.client import KUBERNETES_AUDIENCE, claims
from tests.support.clusters import issued_jti, make_namespace, token_requests
from tests.support.events import steady


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


def test_the_lease_is_there(vending: Vending, namespace: str) -> None:
    """Every token has its lease, which says to whom, through which role, and until when."""
    reply = vending.admin.issue()

    request = lease_service_pb2.GetLeaseRequest(name=reply.lease)
    lease = vending.admin.call(vending.admin.leases.GetLease, request).lease

    (token,) = lease.tokens
    assert lease == lease_service_pb2.Lease(
        name=reply.lease,
        role="roles/ci",
        config="configs/default",
        caller="admin://local/bootstrap",
        namespace=namespace,
        service_account="demo",
        audiences=[KUBERNETES_AUDIENCE],
        state=lease_service_pb2.Lease.STATE_ACTIVE,
        revocation=role_service_pb2.REVOCATION_NONE,
        create_time=lease.create_time,
        expire_time=reply.expiration,
        tokens=[
            lease_service_pb2.LeaseToken(
                jti=reply.jti,
                kubernetes_audit_id=reply.kubernetes_audit_id,
                issue_time=token.issue_time,
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


@pytest.mark.parametrize(
    ("fields", "status", "reason", "words"),
    [
        (
            {"namespace": "kube-system"},
            "PERMISSION_DENIED",
            "NAMESPACE_NOT_ALLOWED",
            ["it allows test-", "Ask for one of those", "allowed_namespaces of roles/ci extended"],
        ),
        (
            {"service_account_name": "other"},
            "PERMISSION_DENIED",
            "SERVICE_ACCOUNT_NOT_ALLOWED",
            ["it allows demo", "Ask for one of those", "allowed_service_accounts of roles/ci extended"],
        ),
        (
            {"audiences": ["vault"]},
            "PERMISSION_DENIED",
            "AUDIENCE_NOT_ALLOWED",
            ["'vault'", f"it allows {KUBERNETES_AUDIENCE}", "allowed_audiences of roles/ci extended"],
        ),
        ({"audiences": ["kubevend"]}, "PERMISSION_DENIED", "AUDIENCE_NOT_ALLOWED", ["'kubevend'"]),
        ({"ttl": seconds(599)}, "INVALID_ARGUMENT", "TTL_TOO_SHORT", ["ttl is 599s", "ask for 600s or more"]),
        (
            {"ttl": seconds(600), "min_ttl": seconds(700)},
            "INVALID_ARGUMENT",
            "MIN_TTL_ABOVE_TTL",
            ["min_ttl", "700s", "600s"],
        ),
        (
            {"min_ttl": seconds(90000)},
            "FAILED_PRECONDITION",
            "MIN_TTL_NOT_MET",
            ["min_ttl is 90000s", "would live 3600s only", "Ask for a longer ttl"],
        ),
        (
            {"namespace": "Not/A/Name"},
            "INVALID_ARGUMENT",
            "FIELD_INVALID",
            ["namespace is 'Not/A/Name'", "must be the name of a namespace"],
        ),
        ({"role": "roles/none"}, "NOT_FOUND", "ROLE_NOT_FOUND", ["roles/none", "ListRoles"]),
    ],
)
def test_what_is_not_allowed_is_refused(
    vending: Vending,
    cluster: DevCluster,
    namespace: str,
    fields: dict[str, Any],
    status: str,
    reason: str,
    words: list[str],
) -> None:
    """What the role does not allow is refused with what to do, recorded, and never asked of the cluster."""
    refusal = vending.admin.issue_refused(**fields)

    named = {"INVALID_ARGUMENT": ["google.rpc.BadRequest"], "FAILED_PRECONDITION": ["google.rpc.PreconditionFailure"]}
    assert list(refusal.details) == ["google.rpc.ErrorInfo", "google.rpc.RequestInfo", *named.get(status, [])]
    assert not [word for word in words if word not in refusal.message], refusal.message
    (event,) = vending.events(method="kubevend.v1.IssueService/IssueToken")
    assert (refusal.status, refusal.reason) == (status, reason)
    assert (event["status"], event["reason"], event["message"]) == (status, reason, refusal.message)
    assert not list(token_requests(cluster, namespace))


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
    assert "read it again, and make the change to what you get" in stale.message
    assert stale.details == ("google.rpc.ErrorInfo", "google.rpc.RequestInfo")
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
