"""Who may call, and what a caller may see, with real ServiceAccounts of the real API server."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from devcluster import DevCluster
from devcluster.server import BOOTSTRAP_POLICY
from kubevend.v1 import config_service_pb2, issue_service_pb2, lease_service_pb2, role_service_pb2
from kubevend.v1.role_service_pb2 import Role
from tests.integration.conftest import Start, Vending
from tests.support.client import Client, Refusal, take_apart
from tests.support.clusters import make_namespace
from tests.support.events import steady
from tests.support.identities import expired_token
from tests.support.waiting import until

ISSUE = "kubevend.v1.IssueService/IssueToken"
NAMESPACE = "test-callers"

TEAM_POLICY = """
// A workload issues through the roles of its own team, for its own namespace.
@id("team-issues")
permit (principal is ServiceAccount, action == Action::"IssueToken", resource is Role)
when { resource.hasTag("team") && resource.getTag("team") == principal.namespace
       && context.namespace == principal.namespace };

@id("team-sees")
permit (principal is ServiceAccount, action == Action::"GetRole", resource is Role)
when { resource.hasTag("team") && resource.getTag("team") == principal.namespace };

@id("own-leases")
permit (principal, action == Action::"GetLease", resource) when { resource.caller == principal.name };

@id("lists")
permit (principal, action in [Action::"ListRoles", Action::"ListLeases"], resource);

// A team makes roles for its own namespace only.
@id("team-makes-roles")
permit (principal is ServiceAccount, action in [Action::"CreateRole", Action::"UpdateRole"], resource is Role)
when { context.proposed.allowed_namespaces == [principal.namespace]
       && (action == Action::"CreateRole" || resource.allowed_namespaces == [principal.namespace]) };

@id("team-uses-config")
permit (principal is ServiceAccount, action == Action::"UseConfig", resource == Config::"configs/default");
"""


POD_POLICY = """
@id("runner-pods")
permit (principal is ServiceAccount, action in [Action::"IssueToken", Action::"GetRole"], resource == Role::"roles/ci")
when { principal has pod && principal.pod like "runner-*" && principal has node && principal.node == "node-a" };
"""


def make_pod(cluster: DevCluster, namespace: str, name: str, service_account: str = "demo") -> None:
    """Make a pod on node-a, which no kubelet will ever run."""
    cluster.apply(
        f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{serviceAccountName: {service_account}, nodeName: node-a, containers: [{{name: main, image: none}}]}}
"""
    )


def pod_token(cluster: DevCluster, namespace: str, pod: str, service_account: str = "demo") -> str:
    """A token as the kubelet projects it into a pod."""
    bound = ("--bound-object-kind=Pod", f"--bound-object-name={pod}", "--audience=kubevend")
    return cluster.kubectl("create", "token", service_account, f"--namespace={namespace}", *bound).strip()


def caller_cluster(cluster: DevCluster, folder: Path) -> dict[str, Any]:
    """The settings of a cluster whose ServiceAccounts may call."""
    token_file = folder / "reviewer"
    token_file.write_text(cluster.token("kubevend", "kubevend"))
    return {"kubernetes_host": cluster.server, "ca_file": str(cluster.ca_file), "token_file": str(token_file)}


