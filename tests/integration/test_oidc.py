"""Callers with tokens of OIDC issuers, at a server that checks them for real."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from devcluster import DevCluster
from devcluster.server import BOOTSTRAP_POLICY
from tests.integration.conftest import Start, Vending
from tests.support.client import KUBERNETES_AUDIENCE, Refusal
from tests.support.clusters import make_namespace
from tests.support.events import steady
from tests.support.issuer import Issuer, rsa_key
from tests.support.waiting import until

ISSUE = "kubevend.v1.IssueService/IssueToken"
NAMESPACE = "test-oidc"
POLICY = """
@id("main-of-shop")
permit (principal is OidcSubject, action == Action::"IssueToken", resource == Role::"roles/ci")
when { principal.issuer == "actions" && principal.hasTag("repository") && principal.getTag("repository") == "acme/shop"
       && principal.hasTag("ref") && principal.getTag("ref") == "refs/heads/main" };

@id("late")
permit (principal in Group::"late:ops", action == Action::"IssueToken", resource == Role::"roles/ci");

@id("cluster")
permit (principal, action == Action::"IssueToken", resource == Role::"roles/ci")
when { principal.name == "oidc://cluster/system%3Aserviceaccount%3Atest-oidc%3Ademo" };
"""


@pytest.fixture(scope="module")
def actions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    """An issuer such as that of GitHub Actions."""
    with Issuer(tmp_path_factory.mktemp("actions")) as started:
        yield started


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    """An issuer that is down; its port is known."""
    issuer = Issuer(tmp_path_factory.mktemp("late"))
    with issuer:
        issuer.stop()
        yield issuer


@pytest.fixture(scope="module")
def vending(start_for_all: Start, cluster: DevCluster, actions: Issuer, late: Issuer) -> Vending:
    """A server for which both may vouch, and the cluster itself as an issuer; with a role for the namespace."""
    make_namespace(cluster, NAMESPACE)
    # Else nobody reads a cluster's keys without a credential.
    discovery = "--clusterrole=system:service-account-issuer-discovery"
    cluster.kubectl("create", "clusterrolebinding", "keys-for-all", discovery, "--group=system:unauthenticated")
    issuers = {
        "actions": {"issuer": actions.url, "ca_file": str(actions.ca_file), "claims": ["repository", "ref"]},
        "late": {"issuer": late.url, "ca_file": str(late.ca_file), "groups_claim": "teams"},
        "cluster": {
            "issuer": "https://kubernetes.default.svc",
            "jwks_url": f"{cluster.server}/openid/v1/jwks",
            "ca_file": str(cluster.ca_file),
        },
    }
    begun = start_for_all({"callers": {"issuers": issuers}}, policies=BOOTSTRAP_POLICY + POLICY)
    begun.add_config(cluster)
    begun.admin.create_role(allowed_namespaces=[NAMESPACE])
    return begun


def test_a_job_gets_a_token(vending: Vending, actions: Issuer) -> None:
    """A job of the right repository and branch is issued a token, and the event says whose it is, by which policy."""
    reply = vending.client(actions.token(jti="job-7")).issue()

    intent, done = vending.events(lease=reply.lease)
    common = {
        "method": ISSUE,
        "caller": {
            "name": "oidc://actions/repo%3Aacme%2Fshop%3Aref%3Arefs%2Fheads%2Fmain",
            "mechanism": "oidc",
            "credentialId": "job-7",
        },
        "resource": "roles/ci",
        "grant": {
            "config": "configs/default",
            "namespace": NAMESPACE,
            "serviceAccount": "demo",
            "audiences": [KUBERNETES_AUDIENCE],
            "ttl": "3600s",
        },
        "lease": reply.lease,
        "kubernetesAuditId": reply.kubernetes_audit_id,
    }
    assert steady(intent) == {**common, "stage": "STAGE_INTENT"}
    assert steady(done) == {
        **common,
        "stage": "STAGE_COMPLETE",
        "request": {"role": "roles/ci"},
        "decision": {
            "policies": ["main-of-shop"],
            "rules": [
                "namespace: the only one that roles/ci allows",
                "service_account_name: the only one that roles/ci allows",
                "audiences: the only one that roles/ci allows",
                "ttl: the server's default_ttl",
            ],
        },
        "jti": reply.jti,
        "expiration": reply.expiration.ToDatetime().strftime("%Y-%m-%dT%H:%M:%S.000000Z"),
        "tokenExpiration": reply.token_expiration.ToDatetime().strftime("%Y-%m-%dT%H:%M:%S.000000Z"),
        "outcome": "OUTCOME_SUCCEEDED",
        "status": "OK",
    }


def test_another_branch_gets_none(vending: Vending, actions: Issuer) -> None:
    """A job whose claims no policy permits is known, and denied."""
    subject = "repo:acme/shop:ref:refs/heads/topic"
    refusal = vending.client(actions.token(ref="refs/heads/topic", sub=subject, jti="job-8")).issue_refused()

    event = vending.events(method=ISSUE, outcome="OUTCOME_DENIED")[-1]
    assert (refusal.status, refusal.reason) == ("NOT_FOUND", "ROLE_NOT_FOUND")
    assert event["caller"] == {
        "name": "oidc://actions/repo%3Aacme%2Fshop%3Aref%3Arefs%2Fheads%2Ftopic",
        "mechanism": "oidc",
        "credentialId": "job-8",
    }


def signed_by_public_key(issuer: Issuer, header: dict[str, Any]) -> str:
    """A token whose HMAC is by the issuer's public key, which everybody knows."""
    public = rsa_key("k1").public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    parts = [base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"="), issuer.token().split(".")[1].encode()]
    signature = base64.urlsafe_b64encode(hmac.digest(pem, b".".join(parts), hashlib.sha256)).rstrip(b"=")
    return b".".join([*parts, signature]).decode()


