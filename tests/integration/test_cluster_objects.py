"""What kubevend makes in a cluster, on the real API server, with exactly the rights that it takes."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from devcluster import DevCluster
from kubevend_server.cluster.connection import Connection, Transport
from kubevend_server.cluster.credentials import Presented, Stored
from kubevend_server.cluster.failures import AnchorGone, Forbidden
from kubevend_server.cluster.grantable import dry_run_rules
from kubevend_server.cluster.namespaces import NamespaceWatch
from kubevend_server.cluster.objects import (
    Manifest,
    account_kinds,
    account_manifests,
    anchor_manifest,
    create,
    delete,
    list_made,
    owned,
)
from kubevend_server.cluster.reviews import review_token
from kubevend_server.cluster.tokens import IssuedToken, request_token
from kubevend_server.cluster.trust import Endpoint
from kubevend_server.errors import Aborted, FailedPrecondition, KubevendError, ResourceExhausted
from kubevend_server.kinds import Kind
from kubevend_server.leases import ClusterObject
from kubevend_server.policy.access import Decision
from kubevend_server.policy.grant import Grant, grant
from kubevend_server.policy.limits import Limits
from kubevend_server.policy.made import MadeAccount, own_labels
from kubevend_server.policy.rbac_rules import parse_rules
from kubevend_server.policy.terms import Asked, Naming, terms
from kubevend_server.roles import Role, RoleKind
from tests.support.proxy import HoldingProxy

API_AUDIENCE = "https://kubernetes.default.svc"
RBAC = "rbac.authorization.k8s.io"
CLUSTERED = {"ClusterRole", "ClusterRoleBinding"}
RESOURCES: dict[Kind, str] = {
    "Secret": "secrets",
    "ServiceAccount": "serviceaccounts",
    "Role": f"roles.{RBAC}",
    "ClusterRole": f"clusterroles.{RBAC}",
    "RoleBinding": f"rolebindings.{RBAC}",
    "ClusterRoleBinding": f"clusterrolebindings.{RBAC}",
}
PODS = parse_rules("[{apiGroups: [''], resources: [pods], verbs: [get]}]", "Role")
TRANSPORT = Transport(connect_timeout=5, request_timeout=30, max_connections=4, trust_env=False)


class Identity:
    """A ServiceAccount of a test's own in namespace kubevend, with the rights that the test gives it."""

    def __init__(self, cluster: DevCluster) -> None:
        """Make it; it has no rights."""
        self.cluster = cluster
        self.name = f"vendor-{secrets.token_hex(4)}"
        cluster.kubectl("create", "serviceaccount", self.name, "--namespace=kubevend")
        self.username = f"system:serviceaccount:kubevend:{self.name}"

    def may(self, verbs: str, resource: str, namespace: str = "", name: str = "") -> None:
        """Give it verbs on a resource, in one namespace or in the whole cluster."""
        role = f"{self.name}-{secrets.token_hex(4)}"
        where = [f"--namespace={namespace}"] if namespace else []
        kind = "role" if namespace else "clusterrole"
        only = [f"--resource-name={name}"] if name else []
        self.cluster.kubectl("create", kind, role, *where, f"--verb={verbs}", f"--resource={resource}", *only)
        account = f"--serviceaccount=kubevend:{self.name}"
        self.cluster.kubectl("create", f"{kind}binding", role, *where, f"--{kind}={role}", account)

    async def able(self, verb: str, resource: str, namespace: str = "", *more: str) -> None:
        """Wait until the API server, which learns of rights from a watch of its own, knows of the right."""
        where = [f"--namespace={namespace}"] if namespace else []
        asked = ["auth", "can-i", verb, resource, *where, *more, f"--as={self.username}", "--quiet"]

        async def known() -> bool:
            try:
                await asyncio.to_thread(self.cluster.kubectl, *asked)
            except Exception:  # noqa: BLE001 - kubectl says no by failing
                return False
            return True

        await eventually(known, f"the right to {verb} {resource}")

    def run(self, error: KubevendError) -> str:
        """Run the kubectl command that an error gives, under names of the test's own, and return it."""
        # The last: before it, an escalation names the command that prints the least rights.
        command = error.message.rpartition("`kubectl ")[2].partition("`")[0]
        command = f"kubectl {command}"
        for part in command.split(" && "):
            self.cluster.kubectl(*part.replace("kubevend-", f"{self.name}-").split()[1:])
        return command

    @asynccontextmanager
    async def connection(self, host: str = "") -> AsyncIterator[Connection]:
        """The way to the cluster, with a token of its own."""
        endpoint = Endpoint("configs/default", host or self.cluster.server, self.cluster.ca_file.read_text())
        token = Presented(self.cluster.token("kubevend", self.name))
        made = Connection(endpoint, Stored("the stored token", token), TRANSPORT)
        try:
            yield made
        finally:
            await made.retire()
            # What aiohttp drops, as an open watch, it closes a moment later, and nothing tells when; the loop must live
            # until then. https://docs.aiohttp.org/en/stable/client_advanced.html#graceful-shutdown
            await asyncio.sleep(0.25)