def test_a_pod_is_known_by_its_name(start: Start, cluster: DevCluster, namespace: str, tmp_path: Path) -> None:
    """Policies know the pod that a token is bound to; its next token is the same caller's; and a token whose pod or
    ServiceAccount is gone is refused.
    """
    clusters = {"dev": caller_cluster(cluster, tmp_path)}
    vending = start({"callers": {"clusters": clusters, "remember_seconds": 0}}, policies=BOOTSTRAP_POLICY + POD_POLICY)
    vending.add_config(cluster)
    vending.admin.create_role(allowed_namespaces=[namespace])
    cluster.kubectl("create", "serviceaccount", "gone", f"--namespace={namespace}")
    for pod, account in (("runner-1", "demo"), ("builder-1", "demo"), ("runner-2", "gone")):
        make_pod(cluster, namespace, pod, account)
    first, of_no_pod = pod_token(cluster, namespace, "runner-1"), cluster.token(namespace, "demo", audience="kubevend")
    runner, next_runner = vending.client(first), vending.client(pod_token(cluster, namespace, "runner-1"))
    gone = vending.client(pod_token(cluster, namespace, "runner-2", "gone"))

    for client in (runner, next_runner, gone):
        client.issue()
    for other in (pod_token(cluster, namespace, "builder-1"), of_no_pod):
        assert vending.client(other).issue_refused().reason == "ROLE_NOT_FOUND"
    cluster.kubectl("delete", "pod", "runner-1", f"--namespace={namespace}", "--force", "--grace-period=0")
    cluster.kubectl("delete", "serviceaccount", "gone", f"--namespace={namespace}")
    # The API server itself remembers whom it has just recognized, for 10 s.
    for client in (runner, next_runner, gone):
        until(partial(refused_now, client), "the token to be refused")

    callers = [e["caller"]["name"] for e in vending.events(method=ISSUE, outcome="OUTCOME_SUCCEEDED")]
    own = f"kubernetes://dev/{namespace}"
    assert callers == [f"{own}/demo", f"{own}/demo", f"{own}/gone"]


def refused_now(client: Client) -> bool:
    """Whether a call is refused now because its token is."""
    try:
        client.call(client.roles.GetRole, role_service_pb2.GetRoleRequest(name="roles/ci"))
    except grpc.RpcError as error:
        return take_apart(error).reason == "TOKEN_REJECTED"
    return False


@pytest.fixture(scope="module")
def open_house(start_for_all: Start, cluster: DevCluster, tmp_path_factory: pytest.TempPathFactory) -> Vending:
    """A kubevend that the cluster's ServiceAccounts may call. The team of the module's namespace has roles/ci for it,
    and roles/elsewhere, which no policy lets it issue from; roles/others are none of its business.
    """
    clusters = {"dev": caller_cluster(cluster, tmp_path_factory.mktemp("reviewing"))}
    vending = start_for_all({"callers": {"clusters": clusters}}, policies=BOOTSTRAP_POLICY + TEAM_POLICY)
    for namespace in (NAMESPACE, f"{NAMESPACE}-elsewhere"):
        make_namespace(cluster, namespace)
    vending.add_config(cluster)
    vending.admin.create_role("ci", allowed_namespaces=[NAMESPACE], labels={"team": NAMESPACE})
    vending.admin.create_role("elsewhere", allowed_namespaces=[f"{NAMESPACE}-elsewhere"], labels={"team": NAMESPACE})
    vending.admin.create_role("others", allowed_namespaces=["kube-system"], labels={"team": "others"})
    return vending


@pytest.fixture(scope="module")
def team(open_house: Vending, cluster: DevCluster) -> Client:
    """ServiceAccount demo of the module's namespace."""
    return open_house.client(cluster.token(NAMESPACE, "demo", audience="kubevend"))


def test_a_service_account_is_known_by_name(open_house: Vending, team: Client) -> None:
    """A ServiceAccount's token is reviewed by its cluster, and lease and event carry the caller's whole name."""
    reply = team.issue()

    (event,) = open_house.events(jti=reply.jti)
    request = lease_service_pb2.GetLeaseRequest(name=reply.lease)
    own = f"kubernetes://dev/{NAMESPACE}/demo"
    assert event["caller"]["name"] == own == team.call(team.leases.GetLease, request).lease.caller
    assert event["caller"]["mechanism"] == "token_review"
    assert event["caller"]["credentialId"]
    assert event["decision"]["policies"] == ["team-issues"]


