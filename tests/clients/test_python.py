"""The Python library, against a real server and a real API server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import kubernetes.aio.client
import kubernetes.client
import pytest

import kubevend.aio.kubernetes
import kubevend.kubernetes
from devcluster import DevCluster
from devcluster.server import BOOTSTRAP_POLICY
from kubevend import (
    Client,
    ClientError,
    KubevendError,
    NotFound,
    Settings,
    Token,
    TokenSource,
    Unauthenticated,
    Unavailable,
)
from kubevend.v1 import lease_service_pb2, role_service_pb2
from tests.docs.conftest import free_address
from tests.integration.conftest import Start, Vending
from tests.support.clusters import allow_anchors, anchors, works
from tests.support.evidence import EVIDENCE
from tests.support.spiffe import Authority
from tests.support.waiting import until

OFTEN = {"issuance": {"renew_after": 0.004}}
"""The next token after 2.4 s of the 600 that each lives."""

WORKLOADS = """
@id("shop-issues")
permit (principal is Workload, action == Action::"IssueToken", resource == Role::"roles/ci");
"""


def settings_of(vending: Vending) -> Settings:
    """How to call a server as its bootstrap admin."""
    folder = vending.server.folder
    return Settings(vending.server.address, ca_file=folder / "ca.crt", token_file=folder / "admin.token")


def environment_of(vending: Vending) -> dict[str, str]:
    """The same, for a process."""
    settings = settings_of(vending)
    known = {name: value for name, value in os.environ.items() if not name.startswith("KUBEVEND_")}
    return {
        **known,
        "KUBEVEND_ADDRESS": settings.address,
        "KUBEVEND_CA_FILE": str(settings.ca_file),
        "KUBEVEND_TOKEN_FILE": str(settings.token_file),
    }


@dataclass
class Heard:
    """What the listeners of a source were told."""

    renewed: list[Token] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    @property
    def listeners(self) -> dict[str, Any]:
        """The listeners."""
        return {
            "on_renewed": self._note,
            "on_revoked": lambda lease, _: self.revoked.append(lease),
            "on_refused": lambda error: self.refused.append(error.reason),
        }

    def _note(self, token: Token) -> None:
        EVIDENCE.note_token(token.token)
        self.renewed.append(token)


@pytest.fixture
def client(vending: Vending) -> Iterator[Client]:
    """The bootstrap admin."""
    with Client(settings_of(vending)) as client:
        yield client


@pytest.fixture
def often(start: Start, cluster: DevCluster, namespace: str) -> Vending:
    """A server that renews every few seconds, with roles/ci, whose ServiceAccount may list ConfigMaps."""
    vending = start({**OFTEN, "listener": {"address": free_address()}})  # where it is after a restart, too
    vending.add_config(cluster)
    vending.admin.create_role(allowed_namespaces=[namespace], ttl=timedelta(minutes=10))
    cluster.apply(
        f"""
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: demo, namespace: {namespace}}}
rules: [{{apiGroups: [""], resources: [configmaps], verbs: [list]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: demo, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: demo}}
subjects: [{{kind: ServiceAccount, name: demo, namespace: {namespace}}}]
"""
    )
    return vending


@dataclass
class Load:
    """Requests that were made of the API server, over and over."""

    made: int = 0
    failures: list[str] = field(default_factory=list)
    stopping: bool = False

    def more(self, count: int) -> None:
        """Wait until so many more were made."""
        target = self.made + count
        until(lambda: self.made >= target or self.failures, f"{count} more requests", 60)


def go_through(vending: Vending, heard: Heard, load: Load) -> None:
    """Let three rotations and an outage come over a load, and stop it."""
    until(lambda: len(heard.renewed) > 3 or load.failures, "three rotations", 60)
    vending.server.kill()
    load.more(100)
    before = len(heard.renewed)
    vending.restart()
    until(lambda: len(heard.renewed) > before or load.failures, "a token after the outage", 60)
    load.more(20)
    load.stopping = True


def used(cluster: DevCluster, namespace: str) -> set[str]:
    """The jti of each token with which ConfigMaps of a namespace were listed, from the API server's audit log."""
    lines = [json.loads(line) for line in cluster.audit_log.read_text().splitlines() if '"configmaps"' in line]
    return {
        credential.removeprefix("JTI=")
        for entry in lines
        if entry["objectRef"].get("namespace") == namespace and entry["responseStatus"]["code"] == 200
        for credential in entry["user"]["extra"]["authentication.kubernetes.io/credential-id"]
    }


def test_a_token_is_issued(client: Client, cluster: DevCluster, namespace: str) -> None:
    """One call gives a token that the API server accepts, with all that there is to know about it."""
    token = client.issue("ci", ttl=timedelta(minutes=10))
    EVIDENCE.note_token(token.token)

    assert works(cluster, token.token)
    assert (token.namespace, token.service_account, token.granted_ttl) == (namespace, "demo", timedelta(minutes=10))
    assert token.audiences == ("https://kubernetes.default.svc",)
    assert token.lease.startswith("leases/")
    assert token.jti
    assert token.token not in repr(token)


def test_stubs_carry_credentials_and_typed_errors(client: Client) -> None:
    """Each stub calls as the caller of the settings, and what is refused is raised with reason and facts."""
    assert client.whoami().name == "admin://local/bootstrap"
    assert client.roles.GetRole(role_service_pb2.GetRoleRequest(name="roles/ci")).role.name == "roles/ci"
    assert not client.leases.ListLeases(lease_service_pb2.ListLeasesRequest()).leases
    with pytest.raises(NotFound) as missing:
        client.issue("none")
    assert (missing.value.code, missing.value.reason) == ("NOT_FOUND", "ROLE_NOT_FOUND")
    assert missing.value.request_id
    with pytest.raises(KubevendError) as broken:
        client.issue("ci", namespace="No")
    assert [v.field for v in broken.value.violations] == ["namespace"]


async def test_asyncio_has_the_same(vending: Vending, cluster: DevCluster) -> None:
    """The asyncio client issues, names the caller and raises as the other one does."""
    async with kubevend.aio.Client(settings_of(vending)) as client:
        token = await client.issue("roles/ci")
        EVIDENCE.note_token(token.token)
        assert works(cluster, token.token)
        assert (await client.whoami()).kind == "Admin"
        with pytest.raises(NotFound):
            await client.issue("none")


def test_no_request_fails(often: Vending, cluster: DevCluster, namespace: str) -> None:
    """Threads that use Kubernetes all the time notice nothing of three rotations and an outage of kubevend."""
    heard, load = Heard(), Load()

    def work(core: Any) -> None:
        while not load.stopping:
            try:
                core.list_namespaced_config_map(namespace)
            except Exception as failure:
                load.failures.append(repr(failure))
                raise
            load.made += 1

    with (
        Client(settings_of(often)) as client,
        TokenSource("ci", client=client, **heard.listeners) as source,
        kubevend.kubernetes.api_client(source, cluster.server, cluster.ca_file) as api,
    ):
        workers = [threading.Thread(target=work, args=[kubernetes.client.CoreV1Api(api)]) for _ in range(3)]
        for worker in workers:
            worker.start()
        try:
            go_through(often, heard, load)
        finally:
            load.stopping = True
            for worker in workers:
                worker.join()

    assert load.failures == []
    assert len(used(cluster, namespace)) >= 4


async def test_no_request_of_asyncio_fails(often: Vending, cluster: DevCluster, namespace: str) -> None:
    """Tasks that use Kubernetes all the time notice nothing of three rotations and an outage of kubevend."""
    heard, load = Heard(), Load()

    async def work(core: Any) -> None:
        while not load.stopping:
            try:
                await core.list_namespaced_config_map(namespace)
            except Exception as failure:
                load.failures.append(repr(failure))
                raise
            load.made += 1

    async with (
        kubevend.aio.Client(settings_of(often)) as client,
        kubevend.aio.TokenSource("ci", client=client, **heard.listeners) as source,
        kubevend.aio.kubernetes.api_client(source, cluster.server, cluster.ca_file) as api,
    ):
        workers = [asyncio.create_task(work(kubernetes.aio.client.CoreV1Api(api))) for _ in range(3)]
        try:
            await asyncio.to_thread(go_through, often, heard, load)
        finally:
            load.stopping = True
            await asyncio.gather(*workers, return_exceptions=True)

    assert load.failures == []
    assert len(used(cluster, namespace)) >= 4


@pytest.fixture
def revocable(often: Vending, cluster: DevCluster, namespace: str) -> Vending:
    """A server whose roles/revocable binds each token to a Secret of its own."""
    allow_anchors(cluster, namespace)
    often.admin.create_role(
        "revocable",
        allowed_namespaces=[namespace],
        revocation=role_service_pb2.REVOCATION_PER_LEASE,
        ttl=timedelta(hours=10),
    )
    return often


def test_a_token_that_kubernetes_refuses_is_replaced(revocable: Vending, cluster: DevCluster, namespace: str) -> None:
    """A request that is refused for its token is made again with another one, and nobody notices."""
    heard = Heard()
    with (
        Client(settings_of(revocable)) as client,
        TokenSource("revocable", client=client, **heard.listeners) as source,
        kubevend.kubernetes.api_client(source, cluster.server, cluster.ca_file) as api,
    ):
        core = kubernetes.client.CoreV1Api(api)
        core.list_namespaced_config_map(namespace)
        first = source.token()
        cluster.kubectl("delete", "secret", f"--namespace={namespace}", *anchors(cluster, namespace))

        until(lambda: core.list_namespaced_config_map(namespace) and source.token() != first, "another token", 60)
        assert source.token().lease != first.lease
        assert not works(cluster, first.token)


async def test_asyncio_replaces_it_too(revocable: Vending, cluster: DevCluster, namespace: str) -> None:
    """The same, awaited."""
    heard = Heard()
    async with (
        kubevend.aio.Client(settings_of(revocable)) as client,
        kubevend.aio.TokenSource("revocable", client=client, **heard.listeners) as source,
        kubevend.aio.kubernetes.api_client(source, cluster.server, cluster.ca_file) as api,
    ):
        core = kubernetes.aio.client.CoreV1Api(api)
        await core.list_namespaced_config_map(namespace)
        first = await source.token()
        cluster.kubectl("delete", "secret", f"--namespace={namespace}", *anchors(cluster, namespace))

        async with asyncio.timeout(60):
            while await source.token() == first:
                await core.list_namespaced_config_map(namespace)
        assert (await source.token()).lease != first.lease


def test_a_revocation_is_told(revocable: Vending) -> None:
    """Who listens is told when the lease is ended; the token is dropped, and there is another lease's."""
    heard = Heard()
    with Client(settings_of(revocable)) as client, TokenSource("revocable", client=client, **heard.listeners) as source:
        first = source.token()
        client.leases.RevokeLease(lease_service_pb2.RevokeLeaseRequest(name=first.lease))

        until(lambda: heard.revoked, "the notice")
        assert heard.revoked == [first.lease]
        assert source.token().lease != first.lease


async def test_asyncio_tells_of_failures(often: Vending) -> None:
    """Who listens is told of each time that the next token cannot be had, while the one that there is is served."""
    failed: list[KubevendError] = []
    async with (
        kubevend.aio.Client(settings_of(often)) as client,
        kubevend.aio.TokenSource("ci", client=client, on_failed=failed.append) as source,
    ):
        EVIDENCE.note_token((await source.token()).token)
        often.server.kill()
        await asyncio.to_thread(until, lambda: len(failed) > 1, "two failures")
        assert {error.code for error in failed} == {"UNAVAILABLE"}
        assert (await source.token()).namespace


async def test_asyncio_tells_of_refusals(often: Vending) -> None:
    """Who listens is told that no further token is allowed, and the token is served all the same."""
    heard = Heard()
    async with (
        kubevend.aio.Client(settings_of(often)) as client,
        kubevend.aio.TokenSource("ci", client=client, **heard.listeners) as source,
    ):
        first = await source.token()
        await client.roles.DeleteRole(role_service_pb2.DeleteRoleRequest(name="roles/ci"))

        await asyncio.to_thread(until, lambda: heard.refused, "the notice")
        assert heard.refused == ["ROLE_NOT_FOUND"]
        assert (await source.token()).namespace == first.namespace
        with pytest.raises(NotFound):
            async with kubevend.aio.TokenSource("ci", client=client) as other:
                await other.token(60)


def test_many_callers_share_one_stream(vending: Vending) -> None:
    """However many ask at once, one token is issued."""
    heard, got = Heard(), set()
    with Client(settings_of(vending)) as client, TokenSource("ci", client=client, **heard.listeners) as source:
        askers = [threading.Thread(target=lambda: got.add(source.token().jti)) for _ in range(50)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()

    assert len(got) == 1
    assert [e["jti"] for e in vending.events(method="kubevend.v1.IssueService/StreamTokens") if e.get("jti")] == [*got]


def test_closing_leaves_nothing_behind(vending: Vending) -> None:
    """A source that is closed ends its threads and its stream, wakes who waits, and hands out nothing more."""
    before = threading.active_count()
    heard = Heard()
    client = Client(settings_of(vending))
    source = TokenSource("ci", client=client, **heard.listeners)
    source.token()
    vending.server.kill()
    source.invalidate(source.token())
    raised: list[str] = []

    def wait() -> None:
        with pytest.raises(ClientError) as refused:
            source.token(600)
        raised.append(refused.value.reason)

    waiting = threading.Thread(target=wait)
    waiting.start()
    source.close()
    waiting.join(10)
    client.close()

    assert raised == ["CLOSED"]
    until(lambda: threading.active_count() <= before, "gRPC's own threads to end")
    with pytest.raises(ClientError):
        source.token()
    with pytest.raises(ClientError):
        client.whoami()


async def test_asyncio_closing_leaves_nothing_behind(vending: Vending) -> None:
    """A source that is closed ends its tasks, wakes who waits, and hands out nothing more."""
    heard = Heard()
    before = asyncio.all_tasks()
    client = kubevend.aio.Client(settings_of(vending))
    source = kubevend.aio.TokenSource("ci", client=client, **heard.listeners)
    source.invalidate(await source.token())
    vending.server.kill()
    waiting = asyncio.create_task(source.token(600))
    await asyncio.sleep(0)
    await source.close()
    with pytest.raises(ClientError):
        await waiting
    await client.close()

    left = asyncio.all_tasks() - before
    assert [task for task in left if "_AioCall" not in repr(task)] == []
    if left:  # gRPC's own, of the call that was cancelled
        _, left = await asyncio.wait(left, timeout=30)
    assert left == set()
    with pytest.raises(ClientError):
        await source.token()


def test_an_outage_is_told_to_who_has_no_token(often: Vending) -> None:
    """Who has no token waits as long as it said, and gets what went wrong last; later it gets a token."""
    often.server.kill()
    heard = Heard()
    with Client(settings_of(often)) as client, TokenSource("ci", client=client, **heard.listeners) as source:
        with pytest.raises(Unavailable):
            source.token(3)
        often.restart()
        assert source.token(60) == heard.renewed[0]


def test_a_listener_may_close_its_source_and_may_fail(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """A source can be closed from within a listener, and what a listener raises ends nothing and shows no token."""
    closed = threading.Event()

    def fail(token: Token) -> None:
        EVIDENCE.note_token(token.token)
        raise RuntimeError("a defect of the user's")

    def close(token: Token) -> None:
        EVIDENCE.note_token(token.token)
        closing.close()
        closed.set()

    with TokenSource("ci", client=client, on_renewed=fail) as failing:
        token = failing.token()
        until(lambda: "a defect of the user's" in caplog.text, "the log")
        assert failing.token() == token
        assert token.token not in caplog.text
    closing = TokenSource("ci", client=client, on_renewed=close)
    with contextlib.suppress(ClientError):  # closed before or after
        closing.token()
    assert closed.wait(30)
    with pytest.raises(ClientError):
        closing.token()


def test_certificates_rotate(start: Start, cluster: DevCluster, namespace: str, tmp_path: Path) -> None:
    """Calls go with the certificate as it is then, while a stream that runs goes on with the one it was opened with."""
    authority = Authority()
    (tmp_path / "bundle.pem").write_text(authority.bundle)
    domain = {"address": "127.0.0.1:0", "bundle_file": str(tmp_path / "bundle.pem")}
    vending = start(
        {**OFTEN, "callers": {"trust_domains": {"example.org": domain}}}, policies=BOOTSTRAP_POLICY + WORKLOADS
    )
    vending.add_config(cluster)
    vending.admin.create_role(allowed_namespaces=[namespace], ttl=timedelta(minutes=10))
    old, new = authority.svid("/ns/shop/sa/cart"), authority.svid("/ns/shop/sa/cart")
    certificate, key = old.write(tmp_path / "svid")
    settings = Settings(
        f"127.0.0.1:{vending.server.ports['example.org']}",
        ca_file=vending.server.folder / "ca.crt",
        client_cert_file=certificate,
        client_key_file=key,
    )
    heard = Heard()

    with Client(settings) as client:
        with TokenSource("ci", client=client, **heard.listeners) as source:
            source.token()
            new.write(tmp_path / "svid")
            seen = client.whoami()
            count = len(heard.renewed)
            until(lambda: len(heard.renewed) > count, "the next token on the old connection")
        assert (seen.name, seen.credential_id) == ("spiffe://example.org/ns/shop/sa/cart", new.fingerprint)
        until(lambda: client.whoami() and not client._lines._old, "the old connection to be closed")
    streamed = [e["caller"] for e in vending.events(method="kubevend.v1.IssueService/StreamTokens") if e.get("jti")]
    assert {caller["credentialId"] for caller in streamed} == {old.fingerprint}
    assert len({e["streamId"] for e in vending.events() if e.get("streamId")}) == 1


def test_token_files_rotate(vending: Vending, tmp_path: Path) -> None:
    """Each call shows what is in the file then; without it nothing is sent, and the error names file and variable."""
    file = tmp_path / "caller.token"
    settings = Settings(vending.server.address, ca_file=vending.server.folder / "ca.crt", token_file=file)
    with Client(settings) as client, TokenSource("ci", client=client) as source:
        with pytest.raises(ClientError, match=rf"token_file \(KUBEVEND_TOKEN_FILE\): {file} cannot be read"):
            client.whoami()
        with pytest.raises(ClientError, match="FILE_UNREADABLE"):
            source.token(60)
        file.write_text("not-a-token")
        with pytest.raises(Unauthenticated):
            client.whoami()
        file.with_suffix(".new").write_text(vending.server.admin_token)
        file.with_suffix(".new").replace(file)
        assert client.whoami().kind == "Admin"


def run(vending: Vending, script: str) -> tuple[str, str]:
    """Run a Python program against a server, which must end well; what it prints and says on stderr."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment_of(vending),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_a_source_may_be_made_before_a_fork(vending: Vending) -> None:
    """A source that was made, but not used, before a process forked works on both sides of the fork."""
    script = """
import os, kubevend
source = kubevend.TokenSource("ci")
child = os.fork()
print(len(source.token().jti), flush=True)
if child:
    assert os.waitpid(child, 0)[1] == 0
"""
    assert run(vending, script) == ("36\n36\n", "")


def test_a_source_that_was_used_refuses_after_a_fork(vending: Vending) -> None:
    """A source and a client that were used before a fork say in the child that they are of no use there."""
    script = """
import os, kubevend
client = kubevend.Client()
source = kubevend.TokenSource("ci", client=client)
source.token()
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
else:
    for use in source.token, client.whoami:
        try:
            use()
        except kubevend.ClientError as error:
            print(error.reason, flush=True)
    os._exit(0)
"""
    printed, _ = run(vending, script)  # gRPC itself has something to say, too
    assert printed.split() == ["FORKED", "FORKED"]


def test_a_process_may_end_without_closing(vending: Vending) -> None:
    """A process that forgets to close a source ends all the same, at once and in silence."""
    script = "import kubevend; print(len(kubevend.TokenSource('ci').token().jti))"
    assert run(vending, script) == ("36\n", "")