async def eventually(condition: Callable[[], Awaitable[bool]], what: str, seconds: float = 30) -> None:
    """Wait until a condition holds; fail, naming `what`, if it does not in time."""
    end = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds} s in vain for {what}")
        await asyncio.sleep(0.05)


@pytest.fixture
def identity(cluster: DevCluster) -> Identity:
    """An identity without rights."""
    return Identity(cluster)


@pytest.fixture
async def connection(identity: Identity) -> AsyncIterator[Connection]:
    """The way to the cluster as that identity."""
    async with identity.connection() as made:
        yield made


def an_object(kind: Kind, namespace: str, uid: str = "") -> ClusterObject:
    """An object with a name of its own."""
    name = f"kubevend-test-{secrets.token_hex(8)}"
    return ClusterObject("", "configs/default", kind, "" if kind in CLUSTERED else namespace, name, uid=uid)


def account(kind: RoleKind = "Role", rules: str = "", name: str = "view", *, cluster_wide: bool = False) -> MadeAccount:
    """What is bound to a Role or ClusterRole."""
    return MadeAccount(kind, name, rules, cluster_wide, (("team", "payments"),), (("note", "made"),))


def manifest_of(made: ClusterObject) -> Manifest:
    """A plain manifest for an object: a role without rules, a binding of nobody to that."""
    labels = own_labels("test", "roles/ci")
    if made.kind == "Secret":
        return anchor_manifest(made, labels)
    kind: RoleKind = "ClusterRole" if made.kind in CLUSTERED else "Role"
    objects = [
        replace(made, kind=each, namespace="" if each in CLUSTERED else made.namespace or "default")
        for each in account_kinds(account(kind, PODS, made.name, cluster_wide=made.kind in CLUSTERED))
    ]
    manifests = account_manifests(objects, account(kind, PODS, made.name, cluster_wide=made.kind in CLUSTERED), labels)
    return next(manifest for each, manifest in manifests if each.kind == made.kind)


async def rights_for(identity: Identity, kind: Kind, namespace: str) -> None:
    """Give the rights to make and delete a kind, and to give what `PODS` gives."""
    where = "" if kind in CLUSTERED else namespace
    identity.may("get", "pods", where)
    await identity.able("get", "pods", where)
    if kind in {"RoleBinding", "ClusterRoleBinding"}:
        identity.may("bind", RESOURCES["ClusterRole" if kind in CLUSTERED else "Role"], where)
        await identity.able("bind", RESOURCES["ClusterRole" if kind in CLUSTERED else "Role"], where)
    identity.may("create,delete", RESOURCES[kind], where)
    await identity.able("create", RESOURCES[kind], where)


async def all_rights(identity: Identity, kinds: Iterable[Kind]) -> None:
    """Give the rights to make, delete and list these kinds, with any rules."""
    for kind in kinds:
        identity.may("create,delete,list", RESOURCES[kind])
    for roles in ("roles", "clusterroles"):
        identity.may("bind,escalate", f"{roles}.{RBAC}")
    # Rights come into force in the order in which they were given.
    await identity.able("escalate", f"clusterroles.{RBAC}")


async def make_all(connection: Connection, manifests: Iterable[tuple[ClusterObject, Manifest]]) -> list[ClusterObject]:
    """Make objects, all but the first owned by the first."""
    made: list[ClusterObject] = []
    for each, manifest in manifests:
        uid = await create(connection, each, owned(manifest, made[0]) if made else manifest)
        made.append(replace(each, uid=uid))
    return made