def test_what_is_hidden_looks_like_nothing(open_house: Vending, team: Client) -> None:
    """A role, a config or a lease that a caller may not see answers exactly as one that does not exist."""
    lease = open_house.admin.issue().lease
    absent_lease = f"leases/{'0' * 26}"
    pairs: list[tuple[Any, Any, str, str]] = [
        (
            team.issuing.IssueToken,
            lambda n: issue_service_pb2.IssueTokenRequest(role=n),
            "roles/others",
            "roles/absent",
        ),
        (
            team.issuing.IssueToken,
            lambda n: issue_service_pb2.IssueTokenRequest(role=n, namespace="elsewhere"),
            "roles/others",
            "roles/absent",
        ),
        (team.roles.GetRole, lambda n: role_service_pb2.GetRoleRequest(name=n), "roles/others", "roles/absent"),
        (team.roles.DeleteRole, lambda n: role_service_pb2.DeleteRoleRequest(name=n), "roles/others", "roles/absent"),
        (
            team.roles.UpdateRole,
            lambda n: role_service_pb2.UpdateRoleRequest(role=Role(name=n, allowed_audiences=["x"])),
            "roles/others",
            "roles/absent",
        ),
        (
            team.configs.GetConfig,
            lambda n: config_service_pb2.GetConfigRequest(name=n),
            "configs/default",
            "configs/absent",
        ),
        (team.leases.GetLease, lambda n: lease_service_pb2.GetLeaseRequest(name=n), lease, absent_lease),
    ]
    for method, request, hidden, absent in pairs:
        there = team.refused(method, request(hidden))
        nowhere = team.refused(method, request(absent))
        assert there.status == "NOT_FOUND"
        assert renamed(there, hidden) == renamed(nowhere, absent)


def renamed(refusal: Refusal, name: str) -> str:
    """A refusal with the resource's name taken out."""
    return repr(refusal).replace(name, "NAME")


def test_lists_show_what_the_caller_may_get(open_house: Vending, team: Client, cluster: DevCluster) -> None:
    """A list of roles or leases has only those that the caller may get."""
    cluster.kubectl("create", "serviceaccount", "newcomer", f"--namespace={NAMESPACE}")
    newcomer = open_house.client(cluster.token(NAMESPACE, "newcomer", audience="kubevend"))
    for other in (open_house.admin, team):
        other.issue()
    own = newcomer.issue().lease

    roles = newcomer.call(newcomer.roles.ListRoles, role_service_pb2.ListRolesRequest()).roles
    leases = newcomer.call(newcomer.leases.ListLeases, lease_service_pb2.ListLeasesRequest()).leases

    assert [role.name for role in roles] == ["roles/ci", "roles/elsewhere"]
    assert [lease.name for lease in leases] == [own]


def test_a_denial_that_may_be_known_says_why(open_house: Vending, team: Client) -> None:
    """Who may see a role but not issue from it is told so, and the event names no policy, since none permitted."""
    refusals: list[Refusal] = []

    (event,) = open_house.events_of(lambda: refusals.append(team.issue_refused("roles/elsewhere")))

    assert [(refusal.status, refusal.reason) for refusal in refusals] == [("PERMISSION_DENIED", "ACCESS_DENIED")]
    assert (event["outcome"], event["reason"]) == ("OUTCOME_DENIED", "ACCESS_DENIED")
    assert event["decision"] == {
        "rules": [
            "namespace: the only one that roles/elsewhere allows",
            "service_account_name: the only one that roles/elsewhere allows",
            "audiences: the only one that roles/elsewhere allows",
            "ttl: the server's default_ttl",
        ]
    }