def unsigned(issuer: Issuer) -> str:
    """A token that says it needs no signature."""
    header = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    return f"{header}.{issuer.token().split('.')[1]}."


def test_tokens_that_prove_nothing(vending: Vending, actions: Issuer) -> None:
    """What the issuer did not sign, for kubevend, for now, makes nobody; each refusal has its reason, and is recorded
    without a caller.
    """
    now = int(time.time())
    tokens = {
        "alg none": (unsigned(actions), "TOKEN_ALGORITHM"),
        "HS256 by the public key": (signed_by_public_key(actions, {"alg": "HS256", "kid": "k1"}), "TOKEN_ALGORITHM"),
        "RS256 by HMAC": (signed_by_public_key(actions, {"alg": "RS256", "kid": "k1"}), "TOKEN_SIGNATURE"),
        "an unknown key": (actions.token(kid="k9"), "TOKEN_KEY_UNKNOWN"),
        "another's key": (actions.token(key=rsa_key("attacker")), "TOKEN_SIGNATURE"),
        "no end": (actions.token(exp=None), "TOKEN_CLAIM_MISSING"),
        "ended": (actions.token(exp=now - 31), "TOKEN_EXPIRED"),
        "not yet": (actions.token(nbf=now + 300), "TOKEN_NOT_YET_VALID"),
        "no subject": (actions.token(sub=None), "TOKEN_CLAIM_MISSING"),
        "for another": (actions.token(aud="https://github.com/acme"), "TOKEN_AUDIENCE"),
        "a slash too many": (actions.token(issuer=actions.url + "/"), "TOKEN_FOREIGN"),
    }
    refusals: dict[str, Refusal] = {}

    events = vending.events_of(
        lambda: refusals.update((name, vending.client(token).issue_refused()) for name, (token, _) in tokens.items()),
        method=ISSUE,
    )

    assert {name: refusal.reason for name, refusal in refusals.items()} == {n: r for n, (_, r) in tokens.items()}
    assert {refusal.status for refusal in refusals.values()} == {"UNAUTHENTICATED"}
    assert [steady(event) for event in events] == [
        {
            "stage": "STAGE_COMPLETE",
            "method": ISSUE,
            "outcome": "OUTCOME_DENIED",
            "status": "UNAUTHENTICATED",
            "reason": refusal.reason,
            "message": refusal.message,
        }
        for refusal in refusals.values()
    ]


def test_a_clock_may_be_off_a_little(vending: Vending, actions: Issuer) -> None:
    """A token that ended, or begins, within the skew is accepted."""
    now = int(time.time())
    assert vending.client(actions.token(exp=now - 5)).issue().token
    assert vending.client(actions.token(nbf=now + 20, iat=now + 20)).issue().token


def test_a_cluster_can_be_an_issuer(vending: Vending, cluster: DevCluster) -> None:
    """A cluster's own keys vouch for its ServiceAccounts, where kubevend may not ask it."""
    caller = vending.client(cluster.token(NAMESPACE, "demo", audience="kubevend"))
    reply = caller.issue()
    _, done = vending.events(lease=reply.lease)
    assert done["caller"]["name"] == "oidc://cluster/system%3Aserviceaccount%3Atest-oidc%3Ademo"
    assert done["decision"]["policies"] == ["cluster"]


def test_an_issuer_that_comes_up_late(vending: Vending, late: Issuer) -> None:
    """The server starts though an issuer is down; its subjects may try again, and are known once it is up."""
    job = vending.client(late.token(teams=["ops"]))
    refusal = job.issue_refused()
    assert (refusal.status, refusal.reason, refusal.metadata) == (
        "UNAVAILABLE",
        "CALLER_NOT_CHECKED",
        {"issuer": "late"},
    )
    assert "google.rpc.RetryInfo" in refusal.details
    (told,) = logged(vending, "issuer_not_reached")
    assert (told["issuer"], told["keys_still_count"], late.url in told["error"]) == ("late", False, True)

    late.start()
    until(lambda: [line for line in logged(vending, "issuer_keys") if line["issuer"] == "late"], "its keys")
    reply = job.issue()

    _, done = vending.events(lease=reply.lease)
    assert done["caller"]["groups"] == ["late:ops"]
    assert done["decision"]["policies"] == ["late"]


def logged(vending: Vending, event: str) -> list[dict[str, Any]]:
    """The lines of the server's log for an event."""
    lines = [json.loads(line) for line in vending.server.log_file.read_text().splitlines() if line.endswith("}")]
    return [line for line in lines if line["event"] == event]
