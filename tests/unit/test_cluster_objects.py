from __future__ import annotations

import re
import shlex
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubevend_server.cluster import lists
from kubevend_server.cluster.connection import Answer
from kubevend_server.cluster.failures import AnchorGone, Forbidden
from kubevend_server.cluster.lists import METADATA
from kubevend_server.cluster.objects import (
    Found,
    _escalation,
    account_kinds,
    account_manifests,
    anchor_manifest,
    create,
    delete,
    list_made,
    owned,
)
from kubevend_server.cluster.tokens import request_token
from kubevend_server.errors import Aborted, FailedPrecondition, KubevendError, ResourceExhausted, Unavailable
from kubevend_server.kinds import Kind
from kubevend_server.leases import ClusterObject
from kubevend_server.policy.made import MadeAccount, own_labels
from kubevend_server.roles import RoleKind
from tests.unit.builders import granted, minted
from tests.unit.scripted_cluster import HOST, ScriptedCluster, partial, refused, said
from tests.unit.world import token_reply

NAME = "kubevend-ci-runner-0123456789abcdef"
LEASE = "leases/01jdem3k2v8q5r7t9w1x3y5z7a"
IDENTITY = "system:serviceaccount:kubevend:kubevend"
LABELS = own_labels("prod-1", "roles/ci", LEASE)
CALLER = "kubernetes://prod/ci/runner"
RBAC = "rbac.authorization.k8s.io"
RULES = '[{"apiGroups":[""],"resources":["pods"],"verbs":["get"]}]'
CLUSTERED = {"ClusterRole", "ClusterRoleBinding"}
PATHS: dict[Kind, str] = {
    "Secret": "/api/v1/namespaces/apps/secrets",
    "ServiceAccount": "/api/v1/namespaces/apps/serviceaccounts",
    "Role": f"/apis/{RBAC}/v1/namespaces/apps/roles",
    "ClusterRole": f"/apis/{RBAC}/v1/clusterroles",
    "RoleBinding": f"/apis/{RBAC}/v1/namespaces/apps/rolebindings",
    "ClusterRoleBinding": f"/apis/{RBAC}/v1/clusterrolebindings",
}


def made(kind: Kind = "Secret", uid: str = "", name: str = NAME) -> ClusterObject:
    """An object of a lease."""
    namespace = "" if kind in CLUSTERED else "apps"
    return ClusterObject("01jdem3k2v8q5r7t9w1x3y5z7b", "configs/default", kind, namespace, name, LEASE, uid=uid)


def account(kind: RoleKind = "Role", rules: str = "", *, cluster_wide: bool = False) -> MadeAccount:
    """What is bound to a Role or ClusterRole, made where there are rules."""
    extra = (("team", "payments"), ("kubevend.dev/role", "another"))
    return MadeAccount(kind, NAME if rules else "view", rules, cluster_wide, extra, (("note", "made"),))


def objects_of(account: MadeAccount) -> list[ClusterObject]:
    """One object of each kind that the account needs."""
    return [made(kind) for kind in account_kinds(account)]


def test_labels_name_instance_role_and_lease() -> None:
    """What is made says by whom, through which role and for which lease; a shared anchor is for none."""
    assert LABELS == {
        "app.kubernetes.io/managed-by": "kubevend",
        "kubevend.dev/instance": "prod-1",
        "kubevend.dev/role": "ci",
        "kubevend.dev/lease": "01jdem3k2v8q5r7t9w1x3y5z7a",
    }
    assert "kubevend.dev/lease" not in own_labels("prod-1", "roles/ci")


def test_an_anchor_is_empty_and_stays_so() -> None:
    """An anchor is a Secret of kubevend's own type, without data, that nobody can put data into."""
    assert anchor_manifest(made(), LABELS, CALLER) == {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubevend.dev/anchor",
        "immutable": True,
        "metadata": {
            "name": NAME,
            "namespace": "apps",
            "labels": LABELS,
            "annotations": {"kubevend.dev/caller": CALLER},
        },
    }
    assert "annotations" not in anchor_manifest(made(), LABELS)["metadata"]