def existing(cluster: DevCluster, kind: RoleKind, namespace: str) -> str:
    """The name of a Role or ClusterRole that lets get pods."""
    name = f"viewer-{secrets.token_hex(4)}"
    where = [f"--namespace={namespace}"] if kind == "Role" else []
    cluster.kubectl("create", kind.lower(), name, *where, "--verb=get", "--resource=pods")
    return name


def get(cluster: DevCluster, made: ClusterObject, jsonpath: str = "{.metadata.uid}") -> str:
    """What the cluster has of an object, empty where it is not there."""
    where = [f"--namespace={made.namespace}"] if made.namespace else []
    return cluster.kubectl(
        "get", RESOURCES[made.kind], made.name, *where, "--ignore-not-found", f"--output=jsonpath={jsonpath}"
    )


def hold(cluster: DevCluster, made: ClusterObject, *finalizers: str) -> None:
    """Put finalizers on an object."""
    where = [f"--namespace={made.namespace}"] if made.namespace else []
    patch = json.dumps({"metadata": {"finalizers": list(finalizers) or None}})
    cluster.kubectl("patch", RESOURCES[made.kind], made.name, *where, "--type=merge", f"--patch={patch}")


@pytest.mark.parametrize("kind", RESOURCES)
async def test_an_object_is_made_and_deleted(
    cluster: DevCluster, identity: Identity, connection: Connection, namespace: str, kind: Kind
) -> None:
    """Each kind is made once, found by a second try, told from another one of its name, held up by a finalizer, and
    gone in the end: with the rights to create and delete alone, and nothing read.
    """
    await rights_for(identity, kind, namespace)
    made = an_object(kind, namespace)
    assert await create(connection, made, manifest_of(made), dry_run=True)
    assert get(cluster, made) == ""
    uid = await create(connection, made, manifest_of(made))
    assert get(cluster, made) == uid
    assert await create(connection, made, manifest_of(made)) == ""

    assert await delete(connection, replace(made, uid="00000000-0000-0000-0000-000000000000"))
    assert get(cluster, made) == uid

    hold(cluster, made, "example.com/hold")
    assert not await delete(connection, replace(made, uid=uid))
    assert not await delete(connection, made)
    with pytest.raises(Aborted) as refusal:
        await create(connection, made, manifest_of(made))
    assert refusal.value.reason == "KUBERNETES_CONFLICT"
    hold(cluster, made)
    assert await delete(connection, replace(made, uid=uid))
    assert get(cluster, made) == ""

    uid = await create(connection, made, manifest_of(made))
    assert await delete(connection, replace(made, uid=uid))
    assert get(cluster, made) == ""
    assert await delete(connection, made)


async def test_an_anchor_is_empty_immutable_and_nobody_elses(
    cluster: DevCluster, identity: Identity, connection: Connection, namespace: str
) -> None:
    """An anchor cannot be given data, and its identity can read neither it nor any other Secret."""
    await rights_for(identity, "Secret", namespace)
    made = an_object("Secret", namespace)
    await create(connection, made, anchor_manifest(made, own_labels("test", "roles/ci", "leases/x"), "admin://local/a"))
    stored = json.loads(cluster.kubectl("get", "secret", made.name, f"--namespace={namespace}", "--output=json"))
    assert (stored["type"], stored["immutable"], "data" in stored) == ("kubevend.dev/anchor", True, False)
    with pytest.raises(Exception, match="field is immutable when `immutable` is set"):
        cluster.kubectl("patch", "secret", made.name, f"--namespace={namespace}", '--patch={"stringData":{"a":"b"}}')
    with pytest.raises(Exception, match="cannot get resource"):
        cluster.kubectl(
            "get", "secret", made.name, f"--namespace={namespace}", token=cluster.token("kubevend", identity.name)
        )


COMBINATIONS = [
    account("Role"),
    account("ClusterRole"),
    account("ClusterRole", cluster_wide=True),
    account("Role", PODS),
    account("ClusterRole", PODS),
    account("ClusterRole", PODS, cluster_wide=True),
]