def test_a_team_is_held_to_its_namespace(open_house: Vending, team: Client) -> None:
    """A policy for CreateRole and UpdateRole sees the role as it would be, and one for UpdateRole as it is too."""
    created = team.create_role("mine", allowed_namespaces=[NAMESPACE])
    widened = role_service_pb2.UpdateRoleRequest(role=Role(name="roles/mine", allowed_namespaces=["*"]))
    taken = role_service_pb2.UpdateRoleRequest(role=Role(name="roles/others", allowed_namespaces=[NAMESPACE]))
    foreign = role_service_pb2.CreateRoleRequest(
        role_id="foreign",
        role=Role(allowed_namespaces=["kube-system"], allowed_service_accounts=["x"], allowed_audiences=["x"]),
    )

    denied = open_house.events_of(
        lambda: (
            team.refused(team.roles.CreateRole, foreign),
            team.refused(team.roles.UpdateRole, widened),
            team.refused(team.roles.UpdateRole, taken),
        ),
        outcome="OUTCOME_DENIED",
    )

    assert created.name == "roles/mine"
    # roles/mine has no label, so its own maker may not see it: the answer is that of a role that is not there.
    assert [(event["method"].rpartition("/")[2], event["reason"]) for event in denied] == [
        ("CreateRole", "ACCESS_DENIED"),
        ("UpdateRole", "ROLE_NOT_FOUND"),
        ("UpdateRole", "ROLE_NOT_FOUND"),
    ]


def test_a_config_that_may_not_be_used(open_house: Vending, team: Client, cluster: DevCluster) -> None:
    """Naming a config needs the right to use it; without, it looks like none, and the event names what denied it."""
    open_house.add_config(cluster, "other")
    fields: dict[str, Any] = {
        "allowed_namespaces": [NAMESPACE],
        "allowed_service_accounts": ["demo"],
        "allowed_audiences": ["x"],
    }
    requests = [
        role_service_pb2.CreateRoleRequest(role_id="no-config", role=Role(config=f"configs/{name}", **fields))
        for name in ("other", "absent")
    ]
    refusals: list[Refusal] = []

    events = open_house.events_of(
        lambda: refusals.extend(team.refused(team.roles.CreateRole, request) for request in requests)
    )

    assert {(r.status, r.reason) for r in refusals} == {("FAILED_PRECONDITION", "CONFIG_NOT_FOUND")}
    assert [(e["outcome"], e["reason"], e["decision"]) for e in events] == [
        ("OUTCOME_DENIED", "CONFIG_NOT_FOUND", {})
    ] * 2


def test_a_denied_read_is_recorded(open_house: Vending, team: Client) -> None:
    """A read leaves an event where it is denied, and none where it is allowed."""
    reads = open_house.events_of(
        lambda: (
            team.call(team.roles.GetRole, role_service_pb2.GetRoleRequest(name="roles/ci")),
            team.refused(team.roles.GetRole, role_service_pb2.GetRoleRequest(name="roles/others")),
        )
    )

    assert [(e["method"], e["resource"], e["outcome"]) for e in reads] == [
        ("kubevend.v1.RoleService/GetRole", "roles/others", "OUTCOME_DENIED")
    ]


@pytest.mark.parametrize(
    ("bearer", "reason"),
    [
        ("", "CREDENTIAL_MISSING"),
        ("nonsense", "TOKEN_MALFORMED"),
        ("kubevend-admin-wrong", "TOKEN_MALFORMED"),
        ("a.b.c", "TOKEN_MALFORMED"),
    ],
)
def test_nobody_comes_in_without_a_credential(open_house: Vending, bearer: str, reason: str) -> None:
    """What is no credential is refused with words that say what to send, and recorded without a caller."""
    refusals: list[Refusal] = []

    (event,) = open_house.events_of(lambda: refusals.append(open_house.client(bearer).issue_refused()))

    assert steady(event) == {
        "stage": "STAGE_COMPLETE",
        "method": ISSUE,
        "outcome": "OUTCOME_DENIED",
        "status": "UNAUTHENTICATED",
        "reason": reason,
        "message": refusals[0].message,
    }
    assert (refusals[0].status, refusals[0].reason) == ("UNAUTHENTICATED", reason)