COMBINATIONS: list[tuple[MadeAccount, tuple[Kind, ...]]] = [
    (account("Role"), ("RoleBinding", "ServiceAccount")),
    (account("ClusterRole"), ("RoleBinding", "ServiceAccount")),
    (account("ClusterRole", cluster_wide=True), ("ClusterRoleBinding", "ServiceAccount")),
    (account("Role", RULES), ("Role", "RoleBinding", "ServiceAccount")),
    (account("ClusterRole", RULES), ("ClusterRole", "RoleBinding", "ServiceAccount")),
    (account("ClusterRole", RULES, cluster_wide=True), ("ClusterRole", "ClusterRoleBinding", "ServiceAccount")),
]


@pytest.mark.parametrize(("account", "kinds"), COMBINATIONS)
def test_an_account_is_made_in_order(account: MadeAccount, kinds: tuple[Kind, ...]) -> None:
    """The role comes first, where one is made, then the binding and then the ServiceAccount; whatever is first can own
    what follows, since only what is in no namespace owns across them.
    """
    assert account_kinds(account) == kinds
    assert kinds[0] in CLUSTERED or not CLUSTERED & set(kinds)
    manifests = account_manifests(objects_of(account)[::-1], account, LABELS, CALLER)
    assert [made.kind for made, _ in manifests] == list(kinds)
    for made_object, manifest in manifests:
        namespace = {"namespace": "apps"} if made_object.kind not in CLUSTERED else {}
        assert manifest["kind"] == made_object.kind
        assert manifest["apiVersion"] == ("v1" if made_object.kind == "ServiceAccount" else f"{RBAC}/v1")
        assert manifest["metadata"] == {
            "name": NAME,
            **namespace,
            "labels": {"team": "payments", **LABELS},
            "annotations": {"note": "made", "kubevend.dev/caller": CALLER},
        }
    rest = {
        made_object.kind: {key: manifest[key] for key in manifest.keys() - {"apiVersion", "kind", "metadata"}}
        for made_object, manifest in manifests
    }
    subject = {"kind": "ServiceAccount", "namespace": "apps", "name": NAME}
    reference = {"apiGroup": RBAC, "kind": account.kind, "name": account.role_name}
    whole: dict[str, Any] = {
        "Role": {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]},
        "RoleBinding": {"roleRef": reference, "subjects": [subject]},
        "ServiceAccount": {"automountServiceAccountToken": False},
    }
    assert rest == {kind: whole[kind.removeprefix("Cluster")] for kind in kinds}


def test_a_role_is_not_bound_everywhere() -> None:
    """A Role of one namespace in a ClusterRoleBinding is a defect, not a request."""
    with pytest.raises(ValueError, match="never a Role"):
        account_kinds(account("Role", cluster_wide=True))


def test_the_objects_must_be_those_of_the_account() -> None:
    """What is missing or too much is a defect."""
    objects = objects_of(account())
    for wrong in (objects[:1], [*objects, made("Role")], [*objects, objects[0]]):
        with pytest.raises(ValueError, match="An account of RoleBinding, ServiceAccount cannot be of"):
            account_manifests(wrong, account(), LABELS)


def test_an_owner_is_named_by_its_uid() -> None:
    """What is owned says by what, exactly; an owner whose UID is not known owns nothing."""
    manifest = anchor_manifest(made(), LABELS)
    owner = owned(manifest, made("ClusterRole", "u1"))["metadata"].pop("ownerReferences")
    assert owner == [{"apiVersion": f"{RBAC}/v1", "kind": "ClusterRole", "name": NAME, "uid": "u1"}]
    assert owned(manifest, made("Role")) == manifest
    assert "ownerReferences" not in manifest["metadata"]