@pytest.mark.parametrize("account", COMBINATIONS, ids=lambda a: "-".join(account_kinds(a)) + f"-{a.kind}")
async def test_a_made_account_can_do_what_its_role_says(
    cluster: DevCluster, identity: Identity, connection: Connection, namespace: str, account: MadeAccount
) -> None:
    """Every combination of role and binding is made, works, is found by its label, and goes without a trace."""
    kinds = account_kinds(account)
    await all_rights(identity, kinds)
    name = an_object("Role", namespace).name
    account = replace(account, role_name=name if account.rules else existing(cluster, account.kind, namespace))
    instance = f"test-{secrets.token_hex(4)}"
    labels = own_labels(instance, "roles/ci", "leases/01jdem3k2v8q5r7t9w1x3y5z7a")
    objects = [replace(an_object(kind, namespace), name=name) for kind in kinds]
    made = await make_all(connection, account_manifests(objects, account, labels, "kubernetes://prod/ci/runner"))

    owners = [get(cluster, each, "{.metadata.ownerReferences[*].uid}") for each in made]
    assert owners == ["", *[made[0].uid] * (len(made) - 1)]
    able = ["auth", "can-i", "get", "pods", f"--as=system:serviceaccount:{namespace}:{name}", "--quiet"]
    elsewhere = ["--namespace=default"] if account.cluster_wide else [f"--namespace={namespace}"]

    async def works() -> bool:
        try:
            await asyncio.to_thread(cluster.kubectl, *able, *elsewhere)
        except Exception:  # noqa: BLE001 - kubectl says no by failing
            return False
        return True

    await eventually(works, "the made account to have its rights")
    for each in made:
        (found,) = await list_made(connection, each.kind, "", instance)
        assert (found.kind, found.namespace, found.name, found.uid) == (
            each.kind,
            each.namespace,
            each.name,
            each.uid,
        )
        assert (found.role, found.lease, found.deleting) == ("ci", "01jdem3k2v8q5r7t9w1x3y5z7a", False)
    for each in reversed(made):
        assert await delete(connection, each)
    assert [get(cluster, each) for each in made] == [""] * len(made)
    assert [await list_made(connection, each.kind, "", instance) for each in made] == [[]] * len(made)


async def test_many_objects_come_in_pages(identity: Identity, connection: Connection, namespace: str) -> None:
    """More objects than a page has are all found, once each, and those of another instance are not."""
    identity.may("create,list", "serviceaccounts", namespace)
    await identity.able("create", "serviceaccounts", namespace)
    names = [f"kubevend-{place:03}" for place in range(201)]

    async def make(name: str, instance: str) -> None:
        made = replace(an_object("ServiceAccount", namespace), name=name)
        await create(connection, made, {**manifest_of(made), "metadata": _metadata(name, instance)})

    await asyncio.gather(*(make(name, "mine") for name in names), make("kubevend-other", "other"))
    found = await list_made(connection, "ServiceAccount", namespace, "mine")
    assert [each.name for each in found] == names


def _metadata(name: str, instance: str) -> dict[str, object]:
    return {"name": name, "labels": own_labels(instance, "roles/ci")}


# Refusals.


@pytest.mark.parametrize("kind", RESOURCES)
async def test_a_missing_right_is_granted_by_the_command_of_its_error(
    identity: Identity, connection: Connection, namespace: str, kind: Kind
) -> None:
    """Without rights each error names verb, resource, namespace and identity, and its command, run as it stands, is
    what was missing.
    """
    made, namespace = an_object(kind, namespace), "" if kind in CLUSTERED else namespace
    acts: dict[str, Callable[[], Awaitable[object]]] = {
        "delete": lambda: delete(connection, made),
        "create": lambda: create(connection, made, manifest_of(made)),
    }
    for verb, act in acts.items():
        with pytest.raises(Forbidden) as refusal:
            await act()
        where = f"in namespace '{namespace}'" if namespace else "in the whole cluster"
        assert f"that takes the verb {verb} on {RESOURCES[kind]} {where}" in refusal.value.message
        assert refusal.value.metadata["identity"] == identity.username
        identity.run(refusal.value)
        await identity.able(verb, RESOURCES[kind], namespace)


async def test_a_missing_namespace_is_told_where_rights_are_wide(identity: Identity, connection: Connection) -> None:
    """With rights in every namespace, one that is not there is told as such, and what was in it counts as gone."""
    identity.may("create,delete", "secrets")
    await identity.able("create", "secrets", "kube-system")
    made = an_object("Secret", f"nowhere-{secrets.token_hex(4)}")
    with pytest.raises(FailedPrecondition) as refusal:
        await create(connection, made, manifest_of(made))
    assert refusal.value.reason == "KUBERNETES_NAMESPACE_NOT_FOUND"
    assert await delete(connection, made)