def test_of_two_tokens_none_counts(open_house: Vending) -> None:
    """A call that sends two tokens is refused, though both are the admin's."""
    client = open_house.client(open_house.server.admin_token)
    client.metadata *= 2
    assert client.issue_refused().reason == "TWO_IDENTITIES"


def test_foreign_tokens_are_refused(
    open_house: Vending, cluster: DevCluster, capped_cluster: DevCluster, namespace: str
) -> None:
    """Tokens for another audience, of another cluster, of a deleted ServiceAccount, with changed claims: refused."""
    make_namespace(capped_cluster, namespace)
    cluster.kubectl("create", "serviceaccount", "gone", "-n", namespace)
    deleted = cluster.token(namespace, "gone", audience="kubevend")
    cluster.kubectl("delete", "serviceaccount", "gone", "-n", namespace)
    sound = cluster.token(namespace, "demo", audience="kubevend", duration=timedelta(minutes=10))
    header, middle, signature = sound.split(".")
    said = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    said["sub"] = "system:serviceaccount:kube-system:admin"
    changed = base64.urlsafe_b64encode(json.dumps(said).encode()).decode().rstrip("=")

    reasons = {
        name: open_house.client(bearer).issue_refused().reason
        for name, bearer in {
            "another audience": cluster.token(namespace, "demo"),
            "another cluster": capped_cluster.token(namespace, "demo", audience="kubevend"),
            "deleted": deleted,
            "changed": f"{header}.{changed}.{signature}",
        }.items()
    }

    assert reasons == {
        "another audience": "TOKEN_AUDIENCE",
        "another cluster": "TOKEN_REJECTED",
        "deleted": "TOKEN_REJECTED",
        "changed": "TOKEN_REJECTED",
    }


@pytest.mark.parametrize("kind", ["for somebody else", "expired"])
def test_the_command_in_a_refusal_makes_a_token_that_will_do(
    open_house: Vending, cluster: DevCluster, kind: str
) -> None:
    """Who shows a token of no use is told the command that makes one for the same ServiceAccount, and it works."""
    of_no_use = {
        "for somebody else": cluster.token(NAMESPACE, "demo"),
        "expired": expired_token(cluster, NAMESPACE, "demo", "kubevend"),
    }[kind]
    refusal = open_house.client(of_no_use).issue_refused()
    command = refusal.message.partition("`kubectl ")[2].partition("`")[0]

    fresh = cluster.kubectl(*command.split()).strip()

    reason = {"for somebody else": "TOKEN_AUDIENCE", "expired": "TOKEN_EXPIRED"}[kind]
    assert (refusal.status, refusal.reason) == ("UNAUTHENTICATED", reason)
    assert open_house.client(fresh).issue().token


@pytest.mark.parametrize(
    ("reviewing", "status", "reason", "words"),
    [
        (
            {"kubernetes_host": "https://127.0.0.1:9"},
            "UNAVAILABLE",
            "CALLER_NOT_CHECKED",
            "could not be checked at the cluster 'dev' (KUBERNETES_UNREACHABLE). Try again",
        ),
        (
            {"issuers": ["https://elsewhere"]},
            "UNAUTHENTICATED",
            "TOKEN_FOREIGN",
            "No cluster whose ServiceAccounts may call here issues such tokens",
        ),
    ],
)
def test_a_token_that_nobody_can_review(
    start: Start,
    cluster: DevCluster,
    namespace: str,
    tmp_path: Path,
    reviewing: dict[str, Any],
    status: str,
    reason: str,
    words: str,
) -> None:
    """A cluster that cannot be asked is not the caller's fault; a token that is of none of the clusters is."""
    clusters = {"dev": {**caller_cluster(cluster, tmp_path), **reviewing}}
    vending = start({"callers": {"clusters": clusters}})

    refusal = vending.client(cluster.token(namespace, "demo", audience="kubevend")).issue_refused()

    assert (refusal.status, refusal.reason) == (status, reason)
    assert words in refusal.message