@pytest.mark.parametrize("kind", PATHS)
async def test_an_object_is_made_by_its_path(kind: Kind) -> None:
    """Each kind goes to its own path, in one request that asks for nothing back but its metadata."""
    cluster = ScriptedCluster(said(201, partial(NAME, "u1")))
    manifest = {"kind": kind, "metadata": {"name": NAME}}
    assert await create(cluster, made(kind), manifest) == "u1"
    assert await create(cluster, made(kind), manifest, dry_run=True) == "u1"
    asked = [(request.verb, request.path, request.body, request.accept) for request in cluster.asked]
    assert asked == [
        ("POST", PATHS[kind], manifest, METADATA),
        ("POST", f"{PATHS[kind]}?dryRun=All", manifest, METADATA),
    ]


async def test_what_is_there_was_made_by_us() -> None:
    """A name that is taken is ours, from an earlier try, with a UID that is not known."""
    exists = refused(409, f'secrets "{NAME}" already exists', "AlreadyExists", kind="secrets", name=NAME)
    assert await create(ScriptedCluster(exists), made(), anchor_manifest(made(), LABELS)) == ""


@pytest.mark.parametrize(
    "answer",
    [
        refused(409, f'object is being deleted: secrets "{NAME}" already exists', "AlreadyExists", kind="secrets"),
        refused(409, "Operation cannot be fulfilled on resourcequotas", "Conflict", kind="resourcequotas"),
    ],
)
async def test_what_is_being_deleted_is_not_taken(answer: Answer) -> None:
    """What is on its way out is none to use, and other conflicts make nothing."""
    with pytest.raises(Aborted) as refusal:
        await create(ScriptedCluster(answer), made(), anchor_manifest(made(), LABELS))
    assert refusal.value.reason == "KUBERNETES_CONFLICT"


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"metadata":{}}', b'{"metadata":{"uid":"a\\nb"}}'])
async def test_a_uid_that_is_none_is_not_taken(body: bytes) -> None:
    """A success without a UID that can be written down is not Kubernetes' own."""
    with pytest.raises(FailedPrecondition) as refusal:
        await create(ScriptedCluster(said(201, body)), made(), {})
    assert refusal.value.reason == "NOT_KUBERNETES"


async def _creating(answer: Answer, account: MadeAccount, kind: Kind) -> KubevendError:
    manifests = {
        made.kind: (made, manifest) for made, manifest in account_manifests(objects_of(account), account, LABELS)
    }
    with pytest.raises(KubevendError) as refusal:
        await create(ScriptedCluster(answer), *manifests[kind])
    return refusal.value


async def test_a_missing_right_is_told_exactly() -> None:
    """Where RBAC refuses, the error says which verb on which resource where, for whom, and how to grant it."""
    message = f'rolebindings.{RBAC} is forbidden: User "{IDENTITY}" cannot create resource "rolebindings" in API group'
    error = await _creating(refused(403, message, kind="rolebindings"), account(), "RoleBinding")
    assert (type(error), error.reason) == (Forbidden, "KUBERNETES_FORBIDDEN")
    assert error.message == (
        f"RBAC of {HOST} does not let {IDENTITY} have a new RoleBinding apps/{NAME}: that takes the verb create on "
        f"rolebindings.{RBAC} in namespace 'apps'. If 'apps' is a slip, correct the request or allowed_namespaces of "
        "the role. To grant it: `kubectl create role kubevend-makes-rolebindings --namespace=apps --verb=create,delete "
        f"--resource=rolebindings.{RBAC} && kubectl create rolebinding kubevend-makes-rolebindings --namespace=apps "
        "--role=kubevend-makes-rolebindings --serviceaccount=kubevend:kubevend` (CheckConfig on configs/default prints "
        "all that is missing)"
    )