async def test_a_quota_is_told(cluster: DevCluster, identity: Identity, connection: Connection, namespace: str) -> None:
    """A full namespace is told as one, not as a missing right."""
    await rights_for(identity, "Secret", namespace)
    cluster.kubectl("create", "quota", "small", f"--namespace={namespace}", "--hard=count/secrets=0")
    # Which a controller does elsewhere.
    status = '{"status":{"hard":{"count/secrets":"0"},"used":{"count/secrets":"0"}}}'
    cluster.kubectl(
        "patch",
        "resourcequota",
        "small",
        f"--namespace={namespace}",
        "--subresource=status",
        "--type=merge",
        f"--patch={status}",
    )

    async def full() -> KubevendError | None:
        made = an_object("Secret", namespace)
        try:
            await create(connection, made, manifest_of(made))
        except KubevendError as error:
            return error
        return None

    errors: list[KubevendError] = []

    async def refused() -> bool:
        error = await full()
        errors.extend([error] if error else [])
        return bool(errors)

    await eventually(refused, "the quota to be known")
    (error,) = errors
    assert (type(error), error.reason) == (ResourceExhausted, "KUBERNETES_QUOTA")
    assert "small, requested: count/secrets=1, used: count/secrets=0, limited: count/secrets=0" in error.message


@pytest.mark.parametrize(
    ("account", "resource", "clustered"),
    [
        (account("Role", PODS), f"roles.{RBAC}", False),
        (account("ClusterRole", PODS), f"clusterroles.{RBAC}", True),
        (account("ClusterRole"), f"clusterroles.{RBAC}", False),
        (account("ClusterRole", cluster_wide=True), f"clusterroles.{RBAC}", True),
    ],
)
async def test_what_kubevend_has_not_it_may_not_give(
    cluster: DevCluster,
    identity: Identity,
    connection: Connection,
    namespace: str,
    account: MadeAccount,
    resource: str,
    clustered: bool,
) -> None:
    """A dry run finds out what RBAC's escalation check says, and the command of its error is what lifts it."""
    if not account.rules:
        account = replace(account, role_name=existing(cluster, account.kind, namespace))
    for kind in account_kinds(account):
        identity.may("create", RESOURCES[kind])
        await identity.able("create", RESOURCES[kind])
    error = await dry_run_rules(connection, account, namespace)
    assert error is not None
    assert error.reason == "KUBERNETES_ESCALATION"
    assert error.metadata["lacks"] == '{APIGroups:[""], Resources:["pods"], Verbs:["get"]}'
    assert f"--resource={resource}" in identity.run(error)
    where = "" if clustered else namespace
    await identity.able("escalate" if account.rules else "bind", _named(resource, account), where)
    assert await dry_run_rules(connection, account, namespace) is None


def _named(resource: str, account: MadeAccount) -> str:
    return resource if account.rules else f"{resource}/{account.role_name}"


async def test_what_kubevend_has_it_may_give(identity: Identity, connection: Connection, namespace: str) -> None:
    """Who has all that a role gives needs neither escalate nor bind; who may escalate alone is told to bind too."""
    identity.may("create", f"roles.{RBAC},rolebindings.{RBAC}", namespace)
    identity.may("get", "pods", namespace)
    await identity.able("get", "pods", namespace)
    assert await dry_run_rules(connection, account("Role", PODS), namespace) is None
    identity.may("escalate", f"roles.{RBAC}", namespace)
    await identity.able("escalate", f"roles.{RBAC}", namespace)
    error = await dry_run_rules(connection, account("Role", PODS), namespace)
    assert error is not None
    assert error.reason == "KUBERNETES_ESCALATION"
    assert f"takes the verb bind on roles.{RBAC} in namespace '{namespace}'" in error.message


@pytest.mark.parametrize("kind", ["Role", "ClusterRole"])
async def test_a_role_that_is_not_there_is_told(
    identity: Identity, connection: Connection, namespace: str, kind: RoleKind
) -> None:
    """Binding what does not exist says that it does not; with the right to bind it, the API server does not look."""
    absent = account(kind, "", f"absent-{secrets.token_hex(4)}")
    identity.may("create", RESOURCES["RoleBinding"], namespace)
    await identity.able("create", RESOURCES["RoleBinding"], namespace)
    error = await dry_run_rules(connection, absent, namespace)
    assert error is not None
    assert error.reason == "KUBERNETES_ROLE_NOT_FOUND"
    assert f"has no {kind} '{absent.role_name}'" in error.message
    identity.may("bind", RESOURCES[kind], namespace)
    await identity.able("bind", RESOURCES[kind], namespace)
    assert await dry_run_rules(connection, absent, namespace) is None


