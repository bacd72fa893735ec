from __future__ import annotations

import re

import pytest

from kubevend_server.cluster.connection import Answer
from kubevend_server.cluster.grantable import dry_run_rules
from kubevend_server.policy.made import MadeAccount
from kubevend_server.roles import RoleKind
from tests.unit.scripted_cluster import ScriptedCluster, partial, refused, said

RBAC = "/apis/rbac.authorization.k8s.io/v1"
RULES = '[{"apiGroups":[""],"resources":["pods"],"verbs":["get"]}]'
DONE = said(201, partial("x"))
MISSING = refused(404, "not found", "NotFound", kind="rolebindings")
ESCALATES = refused(
    403, 'user "u" (groups=["g"]) is attempting to grant RBAC permissions not currently held:\n{Verbs:["get"]}'
)
FORBIDDEN = refused(403, 'User "u" cannot create resource')


def _account(kind: RoleKind = "Role", rules: str = RULES, *, cluster_wide: bool = False) -> MadeAccount:
    return MadeAccount(kind, "view", rules, cluster_wide, (), ())


def _review(*, allowed: bool) -> Answer:
    return said(201, {"status": {"allowed": allowed}})


@pytest.mark.parametrize(
    ("account", "paths"),
    [
        (_account(), ["namespaces/apps/roles", "namespaces/apps/rolebindings"]),
        (_account("ClusterRole"), ["clusterroles", "namespaces/apps/rolebindings"]),
        (_account("ClusterRole", cluster_wide=True), ["clusterroles", "clusterrolebindings"]),
        (_account(rules=""), ["namespaces/apps/rolebindings"]),
        (_account("ClusterRole", "", cluster_wide=True), ["clusterrolebindings"]),
    ],
)
async def test_everything_is_tried_and_nothing_made(account: MadeAccount, paths: list[str]) -> None:
    """The role, where one is made, and its binding are tried as dry runs, under a name of kubevend's own."""
    cluster = ScriptedCluster(DONE)
    assert await dry_run_rules(cluster, account, "apps") is None
    assert [request.path for request in cluster.asked] == [f"{RBAC}/{path}?dryRun=All" for path in paths]
    bodies = [request.body or {} for request in cluster.asked]
    (name,) = {body["metadata"]["name"] for body in bodies}
    assert re.fullmatch("kubevend-dry-run-[0-9a-f]{16}", name)
    assert bodies[-1]["roleRef"]["name"] == (name if account.rules else "view")


@pytest.mark.parametrize(
    ("account", "answers", "reason"),
    [
        (_account(), [ESCALATES], "KUBERNETES_ESCALATION"),
        (_account(), [DONE, ESCALATES], "KUBERNETES_ESCALATION"),
        (_account(), [FORBIDDEN], "KUBERNETES_FORBIDDEN"),
        (_account(), [DONE, FORBIDDEN], "KUBERNETES_FORBIDDEN"),
        (_account(rules=""), [MISSING], "KUBERNETES_ROLE_NOT_FOUND"),
        (_account(), [DONE, MISSING, _review(allowed=True)], "KUBERNETES_ESCALATION"),
        (_account("ClusterRole"), [DONE, MISSING, _review(allowed=True)], "KUBERNETES_ESCALATION"),
        (_account(), [DONE, MISSING, _review(allowed=False)], ""),
        (_account(), [refused(503)], "KUBERNETES_UNAVAILABLE"),
    ],
)
async def test_what_stands_in_the_way_is_told(account: MadeAccount, answers: list[Answer], reason: str) -> None:
    """A refusal comes back by its reason. Who may make a role whatever is in it, but not bind it, is told so; who may
    make it because all that is in it is their own may bind it too.
    """
    error = await dry_run_rules(ScriptedCluster(*answers), account, "apps")
    assert (error.reason if error else "") == reason


@pytest.mark.parametrize(("kind", "namespace"), [("Role", "apps"), ("ClusterRole", None)])
async def test_the_right_to_escalate_is_asked_for_where_it_counts(kind: RoleKind, namespace: str | None) -> None:
    """A Role is made in its namespace, a ClusterRole in none."""
    cluster = ScriptedCluster(DONE, MISSING, _review(allowed=True))
    await dry_run_rules(cluster, _account(kind), "apps")
    attributes = (cluster.asked[-1].body or {})["spec"]["resourceAttributes"]
    assert attributes == {
        "verb": "escalate",
        "group": "rbac.authorization.k8s.io",
        "resource": f"{kind.lower()}s",
        **({"namespace": namespace} if namespace else {}),
    }