async def test_a_missing_right_to_delete_names_no_slip() -> None:
    """Nobody asked for a deletion by the name of a namespace; in none, the right is the whole cluster's."""
    answer = refused(403, f'User "{IDENTITY}" cannot delete resource', kind="clusterroles")
    with pytest.raises(Forbidden) as refusal:
        await delete(ScriptedCluster(answer), made("ClusterRole"))
    assert refusal.value.message == (
        f"RBAC of {HOST} does not let {IDENTITY} have the deletion of ClusterRole {NAME}: that takes the verb delete "
        f"on clusterroles.{RBAC} in the whole cluster. To grant it: `kubectl create clusterrole "
        f"kubevend-deletes-clusterroles --verb=delete --resource=clusterroles.{RBAC} && kubectl create "
        "clusterrolebinding kubevend-deletes-clusterroles --clusterrole=kubevend-deletes-clusterroles "
        "--serviceaccount=kubevend:kubevend`"
    )
    with pytest.raises(Forbidden) as refusal:
        await delete(ScriptedCluster(answer), made())
    assert "slip" not in refusal.value.message


BINDS_VIEW = f"--resource=clusterroles.{RBAC} --resource-name=view"


def _escalating(*lack: str) -> Answer:
    user = f'user "{IDENTITY}" (groups=["system:serviceaccounts" "system:authenticated"])'
    said = f'x.{RBAC} "{NAME}" is forbidden: {user} is attempting to grant RBAC permissions not currently held:\n'
    return refused(403, said + "\n".join(lack), "Forbidden", kind="x")


@pytest.mark.parametrize(
    ("account", "kind", "command"),
    [
        (
            account("Role", RULES),
            "Role",
            "kubectl create role kubevend-escalates-roles --namespace=apps --verb=escalate,bind",
        ),
        (
            account("ClusterRole", RULES),
            "ClusterRole",
            "kubectl create clusterrole kubevend-escalates-clusterroles --verb=",
        ),
        (
            account("ClusterRole"),
            "RoleBinding",
            f"kubectl create role kubevend-binds-view --namespace=apps --verb=bind {BINDS_VIEW}",
        ),
        (
            account("ClusterRole", cluster_wide=True),
            "ClusterRoleBinding",
            f"kubectl create clusterrole kubevend-binds-view --verb=bind {BINDS_VIEW}",
        ),
    ],
)
async def test_an_escalation_says_what_lifts_it(account: MadeAccount, kind: Kind, command: str) -> None:
    """Where kubevend would give what it has not, the error says what that is, and which right lets it."""
    lack = ['{APIGroups:[""], Resources:["pods"], Verbs:["get"]}', '{NonResourceURLs:["/x"], Verbs:["get"]}']
    error = await _creating(_escalating(*lack), account, kind)
    assert (type(error), error.reason) == (FailedPrecondition, "KUBERNETES_ESCALATION")
    assert error.metadata["identity"] == IDENTITY
    assert error.metadata["lacks"] == "; ".join(lack)
    assert f"itself: {'; '.join(lack)}. Give it those rights too" in error.message
    assert f"the right to give what it has not: `{command}" in error.message
    # What the least rights are comes first, and that the command gives more.
    assert ("kubevend-server rbac --all" in error.message) == (kind in ("Role", "ClusterRole"))
    assert "--serviceaccount=kubevend:kubevend" in error.message


async def test_a_long_escalation_still_arrives() -> None:
    """However many rights lack, the message is no longer than an error may be."""
    error = await _creating(_escalating(*["{Verbs:[x]}"] * 500), account("Role", RULES), "Role")
    assert len(error.message.encode()) < 1500
    assert error.reason == "KUBERNETES_ESCALATION"


@given(st.text(min_size=1, max_size=30))
def test_a_role_of_any_name_stays_one_word(name: str) -> None:
    """Whatever a role is called, the command that binds it has it as one word, and fills in nothing of it."""
    words = shlex.split(_escalation(made("RoleBinding"), "Role", name).format(identity="--user=x"))
    assert f"--resource-name={name}" in words
    assert words[-1] == "--user=x"