# Tokens that are bound to an anchor.


def granted(namespace: str) -> Grant:
    """A grant of a token of ServiceAccount demo for the API server itself."""
    role = Role("roles/ci", "configs/default", (namespace,), ("demo",), (API_AUDIENCE,))
    limits = Limits(timedelta(hours=1), timedelta(days=1), frozenset())
    naming = Naming("leases/01kqr6d2m0abcdefghjkmnpqrs", "admin://local/bootstrap")
    return grant(terms(role, Asked(), limits, naming), Decision(allowed=True, policies=()))


async def bound_token(
    identity: Identity, connection: Connection, namespace: str
) -> tuple[ClusterObject, Grant, IssuedToken]:
    """An anchor, and a token that is bound to it."""
    await rights_for(identity, "Secret", namespace)
    identity.may("create", "serviceaccounts/token", namespace, "demo")
    await identity.able("create", "serviceaccounts/demo", namespace, "--subresource=token")
    anchor = an_object("Secret", namespace)
    anchor = replace(anchor, uid=await create(connection, anchor, anchor_manifest(anchor, own_labels("t", "roles/ci"))))
    asked = granted(namespace)
    return anchor, asked, await request_token(connection, asked, "", anchor, timedelta(seconds=600))


async def test_a_bound_token_dies_with_its_anchor(
    cluster: DevCluster, identity: Identity, connection: Connection, namespace: str
) -> None:
    """Once the anchor is deleted the API server refuses the token, within the 12 s of its cache, and an unbound token
    of the same ServiceAccount goes on.
    """
    anchor, asked, token = await bound_token(identity, connection, namespace)
    assert token.ttl == timedelta(seconds=600)
    unbound = await request_token(connection, asked, "")
    endpoint = Endpoint("configs/default", cluster.server, cluster.ca_file.read_text())
    holder = Connection(endpoint, Stored("the bound token", Presented(token.token)), TRANSPORT)
    other = Connection(endpoint, Stored("the unbound token", Presented(unbound.token)), TRANSPORT)

    async def status(of: Connection) -> int:
        return (await of.get("/apis", of.attempt("its APIs"))).status

    try:
        assert (await status(holder), await status(other)) == (200, 200)
        assert await delete(connection, anchor)

        async def refused() -> bool:
            return await status(holder) == 401

        await eventually(refused, "the token to be refused", seconds=12)
        assert await status(other) == 200
    finally:
        await holder.retire()
        await other.retire()
    identity.may("create", "tokenreviews.authentication.k8s.io")
    await identity.able("create", "tokenreviews.authentication.k8s.io")
    reviewed = await review_token(connection, token.token, API_AUDIENCE)
    assert not reviewed.authenticated
    assert "service account token has been invalidated" in reviewed.error


async def test_an_anchor_that_is_gone_mints_nothing(identity: Identity, connection: Connection, namespace: str) -> None:
    """A deleted anchor, and one of another UID, are told as such, and a missing ServiceAccount as itself."""
    anchor, asked, _ = await bound_token(identity, connection, namespace)
    for stale in (replace(anchor, uid="00000000-0000-0000-0000-000000000000"), an_object("Secret", namespace)):
        with pytest.raises(AnchorGone) as gone:
            await request_token(connection, asked, "", stale)
        assert gone.value.reason == "ANCHOR_GONE"
    assert await delete(connection, anchor)
    with pytest.raises(AnchorGone):
        await request_token(connection, asked, "", anchor)
    identity.cluster.kubectl("delete", "serviceaccount", "demo", f"--namespace={namespace}")
    with pytest.raises(FailedPrecondition) as refusal:
        await request_token(connection, asked, "", anchor)
    assert refusal.value.reason == "KUBERNETES_SERVICE_ACCOUNT_NOT_FOUND"


# The labels of namespaces.