@pytest.mark.parametrize(
    ("account", "kind", "role"),
    [
        (account("Role"), "RoleBinding", "Role 'view'"),
        (account("ClusterRole"), "RoleBinding", "ClusterRole 'view'"),
        (account("ClusterRole", cluster_wide=True), "ClusterRoleBinding", "ClusterRole 'view'"),
    ],
)
async def test_a_role_that_is_not_there_is_named(account: MadeAccount, kind: Kind, role: str) -> None:
    """What the API server calls a missing binding is a missing role."""
    plural = f"{kind.lower()}s"
    answer = refused(404, f'{plural}.{RBAC} "view" not found', "NotFound", kind=plural, name="view", group=RBAC)
    error = await _creating(answer, account, kind)
    assert (type(error), error.reason) == (FailedPrecondition, "KUBERNETES_ROLE_NOT_FOUND")
    assert f"has no {role}: create it, or name another one" in error.message


async def test_a_quota_is_told_as_one() -> None:
    """Where a ResourceQuota leaves no room, neither RBAC nor a policy is blamed."""
    limit = "exceeded quota: small, requested: count/secrets=1, used: count/secrets=3, limited: count/secrets=3"
    with pytest.raises(ResourceExhausted) as refusal:
        await create(ScriptedCluster(refused(403, f'secrets "x" is forbidden: {limit}', "Forbidden")), made(), {})
    assert refusal.value.reason == "KUBERNETES_QUOTA"
    assert "leaves no room for a new Secret apps/" in refusal.value.message
    assert limit.partition(": ")[2] in refusal.value.message


async def test_an_admission_policy_is_told_as_one() -> None:
    """What neither RBAC nor a quota refuses, an admission policy does."""
    with pytest.raises(FailedPrecondition) as refusal:
        await create(ScriptedCluster(refused(403, "ValidatingAdmissionPolicy 'x' denied request")), made(), {})
    assert refusal.value.reason == "KUBERNETES_DENIED"


# Deletions.

SUCCESS = said(200, {"kind": "Status", "status": "Success", "details": {"name": NAME, "kind": "secrets"}})
HELD = said(200, partial(NAME, deletionTimestamp="2026-05-04T12:00:00Z", finalizers=["example.com/hold"]))
OTHERS = refused(
    409, "the UID in the precondition (u1) does not match the UID in record (u2).", "Conflict", kind="Secret"
)


@pytest.mark.parametrize("kind", PATHS)
async def test_an_object_is_deleted_by_name_and_uid(kind: Kind) -> None:
    """A deletion names the object, and its UID where that is known; it goes on in the background."""
    cluster = ScriptedCluster(SUCCESS)
    assert await delete(cluster, made(kind, "u1"))
    assert await delete(cluster, made(kind))
    options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
    assert [(request.verb, request.path, request.body) for request in cluster.asked] == [
        ("DELETE", f"{PATHS[kind]}/{NAME}", {**options, "preconditions": {"uid": "u1"}}),
        ("DELETE", f"{PATHS[kind]}/{NAME}", options),
    ]


async def test_a_name_is_one_part_of_a_path() -> None:
    """A name that came from a cluster leads nowhere else."""
    cluster = ScriptedCluster(SUCCESS)
    await delete(cluster, made("ClusterRole", name="a/../b?c"))
    assert cluster.asked[0].path == f"{PATHS['ClusterRole']}/a%2F..%2Fb%3Fc"


@pytest.mark.parametrize(
    ("answer", "gone"),
    [
        (SUCCESS, True),
        (said(200, partial(NAME)), True),
        (HELD, False),
        (refused(404, kind="secrets"), True),
        (refused(404, kind="namespaces"), True),
        (OTHERS, True),
    ],
    ids=["Status", "the object", "held up", "not there", "no namespace", "another one"],
)
async def test_a_deletion_says_what_became_of_it(answer: Answer, gone: bool) -> None:
    """What is gone, was never there, or has left its name to another one is gone; what a finalizer holds up is not."""
    assert await delete(ScriptedCluster(answer), made(uid="u1")) == gone


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (refused(404, kind="pods"), "NOT_KUBERNETES"),
        (said(404, b"404 page not found"), "NOT_KUBERNETES"),
        (said(409, b"<html>"), "NOT_KUBERNETES"),
        (refused(409, "a webhook says no", "Conflict"), "KUBERNETES_CONFLICT"),
        (said(200, b"{}"), "NOT_KUBERNETES"),
        (said(200, {"metadata": {}}), "NOT_KUBERNETES"),
        (said(200, partial("another")), "NOT_KUBERNETES"),
        (refused(200), "NOT_KUBERNETES"),
        (refused(403), "KUBERNETES_DENIED"),
        (refused(500), "KUBERNETES_UNAVAILABLE"),
    ],
)
async def test_nothing_else_counts_as_deleted(answer: Answer, reason: str) -> None:
    """An answer that does not say that the object is gone, or will be, is an error."""
    with pytest.raises(KubevendError) as refusal:
        await delete(ScriptedCluster(answer), made(uid="u1"))
    assert refusal.value.reason == reason


async def test_without_a_uid_a_conflict_is_one() -> None:
    """Where no UID was sent, none can have been another one."""
    with pytest.raises(Aborted):
        await delete(ScriptedCluster(OTHERS), made())


async def test_an_answer_that_does_not_come_is_an_error() -> None:
    """What became of a deletion that was not answered is not known; it is tried again."""
    with pytest.raises(Unavailable):
        await delete(ScriptedCluster(Unavailable("KUBERNETES_TIMED_OUT", "no")), made())


# Lists.


def _page(*items: dict[str, Any], more: str = "") -> Answer:
    return said(200, {"metadata": {"resourceVersion": "7", "continue": more}, "items": list(items)})


MINE = partial(
    "kubevend-a", "u1", namespace="apps", labels=LABELS, creationTimestamp="2026-05-04T12:00:00Z", managedFields=[{}]
)
GOING = partial("kubevend-b", "u2", namespace="apps", deletionTimestamp="2026-05-04T12:00:00Z")
FOUND = [
    Found("Role", "apps", "kubevend-a", "u1", LEASE[7:], "ci", datetime(2026, 5, 4, 12, tzinfo=UTC), deleting=False),
    Found("Role", "apps", "kubevend-b", "u2", "", "", datetime(1970, 1, 1, tzinfo=UTC), deleting=True),
]