@asynccontextmanager
async def watching(connection: Connection) -> AsyncIterator[NamespaceWatch]:
    """A watch that runs."""
    watch = NamespaceWatch(connection, time.monotonic)
    running = asyncio.create_task(watch.run())
    try:
        await watch.wait_ready()
        yield watch
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def known(watch: NamespaceWatch, namespace: str, **labels: str | None) -> None:
    """Wait until the watch knows these labels of a namespace."""

    async def are() -> bool:
        found = watch.labels(namespace) or {}
        return all(found.get(key) == value for key, value in labels.items())

    await eventually(are, f"{labels} of {namespace}")


async def test_a_watch_follows_labels_through_a_lost_connection(
    cluster: DevCluster, identity: Identity, namespace: str
) -> None:
    """Labels that change, namespaces that come and a connection that is cut: the watch knows of all of it."""
    identity.may("list,watch", "namespaces")
    await identity.able("watch", "namespaces")
    with HoldingProxy(cluster.server) as proxy:
        async with identity.connection(proxy.url) as connection, watching(connection) as watch:
            assert watch.fresh(time.monotonic())
            assert watch.labels("no-such-namespace") is None
            cluster.kubectl("label", "namespace", namespace, "team=a")
            await known(watch, namespace, team="a")
            proxy.cut()
            cluster.kubectl("label", "namespace", namespace, "team=b", "--overwrite")
            await known(watch, namespace, team="b")
            late = f"late-{secrets.token_hex(4)}"
            cluster.kubectl("create", "namespace", late)
            await known(watch, late, **{"kubernetes.io/metadata.name": late})
            cluster.kubectl("label", "namespace", namespace, "team-")
            await known(watch, namespace, team=None)
            assert watch.fresh(time.monotonic())


async def test_a_watch_that_hears_nothing_is_not_fresh(cluster: DevCluster, identity: Identity) -> None:
    """While replies are held back nothing new counts as heard; once they come through, it does again."""
    identity.may("list,watch", "namespaces")
    await identity.able("watch", "namespaces")
    with HoldingProxy(cluster.server) as proxy:
        async with identity.connection(proxy.url) as connection, watching(connection) as watch:
            proxy.hold_replies()
            last = time.monotonic()
            assert not watch.fresh(last + 30.1)
            proxy.release()

            async def heard() -> bool:
                return watch.fresh(last + 30.1)

            # A bookmark comes 18 s after a watch has begun.
            await eventually(heard, "a word of the API server")


async def test_a_watch_without_the_right_says_so(identity: Identity, connection: Connection) -> None:
    """Who may not watch namespaces is told which right lacks, and knows nothing; once it is there, it is used."""
    async with watching(connection) as watch:
        assert not watch.fresh(time.monotonic())
        assert watch.fault is not None
        assert watch.fault.reason == "KUBERNETES_FORBIDDEN"
        assert "the verbs list and watch on namespaces in the whole cluster" in watch.fault.message
        identity.may("list,watch", "namespaces")

        async def fresh() -> bool:
            return watch.fresh(time.monotonic())

        await eventually(fresh, "the watch to begin")
        assert watch.labels("kube-system") is not None


# What the cluster's own garbage collector does.


@pytest.fixture(scope="module")
def collecting_cluster() -> Iterator[DevCluster]:
    """A cluster with kube-controller-manager, which collects what its owner has left."""
    with DevCluster.start(controller_manager=True) as started:
        started.kubectl("create", "namespace", "kubevend")
        yield started


@pytest.mark.parametrize("account", COMBINATIONS, ids=lambda a: "-".join(account_kinds(a)) + f"-{a.kind}")
async def test_what_is_left_goes_with_what_was_made_first(collecting_cluster: DevCluster, account: MadeAccount) -> None:
    """Where only the first object is deleted, the cluster itself collects the others, whatever the first one is."""
    cluster, kinds = collecting_cluster, account_kinds(account)
    namespace = f"test-{secrets.token_hex(4)}"
    cluster.kubectl("create", "namespace", namespace)
    identity = Identity(cluster)
    await all_rights(identity, kinds)
    name = an_object("Role", namespace).name
    account = replace(account, role_name=name if account.rules else existing(cluster, account.kind, namespace))
    objects = [replace(an_object(kind, namespace), name=name) for kind in kinds]
    async with identity.connection() as connection:
        made = await make_all(connection, account_manifests(objects, account, own_labels("test", "roles/ci")))
        assert await delete(connection, made[0])

    async def collected() -> bool:
        left = await asyncio.to_thread(lambda: [get(cluster, each) for each in made])
        return left == [""] * len(made)

    await eventually(collected, "the garbage collector", seconds=60)