async def test_what_was_made_is_found_by_its_label() -> None:
    """The objects of one instance come in pages, with their leases and roles."""
    cluster = ScriptedCluster(_page(MINE, more="c+1="), _page(GOING))
    assert await list_made(cluster, "Role", "apps", "prod-1") == FOUND
    selector = "labelSelector=kubevend.dev%2Finstance%3Dprod-1&limit=100"
    assert [request.path for request in cluster.asked] == [
        f"{PATHS['Role']}?{selector}",
        f"{PATHS['Role']}?{selector}&continue=c%2B1%3D",
    ]
    assert {request.accept for request in cluster.asked} == {
        "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    }


async def test_every_namespace_is_searched_at_once() -> None:
    """Without a namespace, one request finds the objects of all; where there is none, a real cluster says null."""
    cluster = ScriptedCluster(said(200, {"metadata": {"resourceVersion": "7"}, "items": None}))
    assert await list_made(cluster, "ServiceAccount", "", "prod-1") == []
    assert cluster.asked[0].path.startswith("/api/v1/serviceaccounts?")


async def test_a_list_that_was_forgotten_begins_again() -> None:
    """A page that the cluster no longer has (410) begins the list again, once, and nothing is found twice."""
    cluster = ScriptedCluster(_page(MINE, more="c"), refused(410), _page(MINE, more="c"), _page(GOING))
    assert await list_made(cluster, "Role", "apps", "prod-1") == FOUND
    with pytest.raises(FailedPrecondition) as refusal:
        await list_made(ScriptedCluster(_page(MINE, more="c"), refused(410)), "Role", "apps", "prod-1")
    assert refusal.value.metadata["http_status"] == "410"


async def test_a_list_without_end_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that always has one more page does not fill the memory."""
    monkeypatch.setattr(lists, "_MOST_BYTES", 10_000)
    with pytest.raises(FailedPrecondition) as refusal:
        await list_made(ScriptedCluster(_page(MINE, more="c")), "Role", "apps", "prod-1")
    assert refusal.value.reason == "NOT_KUBERNETES"


async def test_secrets_are_not_listed() -> None:
    """Whoever may list Secrets may read them, so kubevend does not even ask."""
    with pytest.raises(ValueError, match="lists no Secrets"):
        await list_made(ScriptedCluster(_page()), "Secret", "", "prod-1")


# Tokens that are bound to an anchor.


async def test_a_token_is_bound_to_its_anchor() -> None:
    """A TokenRequest names the anchor, its UID where that is known, and the lifetime in place of the grant's."""
    cluster = ScriptedCluster(said(201, token_reply(minted())))
    await request_token(cluster, granted(), "audit-1", made(uid="u1"), timedelta(seconds=600))
    await request_token(cluster, granted(), "audit-1", made())
    await request_token(cluster, granted(), "audit-1")
    reference = {"apiVersion": "v1", "kind": "Secret", "name": NAME}
    specs = [(request.body or {})["spec"] for request in cluster.asked]
    assert specs == [
        {"audiences": ["https://api"], "expirationSeconds": 600, "boundObjectRef": {**reference, "uid": "u1"}},
        {"audiences": ["https://api"], "expirationSeconds": 3600, "boundObjectRef": reference},
        {"audiences": ["https://api"], "expirationSeconds": 3600},
    ]


@pytest.mark.parametrize(
    "answer",
    [
        refused(404, f'secrets "{NAME}" not found', "NotFound", kind="secrets", name=NAME),
        refused(409, f'Operation cannot be fulfilled on Secret "{NAME}": the UID in', "Conflict", kind="Secret"),
    ],
)
async def test_an_anchor_that_is_gone_is_told(answer: Answer) -> None:
    """An anchor that is not there, or is another one by now, is an error of its own."""
    with pytest.raises(AnchorGone) as refusal:
        await request_token(ScriptedCluster(answer), granted(), "audit-1", made(uid="u1"))
    assert refusal.value.reason == "ANCHOR_GONE"
    assert refusal.value.metadata["anchor"] == NAME
    assert re.search(f"The Secret apps/{NAME} of .* is not there or is another one", refusal.value.message)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (refused(404, kind="serviceaccounts"), "KUBERNETES_SERVICE_ACCOUNT_NOT_FOUND"),
        (refused(404, kind="namespaces"), "KUBERNETES_NAMESPACE_NOT_FOUND"),
        (refused(409, kind="TokenRequest"), "KUBERNETES_CONFLICT"),
        (said(404, b"no"), "NOT_KUBERNETES"),
    ],
)
@pytest.mark.parametrize("bound", [None, made()])
async def test_other_things_that_lack_are_not_the_anchor(
    answer: Answer, reason: str, bound: ClusterObject | None
) -> None:
    """What else is missing keeps its own reason, bound or not."""
    with pytest.raises(KubevendError) as refusal:
        await request_token(ScriptedCluster(answer), granted(), "audit-1", bound)
    assert refusal.value.reason == reason


def test_what_is_made_can_be_a_key() -> None:
    """An account is part of a cache's key."""
    assert len({account(), account(), replace(account(), cluster_wide=True)}) == 2
